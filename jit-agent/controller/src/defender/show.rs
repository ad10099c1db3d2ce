//! A policy as it is answered: to a caller who sees one of its hosts, with the machines that he
//! sees.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jit_client::controller::defender::{
    Machine, POLICY_TYPE, PolicyAnswer, PolicyProperties, RequestAnswer, RequestMachine,
    RequestPort,
};
use jit_proto::SourcePrefix;

use super::{
    machines, path,
    standing::{self, Standing},
    trouble::Trouble,
};
use crate::{
    api::sight::Sight,
    model::{Answer, State},
    store::{DefenderPolicy, Request, Store},
};

/// How long a policy lists its requests, milliseconds.
const LISTED_MS: i64 = 30 * 86_400_000;

/// A policy, if the caller sees it.
pub(super) async fn policy(
    store: &Store,
    sight: &mut Sight<'_>,
    stored: &DefenderPolicy,
    now_ms: i64,
) -> Result<Option<PolicyAnswer>, Trouble> {
    let hosts: Vec<_> = stored.machines.iter().map(|machine| machine.host.clone()).collect();
    let visible = machines::visible(store, sight, &hosts).await?;
    let visible: BTreeSet<_> = visible.into_iter().map(|host| host.id).collect();
    if visible.is_empty() && !sight.sees_all() {
        return Ok(None);
    }
    let seen = stored.machines.iter();
    let seen = seen.filter(|machine| sight.sees_all() || visible.contains(&machine.host));
    let seen: Vec<_> = seen.collect();
    let ports = seen.iter().map(|machine| (machine.host.as_str(), machine.ports.as_slice()));
    let standings = standing::of_hosts(store, ports).await?;
    let standing = standings.into_values().max().unwrap_or(Standing::Succeeded);
    let (mut shown, mut resources) = (Vec::new(), BTreeMap::new());
    for machine in seen {
        resources.insert(machine.host.as_str(), machine.resource.as_str());
        shown.push(Machine { id: machine.resource.clone(), ports: machine.ports.clone() });
    }
    let since_ms = now_ms.saturating_sub(LISTED_MS);
    let mut answers: BTreeMap<(String, String), Answer> = BTreeMap::new();
    for (request, host, answer) in store.defender_answers(&stored.id, since_ms).await? {
        answers.insert((request, host), answer);
    }
    let found = store.defender_requests(&stored.id, since_ms).await?;
    sight.prepare(&found).await?;
    let mut requests = Vec::new();
    for one in found {
        if sight.request(&one).await? {
            let answer =
                |host: &str| answers.get(&(one.proposal.id.clone(), host.to_owned())).copied();
            requests.push(request(&one, &resources, answer));
        }
    }
    // A request for hosts that the caller does not see would be empty.
    requests.retain(|one| !one.virtual_machines.is_empty());
    let DefenderPolicy { location, name, kind, .. } = stored;
    Ok(Some(PolicyAnswer {
        id: path::id(stored).to_string(),
        name: name.clone(),
        kind_of_resource: POLICY_TYPE,
        kind: kind.clone(),
        location: location.clone(),
        properties: PolicyProperties {
            provisioning_state: standing.word(),
            virtual_machines: shown,
            requests,
        },
    }))
}

/// A request with the machines that these hosts are.
pub(super) fn request(
    request: &Request,
    resources: &BTreeMap<&str, &str>,
    answer: impl Fn(&str) -> Option<Answer>,
) -> RequestAnswer {
    let proposal = &request.proposal;
    let begins_ms = proposal.start_ms.unwrap_or(proposal.created_ms);
    let ends_ms = match request.ends_ms {
        0 => begins_ms.saturating_add(proposal.duration_ms),
        ends_ms => ends_ms,
    };
    // One of both protocols stands for both.
    let numbers: BTreeSet<_> = proposal.ports.iter().map(|range| range.first).collect();
    let (one, several) = prefixes(&proposal.sources);
    let machine = |host: &String| {
        let (status, status_reason) = status(request, answer(host));
        let port = |number: &u16| RequestPort {
            number: *number,
            allowed_source_address_prefix: one.clone(),
            allowed_source_address_prefixes: several.clone(),
            end_time_utc: time(ends_ms),
            status,
            status_reason,
        };
        let id = (*resources.get(host.as_str())?).to_owned();
        Some(RequestMachine { id, ports: numbers.iter().map(port).collect() })
    };
    RequestAnswer {
        virtual_machines: proposal.hosts.iter().filter_map(machine).collect(),
        start_time_utc: time(begins_ms),
        requestor: proposal.requester.clone(),
        justification: proposal.reason.clone(),
    }
}

/// Azure's words for what became of a request on one host. What a host refused was never open
/// there.
fn status(request: &Request, answer: Option<Answer>) -> (&'static str, &'static str) {
    const ASKED: &str = "UserRequested";
    match request.state {
        State::Denied | State::Refused | State::Withdrawn => ("Revoked", ASKED),
        State::ExpiredUnapproved => ("Revoked", "Expired"),
        State::Ended | State::Revoked if !request.replaced_by.is_empty() => {
            ("Revoked", "NewerRequestInitiated")
        }
        State::Ended => ("Revoked", "Expired"),
        State::Revoked => ("Revoked", ASKED),
        State::Approved
        | State::AwaitingSignatures
        | State::Delivering
        | State::Open
        | State::Partly
        | State::Pending
        | State::Scheduled => match answer {
            Some(Answer::Open) => ("Initiated", ASKED),
            Some(Answer::Closed | Answer::Refused) => ("Revoked", ASKED),
            Some(Answer::Scheduled | Answer::Waiting) | None => ("Initiating", ASKED),
        },
    }
}

/// The field for one source, and that for several.
fn prefixes(sources: &[SourcePrefix]) -> (Option<String>, Vec<String>) {
    if sources.len() > 1 && sources.iter().all(|source| source.length() == 0) {
        return (Some("*".into()), Vec::new());
    }
    match sources {
        [one] => (Some(one.to_string()), Vec::new()),
        several => (None, several.iter().map(ToString::to_string).collect()),
    }
}

/// A time with seven digits after the second, as Azure writes it.
pub(super) fn time(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map(|time| format!("{time:.7}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Needs, Outcome, Verdict};

    fn of(state: State, replaced_by: &str) -> Request {
        Request {
            proposal: crate::model::proposal::tests::ssh(),
            hash: String::new(),
            account: "ana".into(),
            idempotency_key: String::new(),
            state,
            verdict: Verdict {
                rules_version: 1,
                outcome: Outcome::Manual,
                needs: Needs::default(),
                max_duration_ms: None,
                rules: Vec::new(),
                denied: Vec::new(),
                escalate: None,
            },
            why: String::new(),
            escalate_ms: 0,
            ends_ms: 0,
            replaced_by: replaced_by.into(),
            revision: 0,
        }
    }

    #[test]
    fn the_words_follow_from_the_request_and_the_hosts_answer() {
        let asked = "UserRequested";
        for (state, replaced, answer, expected) in [
            (State::Pending, "", None, ("Initiating", asked)),
            (State::Delivering, "", Some(Answer::Waiting), ("Initiating", asked)),
            (State::Scheduled, "", Some(Answer::Scheduled), ("Initiating", asked)),
            (State::Open, "", Some(Answer::Open), ("Initiated", asked)),
            (State::Partly, "", Some(Answer::Open), ("Initiated", asked)),
            (State::Partly, "", Some(Answer::Refused), ("Revoked", asked)),
            (State::Denied, "", None, ("Revoked", asked)),
            (State::Revoked, "", Some(Answer::Open), ("Revoked", asked)),
            (State::Ended, "", Some(Answer::Open), ("Revoked", "Expired")),
            (State::Ended, "X", Some(Answer::Open), ("Revoked", "NewerRequestInitiated")),
            (State::ExpiredUnapproved, "", None, ("Revoked", "Expired")),
        ] {
            assert_eq!(status(&of(state, replaced), answer), expected, "{state:?} {answer:?}");
        }
    }

    #[test]
    fn a_request_is_written_as_azure_does() {
        let resources = [("web-1", "/x/virtualMachines/vm1")].into();
        let shown = request(&of(State::Pending, ""), &resources, |_| None);
        assert_eq!(
            serde_json::to_value(shown).unwrap(),
            serde_json::json!({
                "virtualMachines": [{"id": "/x/virtualMachines/vm1", "ports": [{
                    "number": 22, "allowedSourceAddressPrefix": "203.0.113.7",
                    "endTimeUtc": "2027-03-01T09:00:00.0000000Z",
                    "status": "Initiating", "statusReason": "UserRequested",
                }]}],
                "startTimeUtc": "2027-03-01T08:00:00.0000000Z",
                "requestor": "ana@example.org", "justification": "disk full",
            })
        );
        assert_eq!(
            prefixes(&["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]).0.unwrap(),
            "*"
        );
    }
}

//! Whether a host has what a policy says: by what its agent has answered, not by what was sent.

use std::collections::BTreeMap;

use jit_client::controller::defender::Port;
use jit_proto::PortRange;

use super::sections;
use crate::{
    model::{
        host::{Condition, Observed},
        rollout::HostState,
    },
    store::{DefenderHost, Store, StoreError},
};

/// The rollout of a host that had all of it before.
pub(super) const NOTHING_TO_CHANGE: &str = "-";
/// A status that was asked for before the policy came may be read after it, milliseconds.
const SETTLES_MS: i64 = 5_000;

/// Whether a host has it, in the order in which a policy's state follows from those of its hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has.
    Succeeded,
    /// It is on its way.
    Updating,
    /// It has not, and nothing more is done for it.
    Failed,
}

impl Standing {
    /// Azure's word.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Failed => "Failed",
            Self::Succeeded => "Succeeded",
            Self::Updating => "Updating",
        }
    }
}

/// How each of these hosts stands, with the ports that a policy names on it.
pub(super) async fn of_hosts<'p>(
    store: &Store,
    hosts: impl Iterator<Item = (&'p str, &'p [Port])>,
) -> Result<BTreeMap<&'p str, Standing>, StoreError> {
    let hosts: BTreeMap<_, _> = hosts.collect();
    let ids: Vec<_> = hosts.keys().map(|id| (*id).to_owned()).collect();
    let known = store.hosts_by_id(&ids).await?;
    let known: BTreeMap<_, _> =
        known.into_iter().map(|known| (known.host.id, known.observed)).collect();
    let wanted = store.defender_hosts(&ids).await?;
    let standing = |(id, ports): (&'p str, &[Port])| {
        let standing = match (known.get(id), wanted.get(id)) {
            (None, _) => Standing::Failed,
            (Some(_), None) => Standing::Updating,
            (Some(observed), Some((wanted, progress))) => judge(wanted, *progress, observed, ports),
        };
        (id, standing)
    };
    Ok(hosts.into_iter().map(standing).collect())
}

fn judge(
    wanted: &DefenderHost,
    progress: Option<(HostState, i64)>,
    observed: &Observed,
    ports: &[Port],
) -> Standing {
    if !wanted.trouble.is_empty() {
        return Standing::Failed;
    }
    let since_ms = match (wanted.rollout.as_str(), progress) {
        ("", _) => return Standing::Updating,
        (NOTHING_TO_CHANGE, _) => 0,
        (_, None) => return Standing::Updating,
        (_, Some((HostState::Applied, since_ms))) => since_ms,
        (_, Some((HostState::Pushed | HostState::Signing | HostState::Waiting, _))) => {
            return Standing::Updating;
        }
        (_, Some(_)) => return Standing::Failed,
    };
    if observed.condition == Condition::NotEnforcing {
        return Standing::Failed;
    }
    // Before the next status the answer to the push is the newest that is known.
    let is_newer = observed.seen_ms > since_ms.saturating_add(SETTLES_MS);
    if is_newer && !ports.iter().all(|port| has(observed, port)) {
        return Standing::Failed;
    }
    Standing::Succeeded
}

fn has(observed: &Observed, port: &Port) -> bool {
    sections::ranges(port).into_iter().all(|range| {
        observed.ports.iter().any(|seen| {
            seen.mode == "enforce"
                && seen.max_duration_ms == port.longest.millis()
                && seen.port.parse::<PortRange>().is_ok_and(|seen| sections::holds(seen, range))
        })
    })
}

#[cfg(test)]
mod tests {
    use jit_client::controller::defender::Policy;
    use serde_json::json;

    use super::*;
    use crate::model::host::ObservedPort;

    const AT: i64 = 1_803_888_000_000;

    fn wanted(rollout: &str) -> DefenderHost {
        DefenderHost {
            host: "web-1".into(),
            wanted: Vec::new(),
            author: "ana@example.org".into(),
            why: "x".into(),
            rollout: rollout.into(),
            trouble: String::new(),
            brought: String::new(),
            had: String::new(),
            replaced: String::new(),
            revision: 1,
        }
    }

    fn observed(port: &str, mode: &str) -> Observed {
        let port = ObservedPort {
            port: port.into(),
            mode: mode.into(),
            max_duration_ms: 3_600_000,
            approvals: 1,
            ..ObservedPort::default()
        };
        Observed {
            condition: Condition::Enforcing,
            seen_ms: AT + 60_000,
            ports: vec![port],
            ..Observed::default()
        }
    }

    #[test]
    fn only_what_the_host_answered_is_success() {
        use Standing::{Failed, Succeeded, Updating};
        let ports = json!([{"number": 22, "protocol": "TCP", "maxRequestAccessDuration": "PT1H"}]);
        let ports = Policy::kept_ports(&ports).unwrap();
        let good = observed("22/tcp", "enforce");
        for (rollout, progress, seen, expected) in [
            ("", None, &good, Updating),
            ("R", None, &good, Updating),
            ("R", Some(HostState::Waiting), &good, Updating),
            ("R", Some(HostState::Pushed), &good, Updating),
            ("R", Some(HostState::Refused), &good, Failed),
            ("R", Some(HostState::Silent), &good, Failed),
            ("R", Some(HostState::Skipped), &good, Failed),
            ("R", Some(HostState::Applied), &good, Succeeded),
            ("-", None, &good, Succeeded),
            ("R", Some(HostState::Applied), &observed("20-25/tcp", "enforce"), Succeeded),
            ("R", Some(HostState::Applied), &observed("22/udp", "enforce"), Failed),
            ("R", Some(HostState::Applied), &observed("22/tcp", "observe"), Failed),
        ] {
            let progress = progress.map(|state| (state, AT));
            assert_eq!(judge(&wanted(rollout), progress, seen, &ports), expected, "{progress:?}");
        }
        let trouble = DefenderHost { trouble: "aborted".into(), ..wanted("") };
        assert_eq!(judge(&trouble, None, &good, &ports), Failed);
        let off = Observed { condition: Condition::NotEnforcing, ..good.clone() };
        let applied = Some((HostState::Applied, AT));
        assert_eq!(judge(&wanted("R"), applied, &off, &ports), Failed);
        let older = Observed { seen_ms: AT, ports: Vec::new(), ..good };
        assert_eq!(judge(&wanted("R"), applied, &older, &ports), Succeeded);
    }
}

//! Somebody agrees, or says no.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Desk, DeskError, approve, descriptions, enabled};
use crate::{
    audit::{self, Code, Record},
    model::{Account, Decision, Needs, Ruling, State, Verdict},
    rules::{Action, Eligible},
    store::{Request, accounts, requests},
};

/// Why somebody may not decide: a stable word, and a sentence.
type Refusal = (&'static str, String);

impl Desk {
    /// One person's decision. `hash` is that of what this person has seen. The last approval that
    /// was needed approves the request.
    ///
    /// # Errors
    /// [`DeskError::Forbidden`] with `self_approval`, `not_eligible`, `already_decided`, `changed`,
    /// `too_late`, `not_pending` or `account_disabled`: the attempt is in the audit.
    pub async fn decide(
        &self,
        who: &Account,
        id: &str,
        ruling: Ruling,
        reason: &str,
        hash: &str,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        let seen = self.store().request(id).await?;
        let seen = seen.ok_or_else(|| DeskError::NotFound(format!("request {id}")))?;
        let hosts = self.hosts(&seen.proposal.hosts).await?;
        let rules = self.rules().await?;
        let mut tx = self.store().begin().await?;
        let mut request = Self::lock(&mut tx, id).await?;
        let mut decisions = requests::decisions(&mut tx, id).await?;
        if let Some(before) = decisions.iter().find(|before| before.subject == who.subject) {
            if before.ruling == ruling && before.hash == hash {
                return Ok(request);
            }
            let detail = format!("you have decided already: {}", before.ruling.word());
            drop(tx);
            return Err(self.refuse(who, id, "already_decided", detail, now_ms).await);
        }
        let groups = groups(who, &request, now_ms);
        let known = hosts.iter().map(|known| &known.host);
        let closed = rules.barred(who, Action::Approve, known, now_ms);
        if let Err((word, detail)) = judge(who, &request, &groups, closed, hash, now_ms) {
            drop(tx);
            return Err(self.refuse(who, id, word, detail, now_ms).await);
        }
        if ruling == Ruling::Deny && reason.trim().is_empty() {
            return Err(DeskError::Invalid { field: "reason", why: "say why not".into() });
        }
        let decision = Decision {
            request: id.to_owned(),
            subject: who.subject.clone(),
            account: who.name.clone(),
            ruling,
            groups,
            reason: reason.to_owned(),
            hash: hash.to_owned(),
            at_ms: now_ms,
        };
        requests::decide(&mut tx, &decision).await?;
        let code = match ruling {
            Ruling::Approve => Code::Approved,
            Ruling::Deny => Code::Denied,
        };
        let fields = json!({
            "account": decision.account, "groups": decision.groups, "reason": decision.reason,
            "hash": decision.hash,
        });
        audit::append(&mut tx, now_ms, &Record::new(code, id, &who.subject, fields)).await?;
        decisions.push(decision);
        match ruling {
            Ruling::Deny => {
                request.state = State::Denied;
                request.why = format!("denied by {}: {reason}", who.subject);
                request.escalate_ms = 0;
                requests::update(&mut tx, &request).await?;
            }
            Ruling::Approve => {
                // By the same connection: all others may be in the hands of who waits for this one.
                let accounts = accounts::all(&mut tx).await?;
                let standing = standing(&decisions, &accounts, &request);
                if missing(&request, &standing).is_empty() {
                    let approvers = approve::approvers(&standing);
                    approve::approve(&mut tx, &mut request, &hosts, &approvers, now_ms).await?;
                }
            }
        }
        self.commit(tx).await?;
        Ok(request)
    }

    /// Who may still approve a request, and what is missing.
    ///
    /// # Errors
    /// Those of the database and of the rules.
    pub async fn open_needs(
        &self,
        request: &Request,
        now_ms: i64,
    ) -> Result<(Needs, Vec<Eligible>), DeskError> {
        if request.state != State::Pending {
            return Ok((Needs::default(), Vec::new()));
        }
        let decisions = self.store().decisions(&request.proposal.id).await?;
        let accounts = self.store().accounts().await?;
        let left = missing(request, &standing(&decisions, &accounts, request));
        let hosts = descriptions(&self.store().hosts_by_id(&request.proposal.hosts).await?);
        let rules = self.rules().await?;
        let asked = Verdict { needs: left.clone(), ..request.verdict.clone() };
        let others: Vec<_> =
            accounts.into_iter().filter(|account| !request.is_asked_by(account)).collect();
        let mut eligible = rules.eligible(&others, &hosts, &request.proposal, &asked, now_ms);
        eligible.retain(|one| !decisions.iter().any(|made| made.subject == one.subject));
        Ok((left, eligible))
    }
}

/// What a request still needs.
pub(super) fn missing(request: &Request, decisions: &[Decision]) -> Needs {
    request.verdict.needs.missing(&request.proposal.requester, &request.hash, decisions)
}

/// Decisions of people who are still what they were: with an account, and in the groups. A group
/// that lapsed after the decision, because its owner did not sign in at the provider again, is not
/// taken from him. An account that has asked, and has another subject now, decides nothing. What was
/// decided with the subject that asked stays: the signer refuses it by its word.
pub(super) fn standing(
    decisions: &[Decision],
    accounts: &[Account],
    request: &Request,
) -> Vec<Decision> {
    let still = |decision: &Decision| {
        let account = accounts.iter().find(|account| account.name == decision.account)?;
        let is_own = account.subject == request.proposal.requester;
        let same = !account.disabled
            && account.subject == decision.subject
            && (is_own || !request.is_asked_by(account));
        let groups = same.then(|| groups(account, request, decision.at_ms))?;
        Some(Decision { groups: &decision.groups & &groups, ..decision.clone() })
    };
    decisions.iter().filter_map(still).collect()
}

/// The group that was asked too because nobody had agreed in time.
fn escalated(request: &Request, now_ms: i64) -> Option<&str> {
    let escalation = request.verdict.escalate.as_ref()?;
    escalation.is_due(request.proposal.created_ms, now_ms).then_some(escalation.group.as_str())
}

/// The groups that somebody counts for: those that the rules name; after an escalation its group
/// stands for each of them.
fn groups(who: &Account, request: &Request, now_ms: i64) -> BTreeSet<String> {
    let named = request.verdict.needs.0.keys();
    let stands_in = escalated(request, now_ms).is_some_and(|group| who.groups.contains(group));
    named.filter(|group| stands_in || who.groups.contains(*group)).cloned().collect()
}

fn judge(
    who: &Account,
    request: &Request,
    groups: &BTreeSet<String>,
    closed: Option<String>,
    hash: &str,
    now_ms: i64,
) -> Result<(), Refusal> {
    let asked = &request.proposal;
    if request.is_asked_by(who) {
        let detail = format!("{} asked for it; somebody else must agree", who.subject);
        return Err(("self_approval", detail));
    }
    if request.state != State::Pending {
        return Err(("not_pending", format!("it is {}", request.state.word())));
    }
    if asked.approve_until_ms <= now_ms {
        return Err((
            "too_late",
            "its time for agreement has passed; ask for a new request".into(),
        ));
    }
    if request.hash != hash {
        let detail = "what you have seen is not what was asked; look at it again";
        return Err(("changed", detail.into()));
    }
    if groups.is_empty() {
        let detail =
            format!("it needs {}, and you are in none of these", request.verdict.needs.text());
        return Err(("not_eligible", detail));
    }
    match closed {
        Some(host) => Err(("not_eligible", format!("the rules do not let you approve for {host}"))),
        None => Ok(()),
    }
}

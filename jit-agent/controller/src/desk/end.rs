//! Requests that end early.

use jit_proto::v1;
use prost::Message as _;
use serde_json::json;

use super::{Desk, DeskError, approve, ask::new_id, enabled, submit};
use crate::{
    audit::{self, Code, Record},
    model::{Account, Needs, Outcome, Proposal, State, Verdict},
    rules::Action,
    store::{Request, StoreError, StoredGrant, Tx, chains, deliveries, grants, requests},
};

impl Desk {
    /// The requester takes a request back before it is on hosts.
    ///
    /// # Errors
    /// It is another's, or it is too late.
    pub async fn withdraw(
        &self,
        who: &Account,
        id: &str,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        let mut tx = self.store().begin().await?;
        let mut request = Self::lock(&mut tx, id).await?;
        if request.proposal.requester != who.subject {
            drop(tx);
            let detail = "only who asked can take it back".to_owned();
            return Err(self.refuse(who, id, "not_permitted", detail, now_ms).await);
        }
        match request.state {
            State::Withdrawn => return Ok(request),
            State::Pending | State::Approved | State::AwaitingSignatures => {}
            state if state.is_on_hosts() => {
                drop(tx);
                return self.revoke(who, id, "withdrawn", now_ms).await;
            }
            state => return Err(ended_already(id, state, &request.replaced_by)),
        }
        request.state = State::Withdrawn;
        request.why = format!("withdrawn by {}", who.subject);
        request.escalate_ms = 0;
        requests::update(&mut tx, &request).await?;
        let record = Record::new(Code::Withdrawn, id, &who.subject, json!({ "account": who.name }));
        audit::append(&mut tx, now_ms, &record).await?;
        self.commit(tx).await?;
        Ok(request)
    }

    /// Ends what is on hosts, also of requests that it replaces: by who asked, or by who may revoke
    /// on every host of it. Those that it replaces are of the same person, for the same hosts.
    ///
    /// # Errors
    /// It is not on hosts, or this person may not.
    pub async fn revoke(
        &self,
        who: &Account,
        id: &str,
        reason: &str,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        self.may_end(who, id, now_ms).await?;
        let mut tx = self.store().begin().await?;
        // The newest first, as all who change several: of two, none waits for the other.
        let mut request = Self::lock(&mut tx, id).await?;
        match request.state {
            State::Revoked => return Ok(request),
            State::Approved | State::AwaitingSignatures | State::Refused => {}
            state if state.is_on_hosts() => {}
            state => return Err(ended_already(id, state, &request.replaced_by)),
        }
        revoke(&mut tx, who, &mut request, reason, now_ms).await?;
        // A host that has not heard of this one may still get, or have, what it replaces.
        for old in chains::replaced(&mut tx, &request).await? {
            let Some(mut old) = requests::lock(&mut tx, &old).await? else { continue };
            revoke(&mut tx, who, &mut old, reason, now_ms).await?;
        }
        self.commit(tx).await?;
        Ok(request)
    }

    /// Ends a request earlier than it was approved for. Nobody must agree: it only closes.
    ///
    /// # Errors
    /// It is not on hosts, the end is not earlier, or this person may not.
    pub async fn shorten(
        &self,
        who: &Account,
        id: &str,
        ends_ms: i64,
        reason: &str,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        self.may_end(who, id, now_ms).await?;
        let seen = self.store().request(id).await?;
        let seen = seen.ok_or_else(|| DeskError::NotFound(format!("request {id}")))?;
        let hosts = self.hosts(&seen.proposal.hosts).await?;
        let mut tx = self.store().begin().await?;
        let old = Self::lock(&mut tx, id).await?;
        if !old.state.is_on_hosts() || !old.replaced_by.is_empty() {
            return Err(ended_already(id, old.state, &old.replaced_by));
        }
        if ends_ms <= now_ms || ends_ms >= old.ends_ms {
            let why = "it must be later than now and earlier than the end that was approved".into();
            return Err(DeskError::Invalid { field: "ends", why });
        }
        let mut new = shortened(&old, who, ends_ms, reason, now_ms)?;
        requests::insert(&mut tx, &new).await?;
        chains::replace(&mut tx, &new.proposal.id, id).await?;
        submit::submitted(&mut tx, &new, now_ms).await?;
        // Who agreed to more has agreed to less.
        let approvers = agreed(&grants::of_request(&mut tx, id).await?)?;
        approve::approve(&mut tx, &mut new, &hosts, &approvers, now_ms).await?;
        self.commit(tx).await?;
        Ok(new)
    }

    /// Whether this person may end a request.
    async fn may_end(&self, who: &Account, id: &str, now_ms: i64) -> Result<(), DeskError> {
        let request = self.store().request(id).await?;
        let request = request.ok_or_else(|| DeskError::NotFound(format!("request {id}")))?;
        if request.proposal.requester == who.subject {
            return Ok(());
        }
        let rules = self.rules().await?;
        let hosts = self.store().hosts_by_id(&request.proposal.hosts).await?;
        let hosts = hosts.iter().map(|known| &known.host);
        match rules.barred(who, Action::Revoke, hosts, now_ms) {
            None => Ok(()),
            Some(closed) => {
                let detail = format!("the rules do not let you revoke on {closed}");
                Err(self.refuse(who, id, "not_permitted", detail, now_ms).await)
            }
        }
    }
}

/// Withdraws what a subject has asked for and no host has yet: an account of his gets another
/// subject, and could agree to it, or sign it, as somebody else.
///
/// # Errors
/// Those of the database.
pub(crate) async fn renamed(
    tx: &mut Tx,
    by: &Account,
    (account, before): (&Account, &str),
    now_ms: i64,
) -> Result<(), StoreError> {
    for mut request in requests::lock_unfinished(tx, before).await? {
        request.state = State::Withdrawn;
        request.why = format!(
            "withdrawn: the account {} of who asked has the subject {} now; ask again",
            account.name, account.subject
        );
        request.escalate_ms = 0;
        requests::update(tx, &request).await?;
        let id = &request.proposal.id;
        let record = Record::new(Code::Withdrawn, id, &by.subject, json!({ "account": by.name }));
        audit::append(tx, now_ms, &record).await?;
    }
    Ok(())
}

/// Ends what a request has on hosts. One that has ended already stays as it is.
async fn revoke(
    tx: &mut Tx,
    who: &Account,
    request: &mut Request,
    reason: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let id = request.proposal.id.clone();
    deliveries::revoke(tx, &id, now_ms).await?;
    if request.state.is_final() && request.state != State::Refused {
        return Ok(());
    }
    request.state = State::Revoked;
    request.why = format!("revoked by {}: {reason}", who.subject);
    requests::update(tx, request).await?;
    let fields = json!({ "account": who.name, "reason": reason });
    audit::append(tx, now_ms, &Record::new(Code::Revoked, &id, &who.subject, fields)).await?;
    Ok(())
}

/// The request that a shorter time replaces: the same, with an earlier end. Its verdict names no
/// rule: the signer compares it with what it signed before.
fn shortened(
    old: &Request,
    who: &Account,
    ends_ms: i64,
    reason: &str,
    now_ms: i64,
) -> Result<Request, DeskError> {
    let start_ms = old.proposal.start_ms.filter(|start| *start > now_ms);
    let proposal = Proposal {
        id: new_id(now_ms),
        start_ms,
        duration_ms: ends_ms - start_ms.unwrap_or(now_ms),
        reason: if reason.is_empty() { old.proposal.reason.clone() } else { reason.to_owned() },
        replaces: Some(old.proposal.id.clone()),
        created_ms: now_ms,
        approve_until_ms: ends_ms,
        ..old.proposal.clone()
    };
    let proposal = proposal.checked()?;
    let verdict = Verdict {
        rules_version: old.verdict.rules_version,
        outcome: Outcome::Automatic,
        needs: Needs::default(),
        max_duration_ms: None,
        escalate: None,
        rules: Vec::new(),
        denied: Vec::new(),
    };
    Ok(Request {
        hash: proposal.hash(),
        account: who.name.clone(),
        idempotency_key: proposal.id.clone(),
        state: State::Pending,
        why: String::new(),
        escalate_ms: 0,
        ends_ms: 0,
        replaced_by: String::new(),
        revision: 0,
        proposal,
        verdict,
    })
}

/// Those who had agreed to grants, as they name them.
fn agreed(grants: &[StoredGrant]) -> Result<Vec<String>, StoreError> {
    let Some(first) = grants.first() else { return Ok(Vec::new()) };
    let payload = v1::Grant::decode(first.part.payload.as_slice());
    Ok(payload.map_err(|why| StoreError::corrupt("payload", why))?.approvers)
}

/// The requests that another one replaces end.
pub(super) async fn replaced(tx: &mut Tx, new: &Request, now_ms: i64) -> Result<(), DeskError> {
    for old in chains::replaced(tx, new).await? {
        let Some(mut old) = requests::lock(tx, &old).await? else { continue };
        if old.state.is_final() {
            continue;
        }
        old.state = State::Ended;
        old.why = format!("replaced by {}", new.proposal.id);
        requests::update(tx, &old).await?;
        let fields = json!({ "replaced_by": new.proposal.id });
        let record = Record::new(Code::Replaced, &old.proposal.id, &new.proposal.requester, fields);
        audit::append(tx, now_ms, &record).await?;
    }
    Ok(())
}

/// Whoever holds an old id learns which request is on the hosts in its place.
pub(super) fn ended_already(id: &str, state: State, replaced_by: &str) -> DeskError {
    let state = state.word();
    let detail = match replaced_by {
        "" => format!("{id} is {state}: there is nothing to change"),
        new => format!("{id} is {state}: {new} replaces it, change that one"),
    };
    DeskError::Forbidden { word: "not_open", detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_leads_to_the_request_that_replaces_it() {
        let said = |replaced_by| ended_already("01A", State::Ended, replaced_by).to_string();
        assert_eq!(said(""), "not_open: 01A is ended: there is nothing to change");
        assert_eq!(said("01B"), "not_open: 01A is ended: 01B replaces it, change that one");
    }
}

//! From a wish to a request.

use serde_json::json;

use super::{Ask, CONTROLLER, Desk, DeskError, approve, descriptions, enabled};
use crate::{
    audit::{self, Code, Record},
    model::{Account, Outcome, Proposal, State, Verdict},
    rules::Eligible,
    store::{Request, StoreError, StoredHost, Tx, chains, requests},
};

/// What would become of a request.
#[derive(Clone, Debug)]
pub struct Preview {
    /// What would be frozen.
    pub proposal: Proposal,
    /// What the rules say.
    pub verdict: Verdict,
    /// Who may approve.
    pub eligible: Vec<Eligible>,
    /// Its hosts, as they are known.
    pub hosts: Vec<StoredHost>,
}

impl Desk {
    /// Says what would become of a request, and who may approve it. Changes nothing.
    ///
    /// # Errors
    /// A field is wrong, a host is not known.
    pub async fn preview(
        &self,
        who: &Account,
        ask: Ask,
        now_ms: i64,
    ) -> Result<Preview, DeskError> {
        enabled(who)?;
        let proposal = ask.proposal(&who.subject, self.inner.settings.approve_within, now_ms)?;
        let hosts = self.hosts(&proposal.hosts).await?;
        let rules = self.rules().await?;
        let described = descriptions(&hosts);
        let verdict = rules.judge(who, &described, &proposal, now_ms);
        let eligible = match verdict.outcome {
            Outcome::Automatic | Outcome::Denied => Vec::new(),
            Outcome::Manual => {
                let accounts = self.store().accounts().await?;
                rules.eligible(&accounts, &described, &proposal, &verdict, now_ms)
            }
        };
        Ok(Preview { proposal, verdict, eligible, hosts })
    }

    /// Submits a request. The same wish with the same key is the same request, however often it comes.
    ///
    /// # Errors
    /// A field is wrong, a host is not known, or the key belongs to another wish.
    pub async fn submit(
        &self,
        who: &Account,
        ask: Ask,
        key: &str,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        if let Some(before) = self.submitted_before(who, &ask, key).await? {
            return Ok(before);
        }
        let asked = ask.clone();
        let Preview { proposal, verdict, hosts, .. } = self.preview(who, ask, now_ms).await?;
        let key = if key.is_empty() { proposal.id.clone() } else { key.to_owned() };
        let mut request = new_request(who, proposal, verdict, &key);

        let mut tx = self.store().begin().await?;
        let replaced = self.replaced(&mut tx, who, &request.proposal).await?;
        if let Err(error) = requests::insert(&mut tx, &request).await {
            drop(tx);
            // Two of the same came at once.
            let before = match error.is_duplicate() {
                true => self.submitted_before(who, &asked, &key).await?,
                false => None,
            };
            return before.ok_or_else(|| error.into());
        }
        if let Some(old) = &request.proposal.replaces {
            chains::replace(&mut tx, &request.proposal.id, old).await?;
        }
        submitted(&mut tx, &request, now_ms).await?;
        if let Some(mut old) = replaced.filter(|old| old.state == State::Pending) {
            old.state = State::Withdrawn;
            old.replaced_by.clone_from(&request.proposal.id);
            old.why = format!("replaced by {}", request.proposal.id);
            requests::update(&mut tx, &old).await?;
            let fields = json!({ "replaced_by": request.proposal.id });
            let record = Record::new(Code::Replaced, &old.proposal.id, &who.subject, fields);
            audit::append(&mut tx, now_ms, &record).await?;
        }
        if request.verdict.outcome == Outcome::Automatic {
            approve::approve(&mut tx, &mut request, &hosts, &[], now_ms).await?;
        }
        self.commit(tx).await?;
        Ok(request)
    }

    /// The request that this key belongs to.
    async fn submitted_before(
        &self,
        who: &Account,
        ask: &Ask,
        key: &str,
    ) -> Result<Option<Request>, DeskError> {
        if key.is_empty() {
            return Ok(None);
        }
        let Some(before) = self.store().request_by_key(&who.subject, key).await? else {
            return Ok(None);
        };
        let same = ask.clone().proposal(
            &who.subject,
            self.inner.settings.approve_within,
            before.proposal.created_ms,
        );
        if same.is_ok_and(|same| Ask::of(&same) == Ask::of(&before.proposal)) {
            return Ok(Some(before));
        }
        Err(key_is_taken(key, &before))
    }

    /// The request that a proposal replaces, read for a change.
    pub(super) async fn replaced(
        &self,
        tx: &mut Tx,
        who: &Account,
        proposal: &Proposal,
    ) -> Result<Option<Request>, DeskError> {
        let Some(id) = &proposal.replaces else { return Ok(None) };
        let invalid = |why: String| DeskError::Invalid { field: "replaces", why };
        let old = requests::lock(tx, id).await?;
        let old = old.filter(|old| old.proposal.requester == who.subject);
        let old = old.ok_or_else(|| invalid(format!("you have no request {id}")))?;
        if !old.replaced_by.is_empty() {
            return Err(invalid(format!("{id} is replaced by {} already", old.replaced_by)));
        }
        match old.state {
            State::Pending => {}
            // Its grant names the one that it ends, and hosts hold it one for one.
            state if state.is_on_hosts() && old.proposal.hosts == proposal.hosts => {}
            state if state.is_on_hosts() => {
                let why = "a request that is on hosts can be replaced only for the same hosts; submit \
                           another one, and revoke this one";
                return Err(invalid(why.into()));
            }
            state => {
                return Err(invalid(format!(
                    "{id} is {}: there is nothing to replace",
                    state.word()
                )));
            }
        }
        Ok(Some(old))
    }
}

/// A key is of one wish.
pub(super) fn key_is_taken(key: &str, before: &Request) -> DeskError {
    DeskError::Conflict(format!(
        "the idempotency key {key:?} belongs to the request {}, which asks for something else; use a \
         new key",
        before.proposal.id
    ))
}

pub(super) fn new_request(
    who: &Account,
    proposal: Proposal,
    verdict: Verdict,
    key: &str,
) -> Request {
    let state = match verdict.outcome {
        Outcome::Denied => State::Denied,
        Outcome::Automatic | Outcome::Manual => State::Pending,
    };
    let escalate_ms = match (&verdict.escalate, verdict.outcome) {
        (Some(escalation), Outcome::Manual) => {
            proposal.created_ms.saturating_add(escalation.after_ms)
        }
        _ => 0,
    };
    Request {
        hash: proposal.hash(),
        account: who.name.clone(),
        idempotency_key: key.to_owned(),
        state,
        why: verdict.denied.join("; "),
        escalate_ms,
        ends_ms: 0,
        replaced_by: String::new(),
        revision: 0,
        proposal,
        verdict,
    }
}

/// Records what was asked, and what the rules said of it.
pub(super) async fn submitted(
    tx: &mut Tx,
    request: &Request,
    now_ms: i64,
) -> Result<(), StoreError> {
    let Request { proposal, verdict, .. } = request;
    let rules: Vec<_> = verdict.rules.iter().map(|rule| rule.id.as_str()).collect();
    let fields = json!({
        "account": request.account,
        "hosts": proposal.hosts,
        "sources": proposal.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ports": proposal.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "duration_ms": proposal.duration_ms,
        "start_ms": proposal.start_ms,
        "reason": proposal.reason,
        "ticket": proposal.ticket,
        "replaces": proposal.replaces,
        "hash": request.hash,
        "outcome": verdict.outcome,
        "needs": verdict.needs,
        "rules_version": verdict.rules_version,
        "rules": rules,
        "denied": verdict.denied,
    });
    let record = Record::new(Code::Submitted, &proposal.id, &proposal.requester, fields);
    audit::append(tx, now_ms, &record).await?;
    if verdict.outcome == Outcome::Denied {
        let fields = json!({ "rules": rules, "denied": verdict.denied });
        let record = Record::new(Code::Denied, &proposal.id, CONTROLLER, fields);
        audit::append(tx, now_ms, &record).await?;
    }
    Ok(())
}

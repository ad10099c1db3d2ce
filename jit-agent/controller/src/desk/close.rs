//! Revocations that are signed: what they end, who may make one, and the requests that end with them.

use std::{collections::BTreeSet, time::Duration};

use jit_client::revocation_order::{RevocationOrder, Whose};
use jit_proto::{
    payload_type::REVOCATION_TYPE,
    text::{self, MAX_NAME_BYTES, MAX_TEXT_BYTES},
    v1,
};
use prost::Message as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Desk, DeskError, answers, ask::new_id, close_bounds, enabled};
use crate::{
    audit::{self, Code, Record},
    model::{
        Account, Host, State,
        proposal::{MAX_AHEAD, MAX_DURATION},
    },
    rules::{Action, Rules},
    signer::SignerError,
    store::{
        Closing, Request, StoreError, StoredGrant, Tx, closings, deliveries, grants, requests,
    },
};

/// Ids of grants that one revocation can name.
const MAX_IDS: usize = 4096;
/// Hosts that have not carried it out after this time are asked to end each grant, milliseconds.
const ONE_BY_ONE_MS: i64 = 30_000;
/// Longer than people can take to agree to a request.
const OLDEST: Duration = Duration::from_secs(8 * 24 * 3600);
/// Requests that are ended in one transaction.
const SOME: u32 = 100;
/// While more hosts than this hear of a revocation, what it ends is not written yet: after this time at the
/// latest, milliseconds.
const MANY: usize = 1000;
const HEARD_MS: i64 = 2000;
/// Hosts that a record names.
const NAMED: usize = 20;

/// What is to be ended, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Ids of hosts.
    pub hosts: Vec<String>,
    /// Groups of hosts.
    pub groups: Vec<String>,
    /// Every host, also one that is added later.
    pub every_host: bool,
    /// The grants.
    pub whose: Whose,
    /// Sessions end, too.
    pub cut: bool,
    /// Why.
    pub reason: String,
}

/// What a revocation would end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closes {
    /// Number of hosts that must hear it now.
    pub hosts: usize,
    /// Ids of requests that have something on hosts, or are about to.
    pub requests: Vec<String>,
}

impl Desk {
    /// What a revocation would end. Nothing is changed.
    ///
    /// # Errors
    /// A field is wrong, or this person may not.
    pub async fn would_close(
        &self,
        who: &Account,
        close: &Close,
        now_ms: i64,
    ) -> Result<Closes, DeskError> {
        let message = self.checked(who, close, now_ms).await?;
        let hosts = self.hosts_of(&message).await?;
        let (since, mut before, mut found) = (since(now_ms), String::new(), Vec::new());
        loop {
            let some = self.store().requests_to_close((&since, &before), i64::MAX, SOME).await?;
            let Some(last) = some.last() else { break };
            before.clone_from(&last.proposal.id);
            for request in some {
                let grants = self.store().grants_of(&request.proposal.id).await?;
                if !ended(&message, &request, &grants)?.grants.is_empty() {
                    found.push(request.proposal.id);
                }
            }
        }
        Ok(Closes { hosts, requests: found })
    }

    /// Makes a revocation: signs it, and gives it to the hosts. It is signed a moment later if another
    /// process of this controller signs, or the signer does not answer now.
    ///
    /// # Errors
    /// A field is wrong, this person may not, or the signer refuses.
    pub async fn close(
        &self,
        who: &Account,
        close: &Close,
        now_ms: i64,
    ) -> Result<Closing, DeskError> {
        let message = self.checked(who, close, now_ms).await?;
        let everything = message.every_host && message.all;
        close_bounds::check(self.store(), &message.author, everything, now_ms).await?;
        let mut closing = Closing {
            id: new_id(now_ms),
            account: who.name.clone(),
            payload: message.encode_to_vec(),
            message,
            envelope: None,
            signed_ms: 0,
            trouble: String::new(),
            settled: false,
            complete_ms: 0,
        };
        if self.signer().is_some() {
            match self.signed_closing(&closing).await {
                Ok(Ok(envelope)) => {
                    (closing.envelope, closing.signed_ms) = (Some(envelope), now_ms);
                }
                Ok(Err((word, detail))) if word == "no_revocation_keys" => {
                    return Err(DeskError::Forbidden { word: "no_revocation_keys", detail });
                }
                Ok(Err((word, detail))) => {
                    let why = format!("the signer refuses: {word}: {detail}");
                    return Err(DeskError::Conflict(why));
                }
                // What closes is kept, and signed as soon as the signer answers.
                Err(DeskError::Signer(why)) => {
                    tracing::warn!(id = closing.id, "a revocation waits for its signature: {why}");
                }
                Err(other) => return Err(other),
            }
        }
        let mut tx = self.store().begin().await?;
        closings::insert(&mut tx, &closing).await?;
        let fields = described(&closing);
        let record = Record::new(Code::ClosingMade, "", &closing.message.author, fields);
        audit::append(&mut tx, now_ms, &record).await?;
        self.commit(tx).await?;
        Ok(closing)
    }

    /// Signs the revocations that are not signed yet, those of everything first.
    ///
    /// # Errors
    /// The signer or the database does not answer.
    pub async fn sign_closings(&self, now_ms: i64) -> Result<(), DeskError> {
        if self.signer().is_none() {
            return Ok(());
        }
        let mut unsigned = self.store().unsigned_closings(now_ms).await?;
        unsigned.sort_by_key(|closing| !closing.message.all);
        for closing in unsigned {
            let signed = self.signed_closing(&closing).await?;
            let signed = signed.map_err(|(word, detail)| format!("{word}: {detail}"));
            let mut tx = self.store().begin().await?;
            let kept = signed.as_ref().map_err(String::as_str);
            closings::set_signed(&mut tx, &closing.id, kept, now_ms).await?;
            self.commit(tx).await?;
        }
        Ok(())
    }

    /// The envelope; inside: the signer refuses, with its word and a sentence.
    async fn signed_closing(
        &self,
        closing: &Closing,
    ) -> Result<Result<v1::Envelope, (String, String)>, DeskError> {
        let Some(signer) = self.signer() else {
            return Err(DeskError::Signer("another process signs".into()));
        };
        match signer.sign_revocation(closing.payload.clone()).await {
            Ok(signatures) => Ok(Ok(v1::Envelope {
                payload_type: REVOCATION_TYPE.to_owned(),
                payload: closing.payload.clone().into(),
                signatures,
            })),
            Err(SignerError::Refused { word, detail }) => Ok(Err((word, detail))),
            Err(SignerError::Unavailable(why)) => Err(DeskError::Signer(why)),
        }
    }

    /// Ends the requests that revocations end, some at a time.
    ///
    /// # Errors
    /// Those of the database; what was done before is committed.
    pub async fn settle_closings(&self, now_ms: i64) -> Result<(), DeskError> {
        while let Some(closing) = self.store().unsettled_closing().await? {
            let (made_ms, mut before) = (closing.message.issued_before_ms, String::new());
            if now_ms < made_ms.saturating_add(HEARD_MS)
                && self.hosts_of(&closing.message).await? > MANY
            {
                return Ok(());
            }
            let since = since(made_ms);
            loop {
                let some = self.store().requests_to_close((&since, &before), made_ms, SOME).await?;
                let mut tx = self.store().begin().await?;
                // The newest first, as all who change several: of two, none waits for the other.
                for seen in &some {
                    let id = &seen.proposal.id;
                    before.clone_from(id);
                    if let Some(request) = requests::lock(&mut tx, id).await? {
                        end(&mut tx, &closing, request, now_ms).await?;
                    }
                }
                if some.is_empty() {
                    closings::set_settled(&mut tx, &closing.id).await?;
                    closings::close_deliveries(&mut tx, &closing.id, now_ms).await?;
                }
                self.commit(tx).await?;
                if some.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Number of hosts that must hear it now.
    async fn hosts_of(&self, message: &v1::Revocation) -> Result<usize, StoreError> {
        Ok(match message.every_host {
            true => usize::try_from(self.store().host_count().await?).unwrap_or(usize::MAX),
            false => message.hosts.len(),
        })
    }

    /// The message, if this person may end that there.
    async fn checked(
        &self,
        who: &Account,
        close: &Close,
        now_ms: i64,
    ) -> Result<v1::Revocation, DeskError> {
        enabled(who)?;
        let wrong = |field, why: String| DeskError::Invalid { field, why };
        text::check("reason", &close.reason, MAX_TEXT_BYTES).map_err(|why| wrong("reason", why))?;
        match &close.whose {
            Whose::All => {}
            Whose::Ids(ids) if (1..=MAX_IDS).contains(&ids.len()) => {
                if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
                    return Err(wrong("what", "an id of a grant is there twice".into()));
                }
            }
            Whose::Ids(ids) => {
                let why = format!("{} ids of grants; 1 to {MAX_IDS} can be named", ids.len());
                return Err(wrong("what", why));
            }
            Whose::Requester(requester) => {
                let checked = text::check("requester", requester, MAX_NAME_BYTES);
                checked.map_err(|why| wrong("what", why))?;
            }
        }
        let rules = self.rules().await?;
        let hosts = self.hosts_to_close(close, &rules).await?;
        if let Some(closed) = rules.barred(who, Action::Revoke, &hosts, now_ms) {
            let detail = format!("the rules do not let you revoke on {closed}");
            return Err(self.refuse(who, "", "not_permitted", detail, now_ms).await);
        }
        let order = RevocationOrder {
            hosts: (!close.every_host).then(|| hosts.into_iter().map(|host| host.id).collect()),
            whose: close.whose.clone(),
            issued_before_ms: now_ms,
            cut: close.cut,
            author: who.subject.clone(),
            reason: close.reason.clone(),
            // A grant that was issued now may begin so late, and last so long.
            keep: MAX_AHEAD + MAX_DURATION + Duration::from_secs(60),
        };
        Ok(order.message())
    }

    /// The hosts that it is for, of those that there are now; of every host some that the rules can tell
    /// from each other.
    async fn hosts_to_close(&self, close: &Close, rules: &Rules) -> Result<Vec<Host>, DeskError> {
        let invalid = |field, why: String| Err(DeskError::Invalid { field, why });
        let Close { hosts, groups, every_host, .. } = close;
        if *every_host != (hosts.is_empty() && groups.is_empty()) {
            let why = "name `hosts` or `groups`, or say `every_host`, and not both";
            return invalid("every_host", why.into());
        }
        let named = rules.named_hosts().filter(|_| *every_host);
        let mut chosen = match named {
            Some(named) => self.store().host_kinds(named).await?,
            None => self.store().host_descriptions().await?,
        };
        if !every_host {
            let known: BTreeSet<_> = chosen.iter().map(|host| host.id.as_str()).collect();
            if let Some(missing) = hosts.iter().find(|id| !known.contains(id.as_str())) {
                let why = format!("there is no host {missing:?}; `jitctl hosts` lists them");
                return invalid("hosts", why);
            }
            let is_empty =
                |group: &&String| !chosen.iter().any(|host| host.groups.contains(*group));
            if let Some(missing) = groups.iter().find(is_empty) {
                return invalid("groups", format!("no host is in the group {missing:?}"));
            }
            let hosts: BTreeSet<_> = hosts.iter().collect();
            chosen.retain(|host| {
                hosts.contains(&host.id) || groups.iter().any(|group| host.groups.contains(group))
            });
        }
        if chosen.is_empty() {
            return invalid("every_host", "there is no host".into());
        }
        Ok(chosen)
    }
}

/// What a revocation ends of a request.
struct Ended {
    grants: Vec<String>,
    /// Nothing of the request is left.
    whole: bool,
}

/// Which grants of a request a revocation ends on at least one host.
fn ended(of: &v1::Revocation, request: &Request, all: &[StoredGrant]) -> Result<Ended, StoreError> {
    let hosts: BTreeSet<_> = of.hosts.iter().collect();
    let is_there = |host: &String| of.every_host || hosts.contains(host);
    let mut ended = Ended { grants: Vec::new(), whole: true };
    for grant in all {
        let issued_ms = v1::Grant::decode(grant.part.payload.as_slice())
            .map_err(|why| StoreError::corrupt("payload", why))?
            .issued_at_ms;
        let is_meant = match (of.all, of.requester.as_str()) {
            (true, _) => issued_ms <= of.issued_before_ms,
            (false, "") => of.grant_ids.iter().any(|id| id[..] == grant.part.id.0),
            (false, requester) => {
                requester == request.proposal.requester && issued_ms <= of.issued_before_ms
            }
        };
        if is_meant && grant.part.hosts.iter().any(is_there) {
            ended.grants.push(grant.part.id.to_string());
        }
        ended.whole &= is_meant && grant.part.hosts.iter().all(is_there);
    }
    ended.whole &= !all.is_empty();
    Ok(ended)
}

/// Ends what a revocation ends of a request, and the request if nothing of it is left.
async fn end(
    tx: &mut Tx,
    closing: &Closing,
    mut request: Request,
    now_ms: i64,
) -> Result<(), DeskError> {
    let id = request.proposal.id.clone();
    // Hosts that were faster than this have reported that they have ended it.
    if !is_closable(request.state) && request.state != State::Ended {
        return Ok(());
    }
    let all = grants::of_request(tx, &id).await?;
    let Ended { grants, whole } = ended(&closing.message, &request, &all)?;
    let next_ms = now_ms.saturating_add(ONE_BY_ONE_MS);
    for grant in &grants {
        closings::ends(tx, &closing.id, grant, &id).await?;
        closings::revoke_grant(tx, &closing.id, grant, next_ms).await?;
    }
    if !whole {
        return Ok(());
    }
    deliveries::revoke(tx, &id, next_ms).await?;
    let v1::Revocation { author, reason, .. } = &closing.message;
    request.state = State::Revoked;
    request.why = format!("revoked by {author}: {reason} (revocation {})", closing.id);
    requests::update(tx, &request).await?;
    let fields = json!({ "account": closing.account, "reason": reason, "revocation": closing.id });
    audit::append(tx, now_ms, &Record::new(Code::Revoked, &id, author, fields)).await?;
    Ok(())
}

/// The first id of a request that can still have something on hosts.
fn since(now_ms: i64) -> String {
    let longest = MAX_AHEAD + MAX_DURATION + OLDEST;
    let millis = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    let first = u64::try_from(now_ms.saturating_sub(millis)).unwrap_or(0);
    ulid::Ulid::from_parts(first, 0).to_string()
}

/// Whether grants of a request in this state are on hosts, or about to be.
fn is_closable(state: State) -> bool {
    state.is_on_hosts() || matches!(state, State::Approved | State::AwaitingSignatures)
}

/// The states of requests that lost hosts to a revocation.
pub(super) async fn restate(
    tx: &mut Tx,
    requests_closed: &[String],
    now_ms: i64,
) -> Result<(), DeskError> {
    for id in requests_closed {
        if let Some(request) = requests::lock(tx, id).await?
            && request.state.is_on_hosts()
        {
            answers::restate(tx, request, now_ms).await?;
        }
    }
    Ok(())
}

/// What a record says of a revocation.
fn described(closing: &Closing) -> serde_json::Value {
    let v1::Revocation { hosts, every_host, grant_ids, requester, all, .. } = &closing.message;
    let named: Vec<_> = hosts.iter().take(NAMED).collect();
    let keys = closing.envelope.iter().flat_map(|envelope| &envelope.signatures);
    json!({
        "revocation": closing.id,
        "account": closing.account,
        "reason": closing.message.reason,
        "every_host": every_host,
        "hosts": named,
        "hosts_total": hosts.len(),
        "all": all,
        "requester": requester,
        "grants_total": grant_ids.len(),
        "cut": closing.message.cut,
        "keep_until_ms": closing.message.keep_until_ms,
        "payload_sha256": hex::encode(Sha256::digest(&closing.payload)),
        "keys": keys.map(|signature| signature.key_id.as_str()).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_still_open_is_what_can_be_closed() {
        let closable: Vec<_> =
            State::ALL.iter().filter(|state| is_closable(**state)).map(|one| one.word()).collect();
        let expected =
            ["approved", "awaiting_signatures", "delivering", "open", "partly", "scheduled"];
        assert_eq!(closable, expected);
    }
}

//! From an approved request to signed grants on their way.

use std::collections::BTreeSet;

use jit_proto::{
    dsse::MAX_SIGNATURES,
    payload_type::GRANT_TYPE,
    v1,
    webauthn::{RelyingParty, sign_count},
};
use prost::Message as _;
use serde_json::json;

use super::{CONTROLLER, Desk, DeskError, decide, enabled, keys};
use crate::{
    audit::{self, Code, Record},
    model::{Account, State},
    rules::Action,
    signer::{SignRequest, SignerError},
    store::{Request, StoreError, StoredGrant, Tx, deliveries, grants, passkeys, requests},
};

impl Desk {
    /// Signs what waits for the controller's own key. Returns the number of grants that were
    /// signed.
    ///
    /// # Errors
    /// The signer or the database does not answer: nothing is lost, and it is to be tried again.
    pub async fn sign_waiting(&self, now_ms: i64) -> Result<usize, DeskError> {
        let Some(signer) = &self.inner.signer else { return Ok(0) };
        let mut signed = 0;
        for grant in self.store().unsigned_grants(now_ms).await? {
            if grant.envelope.is_some() {
                continue;
            }
            let Some(request) = self.store().request(&grant.request).await? else { continue };
            let asked = self.sign_request(&request, &grant).await?;
            match signer.sign(&asked).await {
                Ok(signatures) => {
                    self.signed(&grant, signatures, now_ms).await?;
                    signed += 1;
                }
                Err(SignerError::Refused { word, detail }) => {
                    self.signing_refused(&grant, &word, &detail, now_ms).await?;
                }
                Err(SignerError::Unavailable(why)) => return Err(DeskError::Signer(why)),
            }
        }
        Ok(signed)
    }

    /// Everything that the signer checks a grant by.
    async fn sign_request(
        &self,
        request: &Request,
        grant: &StoredGrant,
    ) -> Result<SignRequest, DeskError> {
        let decisions = self.store().decisions(&grant.request).await?;
        let accounts = self.store().accounts().await?;
        let payload = v1::Grant::decode(grant.part.payload.as_slice());
        let payload = payload.map_err(|why| StoreError::corrupt("payload", why))?;
        let replaced = match &request.proposal.replaces {
            Some(old) => self.store().grants_of(old).await?,
            None => Vec::new(),
        };
        let number = usize::try_from(grant.number).unwrap_or(0);
        let shortens = replaced.get(number).filter(|_| request.is_shortened());
        Ok(SignRequest {
            proposal: request.proposal.clone(),
            verdict: request.verdict.clone(),
            // Of an approver who was removed meanwhile nothing counts.
            decisions: decide::standing(&decisions, &accounts, request),
            approved_ms: payload.issued_at_ms,
            approvers: payload.approvers,
            replaces: replaced.iter().map(|old| old.part.id.to_string()).collect(),
            number,
            payload: grant.part.payload.clone(),
            shortens: shortens.map(|old| old.part.payload.clone()),
        })
    }

    /// Keeps the signatures of the controller's own keys.
    async fn signed(
        &self,
        grant: &StoredGrant,
        signatures: Vec<v1::Signature>,
        now_ms: i64,
    ) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        let request = Self::lock(&mut tx, &grant.request).await?;
        // Withdrawn or revoked meanwhile: the signatures go nowhere.
        if request.state != State::Approved {
            return Ok(());
        }
        let keys: Vec<_> = signatures.iter().map(|signature| signature.key_id.clone()).collect();
        let envelope = v1::Envelope {
            payload_type: GRANT_TYPE.to_owned(),
            payload: grant.part.payload.clone().into(),
            signatures,
        };
        signed_by(&mut tx, grant, CONTROLLER, &keys, now_ms).await?;
        self.keep(tx, request, grant, &envelope, now_ms).await?;
        Ok(())
    }

    /// Adds a signature that a person made: `jitctl approve --signing-key`.
    ///
    /// # Errors
    /// The grant does not wait for signatures; the signature is not good, not by a registered key
    /// of this account, or this person has signed or asked for it.
    pub async fn add_signature(
        &self,
        who: &Account,
        grant_id: &str,
        signature: v1::Signature,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        self.add(who, grant_id, signature, None, now_ms).await
    }

    /// Adds an approval that a person made with a passkey, and that hosts check themselves. Only
    /// who may approve on all of the grant's hosts makes one: people register passkeys themselves.
    /// `party`: for whom passkeys are.
    ///
    /// # Errors
    /// As [`Self::add_signature`], and `not_eligible`.
    pub async fn add_approval(
        &self,
        who: &Account,
        grant_id: &str,
        approval: v1::Signature,
        party: &RelyingParty,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        let grant = self.store().grant(grant_id).await?;
        let grant = grant.ok_or_else(|| DeskError::NotFound(format!("grant {grant_id}")))?;
        let rules = self.rules().await?;
        let hosts = self.hosts(&grant.part.hosts).await?;
        let hosts = hosts.iter().map(|known| &known.host);
        if let Some(closed) = rules.barred(who, Action::Approve, hosts, now_ms) {
            let detail = format!("the rules do not let you approve for {closed}");
            let word = "not_eligible";
            return Err(self.refuse(who, &grant.request, word, detail, now_ms).await);
        }
        self.add(who, grant_id, approval, Some(party), now_ms).await
    }

    async fn add(
        &self,
        who: &Account,
        grant_id: &str,
        signature: v1::Signature,
        party: Option<&RelyingParty>,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        let grant = self.store().grant(grant_id).await?;
        let grant = grant.ok_or_else(|| DeskError::NotFound(format!("grant {grant_id}")))?;
        let mut tx = self.store().begin().await?;
        let request = Self::lock(&mut tx, &grant.request).await?;
        if request.state != State::AwaitingSignatures {
            let detail = format!("it waits for no signature: it is {}", request.state.word());
            return Err(DeskError::Forbidden { word: "not_pending", detail });
        }
        let now = grants::of_request(&mut tx, &grant.request).await?;
        let now = now.into_iter().find(|one| one.part.id == grant.part.id);
        let mut envelope = now.and_then(|one| one.envelope).unwrap_or_default();
        keys::drop_ended(&mut tx, &mut envelope).await?;
        let checked = match self.is_own_key(&signature.key_id) {
            true => Err(("not_your_key", "it is the controller's own key".to_owned())),
            false => keys::check(&mut tx, who, &request, &envelope, &signature, party).await?,
        };
        match checked {
            Err((word, detail)) => {
                drop(tx);
                return Err(self.refuse(who, &grant.request, word, detail, now_ms).await);
            }
            Ok(true) => return Ok(request),
            Ok(false) => {}
        }
        if envelope.signatures.len() >= MAX_SIGNATURES {
            let why = format!("there are at most {MAX_SIGNATURES}");
            return Err(DeskError::Invalid { field: "signature", why });
        }
        let key = signature.key_id.clone();
        if let Some(assertion) = &signature.assertion {
            let count = sign_count(&assertion.authenticator_data).unwrap_or_default();
            // A lower count is no fault here: the order in which approvals arrive says nothing.
            passkeys::used(&mut tx, &key, i64::from(count), now_ms).await?;
        }
        envelope.signatures.push(signature);
        signed_by(&mut tx, &grant, &who.subject, &[key], now_ms).await?;
        self.keep(tx, request, &grant, &envelope, now_ms).await
    }

    /// Writes an envelope. With all signatures of all grants the request is on its way.
    async fn keep(
        &self,
        mut tx: Tx,
        mut request: Request,
        grant: &StoredGrant,
        envelope: &v1::Envelope,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        let keys: BTreeSet<_> = envelope.signatures.iter().map(|one| one.key_id.as_str()).collect();
        let complete = keys.len() >= usize::try_from(grant.signatures_needed).unwrap_or(usize::MAX);
        let signed_ms = if complete { now_ms } else { 0 };
        grants::set_envelope(&mut tx, &grant.part.id.to_string(), envelope, signed_ms).await?;
        let all = grants::of_request(&mut tx, &grant.request).await?;
        if all.iter().all(|one| one.signed_ms > 0) {
            for one in &all {
                let until = one.part.not_after_ms.saturating_add(deliveries::AFTER_END_MS);
                let id = one.part.id.to_string();
                deliveries::insert(&mut tx, &grant.request, &id, &one.part.hosts, now_ms, until)
                    .await?;
            }
            request.state = State::Delivering;
            request.why.clear();
            requests::update(&mut tx, &request).await?;
        } else if all.iter().all(|one| one.envelope.is_some()) {
            request.state = State::AwaitingSignatures;
            request.why = format!(
                "hosts ask for {} signatures by distinct keys; add yours: by passkey at the page of \
                 the request, or `jitctl approve {} --signing-key KEY`",
                grant.signatures_needed, grant.request
            );
            requests::update(&mut tx, &request).await?;
        }
        self.commit(tx).await?;
        Ok(request)
    }

    async fn signing_refused(
        &self,
        grant: &StoredGrant,
        word: &str,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        let mut request = Self::lock(&mut tx, &grant.request).await?;
        if request.state != State::Approved {
            return Ok(());
        }
        request.state = State::Denied;
        request.why = format!("the signer refuses it: {word}: {detail}");
        requests::update(&mut tx, &request).await?;
        let fields = json!({ "grant": grant.part.id.to_string(), "word": word, "detail": detail });
        let record = Record::new(Code::SigningRefused, &grant.request, "signer", fields);
        audit::append(&mut tx, now_ms, &record).await?;
        self.commit(tx).await
    }
}

async fn signed_by(
    tx: &mut Tx,
    grant: &StoredGrant,
    by: &str,
    keys: &[String],
    now_ms: i64,
) -> Result<(), StoreError> {
    let fields = json!({
        "grant": grant.part.id.to_string(),
        "payload_sha256": grant.part.payload_hash(),
        "keys": keys,
        "hosts": grant.part.hosts,
        "not_before_ms": grant.part.not_before_ms,
        "not_after_ms": grant.part.not_after_ms,
    });
    audit::append(tx, now_ms, &Record::new(Code::Signed, &grant.request, by, fields)).await?;
    Ok(())
}

//! Public keys of people, and what they sign with them. Hosts that ask for several signatures count keys;
//! here it is counted whose they are. A signature that no host would take is not kept.

use jit_client::public_key::PublicKey;
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use serde_json::json;

use super::{Desk, DeskError};
use crate::{
    audit::{self, Code, Record},
    model::Account,
    store::{AccountKey, Request, StoreError, Tx, keys},
};

/// A stable word, and what it means here.
pub(super) type Refusal = (&'static str, String);

impl Desk {
    /// Registers a public key (PEM) for an account. An administrator has been asked for: who is it by.
    ///
    /// # Errors
    /// It is no public key, another account's, or the controller's own.
    pub async fn add_key(
        &self,
        by: &Account,
        account: &str,
        key_id: &str,
        pem: &str,
        now_ms: i64,
    ) -> Result<AccountKey, DeskError> {
        let invalid = |field, why: String| DeskError::Invalid { field, why };
        let public = PublicKey::from_pem(pem).map_err(|why| invalid("public_key", why))?;
        if public.key_id() != key_id {
            let why = format!("it is the key {}, and the path names another", public.key_id());
            return Err(invalid("public_key", why));
        }
        if self.is_own_key(key_id) {
            let why = "it is the controller's own key: its signature is no person's".into();
            return Err(invalid("public_key", why));
        }
        let missing = || DeskError::NotFound(format!("account {account}"));
        self.store().account(account).await?.ok_or_else(missing)?;
        let new = AccountKey {
            key_id: public.key_id(),
            account: account.to_owned(),
            algorithm: public.algorithm().to_owned(),
            public_key: public.pem(),
            added_by: by.subject.clone(),
            added_ms: now_ms,
            revoked_ms: 0,
        };
        let mut tx = self.store().begin().await?;
        let before = keys::find(&mut tx, key_id).await?.map(|owned| owned.key);
        if let Some(same) = before.filter(|key| key.account == account && key.revoked_ms == 0) {
            return Ok(same);
        }
        if !keys::put(&mut tx, &new).await? {
            let why = format!(
                "the key {key_id} is of another account; a key is of one account for ever: make \
                 another one (`jitctl keygen`)"
            );
            return Err(DeskError::Conflict(why));
        }
        let fields = json!({
            "by_account": by.name, "account": account, "key": key_id, "algorithm": new.algorithm,
        });
        audit::append(&mut tx, now_ms, &Record::new(Code::KeyAdded, "", &by.subject, fields))
            .await?;
        self.commit(tx).await?;
        Ok(new)
    }

    /// Lets a key of an account count no longer, also where it has signed and others have not yet.
    ///
    /// # Errors
    /// The account has no such key.
    pub async fn revoke_key(
        &self,
        by: &Account,
        account: &str,
        key_id: &str,
        now_ms: i64,
    ) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        if keys::revoke(&mut tx, account, key_id, now_ms).await? {
            let fields = json!({ "by_account": by.name, "account": account, "key": key_id });
            let record = Record::new(Code::KeyRevoked, "", &by.subject, fields);
            audit::append(&mut tx, now_ms, &record).await?;
            return self.commit(tx).await;
        }
        match keys::find(&mut tx, key_id).await?.filter(|owned| owned.key.account == account) {
            Some(_) => Ok(()),
            None => Err(DeskError::NotFound(format!("key {key_id} of {account}"))),
        }
    }

    /// Whether the signer of this process signs with this key.
    pub(super) fn is_own_key(&self, key_id: &str) -> bool {
        let own = self.inner.signer.as_ref().map(|signer| signer.keys()).unwrap_or_default();
        own.iter().any(|key| key.key_id == key_id)
    }
}

/// Whether a person's signature counts: it is good, by a registered key of exactly this account, and
/// nobody signs twice or what he asked for himself. `Ok(true)`: the envelope has it already.
pub(super) async fn check(
    tx: &mut Tx,
    who: &Account,
    request: &Request,
    envelope: &v1::Envelope,
    signature: &v1::Signature,
) -> Result<Result<bool, Refusal>, StoreError> {
    let id = signature.key_id.as_str();
    let is_there = envelope.signatures.iter().any(|other| other.key_id == id);
    let Some(owned) = keys::find(tx, id).await? else {
        return Ok(match is_there {
            true => Err(("not_your_key", format!("the key {id:?} is the controller's own"))),
            false => Err((
                "unknown_key",
                format!(
                    "nobody has the key {id:?}; an administrator registers the public half of yours: \
                     `jitctl accounts keys add {} --public-key FILE`",
                    who.name
                ),
            )),
        });
    };
    if owned.key.account != who.name {
        return Ok(Err((
            "not_your_key",
            format!("the key {id} is not of the account {}", who.name),
        )));
    }
    if owned.key.revoked_ms > 0 {
        let detail = format!(
            "the key {id} of {} was revoked; an administrator registers another one: `jitctl \
             accounts keys add {} --public-key FILE`",
            who.name, who.name
        );
        return Ok(Err(("unknown_key", detail)));
    }
    if who.subject == request.proposal.requester {
        let detail = "who asked does not sign, with whatever key; somebody else does".to_owned();
        return Ok(Err(("self_approval", detail)));
    }
    let public = PublicKey::from_pem(&owned.key.public_key)
        .map_err(|why| StoreError::corrupt("public key of an account", why))?;
    let message = pre_authentication_encoding(GRANT_TYPE, &envelope.payload);
    if !public.verifies(&message, &signature.signature) {
        let detail = format!(
            "it is no good signature by the key {id} over this grant; was the request replaced? Run \
             `jitctl approve {} --signing-key KEY` again",
            request.proposal.id
        );
        return Ok(Err(("wrong_signature", detail)));
    }
    if is_there {
        return Ok(Ok(true));
    }
    for other in &envelope.signatures {
        let other = keys::find(tx, &other.key_id).await?;
        if let Some(other) = other.filter(|other| other.subject == who.subject) {
            let detail = format!(
                "{} has signed with the key {} already; another person must sign",
                who.subject, other.key.key_id
            );
            return Ok(Err(("already_signed", detail)));
        }
    }
    Ok(Ok(false))
}

/// Takes off signatures of people that no longer count: the key was revoked, the account disabled.
pub(super) async fn drop_ended(tx: &mut Tx, envelope: &mut v1::Envelope) -> Result<(), StoreError> {
    let mut standing = Vec::with_capacity(envelope.signatures.len());
    for signature in std::mem::take(&mut envelope.signatures) {
        let owned = keys::find(tx, &signature.key_id).await?;
        if !owned.is_some_and(|owned| owned.disabled || owned.key.revoked_ms > 0) {
            standing.push(signature);
        }
    }
    envelope.signatures = standing;
    Ok(())
}

//! Public keys and passkeys of people, and what they sign with them. Hosts that ask for several
//! signatures count keys; here it is counted whose they are. A signature that no host would take is
//! not kept.

use jit_client::public_key::PublicKey;
use jit_proto::{
    dsse::pre_authentication_encoding,
    payload_type::GRANT_TYPE,
    v1,
    webauthn::{RelyingParty, challenge},
};
use serde_json::json;

use super::{Desk, DeskError};
use crate::{
    audit::{self, Code, Record},
    model::Account,
    signer::{Process, Purpose},
    store::{AccountKey, Request, StoreError, Tx, keys, passkeys},
};

/// A stable word, and what it means here.
pub(super) type Refusal = (&'static str, String);

impl Desk {
    /// Registers a public key (PEM) for an account. An administrator has been asked for: who is it
    /// by.
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
        if let Some(signs) = self.unknown_keys() {
            return Err(DeskError::Signer(format!(
                "its keys for {signs} have not been open yet, and this one may be one of them; `jit-controller \
                 health` says why"
            )));
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
        let mut own = self.processes().flat_map(|(_, process)| process.keys);
        own.any(|key| key.key_id == key_id)
    }

    /// What is signed by keys that are not known yet: their process has not been open.
    fn unknown_keys(&self) -> Option<&'static str> {
        let mut unknown = self.processes().filter(|(_, process)| process.keys.is_empty());
        unknown.next().map(|(purpose, _)| purpose.words())
    }

    fn processes(&self) -> impl Iterator<Item = (Purpose, Process)> {
        self.inner.signer.iter().flat_map(|signer| signer.processes())
    }
}

/// Whose key it is that signs.
struct Owner {
    account: String,
    subject: String,
    /// The account may do nothing any more.
    disabled: bool,
    /// Nothing counts that the key signs.
    revoked: bool,
    /// PEM.
    public_key: String,
    /// The domain that it was made for, if it is a passkey.
    rp_id: Option<String>,
}

impl Owner {
    /// A key that signs plainly and a passkey are different keys, whatever their ids are.
    async fn of(tx: &mut Tx, signature: &v1::Signature) -> Result<Option<Self>, StoreError> {
        let id = signature.key_id.as_str();
        if signature.assertion.is_none() {
            return Ok(keys::find(tx, id).await?.map(|owned| Self {
                account: owned.key.account,
                subject: owned.subject,
                disabled: owned.disabled,
                revoked: owned.key.revoked_ms > 0,
                public_key: owned.key.public_key,
                rp_id: None,
            }));
        }
        Ok(passkeys::of_key(tx, id).await?.map(|owned| Self {
            account: owned.passkey.account,
            subject: owned.subject,
            disabled: owned.disabled,
            revoked: owned.passkey.removed_ms > 0,
            public_key: owned.passkey.public_key,
            rp_id: Some(owned.passkey.rp_id),
        }))
    }

    /// Whether it made this signature over the message. The error says what is wrong with that of a
    /// passkey.
    fn made(
        &self,
        party: Option<&RelyingParty>,
        message: &[u8],
        signature: &v1::Signature,
    ) -> Result<Result<(), String>, StoreError> {
        let public = PublicKey::from_pem(&self.public_key)
            .map_err(|why| StoreError::corrupt("public key of an account", why))?;
        let signed = match (&signature.assertion, party) {
            (None, _) => Ok(message.to_vec()),
            (Some(assertion), Some(party)) if self.rp_id.as_deref() == Some(party.id()) => {
                party.check(&challenge(message), assertion).map_err(|wrong| wrong.to_string())
            }
            (Some(_), _) => Err("it was made for pages at another address".to_owned()),
        };
        Ok(signed.and_then(|signed| match public.verifies(&signed, &signature.signature) {
            true => Ok(()),
            false => Err(String::new()),
        }))
    }
}

/// Whether a person's signature counts: it is good, by a registered key or passkey of exactly this
/// account, and nobody signs twice or what he asked for himself. `Ok(true)`: the envelope has it
/// already. `party`: for whom passkeys are.
pub(super) async fn check(
    tx: &mut Tx,
    who: &Account,
    request: &Request,
    envelope: &v1::Envelope,
    signature: &v1::Signature,
    party: Option<&RelyingParty>,
) -> Result<Result<bool, Refusal>, StoreError> {
    let id = signature.key_id.as_str();
    let is_passkey = signature.assertion.is_some();
    let same =
        |other: &v1::Signature| other.key_id == id && other.assertion.is_some() == is_passkey;
    let is_there = envelope.signatures.iter().any(same);
    let how = match is_passkey {
        true => "register it at the page /me".to_owned(),
        false => format!(
            "an administrator registers the public half of yours: `jitctl accounts keys add {} \
             --public-key FILE`",
            who.name
        ),
    };
    let Some(owner) = Owner::of(tx, signature).await? else {
        return Ok(match is_there {
            true => Err(("not_your_key", format!("the key {id:?} is the controller's own"))),
            false => Err(("unknown_key", format!("nobody has the key {id:?}; {how}"))),
        });
    };
    if owner.account != who.name {
        return Ok(Err((
            "not_your_key",
            format!("the key {id} is not of the account {}", who.name),
        )));
    }
    if owner.revoked {
        let detail = format!("the key {id} of {} was revoked; {how}", who.name);
        return Ok(Err(("unknown_key", detail)));
    }
    if request.is_asked_by(who) {
        let detail = "who asked does not sign, with whatever key; somebody else does".to_owned();
        return Ok(Err(("self_approval", detail)));
    }
    let message = pre_authentication_encoding(GRANT_TYPE, &envelope.payload);
    if let Err(wrong) = owner.made(party, &message, signature)? {
        let detail = match is_passkey {
            true => format!(
                "it is no good approval by the passkey {id} of this grant: {}; open the page of the \
                 request again, and sign what it shows then",
                if wrong.is_empty() { "the signature is not by its key" } else { &wrong }
            ),
            false => format!(
                "it is no good signature by the key {id} over this grant; was the request replaced? \
                 Run `jitctl approve {} --signing-key KEY` again",
                request.proposal.id
            ),
        };
        return Ok(Err(("wrong_signature", detail)));
    }
    if is_there {
        return Ok(Ok(true));
    }
    for other in &envelope.signatures {
        let found = Owner::of(tx, other).await?;
        if found.is_some_and(|found| found.subject == who.subject) {
            let detail = format!(
                "{} has signed with the key {} already; another person must sign",
                who.subject, other.key_id
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
        let owner = Owner::of(tx, &signature).await?;
        if !owner.is_some_and(|owner| owner.disabled || owner.revoked) {
            standing.push(signature);
        }
    }
    envelope.signatures = standing;
    Ok(())
}

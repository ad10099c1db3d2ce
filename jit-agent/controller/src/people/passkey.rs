//! Passkeys of people (W3C Web Authentication Level 2): registered here, then used to sign in, to
//! confirm a change, and to approve what hosts check themselves.
//!
//! A challenge is good once, for five minutes, for one purpose, and for the session that asked for
//! it. The maker of an authenticator is not asked for: an attestation is not looked at. The browser
//! must have verified the person each time (PIN, finger, face).

mod attested;
mod decoys;
mod sent;

use jit_client::public_key::PublicKey;
use jit_proto::webauthn::{self, AssertionError, RelyingParty};
use ring::rand::{SecureRandom as _, SystemRandom};
pub use sent::Asserted;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    audit::{self, Code, Record},
    desk::Desk,
    model::Account,
    store::{
        Passkey, Store, StoreError,
        passkeys::{self, Challenge},
        people,
    },
};

/// How long a challenge is good, milliseconds.
const CHALLENGE_MS: i64 = 5 * 60_000;
/// The most passkeys of an account.
const MOST: usize = 20;
/// The most bytes of a passkey's name.
pub const LONGEST_NAME: usize = 100;

/// What a challenge is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To confirm a change of one's own account.
    Confirm,
    /// To register a passkey.
    Register,
    /// To sign in.
    SignIn,
}

/// Why a passkey does not count.
#[derive(Debug, thiserror::Error)]
pub enum PasskeyError {
    /// A check of WebAuthn failed.
    #[error("{0}")]
    Assertion(#[from] AssertionError),
    /// The challenge was not given to this browser for this, was used before, or is too old.
    #[error("the challenge was used before, is older than 5 minutes, or is for something else")]
    Challenge,
    /// Its authenticator counts backwards.
    #[error(
        "the passkey has counted higher before: there is a copy of it, or this is an old answer of it"
    )]
    CountsBack,
    /// The signature is another key's.
    #[error("the signature is not by the key of the passkey")]
    Forged,
    /// The name is none.
    #[error("the name {0}")]
    Name(String),
    /// It is somebody else's.
    #[error("the passkey is of another account")]
    NotYours,
    /// What was sent is no passkey's answer.
    #[error("what the browser sent of the passkey: {0}")]
    Sent(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is registered already.
    #[error("this passkey is registered already")]
    Taken,
    /// An account has enough.
    #[error("the account has {MOST} passkeys, and that is the most; remove one first")]
    TooMany,
    /// Nobody has such a passkey.
    #[error("nobody has registered this passkey here, or it was removed")]
    Unknown,
}

impl Purpose {
    const fn word(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Register => "register",
            Self::SignIn => "sign_in",
        }
    }
}

impl PasskeyError {
    /// Its stable word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Assertion(_) | Self::Forged | Self::Sent(_) => "wrong_passkey",
            Self::Challenge => "challenge_used",
            Self::CountsBack => "passkey_copied",
            Self::Name(_) => "invalid",
            Self::NotYours => "not_your_key",
            Self::Store(_) => "unavailable",
            Self::Taken | Self::TooMany => "conflict",
            Self::Unknown => "unknown_passkey",
        }
    }
}

/// A new challenge. `owner`: the session that asks; empty: nobody has signed in.
///
/// # Errors
/// Those of the database.
///
/// # Panics
/// The system has no random bytes.
pub async fn challenge(
    store: &Store,
    purpose: Purpose,
    owner: &str,
    now_ms: i64,
) -> Result<String, StoreError> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).expect("getrandom(2) answers");
    let challenge = Challenge {
        challenge: sent::written(&bytes),
        purpose: purpose.word().to_owned(),
        owner: owner.to_owned(),
        ends_ms: now_ms.saturating_add(CHALLENGE_MS),
    };
    let mut tx = store.begin().await?;
    passkeys::add_challenge(&mut tx, &challenge, now_ms).await?;
    tx.commit().await?;
    Ok(challenge.challenge)
}

/// What a browser needs to make a passkey: `PublicKeyCredentialCreationOptions` as JSON (section
/// 5.4). `present`: passkeys that the account has.
pub fn creation(
    party: &RelyingParty,
    account: &Account,
    challenge: &str,
    present: &[Passkey],
) -> Value {
    json!({
        "challenge": challenge,
        "rp": { "id": party.id(), "name": "jit" },
        "user": {
            "id": sent::written(&handle(&account.name)),
            "name": account.name,
            "displayName": account.subject,
        },
        "pubKeyCredParams": [
            { "type": "public-key", "alg": attested::ES256 },
            { "type": "public-key", "alg": attested::EDDSA },
        ],
        "timeout": CHALLENGE_MS,
        "excludeCredentials": listed(present),
        "authenticatorSelection": {
            "residentKey": "preferred",
            "requireResidentKey": false,
            "userVerification": "required",
        },
        "attestation": "none",
    })
}

/// What a browser needs to let a passkey sign: `PublicKeyCredentialRequestOptions` as JSON (section
/// 5.5). `allowed`: one of these; empty: any that the person chooses.
pub fn request(party: &RelyingParty, challenge: &str, allowed: &[Passkey]) -> Value {
    asking(party, challenge, listed(allowed))
}

/// The same for the sign-in to this account. Of one that has no passkey, or that there is not, it
/// looks as if it had.
///
/// # Errors
/// Those of the database.
pub async fn request_of(
    store: &Store,
    party: &RelyingParty,
    challenge: &str,
    name: &str,
) -> Result<Value, StoreError> {
    let mut found = store.passkeys(name).await?;
    found.retain(|one| one.rp_id == party.id());
    let disabled = store.account(name).await?.is_none_or(|account| account.disabled);
    let ids = match found.is_empty() || disabled {
        true => decoys::of(store, name).await?,
        false => found.into_iter().map(|one| one.id).collect(),
    };
    // How a passkey is reached is left out: only real ones have it.
    let allowed = ids.iter().map(|id| json!({ "type": "public-key", "id": id }));
    Ok(asking(party, challenge, allowed.collect()))
}

fn asking(party: &RelyingParty, challenge: &str, allowed: Value) -> Value {
    json!({
        "challenge": challenge,
        "rpId": party.id(),
        "timeout": CHALLENGE_MS,
        "userVerification": "required",
        "allowCredentials": allowed,
    })
}

fn listed(passkeys: &[Passkey]) -> Value {
    let one = |passkey: &Passkey| {
        let transports: Vec<_> = passkey.transports.split_whitespace().collect();
        json!({ "type": "public-key", "id": passkey.id, "transports": transports })
    };
    passkeys.iter().map(one).collect()
}

/// What an authenticator calls the owner of an account (section 5.4.3). It says nothing of him to
/// who does not know the account's name.
fn handle(account: &str) -> [u8; 32] {
    Sha256::new_with_prefix(b"jit-controller passkey\0").chain_update(account).finalize().into()
}

/// Checks the name of a passkey.
///
/// # Errors
/// It is empty or too long.
pub fn checked_name(name: &str) -> Result<(), PasskeyError> {
    let plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
    match plain && name.len() <= LONGEST_NAME {
        true => Ok(()),
        false => Err(PasskeyError::Name(format!(
            "has 1 to {LONGEST_NAME} bytes in one line, for example \"phone\""
        ))),
    }
}

/// Registers a passkey for an account. `sent`: what the browser sent, as JSON.
///
/// # Errors
/// It is none, for another page or challenge, or there already.
pub async fn register(
    desk: &Desk,
    party: &RelyingParty,
    account: &Account,
    owner: &str,
    (name, sent): (&str, &str),
    now_ms: i64,
) -> Result<Passkey, PasskeyError> {
    checked_name(name)?;
    let created = sent::Created::of_json(sent).map_err(PasskeyError::Sent)?;
    let json = &created.client_data_json;
    let challenge = take(desk.store(), Purpose::Register, owner, json, now_ms).await?;
    let data = attested::authenticator_data(&created.attestation_object)
        .map_err(|why| PasskeyError::Sent(format!("attestationObject: {why}")))?;
    let new = party.check_new(&challenge, json, &data)?;
    if new.id != created.id {
        let why = "its id is not the one that its authenticator gave it";
        return Err(PasskeyError::Sent(why.into()));
    }
    let public = attested::public_key(new.key, new.has_extensions)
        .map_err(|why| PasskeyError::Sent(format!("its public key: {why}")))?;
    if desk.store().passkeys(&account.name).await?.len() >= MOST {
        return Err(PasskeyError::TooMany);
    }
    let passkey = Passkey {
        id: sent::written(&created.id),
        account: account.name.clone(),
        key_id: public.key_id(),
        name: name.trim().to_owned(),
        algorithm: public.algorithm().to_owned(),
        public_key: public.pem(),
        rp_id: party.id().to_owned(),
        sign_count: i64::from(new.sign_count),
        transports: created.transports,
        created_ms: now_ms,
        used_ms: 0,
        removed_ms: 0,
    };
    let mut tx = desk.store().begin().await?;
    if !passkeys::add(&mut tx, &passkey).await? {
        return Err(PasskeyError::Taken);
    }
    let fields = json!({
        "account": account.name, "key": passkey.key_id, "name": passkey.name,
        "algorithm": passkey.algorithm,
    });
    let record = Record::new(Code::PasskeyAdded, "", &account.subject, fields);
    audit::append(&mut tx, now_ms, &record).await?;
    tx.commit().await?;
    desk.changed();
    Ok(passkey)
}

/// The passkey that has signed a challenge that was given for this. Its counter is written down.
///
/// # Errors
/// The check that failed, by name.
pub async fn prove(
    desk: &Desk,
    party: &RelyingParty,
    purpose: Purpose,
    owner: &str,
    sent: &Asserted,
    now_ms: i64,
) -> Result<Passkey, PasskeyError> {
    let assertion = sent.assertion();
    let json = &assertion.client_data_json;
    let challenge = take(desk.store(), purpose, owner, json, now_ms).await?;
    let passkey = of(desk.store(), party, sent).await?.ok_or(PasskeyError::Unknown)?;
    let signed = party.check(&challenge, assertion)?;
    let key = PublicKey::from_pem(&passkey.public_key)
        .map_err(|why| StoreError::corrupt("public key of a passkey", why))?;
    if !key.verifies(&signed, sent.signature()) {
        return Err(PasskeyError::Forged);
    }
    if sent.user_handle().is_some_and(|named| named != handle(&passkey.account)) {
        return Err(PasskeyError::NotYours);
    }
    let count = webauthn::sign_count(&assertion.authenticator_data).unwrap_or_default();
    let mut tx = desk.store().begin().await?;
    if !passkeys::used(&mut tx, &passkey.key_id, i64::from(count), now_ms).await? {
        return Err(PasskeyError::CountsBack);
    }
    tx.commit().await?;
    Ok(passkey)
}

/// The passkey that an answer names; `None`: nobody has it any more.
///
/// # Errors
/// Those of the database.
pub async fn of(
    store: &Store,
    party: &RelyingParty,
    sent: &Asserted,
) -> Result<Option<Passkey>, StoreError> {
    let found = store.passkey(&sent.id()).await?;
    Ok(found.filter(|one| one.removed_ms == 0 && one.rp_id == party.id()))
}

/// Takes the challenge that client data names, if it was given for this.
async fn take(
    store: &Store,
    purpose: Purpose,
    owner: &str,
    client_data_json: &[u8],
    now_ms: i64,
) -> Result<[u8; 32], PasskeyError> {
    let named = webauthn::named_challenge(client_data_json)?;
    let mut tx = store.begin().await?;
    let given = passkeys::take_challenge(&mut tx, &sent::written(&named)).await?;
    tx.commit().await?;
    let fits = |given: &Challenge| {
        given.purpose == purpose.word() && given.owner == owner && given.ends_ms > now_ms
    };
    given.filter(fits).map(|_| named).ok_or(PasskeyError::Challenge)
}

/// Names a passkey of an account anew.
///
/// # Errors
/// It has no such passkey, or the name is none.
pub async fn rename(
    desk: &Desk,
    account: &Account,
    key_id: &str,
    name: &str,
    now_ms: i64,
) -> Result<(), PasskeyError> {
    checked_name(name)?;
    let name = name.trim();
    let mut tx = desk.store().begin().await?;
    if !passkeys::rename(&mut tx, &account.name, key_id, name).await? {
        return Err(PasskeyError::Unknown);
    }
    let fields = json!({ "account": account.name, "key": key_id, "name": name });
    let record = Record::new(Code::PasskeyRenamed, "", &account.subject, fields);
    audit::append(&mut tx, now_ms, &record).await?;
    tx.commit().await?;
    desk.changed();
    Ok(())
}

/// Removes a passkey of an account, and ends its sessions but `kept`: whoever has the passkey may
/// have begun them.
///
/// # Errors
/// It has no such passkey.
pub async fn remove(
    desk: &Desk,
    account: &str,
    key_id: &str,
    by: &Account,
    kept: &str,
    now_ms: i64,
) -> Result<(), PasskeyError> {
    let mut tx = desk.store().begin().await?;
    if !passkeys::remove(&mut tx, account, key_id, now_ms).await? {
        return Err(PasskeyError::Unknown);
    }
    people::end_other_sessions(&mut tx, account, kept).await?;
    let fields = json!({ "account": account, "key": key_id, "by_account": by.name });
    let record = Record::new(Code::PasskeyRemoved, "", &by.subject, fields);
    audit::append(&mut tx, now_ms, &record).await?;
    tx.commit().await?;
    desk.changed();
    Ok(())
}

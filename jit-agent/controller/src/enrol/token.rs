//! Tokens of an administrator with which hosts enrol: 256 random bits, of which only the hash is
//! kept, for a number of hosts and a time. Each host gets the token's labels: so a token for test
//! machines makes no host of production.
//!
//! A token says nothing of which machine it is: whoever has it names the host. So it never takes
//! the place of a host that was seen before (see [`super::admit`]).

use std::{collections::BTreeMap, fmt};

use jit_proto::text::{MAX_NAME_BYTES, check};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::proof::{Method, Proof, check_id};
use crate::{
    audit::{self, Code, Record},
    secret,
    store::{EnrolmentToken, Store, StoreError, Tx, enrolments},
};

/// How a token begins, so that scanners for secrets find it. One of the API has another form.
pub const PREFIX: &str = "jit_enrol_";
/// The most hosts of one.
pub const MAX_USES: u32 = 100_000;
/// The longest time of one, milliseconds.
pub const LONGEST_MS: i64 = 90 * 24 * 3_600_000;
/// The most labels of one.
const MAX_LABELS: usize = 32;

/// The text of a token. It has no `Debug` or `Display` of the text.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new one.
    ///
    /// # Panics
    /// The kernel has no random bytes (getrandom(2) fails only before the machine has any).
    pub fn generate() -> Self {
        Self(Zeroizing::new(format!("{PREFIX}{}", *secret::fresh())))
    }

    /// The one with this text, if it has the form.
    pub fn of_text(text: &str) -> Option<Self> {
        let letters = text.strip_prefix(PREFIX)?;
        secret::is_text(letters).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What the store keeps: SHA-256, 64 hex digits. It is found by it, so that nothing is compared
    /// letter by letter.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    /// The text, to be shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a new token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Labels of every host that comes with it.
    pub labels: BTreeMap<String, String>,
    /// How many hosts.
    pub uses: u32,
    /// For how long, milliseconds.
    pub valid_ms: i64,
}

impl Wish {
    /// The token, and its text, which is nowhere else.
    ///
    /// # Errors
    /// The field that is wrong, and why, in words.
    pub fn make(self, by: &str, now_ms: i64) -> Result<(EnrolmentToken, Secret), String> {
        let Self { labels, uses, valid_ms } = self;
        if !(1..=MAX_USES).contains(&uses) {
            return Err(format!("uses: a token is for 1 to {MAX_USES} hosts, not for {uses}"));
        }
        if !(1000..=LONGEST_MS).contains(&valid_ms) {
            return Err("duration: a token counts for a second to 90 days".into());
        }
        if labels.is_empty() || labels.len() > MAX_LABELS {
            return Err(format!(
                "labels: 1 to {MAX_LABELS} of them, such as env = test: they say which rules hold for \
                 the hosts"
            ));
        }
        for (key, value) in &labels {
            check(&format!("labels: the name of {value:?}"), key, MAX_NAME_BYTES)?;
            check(&format!("labels: {key}"), value, MAX_NAME_BYTES)?;
        }
        let secret = Secret::generate();
        let token = EnrolmentToken {
            id: ulid::Ulid::generate().to_string(),
            hash: secret.hash(),
            labels,
            uses_left: uses.into(),
            created_by: by.to_owned(),
            created_ms: now_ms,
            ends_ms: now_ms.saturating_add(valid_ms),
            revoked_ms: 0,
        };
        Ok((token, secret))
    }
}

/// Keeps a token that was made, with its record.
///
/// # Errors
/// Those of the database.
pub async fn keep(tx: &mut Tx, new: &EnrolmentToken, now_ms: i64) -> Result<(), StoreError> {
    enrolments::add_token(tx, new).await?;
    let fields = json!({
        "token": new.id, "labels": new.labels, "uses": new.uses_left, "ends_ms": new.ends_ms,
    });
    let record = Record::new(Code::EnrolmentTokenMade, "", &new.created_by, fields);
    audit::append(tx, now_ms, &record).await?;
    Ok(())
}

/// Revokes a token, with its record; returns whether there was such a one that was not revoked.
///
/// # Errors
/// Those of the database.
pub async fn revoke(tx: &mut Tx, id: &str, by: &str, now_ms: i64) -> Result<bool, StoreError> {
    let revoked = enrolments::revoke_token(tx, id, now_ms).await?;
    if revoked {
        let record = Record::new(Code::EnrolmentTokenRevoked, "", by, json!({ "token": id }));
        audit::append(tx, now_ms, &record).await?;
    }
    Ok(revoked)
}

/// A token of which one use was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken(EnrolmentToken);

/// Takes one use of a token. `None`: it does not count, and nobody learns why. The use comes back
/// if the transaction is not committed.
///
/// # Errors
/// Those of the database.
pub async fn take(tx: &mut Tx, text: &str, now_ms: i64) -> Result<Option<Taken>, StoreError> {
    let Some(secret) = Secret::of_text(text) else { return Ok(None) };
    Ok(enrolments::take_token(tx, &secret.hash(), now_ms).await?.map(Taken))
}

/// Whether a token counts now. Nothing is changed: [`take`] decides.
///
/// # Errors
/// Those of the database.
pub async fn counts(store: &Store, text: &str, now_ms: i64) -> Result<bool, StoreError> {
    let Some(secret) = Secret::of_text(text) else { return Ok(false) };
    store.enrolment_token_counts(&secret.hash(), now_ms).await
}

impl Taken {
    /// The token's id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Labels of the host.
    pub const fn labels(&self) -> &BTreeMap<String, String> {
        &self.0.labels
    }

    /// That who has it may be this host.
    ///
    /// # Errors
    /// No host has such an id; in words.
    pub fn prove(&self, host_id: &str) -> Result<Proof, String> {
        check_id(host_id)?;
        if let Some(letter) = host_id.chars().find(|letter| !letter.is_ascii()) {
            return Err(format!(
                "the host's id has the letter {letter:?}: with a token it has letters of ASCII alone, so \
                 that none looks like another host's"
            ));
        }
        let machine = format!("host:{}", enrolments::folded(host_id));
        let facts = [("token", self.0.id.clone())];
        Ok(Proof::new(host_id.to_owned(), Method::Token, machine, facts.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::token::Secret as ApiSecret;

    fn wish() -> Wish {
        let labels = [("env".to_owned(), "test".to_owned())].into();
        Wish { labels, uses: 1, valid_ms: 3_600_000 }
    }

    #[test]
    fn a_token_hides_its_text_and_is_none_of_the_api() {
        let (token, secret) = wish().make("ana", 7).unwrap();
        assert_eq!(Secret::of_text(secret.expose()).unwrap().hash(), token.hash);
        assert!(!format!("{secret:?}{token:?}").contains(&secret.expose()[PREFIX.len()..]));
        assert_eq!(token.ends_ms, 3_600_007);
        let of_api = ApiSecret::generate();
        assert!(Secret::of_text(of_api.expose()).is_none());
        assert!(ApiSecret::of_text(secret.expose()).is_none());
        for bad in ["", PREFIX, &secret.expose()[1..], &format!("{}x", secret.expose())] {
            assert!(Secret::of_text(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_without_labels_or_an_end_is_refused_by_field() {
        let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        for (bad, field) in [
            (Wish { uses: 0, ..wish() }, "uses"),
            (Wish { uses: MAX_USES + 1, ..wish() }, "uses"),
            (Wish { valid_ms: 0, ..wish() }, "duration"),
            (Wish { valid_ms: LONGEST_MS + 1, ..wish() }, "duration"),
            (Wish { labels: BTreeMap::new(), ..wish() }, "labels"),
            (Wish { labels: label("", "x"), ..wish() }, "labels"),
            (Wish { labels: label("env", ""), ..wish() }, "labels"),
            (Wish { labels: label("env", &"x".repeat(MAX_NAME_BYTES + 1)), ..wish() }, "labels"),
        ] {
            let why = bad.make("ana", 7).unwrap_err();
            assert!(why.starts_with(field), "{why}");
        }
    }
}

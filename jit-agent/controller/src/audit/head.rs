//! Heads: the end of the chain, signed with the audit's own key.
//!
//! A chain alone does not show that its end was cut off, or that all of it was made anew. A signed head
//! shows it, if a copy is kept elsewhere, or if who changed the records has not the key.

use std::str::FromStr;

use ed25519_dalek::{
    VerifyingKey,
    pkcs8::spki::{DecodePublicKey as _, EncodePublicKey as _},
};
use jit_client::signing::SigningKey;
use jit_proto::{WallTime, dsse::pre_authentication_encoding, pem, printable::escape_json};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::{Row as _, any::AnyRow, query};

use crate::store::{Store, StoreError, Tx};

/// DSSE payload type of a head; it is part of the signed bytes.
const HEAD_TYPE: &str = "application/vnd.jit-controller.audit-head.v1";

/// The end of the chain at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record.
    pub seq: i64,
    /// Its hash, as 64 hex digits.
    pub hash: String,
}

/// The same with a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// Number of the last record.
    pub seq: i64,
    /// Its hash, as 64 hex digits.
    pub hash: String,
    /// When it was signed, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Id of the key.
    pub key: String,
    /// Ed25519, as 128 hex digits.
    pub signature: String,
}

/// A public key of the audit.
#[derive(Clone, Debug)]
pub struct PublicKey {
    id: String,
    key: VerifyingKey,
}

/// The key that signs heads.
pub struct HeadKey(SigningKey);

impl FromStr for Head {
    type Err = String;

    /// `SEQ:HASH`, or a signed head as JSON. A signature is not checked: what was kept elsewhere is
    /// trusted.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no head; a head looks like 1234:0a1b... (SEQ:HASH)");
        if let Ok(SignedHead { seq, hash, .. }) = serde_json::from_str(text.trim()) {
            return Ok(Self { seq, hash });
        }
        let (seq, hash) = text.trim().split_once(':').ok_or_else(bad)?;
        let seq = seq.parse().map_err(|_| bad())?;
        let good = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if good { Ok(Self { seq, hash: hash.to_ascii_lowercase() }) } else { Err(bad()) }
    }
}

impl HeadKey {
    /// Reads the private key: Ed25519 in PKCS#8 PEM.
    ///
    /// # Errors
    /// It is something else, in words.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        match SigningKey::from_pem(text) {
            Ok(key @ SigningKey::Ed25519(_)) => Ok(Self(key)),
            Ok(SigningKey::P256(_)) => Err("it is a P-256 key; the audit's key is Ed25519".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Its id: the first 8 bytes of the SHA-256 of the public key in DER, as 16 hex digits.
    pub fn id(&self) -> String {
        self.0.key_id()
    }

    /// Its public half, in PEM.
    pub fn public_pem(&self) -> String {
        self.0.public_pem()
    }

    /// Signs a head.
    pub fn sign(&self, head: Head, time_ms: i64) -> SignedHead {
        let signature = hex::encode(self.0.sign(&message(&head, time_ms)));
        let Head { seq, hash } = head;
        SignedHead { seq, hash, time_ms, key: self.id(), signature }
    }
}

/// The bytes that are signed: DSSE's encoding of number, hash and time, a line each.
fn message(head: &Head, time_ms: i64) -> Vec<u8> {
    let text = format!("{}\n{}\n{time_ms}", head.seq, head.hash);
    pre_authentication_encoding(HEAD_TYPE, text.as_bytes())
}

impl PublicKey {
    /// Reads it in PEM.
    ///
    /// # Errors
    /// It is something else, in words.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let one = pem::one(text, &["PUBLIC KEY"]).map_err(|error| error.to_string())?;
        let key = VerifyingKey::from_public_key_der(&one.der);
        let key = key.map_err(|_| "it is no Ed25519 public key".to_owned())?;
        let der = key.to_public_key_der().map_err(|error| error.to_string())?;
        let digest = Sha256::digest(der.as_bytes());
        Ok(Self { id: hex::encode(digest.get(..8).unwrap_or_default()), key })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl SignedHead {
    /// The head, if one of these keys has signed it.
    ///
    /// # Errors
    /// None has, in words.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Head, String> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(&self.signature, &mut bytes)
            .map_err(|_| "its signature is not 128 hex digits".to_owned())?;
        let Some(key) = keys.iter().find(|key| key.id == self.key) else {
            return Err(format!("it is signed with a key that is not known here ({:?})", self.key));
        };
        let head = Head { seq: self.seq, hash: self.hash.clone() };
        let signature = ed25519_dalek::Signature::from_bytes(&bytes);
        match key.key.verify_strict(&message(&head, self.time_ms), &signature) {
            Ok(()) => Ok(head),
            Err(_) => Err("its signature is not good".into()),
        }
    }

    /// One line of JSON.
    pub fn to_line(&self) -> String {
        escape_json(serde_json::to_string(self).unwrap_or_default())
    }

    /// When it was signed, as people read it.
    pub fn time(&self) -> String {
        WallTime(self.time_ms).exact()
    }
}

impl Store {
    /// Signed heads of records after this one, up to that one, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn signed_heads(&self, after: i64, to: i64) -> Result<Vec<SignedHead>, StoreError> {
        let rows = query("SELECT * FROM audit_head WHERE seq > $1 AND seq <= $2 ORDER BY seq");
        let rows = rows.bind(after).bind(to).fetch_all(self.pool()).await?;
        rows.iter().map(head).collect()
    }

    /// The last signed head.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_signed_head(&self) -> Result<Option<SignedHead>, StoreError> {
        let row = query("SELECT * FROM audit_head ORDER BY seq DESC LIMIT 1");
        row.fetch_optional(self.pool()).await?.as_ref().map(head).transpose()
    }
}

/// Keeps a head. A second one for the same record changes nothing.
///
/// # Errors
/// Those of the database.
pub async fn keep(tx: &mut Tx, head: &SignedHead) -> Result<(), StoreError> {
    let statement = "INSERT INTO audit_head (seq, hash, time_ms, key, signature) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (seq) DO NOTHING";
    query(statement)
        .bind(head.seq)
        .bind(head.hash.as_str())
        .bind(head.time_ms)
        .bind(head.key.as_str())
        .bind(head.signature.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn head(row: &AnyRow) -> Result<SignedHead, StoreError> {
    Ok(SignedHead {
        seq: row.try_get("seq")?,
        hash: row.try_get("hash")?,
        time_ms: row.try_get("time_ms")?,
        key: row.try_get("key")?,
        signature: row.try_get("signature")?,
    })
}

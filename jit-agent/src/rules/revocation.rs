//! From an envelope to a [`VerifiedRevocation`] (docs/grants.md, section "Verification of a
//! revocation").
//!
//! It can only close: nothing in it opens a port, and a key that signs nothing else can do nothing
//! else. Nothing is decoded before a signature over the exact bytes is good, and only [`verify`]
//! makes a `VerifiedRevocation`. `gate` carries it out.

use std::collections::BTreeSet;

use jit_proto::{
    GrantId, PayloadType, Refusal, WallTime, exact,
    text::{self, MAX_NAME_BYTES, MAX_TEXT_BYTES},
    v1,
};
use sha2::{Digest as _, Sha256};

use crate::rules::{
    clock::{Now, SKEW},
    envelope,
    keyring::{KeyId, Keyring, Signer},
    refusal::Refused,
};

/// Most ids that one revocation names.
pub const MAX_IDS: usize = 4096;
/// Most hosts that one revocation names.
const MAX_HOSTS: usize = 16_384;

/// The grants that a revocation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    All,
    /// Those with these ids: at least one, at most [`MAX_IDS`], none twice.
    Ids(Vec<GrantId>),
    /// A requester's.
    Requester(String),
}

/// A revocation with a good signature that decoded completely and is for this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRevocation {
    whose: Whose,
    issued_before: WallTime,
    cut: bool,
    author: String,
    reason: String,
    signers: Vec<String>,
    keys: Vec<KeyId>,
    digest: [u8; 32],
    keep_until: WallTime,
}

impl VerifiedRevocation {
    /// The grants that it is about.
    pub const fn whose(&self) -> &Whose {
        &self.whose
    }

    /// Grants that were issued at this moment or before it are revoked; with ids: when it was
    /// signed.
    pub const fn issued_before(&self) -> WallTime {
        self.issued_before
    }

    /// Whether sessions end, too.
    pub const fn cut(&self) -> bool {
        self.cut
    }

    /// Who revokes. Nobody verifies the name.
    pub fn author(&self) -> &str {
        &self.author
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Names of the distinct keys whose signatures are good, in the order of the configuration.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// SHA-256 of the signed payload.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// From then on nobody needs to deliver it any more.
    pub const fn keep_until(&self) -> WallTime {
        self.keep_until
    }

    /// Whether a key that signed it still may, and counts at this time. One is enough.
    ///
    /// # Errors
    /// None does: why the first one does not count.
    pub fn check_keys(&self, keyring: &Keyring, now: Now) -> Result<(), Refused> {
        keyring.check_one_of(&self.keys, PayloadType::Revocation, now.wall)
    }

    /// The floor that this host may set for it now: never later than [`SKEW`] after its clock.
    pub fn floor(&self, now: Now) -> WallTime {
        self.issued_before.min(now.wall + SKEW)
    }

    /// Whether the whole of its floor may be set now (docs/grants.md, step `floor`).
    ///
    /// # Errors
    /// `not_yet_valid`: the rest of the sentence is `done`, which says what was done all the same.
    pub fn check_floor(&self, now: Now, done: &str) -> Result<(), Refused> {
        let floor = self.floor(now);
        if matches!(self.whose, Whose::Ids(_)) || floor == self.issued_before {
            return Ok(());
        }
        let detail = format!(
            "issued_before {}, more than {} s ahead of this host's clock, {}; {done}, and what was \
             signed until {floor} is refused: push it again later",
            self.issued_before,
            SKEW.as_secs(),
            now.wall
        );
        Err(Refused::new(Refusal::NotYetValid, detail))
    }
}

/// Every check that needs no clock (docs/grants.md, section "Verification of a revocation").
pub fn verify(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedRevocation, Refused> {
    verify_counting(envelope, keyring, host, &mut 0)
}

/// The same; adds the tries of false signatures to `wasted`.
pub fn verify_counting(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
    wasted: &mut usize,
) -> Result<VerifiedRevocation, Refused> {
    let opened = envelope::open(envelope, PayloadType::Revocation, keyring, wasted)?;
    read(&envelope.payload, &opened.signers, host)
}

fn read(payload: &[u8], signers: &[&Signer], host: &str) -> Result<VerifiedRevocation, Refused> {
    let malformed = |detail: String| Refused::new(Refusal::Malformed, detail);
    let message: v1::Revocation = exact::decode("jit.v1.Revocation", payload).map_err(malformed)?;
    let v1::Revocation {
        hosts,
        every_host,
        grant_ids,
        requester,
        all,
        issued_before_ms,
        cut,
        author,
        reason,
        keep_until_ms,
    } = message;
    check_counts(&hosts, grant_ids.len())?;
    check_hosts(&hosts, every_host).map_err(malformed)?;
    text::check("author", &author, MAX_NAME_BYTES).map_err(malformed)?;
    text::check("reason", &reason, MAX_TEXT_BYTES).map_err(malformed)?;
    if issued_before_ms <= 0 {
        return Err(malformed("issued_before_ms is missing".into()));
    }
    if keep_until_ms <= issued_before_ms {
        return Err(malformed("keep_until_ms is not later than issued_before_ms".into()));
    }
    let whose = match (grant_ids.is_empty(), requester.is_empty(), all) {
        (true, true, true) => Whose::All,
        (true, false, false) if requester.len() > MAX_NAME_BYTES => {
            let bytes = requester.len();
            return Err(malformed(format!(
                "requester has {bytes} bytes; at most {MAX_NAME_BYTES}"
            )));
        }
        (true, false, false) => Whose::Requester(requester),
        (false, true, false) => Whose::Ids(ids(&grant_ids).map_err(malformed)?),
        _ => {
            let detail = "exactly one of grant_ids, requester and all must be set";
            return Err(malformed(detail.into()));
        }
    };
    if !every_host && !hosts.iter().any(|name| name == host) {
        let named = hosts.first().map_or("", String::as_str);
        let more = hosts.len().saturating_sub(1);
        let detail = format!("it names {named:?} and {more} more; this host is {host:?}");
        return Err(Refused::new(Refusal::WrongHost, detail));
    }
    Ok(VerifiedRevocation {
        whose,
        issued_before: WallTime(issued_before_ms),
        cut,
        author,
        reason,
        signers: signers.iter().map(|signer| signer.id.clone()).collect(),
        keys: signers.iter().map(|signer| signer.key_id()).collect(),
        digest: Sha256::digest(payload).into(),
        keep_until: WallTime(keep_until_ms),
    })
}

fn check_counts(hosts: &[String], ids: usize) -> Result<(), Refused> {
    for (what, count, most) in [("hosts", hosts.len(), MAX_HOSTS), ("grant_ids", ids, MAX_IDS)] {
        if count > most {
            return Err(Refused::new(Refusal::TooLarge, format!("{count} {what}; at most {most}")));
        }
    }
    Ok(())
}

fn check_hosts(hosts: &[String], every_host: bool) -> Result<(), String> {
    match (hosts.is_empty(), every_host) {
        (true, false) => Err("hosts is empty, and every_host is not set".into()),
        (false, true) => Err("hosts and every_host are both set".into()),
        _ if hosts.iter().any(String::is_empty) => Err("a host has no name".into()),
        _ => Ok(()),
    }
}

fn ids<B: AsRef<[u8]>>(grant_ids: &[B]) -> Result<Vec<GrantId>, String> {
    let mut seen = BTreeSet::new();
    let mut ids = Vec::with_capacity(grant_ids.len());
    for bytes in grant_ids {
        let bytes = bytes.as_ref();
        let id = GrantId::from_bytes(bytes)
            .ok_or_else(|| format!("grant_ids: one has {} bytes, not 16", bytes.len()))?;
        if id.0 == [0; 16] {
            return Err("grant_ids: one is all zero".into());
        }
        if !seen.insert(id) {
            return Err(format!("grant_ids: {id} is in it twice"));
        }
        ids.push(id);
    }
    Ok(ids)
}

//! From an envelope to a [`VerifiedPolicy`] (docs/grants.md, steps `size` to `host`).
//!
//! Nothing is decoded before a signature over the exact bytes is good. `ceiling` decides what a
//! policy may ask for, `commit` whether it is newer than the last one.

use std::time::Duration;

use jit_proto::{PayloadType, PortSection, Refusal, WallTime, exact, text, v1};
use sha2::{Digest as _, Sha256};

use crate::rules::{
    clock::{Now, SKEW},
    envelope,
    keyring::{KeyId, Keyring, Signer},
    policy::Policy,
    refusal::{Refused, this_host},
};

/// Most sections of one policy.
const MAX_SECTIONS: usize = 1024;
/// Most table entries (exemptions times ports) of one policy.
const MAX_EXEMPTIONS: usize = 4096;

/// A policy that decoded completely and is for this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    version: u64,
    issued_at: WallTime,
    not_after: Option<WallTime>,
    sections: Vec<PortSection>,
    message: v1::Policy,
}

/// A proposal with at least one good signature by a key that may sign policies.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedPolicy {
    proposal: Proposal,
    signers: Vec<String>,
    keys: Vec<KeyId>,
    digest: [u8; 32],
}

impl Proposal {
    /// Checks a message without a signature: for a comparison, not to be put in force.
    pub fn new(message: v1::Policy, host: &str) -> Result<Self, Refused> {
        let malformed = |detail: String| Refused::new(Refusal::Malformed, detail);
        check_texts(&message).map_err(malformed)?;
        for (what, missing) in [
            ("hosts is empty", message.hosts.is_empty()),
            ("version is missing", message.version == 0),
            ("issued_at_ms is missing", message.issued_at_ms <= 0),
            ("not_after_ms is negative", message.not_after_ms < 0),
        ] {
            if missing {
                return Err(malformed(what.into()));
            }
        }
        if message.ports.len() > MAX_SECTIONS {
            let detail = format!("{} sections; at most {MAX_SECTIONS}", message.ports.len());
            return Err(Refused::new(Refusal::TooLarge, detail));
        }
        let sections = message
            .ports
            .iter()
            .map(PortSection::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        Policy::new(sections.clone(), Duration::ZERO).map_err(|port| {
            let word = port.protocol.word();
            malformed(format!("ports: {}/{word} is in two sections", port.port))
        })?;
        let entries: usize =
            sections.iter().map(|part| part.range.count() * part.exemptions.len()).sum();
        if entries > MAX_EXEMPTIONS {
            let detail = format!("{entries} pairs of port and exemption; at most {MAX_EXEMPTIONS}");
            return Err(Refused::new(Refusal::TooLarge, detail));
        }
        if host.is_empty() || !message.hosts.iter().any(|name| name == host) {
            let named = message.hosts.first().map_or("", String::as_str);
            let more = message.hosts.len() - 1;
            let detail = format!("it names {named:?} and {more} more; {}", this_host(host));
            return Err(Refused::new(Refusal::WrongHost, detail));
        }
        Ok(Self {
            version: message.version,
            issued_at: WallTime(message.issued_at_ms),
            not_after: (message.not_after_ms > 0).then_some(WallTime(message.not_after_ms)),
            sections,
            message,
        })
    }

    /// Whether it may be accepted at this time (docs/grants.md, step `times`).
    pub fn check_times(&self, now: Now) -> Result<(), Refused> {
        let Self { issued_at, not_after, .. } = *self;
        if let Some(end) = not_after {
            if end <= issued_at {
                let detail = format!("not_after {end} is not later than issued_at {issued_at}");
                return Err(Refused::new(Refusal::Lifetime, detail));
            }
            if end <= now.wall {
                let detail = format!("it ended at {end}; this host's clock says {}", now.wall);
                return Err(Refused::new(Refusal::Expired, detail));
            }
        }
        if issued_at > now.wall + SKEW {
            let detail = format!(
                "issued at {issued_at}, more than {} s ahead of this host's clock, {}",
                SKEW.as_secs(),
                now.wall
            );
            return Err(Refused::new(Refusal::NotYetValid, detail));
        }
        Ok(())
    }

    /// The version; not 0.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// What it protects; no two sections name the same port.
    pub fn sections(&self) -> &[PortSection] {
        &self.sections
    }

    /// The message as it was decoded, for people.
    pub const fn message(&self) -> &v1::Policy {
        &self.message
    }
}

impl VerifiedPolicy {
    /// The decoded policy.
    pub const fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// Names of the distinct keys whose signatures are good.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// SHA-256 of the signed payload.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether one of the keys that signed it may still sign policies.
    pub fn is_trusted(&self, keyring: &Keyring) -> bool {
        self.signers_in(keyring).next().is_some()
    }

    /// The number of distinct keys that signed it and count at this time.
    ///
    /// # Errors
    /// Trusted keys signed it, but none of them counts: why the first one does not.
    pub fn approvals(&self, keyring: &Keyring, now: Now) -> Result<usize, Refused> {
        let mut count = 0;
        let mut first = None;
        for signer in self.signers_in(keyring) {
            match signer.mandate.valid_at(now.wall) {
                Ok(()) => count += 1,
                Err(beyond) => {
                    let detail = format!("the key {:?} {}", signer.id, beyond.detail);
                    first.get_or_insert(Refused::new(beyond.refusal, detail));
                }
            }
        }
        match first {
            Some(refused) if count == 0 => Err(refused),
            _ => Ok(count),
        }
    }

    fn signers_in<'k>(&'k self, keyring: &'k Keyring) -> impl Iterator<Item = &'k Signer> {
        keyring.signers().iter().filter(|signer| {
            signer.mandate.signs(PayloadType::Policy) && self.keys.contains(&signer.key_id())
        })
    }
}

/// Every check that needs no ceiling and no clock (docs/grants.md, steps `size` to `host`).
pub fn verify(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedPolicy, Refused> {
    verify_counting(envelope, keyring, host, &mut 0)
}

/// The same; adds the tries of false signatures to `wasted`.
pub fn verify_counting(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
    wasted: &mut usize,
) -> Result<VerifiedPolicy, Refused> {
    let opened = envelope::open(envelope, PayloadType::Policy, keyring, wasted)?;
    decode(&envelope.payload, &opened.signers, host)
}

/// Reads back a policy that was verified when it was accepted. Its keys may have been removed since;
/// a policy in force stays in force without them.
pub fn reread(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedPolicy, Refused> {
    let opened = envelope::open(envelope, PayloadType::Policy, keyring, &mut 0);
    let signers = opened.map(|opened| opened.signers).unwrap_or_default();
    decode(&envelope.payload, &signers, host)
}

/// Reads the payload (docs/grants.md, steps `decode` to `host`).
fn decode(payload: &[u8], signers: &[&Signer], host: &str) -> Result<VerifiedPolicy, Refused> {
    let malformed = |detail: String| Refused::new(Refusal::Malformed, detail);
    let message: v1::Policy = exact::decode("jit.v1.Policy", payload).map_err(malformed)?;
    Ok(VerifiedPolicy {
        proposal: Proposal::new(message, host)?,
        signers: signers.iter().map(|signer| signer.id.clone()).collect(),
        keys: signers.iter().map(|signer| signer.key_id()).collect(),
        digest: Sha256::digest(payload).into(),
    })
}

fn check_texts(policy: &v1::Policy) -> Result<(), String> {
    text::check("author", &policy.author, text::MAX_NAME_BYTES)?;
    text::check("justification", &policy.justification, text::MAX_TEXT_BYTES)
}

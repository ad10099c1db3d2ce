//! From an envelope to a [`VerifiedPolicy`] (docs/grants.md, steps `size` to `host`).
//!
//! Nothing is decoded before a signature over the exact bytes is good. What a policy may ask for is
//! `ceiling`'s, whether it is newer than the last one `commit`'s business.

use std::time::Duration;

use jit_common::Family;
use jit_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    clock::{Now, SKEW, WallTime},
    envelope::{self, PayloadType},
    grant::{self, PortRange, Sessions},
    keyring::{KeyId, Keyring, Signer},
    policy::{Exemption, Policy, PortPolicy},
    prefix::{SourcePrefix, bits},
    refusal::{Refusal, Refused},
};

/// Narrowest limits on prefixes for a port that does not say.
pub const DEFAULT_WIDEST_V4: u8 = 24;
/// Likewise for IPv6.
pub const DEFAULT_WIDEST_V6: u8 = 48;
/// Most sections of one policy.
const MAX_SECTIONS: usize = 1024;
/// Most sources of one section.
const MAX_SOURCES: usize = 256;
/// Most table entries (exemptions times ports) of one policy.
const MAX_EXEMPTIONS: usize = 4096;
/// Longest author, reason or owner, bytes.
const MAX_NAME_BYTES: usize = 256;
/// Longest justification, bytes.
const MAX_TEXT_BYTES: usize = 2048;

/// What a policy says, decoded without doubt, and for this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    version: u64,
    issued_at: WallTime,
    not_after: Option<WallTime>,
    sections: Vec<PortPolicy>,
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
    /// Checks a message that nobody has signed: for a look ahead, not to be put in force.
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
            .map(PortPolicy::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        Policy::new(sections.clone(), Duration::ZERO).map_err(|port| {
            let word = port.protocol.word();
            malformed(format!("ports: {}/{word} stands in two sections", port.port))
        })?;
        let entries: usize =
            sections.iter().map(|part| part.range.count() * part.exemptions.len()).sum();
        if entries > MAX_EXEMPTIONS {
            let detail = format!("{entries} pairs of port and exemption; at most {MAX_EXEMPTIONS}");
            return Err(Refused::new(Refusal::TooLarge, detail));
        }
        if !message.hosts.iter().any(|name| name == host) {
            let named = message.hosts.first().map_or("", String::as_str);
            let more = message.hosts.len() - 1;
            let detail = format!("it names {named:?} and {more} more; this host is {host:?}");
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

    /// What it protects; no port stands in two sections.
    pub fn sections(&self) -> &[PortPolicy] {
        &self.sections
    }

    /// As it came, for people.
    pub const fn message(&self) -> &v1::Policy {
        &self.message
    }
}

impl VerifiedPolicy {
    /// What it says.
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

    /// Whether one of the keys that signed it still may.
    pub fn is_trusted(&self, keyring: &Keyring) -> bool {
        self.signers_in(keyring).next().is_some()
    }

    /// How many distinct keys that signed it count at this time; with none, why the first does not.
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

/// All that needs no ceiling and no clock (docs/grants.md, steps `size` to `host`).
pub fn verify(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedPolicy, Refused> {
    let signers = envelope::open(envelope, PayloadType::Policy, keyring)?;
    decode(&envelope.payload, &signers, host)
}

/// Reads back a policy that was verified when it was accepted. Its keys may have been removed since;
/// what is in force does not end with them.
pub fn reread(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedPolicy, Refused> {
    let signers = envelope::open(envelope, PayloadType::Policy, keyring).unwrap_or_default();
    decode(&envelope.payload, &signers, host)
}

/// Reads the payload (docs/grants.md, steps `decode` to `host`); see [`grant`] for why the length
/// must be the same.
fn decode(payload: &[u8], signers: &[&Signer], host: &str) -> Result<VerifiedPolicy, Refused> {
    let malformed = |detail: String| Refused::new(Refusal::Malformed, detail);
    let message = v1::Policy::decode(payload)
        .map_err(|error| malformed(format!("the signed payload is no jit.v1.Policy: {error}")))?;
    if message.encoded_len() != payload.len() {
        return Err(malformed(
            "the payload has fields that this version does not know, or is not minimally encoded"
                .into(),
        ));
    }
    Ok(VerifiedPolicy {
        proposal: Proposal::new(message, host)?,
        signers: signers.iter().map(|signer| signer.id.clone()).collect(),
        keys: signers.iter().map(|signer| signer.key_id()).collect(),
        digest: Sha256::digest(payload).into(),
    })
}

fn check_texts(policy: &v1::Policy) -> Result<(), String> {
    text("author", &policy.author, MAX_NAME_BYTES)?;
    text("justification", &policy.justification, MAX_TEXT_BYTES)
}

fn text(field: &str, text: &str, most: usize) -> Result<(), String> {
    match text.len() {
        0 => Err(format!("{field} is empty")),
        bytes if bytes > most => Err(format!("{field} has {bytes} bytes; at most {most}")),
        _ => Ok(()),
    }
}

impl TryFrom<&v1::PolicyPort> for PortPolicy {
    type Error = String;

    fn try_from(message: &v1::PolicyPort) -> Result<Self, String> {
        let v1::PolicyPort {
            range,
            mode,
            sources,
            widest_v4,
            widest_v6,
            max_duration_ms,
            approvals,
            sessions,
            terminates,
            exemptions,
        } = message;
        let range = range.as_ref().ok_or("ports: a section without a range")?;
        let range = grant::port_range(range).map_err(|error| format!("ports: {error}"))?;
        let at = |what: String| format!("{range}: {what}");
        let width = |key: &str, width: Option<u32>, default: u8, family: Family| match width {
            None => Ok(default),
            Some(width) => u8::try_from(width)
                .ok()
                .filter(|width| *width <= bits(family))
                .ok_or_else(|| at(format!("{key}: {width} is more than {}", bits(family)))),
        };
        if sources.is_empty() {
            return Err(at("sources is empty".into()));
        }
        if sources.len() > MAX_SOURCES {
            return Err(at(format!("{} sources; at most {MAX_SOURCES}", sources.len())));
        }
        let max_duration = u64::try_from(*max_duration_ms)
            .ok()
            .filter(|millis| *millis >= 1000 && millis.is_multiple_of(1000))
            .map(Duration::from_millis)
            .ok_or_else(|| at("max_duration_ms is not a second or more, in whole ones".into()))?;
        Ok(Self {
            range,
            observe: match v1::Mode::try_from(*mode) {
                Ok(v1::Mode::Enforce) => false,
                Ok(v1::Mode::Observe) => true,
                Ok(v1::Mode::Unspecified) | Err(_) => {
                    return Err(at(format!("mode: unknown value {mode}")));
                }
            },
            sources: sources
                .iter()
                .map(|source| SourcePrefix::try_from(source).map_err(|error| error.to_string()))
                .collect::<Result<_, _>>()
                .map_err(|error| at(format!("sources: {error}")))?,
            widest_v4: width("widest_v4", *widest_v4, DEFAULT_WIDEST_V4, Family::V4)?,
            widest_v6: width("widest_v6", *widest_v6, DEFAULT_WIDEST_V6, Family::V6)?,
            max_duration,
            approvals: usize::try_from(*approvals)
                .ok()
                .filter(|approvals| *approvals > 0)
                .ok_or_else(|| at("approvals is 0".into()))?,
            sessions: match v1::Sessions::try_from(*sessions) {
                Ok(v1::Sessions::Cut) => Sessions::Cut,
                Ok(v1::Sessions::Drain) => Sessions::Drain,
                Ok(v1::Sessions::Unspecified) | Err(_) => {
                    return Err(at(format!("sessions: unknown value {sessions}")));
                }
            },
            forwarded: match v1::Terminates::try_from(*terminates) {
                Ok(v1::Terminates::Forwarded) => true,
                Ok(v1::Terminates::Host) => false,
                Ok(v1::Terminates::Unspecified) | Err(_) => {
                    return Err(at(format!("terminates: unknown value {terminates}")));
                }
            },
            exemptions: exemptions
                .iter()
                .map(Exemption::try_from)
                .collect::<Result<_, _>>()
                .map_err(|error| at(format!("exemptions: {error}")))?,
        })
    }
}

impl TryFrom<&v1::Exemption> for Exemption {
    type Error = String;

    fn try_from(message: &v1::Exemption) -> Result<Self, String> {
        let v1::Exemption { source, reason, owner, until_ms } = message;
        let source = source.as_ref().ok_or("source is missing")?;
        let source = SourcePrefix::try_from(source).map_err(|error| error.to_string())?;
        text("reason", reason, MAX_NAME_BYTES)?;
        text("owner", owner, MAX_NAME_BYTES)?;
        if *until_ms < 0 {
            return Err("until_ms is negative".into());
        }
        let until = (*until_ms > 0).then_some(WallTime(*until_ms));
        Ok(Self { source, reason: reason.clone(), owner: owner.clone(), until })
    }
}

impl From<&PortPolicy> for v1::PolicyPort {
    fn from(section: &PortPolicy) -> Self {
        let PortPolicy {
            range,
            observe,
            sources,
            widest_v4,
            widest_v6,
            max_duration,
            approvals,
            sessions,
            forwarded,
            exemptions,
        } = section;
        Self {
            range: Some(v1::PortRange::from(*range)),
            mode: if *observe { v1::Mode::Observe } else { v1::Mode::Enforce }.into(),
            sources: sources.iter().map(v1::Source::from).collect(),
            widest_v4: Some(u32::from(*widest_v4)),
            widest_v6: Some(u32::from(*widest_v6)),
            max_duration_ms: i64::try_from(max_duration.as_millis()).unwrap_or(i64::MAX),
            approvals: u32::try_from(*approvals).unwrap_or(u32::MAX),
            sessions: match sessions {
                Sessions::Cut => v1::Sessions::Cut,
                Sessions::Drain => v1::Sessions::Drain,
            }
            .into(),
            terminates: if *forwarded { v1::Terminates::Forwarded } else { v1::Terminates::Host }
                .into(),
            exemptions: exemptions.iter().map(v1::Exemption::from).collect(),
        }
    }
}

impl From<&Exemption> for v1::Exemption {
    fn from(exemption: &Exemption) -> Self {
        let Exemption { source, reason, owner, until } = exemption;
        Self {
            source: Some(source.into()),
            reason: reason.clone(),
            owner: owner.clone(),
            until_ms: until.map_or(0, |until| until.0),
        }
    }
}

impl From<PortRange> for v1::PortRange {
    fn from(range: PortRange) -> Self {
        let protocol = match range.protocol {
            jit_common::Protocol::Tcp => v1::Protocol::Tcp,
            jit_common::Protocol::Udp => v1::Protocol::Udp,
        };
        Self { protocol: protocol.into(), first: range.first.into(), last: range.last.into() }
    }
}

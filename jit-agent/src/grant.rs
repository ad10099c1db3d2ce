//! From an envelope to a [`VerifiedGrant`], in the order of grants.md section 4, steps 1 to 5.
//!
//! Nothing is decoded before a signature over the exact bytes is good, and nothing but
//! [`verify`] makes a `VerifiedGrant`. The host's own policy (steps 6 to 8) is `policy`'s.

use std::{fmt, str::FromStr};

use jit_common::{PortKey, Protocol};
use jit_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    clock::WallTime,
    envelope::{GRANT_TYPE, MAX_ENVELOPE_BYTES, MAX_SIGNATURES, pre_authentication_encoding},
    keyring::Keyring,
    prefix::SourcePrefix,
    refusal::{Refusal, Refused},
};

/// Most table entries (sources times ports) that one grant may open.
pub const MAX_ENTRIES: usize = 4096;
/// Longest requester, approver or ticket, bytes.
const MAX_NAME_BYTES: usize = 256;
/// Longest justification, bytes.
const MAX_TEXT_BYTES: usize = 2048;
/// Most approvers that one grant names.
const MAX_APPROVERS: usize = 32;

/// A grant's id: 16 bytes, shown and read as a ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub [u8; 16]);

impl GrantId {
    /// From the bytes of a message; `None` unless there are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&ulid::Ulid::from_bytes(self.0).to_string())
    }
}

impl FromStr for GrantId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ulid::Ulid::from_string(text)
            .map(|ulid| Self(ulid.to_bytes()))
            .map_err(|error| format!("`{text}` is not a grant id (a ULID, 26 letters): {error}"))
    }
}

/// What becomes of established sessions when a grant ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// They end with it.
    Cut,
    /// They live on; nothing new opens.
    Drain,
}

impl Sessions {
    /// The configuration's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
        }
    }
}

/// Ports first to last of one protocol, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Every port in it.
    pub fn ports(self) -> impl Iterator<Item = PortKey> {
        let Self { protocol, first, last } = self;
        (first..=last).map(move |port| PortKey { protocol, port })
    }

    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = self;
        let text = if first == last {
            format!("{first}/{}", protocol.word())
        } else {
            format!("{first}-{last}/{}", protocol.word())
        };
        f.pad(&text)
    }
}

/// A grant whose signature is good, that decodes without doubt, and that is for this host.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedGrant {
    id: GrantId,
    sources: Vec<SourcePrefix>,
    ports: Vec<PortRange>,
    issued_at: WallTime,
    not_before: WallTime,
    not_after: WallTime,
    sessions: Option<Sessions>,
    signers: Vec<String>,
    digest: [u8; 32],
    message: v1::Grant,
}

impl VerifiedGrant {
    /// The id.
    pub const fn id(&self) -> GrantId {
        self.id
    }

    /// Sources; at least one.
    pub fn sources(&self) -> &[SourcePrefix] {
        &self.sources
    }

    /// Port ranges; at least one.
    pub fn ports(&self) -> &[PortRange] {
        &self.ports
    }

    /// When the controller made it.
    pub const fn issued_at(&self) -> WallTime {
        self.issued_at
    }

    /// First moment at which it is live.
    pub const fn not_before(&self) -> WallTime {
        self.not_before
    }

    /// First moment at which it is dead.
    pub const fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// What it asks for its sessions at the end; `None`: as the port's rule says.
    pub const fn sessions(&self) -> Option<Sessions> {
        self.sessions
    }

    /// Names of the distinct keys whose signatures are good, in the order of the configuration.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// SHA-256 of the signed payload: two grants with one id and different digests conflict.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// As signed, for people.
    pub const fn message(&self) -> &v1::Grant {
        &self.message
    }

    /// Every port and source that it opens.
    pub fn entries(&self) -> impl Iterator<Item = (PortKey, SourcePrefix)> + '_ {
        self.ports
            .iter()
            .flat_map(|range| range.ports())
            .flat_map(|port| self.sources.iter().map(move |source| (port, *source)))
    }
}

/// Steps 1 to 5: size, type, signature, decoding, host.
pub fn verify(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedGrant, Refused> {
    let refuse = |refusal, detail: String| Err(Refused::new(refusal, detail));
    let bytes = envelope.encoded_len();
    if bytes > MAX_ENVELOPE_BYTES {
        let detail = format!("the envelope has {bytes} bytes; at most {MAX_ENVELOPE_BYTES}");
        return refuse(Refusal::TooLarge, detail);
    }
    let v1::Envelope { payload_type, payload, signatures } = envelope;
    if signatures.len() > MAX_SIGNATURES {
        let detail = format!("{} signatures; at most {MAX_SIGNATURES}", signatures.len());
        return refuse(Refusal::TooLarge, detail);
    }
    if payload_type != GRANT_TYPE {
        let detail = format!("payload type {payload_type:?}; expected {GRANT_TYPE:?}");
        return refuse(Refusal::BadType, detail);
    }
    let message = pre_authentication_encoding(payload_type, payload);
    let signers = keyring.good_signers(&message, signatures);
    if signers.is_empty() {
        return Err(no_good_signature(keyring, signatures));
    }
    let signers = signers.into_iter().map(|signer| signer.id.clone()).collect();
    let grant = decode(payload, signers)?;
    if !grant.message.hosts.iter().any(|name| name == host) {
        let named = grant.message.hosts.first().map_or("", String::as_str);
        let more = grant.message.hosts.len() - 1;
        let detail = format!("it names {named:?} and {more} more; this host is {host:?}");
        return Err(Refused::new(Refusal::WrongHost, detail).of(grant.id));
    }
    Ok(grant)
}

fn no_good_signature(keyring: &Keyring, signatures: &[v1::Signature]) -> Refused {
    if keyring.knows_any(signatures) {
        let detail = "no signature is good over these exact bytes, though one names a trusted key";
        return Refused::new(Refusal::BadSignature, detail);
    }
    if signatures.iter().all(|signature| signature.key_id.is_empty()) {
        let detail = format!("none of {} signatures is good by a trusted key", signatures.len());
        return Refused::new(Refusal::BadSignature, detail);
    }
    let detail = "no signature is by a key that this host trusts ([[signer]] in its configuration)";
    Refused::new(Refusal::UnknownKey, detail)
}

/// Step 4. The length check refuses fields that this version does not know (a newer field could
/// narrow the grant, and to ignore it would open more than was signed) and padded varints.
fn decode(payload: &[u8], signers: Vec<String>) -> Result<VerifiedGrant, Refused> {
    let malformed = |detail: String| Refused::new(Refusal::Malformed, detail);
    let message = v1::Grant::decode(payload)
        .map_err(|error| malformed(format!("the signed payload is no jit.v1.Grant: {error}")))?;
    if message.encoded_len() != payload.len() {
        return Err(malformed(
            "the payload has fields that this version does not know, or is not minimally encoded"
                .into(),
        ));
    }
    let id = GrantId::from_bytes(&message.id)
        .ok_or_else(|| malformed(format!("id has {} bytes, not 16", message.id.len())))?;
    let malformed = |detail: String| Refused::new(Refusal::Malformed, detail).of(id);
    check_texts(&message).map_err(malformed)?;
    let sources = message
        .sources
        .iter()
        .map(|source| SourcePrefix::try_from(source).map_err(|error| error.to_string()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(format!("sources: {error}")))?;
    let ports = message
        .ports
        .iter()
        .map(port_range)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(format!("ports: {error}")))?;
    for (what, missing) in [
        ("id is all zero", id.0 == [0; 16]),
        ("hosts is empty", message.hosts.is_empty()),
        ("sources is empty", sources.is_empty()),
        ("ports is empty", ports.is_empty()),
        ("issued_at_ms is missing", message.issued_at_ms <= 0),
        ("not_before_ms is missing", message.not_before_ms <= 0),
        ("not_after_ms is missing", message.not_after_ms <= 0),
    ] {
        if missing {
            return Err(malformed(what.into()));
        }
    }
    let entries =
        ports.iter().map(|range| range.count()).sum::<usize>().saturating_mul(sources.len());
    if entries > MAX_ENTRIES {
        let detail = format!("{entries} pairs of source and port; at most {MAX_ENTRIES}");
        return Err(Refused::new(Refusal::TooLarge, detail).of(id));
    }
    let sessions = match v1::Sessions::try_from(message.sessions) {
        Ok(v1::Sessions::Unspecified) => None,
        Ok(v1::Sessions::Cut) => Some(Sessions::Cut),
        Ok(v1::Sessions::Drain) => Some(Sessions::Drain),
        Err(_) => return Err(malformed(format!("sessions: unknown value {}", message.sessions))),
    };
    Ok(VerifiedGrant {
        id,
        sources,
        ports,
        issued_at: WallTime(message.issued_at_ms),
        not_before: WallTime(message.not_before_ms),
        not_after: WallTime(message.not_after_ms),
        sessions,
        signers,
        digest: Sha256::digest(payload).into(),
        message,
    })
}

fn check_texts(grant: &v1::Grant) -> Result<(), String> {
    if grant.requester.is_empty() {
        return Err("requester is empty".into());
    }
    if grant.justification.is_empty() {
        return Err("justification is empty".into());
    }
    if grant.approvers.len() > MAX_APPROVERS {
        return Err(format!("{} approvers; at most {MAX_APPROVERS}", grant.approvers.len()));
    }
    let names = [("requester", &grant.requester), ("ticket", &grant.ticket)]
        .into_iter()
        .chain(grant.approvers.iter().map(|name| ("approvers", name)))
        .map(|(field, text)| (field, text, MAX_NAME_BYTES));
    for (field, text, most) in
        names.chain([("justification", &grant.justification, MAX_TEXT_BYTES)])
    {
        if text.len() > most {
            return Err(format!("{field} has {} bytes; at most {most}", text.len()));
        }
    }
    Ok(())
}

fn port_range(range: &v1::PortRange) -> Result<PortRange, String> {
    let protocol = match v1::Protocol::try_from(range.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Unspecified) | Err(_) => {
            return Err(format!("unknown protocol {}", range.protocol));
        }
    };
    let port = |number: u32| {
        u16::try_from(number).ok().filter(|port| *port > 0).ok_or(format!("no port {number}"))
    };
    let (first, last) = (port(range.first)?, port(range.last)?);
    if first > last {
        return Err(format!("range {first}-{last} is inverted"));
    }
    Ok(PortRange { protocol, first, last })
}

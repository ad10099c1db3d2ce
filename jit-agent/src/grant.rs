//! From an envelope to a [`VerifiedGrant`] (docs/grants.md, steps `size` to `host`).
//!
//! Nothing is decoded before a signature over the exact bytes is good, and nothing but
//! [`verify`] makes a `VerifiedGrant`. What the host allows is `policy`'s.

use std::{fmt, num::NonZeroU32, str::FromStr};

use jit_common::{MAX_CONNECTIONS, PortKey, Protocol};
use jit_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    clock::WallTime,
    envelope::{self, PayloadType},
    keyring::{KeyId, Keyring, Signer},
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

    /// Whether this port is in it.
    pub fn has(self, port: PortKey) -> bool {
        port.protocol == self.protocol && (self.first..=self.last).contains(&port.port)
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

/// `22`, `22/tcp`, `5985-5986/tcp`, `3478/udp`; TCP unless it says otherwise.
impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is not a port such as 22, 22/tcp, 5985-5986/tcp or 3478/udp");
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad);
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("`{text}` ends before it starts"));
        }
        Ok(Self { protocol, first, last })
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
    limit: Option<NonZeroU32>,
    replaces: Option<GrantId>,
    signers: Vec<String>,
    keys: Vec<KeyId>,
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

    /// What it asks for its sessions at the end; `None`: as the port's rule says. Only
    /// [`Sessions::Cut`] changes anything: a grant is never laxer than the port.
    pub const fn sessions(&self) -> Option<Sessions> {
        self.sessions
    }

    /// Most connections that it lets in, up to [`MAX_CONNECTIONS`]; `None`: any number.
    pub const fn limit(&self) -> Option<NonZeroU32> {
        self.limit
    }

    /// The grant that ends when this one begins.
    pub const fn replaces(&self) -> Option<GrantId> {
        self.replaces
    }

    /// Names of the distinct keys whose signatures are good, in the order of the configuration.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// The same keys by their bytes: names may mean other keys after a reload.
    pub fn keys(&self) -> &[KeyId] {
        &self.keys
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

/// All that needs no policy and no clock (docs/grants.md, steps `size` to `host`).
pub fn verify(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedGrant, Refused> {
    let signers = envelope::open(envelope, PayloadType::Grant, keyring)?;
    let grant = decode(&envelope.payload, &signers)?;
    if !grant.message.hosts.iter().any(|name| name == host) {
        let named = grant.message.hosts.first().map_or("", String::as_str);
        let more = grant.message.hosts.len() - 1;
        let detail = format!("it names {named:?} and {more} more; this host is {host:?}");
        return Err(Refused::new(Refusal::WrongHost, detail).of(grant.id));
    }
    Ok(grant)
}

/// Reads the payload (docs/grants.md, step `decode`). The length check refuses fields that this
/// version does not know (a newer field could narrow the grant, and to ignore it would open more
/// than was signed) and padded varints.
fn decode(payload: &[u8], signers: &[&Signer]) -> Result<VerifiedGrant, Refused> {
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
    let limit = limit(message.max_connections, &ports).map_err(malformed)?;
    let replaces = replaced(id, &message.replaces).map_err(malformed)?;
    Ok(VerifiedGrant {
        id,
        sources,
        ports,
        issued_at: WallTime(message.issued_at_ms),
        not_before: WallTime(message.not_before_ms),
        not_after: WallTime(message.not_after_ms),
        sessions,
        limit,
        replaces,
        signers: signers.iter().map(|signer| signer.id.clone()).collect(),
        keys: signers.iter().map(|signer| signer.key_id()).collect(),
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

fn limit(most: u32, ports: &[PortRange]) -> Result<Option<NonZeroU32>, String> {
    let Some(limit) = NonZeroU32::new(most) else { return Ok(None) };
    if most > MAX_CONNECTIONS {
        return Err(format!("max_connections is {most}; at most {MAX_CONNECTIONS}"));
    }
    match ports.iter().find(|range| range.protocol == Protocol::Udp) {
        Some(range) => Err(format!("max_connections with {range}: UDP has no connections")),
        None => Ok(Some(limit)),
    }
}

fn replaced(own: GrantId, id: &[u8]) -> Result<Option<GrantId>, String> {
    if id.is_empty() {
        return Ok(None);
    }
    match GrantId::from_bytes(id) {
        None => Err(format!("replaces has {} bytes, not 16", id.len())),
        Some(id) if id.0 == [0; 16] => Err("replaces is all zero".into()),
        Some(id) if id == own => Err("it replaces itself".into()),
        Some(id) => Ok(Some(id)),
    }
}

/// The range that a message means.
pub(crate) fn port_range(range: &v1::PortRange) -> Result<PortRange, String> {
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

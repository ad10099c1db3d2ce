//! From an envelope to a [`VerifiedGrant`] (docs/grants.md, steps `size` to `host`).
//!
//! Nothing is decoded before a signature over the exact bytes is good, and only [`verify`] makes a
//! `VerifiedGrant`; beside it `break_glass`, for root on the host. `policy` decides what the host
//! allows.

pub mod break_glass;

use std::{num::NonZeroU32, sync::Arc};

use jit_common::{MAX_CONNECTIONS, PortKey, Protocol};
use jit_proto::{
    GrantId, PayloadType, PortRange, Refusal, Sessions, SourcePrefix, WallTime, exact,
    text::{MAX_NAME_BYTES, MAX_TEXT_BYTES},
    v1,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::rules::{
    envelope::{self, Opened, Together},
    few::Few,
    keyring::{KeyId, Keyring, Signer},
    refusal::{Refused, this_host},
};

/// Most table entries (sources times ports) that one grant may open.
pub const MAX_ENTRIES: usize = 4096;
/// Most approvers that one grant names.
const MAX_APPROVERS: usize = 32;

/// A grant with a good signature that decoded completely and is for this host.
///
/// A host may hold very many: of the message it keeps the signed bytes, and beside them only what
/// is asked often.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedGrant {
    id: GrantId,
    sources: Few<SourcePrefix>,
    ports: Few<PortRange>,
    issued_at: WallTime,
    not_before: WallTime,
    not_after: WallTime,
    sessions: Option<Sessions>,
    limit: Option<NonZeroU32>,
    /// Rare, so it has no room here.
    replaces: Option<Box<GrantId>>,
    requester: Arc<str>,
    signed: Arc<Signed>,
    payload: Box<[u8]>,
}

/// The keys with a good signature, in the order of the configuration.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Signed {
    signers: Vec<String>,
    keys: Vec<KeyId>,
    /// Why an approval by passkey beside them does not count. Rare, and of bounded length.
    objection: Option<Box<str>>,
}

impl Signed {
    fn of(signers: &[&Signer]) -> Self {
        Self {
            objection: None,
            signers: signers.iter().map(|signer| signer.id.clone()).collect(),
            keys: signers.iter().map(|signer| signer.key_id()).collect(),
        }
    }

    /// The same; the last one again if these keys are its keys.
    fn shared(signers: &[&Signer], last: &mut Option<Arc<Self>>) -> Arc<Self> {
        let keys = || signers.iter().map(|signer| signer.key_id());
        match last {
            Some(same) if keys().eq(same.keys.iter().copied()) => Arc::clone(same),
            _ => Arc::clone(last.insert(Arc::new(Self::of(signers)))),
        }
    }
}

impl VerifiedGrant {
    /// The id; never all zero.
    pub const fn id(&self) -> GrantId {
        self.id
    }

    /// The sources that it lets in; at least one.
    pub fn sources(&self) -> &[SourcePrefix] {
        &self.sources
    }

    /// The port ranges that it opens; at least one.
    pub fn ports(&self) -> &[PortRange] {
        &self.ports
    }

    /// When the controller made it.
    pub const fn issued_at(&self) -> WallTime {
        self.issued_at
    }

    /// When it begins: the first moment at which it is live.
    pub const fn not_before(&self) -> WallTime {
        self.not_before
    }

    /// When it ends: the first moment at which it is no longer live.
    pub const fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// What happens to its sessions at the end; `None`: the port's rule decides. Only
    /// [`Sessions::Cut`] changes anything: a grant cannot relax the port's rule.
    pub const fn sessions(&self) -> Option<Sessions> {
        self.sessions
    }

    /// The most connections that it lets in, up to [`MAX_CONNECTIONS`]; `None`: no limit.
    pub const fn limit(&self) -> Option<NonZeroU32> {
        self.limit
    }

    /// The grant that ends when this one begins.
    pub fn replaces(&self) -> Option<GrantId> {
        self.replaces.as_deref().copied()
    }

    /// Names of the distinct keys whose signatures are good, in the order of the configuration.
    pub fn signers(&self) -> &[String] {
        &self.signed.signers
    }

    /// The same keys by their bytes: names may mean other keys after a reload.
    pub fn keys(&self) -> &[KeyId] {
        &self.signed.keys
    }

    /// Why an approval by passkey in its envelope does not count.
    pub(super) fn objection(&self) -> Option<&str> {
        self.signed.objection.as_deref()
    }

    /// Root on the host opened it, and nobody signed it.
    pub fn is_break_glass(&self) -> bool {
        self.keys().is_empty()
    }

    /// Who asked for it. The controller names the requester; nobody verifies the name.
    pub fn requester(&self) -> &str {
        &self.requester
    }

    /// Whether it opens something to one of these addresses.
    pub fn opens_to(&self, source: &SourcePrefix) -> bool {
        self.sources.iter().any(|own| own.overlaps(source))
    }

    /// Whether both have the same signed payload: two grants with one id and different payloads
    /// conflict.
    pub fn same_content(&self, other: &Self) -> bool {
        self.payload == other.payload
    }

    /// SHA-256 of the signed payload.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }

    /// The message as signed, for people.
    pub fn message(&self) -> v1::Grant {
        v1::Grant::decode(&*self.payload).expect("it decoded when it was verified")
    }

    /// The encoded message, as it was signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Requester and keys, which many grants have in common.
    pub(super) const fn shared_mut(&mut self) -> (&mut Arc<str>, &mut Arc<Signed>) {
        (&mut self.requester, &mut self.signed)
    }

    /// Every pair of port and source that it opens.
    pub fn entries(&self) -> impl Iterator<Item = (PortKey, SourcePrefix)> + '_ {
        self.ports
            .iter()
            .flat_map(|range| range.ports())
            .flat_map(|port| self.sources.iter().map(move |source| (port, *source)))
    }
}

/// Every check that needs no policy and no clock (docs/grants.md, steps `size` to `host`).
pub fn verify(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
) -> Result<VerifiedGrant, Refused> {
    verify_counting(envelope, keyring, host, &mut 0)
}

/// The same; adds the tries of false signatures to `wasted`.
pub fn verify_counting(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    host: &str,
    wasted: &mut usize,
) -> Result<VerifiedGrant, Refused> {
    let Opened { signers, objection } =
        envelope::open(envelope, PayloadType::Grant, keyring, wasted)?;
    let objection = objection.map(|objection| objection.to_string().into());
    read(envelope, Arc::new(Signed { objection, ..Signed::of(&signers) }), host)
}

/// Verifies the first of these envelopes together, in a third of the time; the results are those of
/// [`verify`].
pub fn verify_together<'e>(
    envelopes: impl Iterator<Item = &'e v1::Envelope>,
    keyring: &Keyring,
    host: &str,
) -> Together<Result<VerifiedGrant, Refused>> {
    match envelope::open_together(envelopes, PayloadType::Grant, keyring) {
        Together::Good(opened) => {
            let mut last = None;
            let results = opened.into_iter().map(|(envelope, signers)| {
                let signed = Signed::shared(&signers?, &mut last);
                read(envelope, signed, host)
            });
            Together::Good(results.collect())
        }
        Together::OneByOne { envelopes, signatures } => {
            Together::OneByOne { envelopes, signatures }
        }
    }
}

/// Verifies all these envelopes, as many together as can be; the results are in their order.
pub fn verify_all(
    envelopes: &[&v1::Envelope],
    keyring: &Keyring,
    host: &str,
) -> Vec<Result<VerifiedGrant, Refused>> {
    let mut results = Vec::with_capacity(envelopes.len());
    while let Some(rest) = envelopes.get(results.len()..)
        && !rest.is_empty()
    {
        match verify_together(rest.iter().copied(), keyring, host) {
            Together::Good(first) => results.extend(first),
            Together::OneByOne { envelopes, .. } => {
                let first = rest.iter().take(envelopes);
                results.extend(first.map(|envelope| verify(envelope, keyring, host)));
            }
        }
    }
    results
}

/// The steps `decode` and `host` of an envelope that these keys signed.
fn read(
    envelope: &v1::Envelope,
    signed: Arc<Signed>,
    host: &str,
) -> Result<VerifiedGrant, Refused> {
    let (grant, hosts) = decode(&envelope.payload, signed)?;
    if !is_for(&grant, &hosts, host) {
        let named = hosts.first().map_or("", String::as_str);
        let more = hosts.len().saturating_sub(1);
        let detail = format!("it names {named:?} and {more} more; {}", this_host(host));
        return Err(Refused::new(Refusal::WrongHost, detail).of(grant.id));
    }
    // Nobody who signs may look like root on the host.
    if !grant.is_break_glass() && break_glass::is_reserved(&grant.requester) {
        let detail = format!("no grant may have the requester {:?}", break_glass::REQUESTER);
        return Err(Refused::new(Refusal::Malformed, detail).of(grant.id));
    }
    Ok(grant)
}

/// Whether a grant is for this host. While the host's id is not known, only root's own are.
fn is_for(grant: &VerifiedGrant, hosts: &[String], host: &str) -> bool {
    if grant.is_break_glass() && (host.is_empty() || hosts.iter().all(String::is_empty)) {
        return true;
    }
    !host.is_empty() && hosts.iter().any(|name| name == host)
}

/// Reads the payload (docs/grants.md, step `decode`); returns the hosts that it names, too.
fn decode(payload: &[u8], signed: Arc<Signed>) -> Result<(VerifiedGrant, Vec<String>), Refused> {
    let malformed = |detail: String| Refused::new(Refusal::Malformed, detail);
    let message: v1::Grant = exact::decode("jit.v1.Grant", payload).map_err(malformed)?;
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
        .map(PortRange::try_from)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(format!("ports: {error}")))?;
    check_required(id, &message).map_err(malformed)?;
    let entries =
        ports.iter().map(|range| range.count()).sum::<usize>().saturating_mul(sources.len());
    if entries > MAX_ENTRIES {
        let detail = format!("{entries} pairs of source and port; at most {MAX_ENTRIES}");
        return Err(Refused::new(Refusal::TooLarge, detail).of(id));
    }
    let sessions = sessions(message.sessions).map_err(malformed)?;
    let limit = limit(message.max_connections, &ports).map_err(malformed)?;
    let replaces = replaced(id, &message.replaces).map_err(malformed)?;
    let missing = |what: &str| malformed(format!("{what} is empty"));
    let grant = VerifiedGrant {
        id,
        sources: Few::of(sources).ok_or_else(|| missing("sources"))?,
        ports: Few::of(ports).ok_or_else(|| missing("ports"))?,
        issued_at: WallTime(message.issued_at_ms),
        not_before: WallTime(message.not_before_ms),
        not_after: WallTime(message.not_after_ms),
        sessions,
        limit,
        replaces: replaces.map(Box::new),
        requester: message.requester.into(),
        signed,
        payload: payload.into(),
    };
    Ok((grant, message.hosts))
}

fn check_required(id: GrantId, message: &v1::Grant) -> Result<(), String> {
    for (what, missing) in [
        ("id is all zero", id.0 == [0; 16]),
        ("hosts is empty", message.hosts.is_empty()),
        ("issued_at_ms is missing", message.issued_at_ms <= 0),
        ("not_before_ms is missing", message.not_before_ms <= 0),
        ("not_after_ms is missing", message.not_after_ms <= 0),
    ] {
        if missing {
            return Err(what.into());
        }
    }
    Ok(())
}

fn sessions(value: i32) -> Result<Option<Sessions>, String> {
    match v1::Sessions::try_from(value) {
        Ok(v1::Sessions::Unspecified) => Ok(None),
        Ok(v1::Sessions::Cut) => Ok(Some(Sessions::Cut)),
        Ok(v1::Sessions::Drain) => Ok(Some(Sessions::Drain)),
        Err(_) => Err(format!("sessions: unknown value {value}")),
    }
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

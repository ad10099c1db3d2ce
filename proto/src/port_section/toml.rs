//! A section as TOML: the keys of `[[port]]`, read by serde.

use std::str::FromStr;

use jit_common::{Family, PortKey, Protocol};
use serde::Deserialize;

use super::{
    DEFAULT_APPROVALS, DEFAULT_PORT_DURATION, DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6, Exemption,
    PortSection, by_port,
};
use crate::{
    PortRange, Sessions, SourcePrefix,
    toml_value::{duration, moment, width},
};

/// A section as it is written, not checked yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TomlSection {
    port: Ports,
    protocol: TomlProtocol,
    mode: Option<Mode>,
    sources: Vec<String>,
    widest_v4: Option<u8>,
    widest_v6: Option<u8>,
    max_duration: Option<String>,
    approvals: Option<u8>,
    sessions: Option<Sessions>,
    terminates: Option<Terminates>,
    #[serde(default)]
    exempt: Vec<Exempt>,
}

/// Whether what has no grant is dropped, or counted only.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Dropped.
    Enforce,
    /// Counted.
    Observe,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a port from 1 to 65535, or a range such as \"5985-5986\"")]
enum Ports {
    One(u16),
    Range(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TomlProtocol {
    Tcp,
    Udp,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Terminates {
    Forwarded,
    Host,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exempt {
    source: String,
    reason: String,
    owner: String,
    until: Option<String>,
}

/// A policy as a file: the configuration's `[[port]]` sections, and whom it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyFile {
    /// Its version, if the file says.
    pub version: Option<u64>,
    /// The hosts it is for; empty when the file does not say.
    pub hosts: Vec<String>,
    /// What it protects; no port stands in two sections.
    pub sections: Vec<PortSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlPolicy {
    version: Option<u64>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    port: Vec<TomlSection>,
}

impl FromStr for PolicyFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let TomlPolicy { version, hosts, port } =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        // How many keys a host trusts is the host's to know.
        let sections =
            port.into_iter().map(|port| port.check(usize::MAX)).collect::<Result<Vec<_>, _>>()?;
        by_port(&sections).map_err(stands_twice)?;
        Ok(Self { version, hosts, sections })
    }
}

/// The sentence for a port that two sections name.
pub fn stands_twice(port: PortKey) -> String {
    format!("[[port]]: {}/{} stands in two sections", port.port, port.protocol.word())
}

impl TomlSection {
    /// The section, if every key has a good value. `signers`: how many keys sign grants for this
    /// host; a port cannot ask for more approvals than that.
    ///
    /// # Errors
    /// One sentence that names the port and the key.
    pub fn check(self, signers: usize) -> Result<PortSection, String> {
        let Self {
            port,
            protocol,
            mode,
            sources,
            widest_v4,
            widest_v6,
            max_duration,
            approvals,
            sessions,
            terminates,
            exempt,
        } = self;
        let range = port_range(&port, protocol)?;
        let at = |what: String| format!("[[port]] {range}: {what}");
        let widest_v4 = width("widest_v4", widest_v4, Family::V4).map_err(at)?;
        let widest_v6 = width("widest_v6", widest_v6, Family::V6).map_err(at)?;
        Ok(PortSection {
            range,
            observe: mode == Some(Mode::Observe),
            sources: check_sources(&sources).map_err(at)?,
            widest_v4: widest_v4.unwrap_or(DEFAULT_WIDEST_V4),
            widest_v6: widest_v6.unwrap_or(DEFAULT_WIDEST_V6),
            max_duration: max_duration
                .map_or(Ok(DEFAULT_PORT_DURATION), |text| duration("max_duration", &text))
                .map_err(at)?,
            approvals: check_approvals(approvals, signers).map_err(at)?,
            sessions: sessions.unwrap_or(Sessions::Drain),
            forwarded: terminates == Some(Terminates::Forwarded),
            exemptions: exempt
                .into_iter()
                .map(|exempt| exempt.check().map_err(at))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Exempt {
    fn check(self) -> Result<Exemption, String> {
        let Self { source, reason, owner, until } = self;
        if reason.is_empty() || owner.is_empty() {
            return Err(format!("exempt {source}: reason and owner may not be empty"));
        }
        let until = moment("until", until).map_err(|error| format!("exempt {source}: {error}"))?;
        let source = source.parse().map_err(|error| format!("exempt: source: {error}"))?;
        Ok(Exemption { source, reason, owner, until })
    }
}

fn check_sources(texts: &[String]) -> Result<Vec<SourcePrefix>, String> {
    if texts.is_empty() {
        return Err("sources is empty: no grant could ever open it; [\"0.0.0.0/0\", \"::/0\"] is \
                    everyone"
            .into());
    }
    texts.iter().map(|text| text.parse().map_err(|error| format!("sources: {error}"))).collect()
}

fn check_approvals(approvals: Option<u8>, signers: usize) -> Result<usize, String> {
    let approvals = approvals.map_or(DEFAULT_APPROVALS, usize::from);
    match approvals {
        0 => Err("approvals: 0 would let the port open without a signature".into()),
        _ if approvals > signers => Err(format!(
            "approvals: {approvals}, but there are {signers} [[signer]] keys that sign grants; from 1 \
             to that"
        )),
        _ => Ok(approvals),
    }
}

fn port_range(port: &Ports, protocol: TomlProtocol) -> Result<PortRange, String> {
    let protocol = match protocol {
        TomlProtocol::Tcp => Protocol::Tcp,
        TomlProtocol::Udp => Protocol::Udp,
    };
    let (first, last) = match port {
        Ports::One(port) => (*port, *port),
        Ports::Range(text) => {
            let bounds = text.split_once('-').unwrap_or((text, text));
            let (Ok(first), Ok(last)) = (bounds.0.trim().parse(), bounds.1.trim().parse()) else {
                return Err(format!("[[port]] port: {text:?} is not a port or first-last"));
            };
            (first, last)
        }
    };
    if first == 0 || first > last {
        return Err(format!("[[port]] port: {first}-{last} is no range from 1 to 65535"));
    }
    Ok(PortRange { protocol, first, last })
}

//! Reads a section from TOML: the keys of `[[port]]`, and a policy's file.

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

/// A section as the file has it, unchecked.
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

/// What happens to packets that no grant lets in.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are dropped.
    Enforce,
    /// They are counted and pass.
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

/// A policy's file: the configuration's `[[port]]` sections, and the hosts that the policy is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyFile {
    /// The policy's version; `None` when the file has none.
    pub version: Option<u64>,
    /// Ids of the hosts that the policy is for; empty when the file names none.
    pub hosts: Vec<String>,
    /// What it protects; no two sections name the same port.
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
        // The file's reader does not know how many keys a host trusts: any number of approvals
        // passes.
        let sections =
            port.into_iter().map(|port| port.check(usize::MAX)).collect::<Result<Vec<_>, _>>()?;
        by_port(&sections).map_err(stands_twice)?;
        Ok(Self { version, hosts, sections })
    }
}

/// The error for a port that two sections name.
pub fn stands_twice(port: PortKey) -> String {
    format!("[[port]]: {}/{} is in two sections", port.port, port.protocol.word())
}

impl TomlSection {
    /// The checked section. `signers` is the number of keys that sign grants for this host; a port
    /// cannot require more approvals.
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
        return Err("sources is empty, so no grant could open the port; for everyone write \
                    [\"0.0.0.0/0\", \"::/0\"]"
            .into());
    }
    texts.iter().map(|text| text.parse().map_err(|error| format!("sources: {error}"))).collect()
}

fn check_approvals(approvals: Option<u8>, signers: usize) -> Result<usize, String> {
    let approvals = approvals.map_or(DEFAULT_APPROVALS, usize::from);
    match approvals {
        0 => Err("approvals: 0 would let the port open without a signature".into()),
        _ if approvals > signers => Err(format!(
            "approvals: {approvals}, but only {signers} [[signer]] keys sign grants; lower it, or \
             add a [[signer]]"
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
                return Err(format!(
                    "[[port]] port: {text:?} is not a port, or a range FIRST-LAST"
                ));
            };
            (first, last)
        }
    };
    if first == 0 || first > last {
        return Err(format!("[[port]] port: {first}-{last} is not a range from 1 to 65535"));
    }
    Ok(PortRange { protocol, first, last })
}

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
    port_range::port_meant,
    toml_value::{duration, moment, width},
    wrong::{Places, Wrong, Wrongs, join},
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
        let mut wrongs = Wrongs::default();
        let mut sections = Vec::new();
        for (index, section) in port.into_iter().enumerate() {
            // The file's reader does not know how many keys a host trusts: any number of approvals
            // passes.
            match section.check(usize::MAX) {
                Ok(section) => sections.push(section),
                Err(wrong) => wrongs.add_below(&format!("port.{index}"), wrong),
            }
        }
        let places = Places::of(text);
        let placed = |Wrong { path, text }: Wrong| match places.at(&path) {
            Some(place) => format!("line {}: {text}", place.line),
            None => text,
        };
        let all = |wrongs: Wrongs| wrongs.into_iter().map(placed).collect::<Vec<_>>().join("\n");
        wrongs.end(()).map_err(all)?;
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
    /// Every wrong value, by its path below the section. Each sentence names the port and the key.
    pub fn check(self, signers: usize) -> Result<PortSection, Wrongs> {
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
        let mut wrongs = Wrongs::default();
        let range = port_range(&port, protocol);
        let name = range.as_ref().map_or_else(|_| port.text(), ToString::to_string);
        let at = &|what: String| format!("[[port]] {name}: {what}");
        let unread = PortRange { protocol: Protocol::Tcp, first: 1, last: 1 };
        let range = wrongs.or("port", range, unread);
        let widest_v4 = width("widest_v4", widest_v4, Family::V4).map_err(at);
        let widest_v4 = wrongs.or("widest_v4", widest_v4, None);
        let widest_v6 = width("widest_v6", widest_v6, Family::V6).map_err(at);
        let widest_v6 = wrongs.or("widest_v6", widest_v6, None);
        let longest = max_duration
            .map_or(Ok(DEFAULT_PORT_DURATION), |text| duration("max_duration", &text))
            .map_err(at);
        let approvals = check_approvals(approvals, signers).map_err(at);
        let section = PortSection {
            range,
            observe: mode == Some(Mode::Observe),
            sources: check_sources(&sources, at, &mut wrongs),
            widest_v4: widest_v4.unwrap_or(DEFAULT_WIDEST_V4),
            widest_v6: widest_v6.unwrap_or(DEFAULT_WIDEST_V6),
            max_duration: wrongs.or("max_duration", longest, DEFAULT_PORT_DURATION),
            approvals: wrongs.or("approvals", approvals, DEFAULT_APPROVALS),
            sessions: sessions.unwrap_or(Sessions::Drain),
            forwarded: terminates == Some(Terminates::Forwarded),
            exemptions: check_exemptions(exempt, at, &mut wrongs),
        };
        wrongs.end(section)
    }
}

impl Exempt {
    fn check(self) -> Result<Exemption, Wrongs> {
        let Self { source, reason, owner, until } = self;
        let mut wrongs = Wrongs::default();
        for (key, text) in [("reason", &reason), ("owner", &owner)] {
            if text.is_empty() {
                wrongs.add(key, format!("exempt {source}: reason and owner may not be empty"));
            }
        }
        let until = moment("until", until).map_err(|error| format!("exempt {source}: {error}"));
        let until = wrongs.or("until", until, None);
        let source = source.parse().map_err(|error| format!("exempt: source: {error}"));
        let source = wrongs.or("source", source, SourcePrefix::any(Family::V4));
        wrongs.end(Exemption { source, reason, owner, until })
    }
}

fn check_exemptions(
    exempt: Vec<Exempt>,
    at: &impl Fn(String) -> String,
    wrongs: &mut Wrongs,
) -> Vec<Exemption> {
    let mut exemptions = Vec::new();
    for (index, exempt) in exempt.into_iter().enumerate() {
        match exempt.check() {
            Ok(exemption) => exemptions.push(exemption),
            Err(wrong) => {
                for Wrong { path, text } in wrong {
                    wrongs.add(join(&format!("exempt.{index}"), &path), at(text));
                }
            }
        }
    }
    exemptions
}

fn check_sources(
    texts: &[String],
    at: &impl Fn(String) -> String,
    wrongs: &mut Wrongs,
) -> Vec<SourcePrefix> {
    if texts.is_empty() {
        let what = "sources is empty, so no grant could open the port; for everyone write \
                    [\"0.0.0.0/0\", \"::/0\"]";
        wrongs.add("sources", at(what.into()));
    }
    wrongs.each("sources", texts, at)
}

fn check_approvals(approvals: Option<u8>, signers: usize) -> Result<usize, String> {
    let approvals = approvals.map_or(DEFAULT_APPROVALS, usize::from);
    match approvals {
        0 => Err("approvals: 0 would let the port open without a signature".into()),
        _ if approvals > signers => Err(format!(
            "approvals: {approvals}, but only {signers} [[signer]] and [[approver]] keys sign \
             grants; lower it, or add one (a grant always needs a [[signer]])"
        )),
        _ => Ok(approvals),
    }
}

impl Ports {
    fn text(&self) -> String {
        match self {
            Self::One(port) => port.to_string(),
            Self::Range(text) => format!("{text:?}"),
        }
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
                let meant = port_meant(text);
                return Err(format!(
                    "[[port]] port: {text:?} is not a port, or a range FIRST-LAST{meant}"
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

//! A `[[port]]` section: what a host protects at one range of ports, and the most that a grant may
//! open there. The same noun in the configuration file, in a policy and on the wire.

mod to_toml;
mod toml;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use jit_common::{PortKey, PortRule};

pub use self::{
    to_toml::to_toml,
    toml::{Mode, PolicyFile, TomlSection, stands_twice},
};
use crate::{PortRange, Sessions, SourcePrefix, WallTime};

/// Narrowest limits on prefixes for a port that does not say.
pub const DEFAULT_WIDEST_V4: u8 = 24;
/// Likewise for IPv6.
pub const DEFAULT_WIDEST_V6: u8 = 48;
/// Longest grant of a port that does not say (Microsoft Defender's default).
pub const DEFAULT_PORT_DURATION: Duration = Duration::from_secs(3 * 3600);
/// Approvals that a port asks for which does not say.
pub const DEFAULT_APPROVALS: usize = 1;

/// The rules of one `[[port]]` section.
#[derive(Clone, Debug, PartialEq)]
pub struct PortSection {
    /// The ports.
    pub range: PortRange,
    /// Count what would be dropped, drop nothing.
    pub observe: bool,
    /// The most that a grant may open.
    pub sources: Vec<SourcePrefix>,
    /// Shortest IPv4 prefix that a grant may name, bits.
    pub widest_v4: u8,
    /// Shortest IPv6 prefix that a grant may name, bits.
    pub widest_v6: u8,
    /// The longest grant.
    pub max_duration: Duration,
    /// Good signatures by distinct keys that a grant needs.
    pub approvals: usize,
    /// What becomes of established sessions.
    pub sessions: Sessions,
    /// The service is behind NAT or in a container: no socket on this host.
    pub forwarded: bool,
    /// Sources that are always let in.
    pub exemptions: Vec<Exemption>,
}

/// A source that needs no grant.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemption {
    /// Who.
    pub source: SourcePrefix,
    /// Why.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// Its end, if it has one.
    pub until: Option<WallTime>,
}

impl Exemption {
    /// Whether this one lets in everything that `other` does, for at least as long.
    pub fn covers(&self, other: &Self) -> bool {
        let longer = match (self.until, other.until) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own >= other,
        };
        longer && self.source.contains(&other.source)
    }
}

impl PortSection {
    /// What the kernel needs to know of it. In observe mode of the whole gate the kernel's settings
    /// say so, not each rule.
    pub const fn rule(&self) -> PortRule {
        PortRule {
            observe: self.observe as u8,
            drain: matches!(self.sessions, Sessions::Drain) as u8,
            forwarded: self.forwarded as u8,
            reserved: 0,
        }
    }
}

/// Which section each port stands in; the first port that stands in two of them is the error.
pub fn by_port(sections: &[PortSection]) -> Result<BTreeMap<PortKey, usize>, PortKey> {
    let mut by_port = BTreeMap::new();
    for (index, section) in sections.iter().enumerate() {
        for port in section.range.ports() {
            if by_port.insert(port, index).is_some() {
                return Err(port);
            }
        }
    }
    Ok(by_port)
}

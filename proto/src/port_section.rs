//! A `[[port]]` section: what a host protects at one range of ports, and the most that a grant may
//! open there. The configuration file, a policy and the wire share this type.

mod to_toml;
mod toml;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use jit_common::{PortKey, PortRule};

pub use self::{
    to_toml::{quoted, to_toml},
    toml::{Mode, PolicyFile, TomlSection, stands_twice},
};
use crate::{PortRange, Sessions, SourcePrefix, WallTime};

/// `widest_v4` of a section that does not set it, bits.
pub const DEFAULT_WIDEST_V4: u8 = 24;
/// `widest_v6` of a section that does not set it, bits.
pub const DEFAULT_WIDEST_V6: u8 = 48;
/// `max_duration` of a section that does not set it (Microsoft Defender's default).
pub const DEFAULT_PORT_DURATION: Duration = Duration::from_secs(3 * 3600);
/// `approvals` of a section that does not set it.
pub const DEFAULT_APPROVALS: usize = 1;

/// The rules of one `[[port]]` section.
#[derive(Clone, Debug, PartialEq)]
pub struct PortSection {
    /// The ports that this section protects.
    pub range: PortRange,
    /// Observe mode: packets that would be dropped are counted and pass.
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
    /// What happens to established sessions when a grant ends.
    pub sessions: Sessions,
    /// The service is behind NAT or in a container: no socket on this host.
    pub forwarded: bool,
    /// Sources that are always let in.
    pub exemptions: Vec<Exemption>,
}

/// A source that needs no grant.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemption {
    /// The addresses that need no grant.
    pub source: SourcePrefix,
    /// Why they need none, for people; not empty.
    pub reason: String,
    /// The person or team responsible for it; not empty.
    pub owner: String,
    /// When the exemption ends; `None`: it has no end.
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
    /// The kernel's part of the section. Observe mode of the whole gate is a setting of its own in
    /// the kernel, not part of each rule.
    pub const fn rule(&self) -> PortRule {
        PortRule {
            observe: self.observe as u8,
            drain: matches!(self.sessions, Sessions::Drain) as u8,
            forwarded: self.forwarded as u8,
            trial: 0,
            counters: 0,
        }
    }
}

/// The index of the section that names each port. The error is the first port that two sections
/// name.
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

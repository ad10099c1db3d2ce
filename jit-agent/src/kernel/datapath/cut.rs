//! Which sessions a cut looks at, and which it has cut.
//!
//! The packet gate drops the segments of an ended session from the deadline on by itself, with the
//! agent dead too; a cut makes both ends hear it. Handshakes that are not finished end with their
//! grant at every port: the socket guard does not see them any more, and at an interface without a
//! gate they would open.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use jit_common::{Address, GrantEntry, PortKey, PortRule, Protocol, session_has_ended};
use jit_proto::{SourcePrefix, prefix::bits};

use crate::{
    kernel::{datapath::error::DatapathError, netlink::sock_diag::DiagError},
    rules::{clock::BootNanos, reconcile::EntryKey},
};

/// Most sockets that are destroyed in one go, so that nothing waits long for its end.
pub const MOST: usize = 1024;

/// Which sessions are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutScope {
    /// Those at these ports of TCP, by the rule of each.
    pub ports: BTreeMap<u16, PortRule>,
    /// Only handshakes that are not finished: no session can have ended.
    pub half_open: bool,
    /// Only those whose peer is covered by one of these; `None`: all.
    pub of: Option<Covers>,
}

/// Places in the grant tables of TCP ports, to be found by the peers that they cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covers {
    ports: BTreeMap<u16, Sources>,
    len: usize,
}

/// The sources of one port, and the lengths of prefixes among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sources {
    lengths: BTreeSet<u8>,
    prefixes: HashSet<SourcePrefix>,
}

/// The number of sockets, by peer and port.
pub type Sockets = BTreeMap<(Address, u16), u32>;

/// Result of a cut.
#[derive(Debug, Default)]
pub struct Cut {
    /// Those that it ended.
    pub ended: Sockets,
    /// Sessions that are there although no grant covers them: the port lets them go on, or they
    /// cannot be ended.
    pub open: Sockets,
    /// There are more than [`MOST`], or a handshake may just have finished: call again.
    pub more: bool,
    /// The time it took.
    pub took: Duration,
    /// Why not all.
    pub problem: Option<CutError>,
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A live grant or an exemption covers it.
    Covered,
    /// It has ended.
    Ended,
    /// No grant covers it any more, and it goes on.
    Open,
}

impl Fate {
    /// By the entries for its peer and the rule of its port.
    pub fn of(
        [host, prefix]: [Option<&GrantEntry>; 2],
        rule: PortRule,
        BootNanos(now): BootNanos,
    ) -> Self {
        if session_has_ended(host, prefix, rule, now) {
            Self::Ended
        } else if session_has_ended(host, prefix, PortRule { drain: 0, ..rule }, now) {
            Self::Open
        } else {
            Self::Covered
        }
    }
}

/// Why a session that has ended may still be there.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The tables that show whether it has ended.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The sockets.
    #[error(transparent)]
    Diag(#[from] DiagError),
}

impl CutScope {
    /// The rule for a session of this peer, if it is looked at. A handshake that is not finished is
    /// no session yet: it never outlives its grant.
    pub fn rule(&self, peer: Address, port: u16, half_open: bool) -> Option<PortRule> {
        let rule = *self.ports.get(&port)?;
        let rule = if half_open { PortRule { drain: 0, ..rule } } else { rule };
        self.of.as_ref().is_none_or(|covers| covers.covers(peer, port)).then_some(rule)
    }

    /// From the lowest port to the highest.
    pub(super) fn range(&self) -> Option<RangeInclusive<u16>> {
        Some(*self.ports.first_key_value()?.0..=*self.ports.last_key_value()?.0)
    }
}

impl Covers {
    /// Adds a place; one of another protocol has no sessions.
    pub fn insert(&mut self, key: EntryKey) {
        let EntryKey { port: PortKey { protocol, port }, source } = key;
        if protocol == Protocol::Tcp {
            self.insert_source(port, source);
        }
    }

    /// Adds all of another's.
    pub fn extend(&mut self, other: &Self) {
        for (port, sources) in &other.ports {
            for source in &sources.prefixes {
                self.insert_source(*port, *source);
            }
        }
    }

    /// The number of places.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn insert_source(&mut self, port: u16, source: SourcePrefix) {
        let sources = self.ports.entry(port).or_default();
        sources.lengths.insert(source.length());
        self.len += usize::from(sources.prefixes.insert(source));
    }

    /// Whether one of them covers this peer at this port: one search for each length.
    pub fn covers(&self, peer: Address, port: u16) -> bool {
        let Some(Sources { lengths, prefixes }) = self.ports.get(&port) else { return false };
        let Ok(host) = SourcePrefix::new(peer, bits(peer.family)) else { return false };
        lengths.iter().any(|length| prefixes.contains(&host.widened(*length)))
    }
}

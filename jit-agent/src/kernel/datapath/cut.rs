//! Ends sessions that are over: the sockets of this host whose peer no grant covers any more.
//!
//! The packet gate drops their segments from the deadline on by itself, with the agent dead too; here
//! both ends are told. A socket's last word, the RST, goes outwards, where no gate is. Sockets in other
//! network namespaces, behind a `forwarded` port for one, are out of reach.
//!
//! Handshakes that are not finished end with their grant at every port: to the socket guard they do
//! not show any more, and behind an interface without a gate they would open.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use jit_common::{Address, PortKey, PortRule, Protocol, session_has_ended};

use crate::{
    kernel::{
        datapath::{DatapathError, maps::Maps},
        netlink::sock_diag::{DiagError, SockDiag, Socket},
    },
    prefix::{SourcePrefix, bits},
    rules::{clock::BootNanos, reconcile::EntryKey},
    system::sys,
};

/// Sockets that are destroyed in one go, so that nothing waits long behind it.
pub const MOST: usize = 1024;

/// Which sessions are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Those at these ports of TCP, by the rule of each.
    pub ports: BTreeMap<u16, PortRule>,
    /// Only handshakes that are not finished: no session can be over.
    pub half_open: bool,
    /// Only those whose peer one of these covers; `None`: all.
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

/// What was ended.
#[derive(Debug, Default)]
pub struct Cut {
    /// How many, by peer and port.
    pub ended: BTreeMap<(Address, u16), u32>,
    /// There are more than [`MOST`]: call again.
    pub more: bool,
    /// How long it took.
    pub took: Duration,
    /// Why not all.
    pub problem: Option<CutError>,
}

/// Why a session that is over may be there still.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The tables that tell whether it is over.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The sockets.
    #[error(transparent)]
    Diag(#[from] DiagError),
}

impl Sessions {
    /// The rule for a session of this peer, if it is looked at. A handshake that is not finished is
    /// no session yet: nowhere it outlives its grant.
    pub fn rule(&self, peer: Address, port: u16, half_open: bool) -> Option<PortRule> {
        let rule = *self.ports.get(&port)?;
        let rule = if half_open { PortRule { drain: 0, ..rule } } else { rule };
        self.of.as_ref().is_none_or(|covers| covers.covers(peer, port)).then_some(rule)
    }

    /// From the lowest port to the highest.
    fn range(&self) -> Option<RangeInclusive<u16>> {
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

    /// How many there are.
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

    /// Whether one of them covers this peer at this port: one look for each length.
    fn covers(&self, peer: Address, port: u16) -> bool {
        let Some(Sources { lengths, prefixes }) = self.ports.get(&port) else { return false };
        let Ok(host) = SourcePrefix::new(peer, bits(peer.family)) else { return false };
        lengths.iter().any(|length| prefixes.contains(&host.widened(*length)))
    }
}

/// Ends what is over among these.
pub fn cut(maps: &Maps, among: &Sessions, now: BootNanos) -> Cut {
    let began = Instant::now();
    let mut cut = Cut::default();
    cut.problem = end(maps, among, now, &mut cut).err();
    cut.took = began.elapsed();
    cut
}

fn end(maps: &Maps, among: &Sessions, now: BootNanos, cut: &mut Cut) -> Result<(), CutError> {
    let Some(range) = among.range() else { return Ok(()) };
    let mut diag = SockDiag::open()?;
    diag.probe()?;
    let own = sys::addresses()
        .map_err(|error| DatapathError::Sys { verb: "list this host's addresses", error })?;
    let mut over: Vec<Socket> = Vec::new();
    let mut unread = Ok(());
    diag.list(range, among.half_open, |socket| {
        let Socket { peer, port, half_open, .. } = socket;
        // The host that speaks to itself needs no grant.
        if peer.is_loopback() || own.contains(&peer) {
            return;
        }
        let Some(rule) = among.rule(peer, port, half_open) else { return };
        match maps.covering(peer, PortKey { protocol: Protocol::Tcp, port }) {
            Ok([host, prefix]) => {
                if session_has_ended(host.as_ref(), prefix.as_ref(), rule, now.0) {
                    cut.more |= over.len() >= MOST;
                    if !cut.more {
                        over.push(socket);
                    }
                }
            }
            // What cannot be read says nothing against a session.
            Err(error) => unread = Err(error),
        }
    })?;
    for socket in &over {
        if diag.destroy(socket)? {
            *cut.ended.entry((socket.peer, socket.port)).or_default() += 1;
        }
    }
    Ok(unread?)
}

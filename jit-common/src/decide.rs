//! The decision about one packet: a plain function of the frame, the tables and the time.
//!
//! It decides and never acts: counting, events, and turning a drop into a pass in observe mode are
//! the caller's (a switch around the decision, not a branch in it).

use crate::{
    Address, Family, GrantEntry, HostKey, PortKey, PortRule, PrefixV4, PrefixV6, Protocol, Reason,
    headers::{self, Frame, Network},
};

/// What a frame starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header, possibly with VLAN tags.
    Ethernet,
    /// The IP header itself (tun, WireGuard, ipip).
    Ip,
}

/// State of the TCP session that a segment's 4-tuple belongs to, on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// There is none, or only a listening socket or a half-open request (LISTEN, NEW_SYN_RECV):
    /// nothing that a grant has let in completely.
    None,
    /// Any later state.
    Established,
}

/// A transport segment to a port that is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who sent it, as the packet says.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// Source port, host byte order.
    pub source_port: u16,
    /// The protected port.
    pub port: PortKey,
    /// A TCP SYN without ACK: it would open a connection.
    pub opens: bool,
}

/// What the decision asks of the tables. All methods must be total: what cannot be read is as if
/// it were not there, except that a missing rule is the strictest one ([`PortRule::default`]).
pub trait Tables {
    /// Whether the port is protected.
    fn protected(&self, port: PortKey) -> bool;
    /// How the port is treated.
    fn rule(&self, port: PortKey) -> PortRule;
    /// The entry for exactly this address.
    fn host_grant(&self, key: &HostKey) -> Option<GrantEntry>;
    /// The entry of the longest matching IPv4 prefix.
    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<GrantEntry>;
    /// The entry of the longest matching IPv6 prefix.
    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<GrantEntry>;
    /// The state of the TCP session with the segment's own 4-tuple in this network namespace.
    fn session(&self, segment: &Segment) -> Session;
}

/// The outcome for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why it passes or is dropped.
    pub reason: Reason,
    /// The segment, when it is for a protected port.
    pub segment: Option<Segment>,
    /// Slot of the grant that covers it; zero unless the reason is [`Reason::Granted`].
    pub slot: u32,
}

/// Decides about one packet.
///
/// `now` is asked at most once, and only for protected ports: CLOCK_BOOTTIME in nanoseconds. A
/// grant is live while its deadline is later than `now`, strictly.
#[inline(always)]
pub fn decide<F: Frame, T: Tables>(
    frame: &F,
    link: Link,
    tables: &T,
    now: impl FnOnce() -> u64,
) -> Decision {
    let segment = match protected_segment(frame, link, tables) {
        Ok(segment) => segment,
        Err(reason) => return Decision { reason, segment: None, slot: 0 },
    };
    let (reason, slot) = match live_grant(&segment, tables, now()) {
        Some(grant) => (Reason::Granted, grant.slot),
        None => (ungranted(&segment, tables), 0),
    };
    Decision { reason, segment: Some(segment), slot }
}

/// The segment to a protected port in the frame, or why there is none.
#[inline(always)]
fn protected_segment<F: Frame, T: Tables>(
    frame: &F,
    link: Link,
    tables: &T,
) -> Result<Segment, Reason> {
    let network = match link {
        Link::Ethernet => headers::ethernet(frame)?,
        Link::Ip => headers::bare_ip(frame)?,
    };
    let transport = match network {
        Network::V4(at) => headers::ipv4(frame, at)?,
        Network::V6(at) => headers::ipv6(frame, at)?,
    };
    let ports = headers::ports(frame, &transport)?;
    if !tables.protected(ports.destination) {
        return Err(Reason::Unprotected);
    }
    Ok(Segment {
        source: transport.source,
        destination: transport.destination,
        source_port: ports.source,
        port: ports.destination,
        opens: ports.opens,
    })
}

/// The live grant that covers the segment. A dead host entry does not hide a live prefix.
#[inline(always)]
fn live_grant<T: Tables>(segment: &Segment, tables: &T, now: u64) -> Option<GrantEntry> {
    let Segment { source, port, .. } = segment;
    let live = |grant: &GrantEntry| grant.deadline > now;
    if let Some(grant) = tables.host_grant(&HostKey::new(*source, *port)).filter(live) {
        return Some(grant);
    }
    match source.family {
        Family::V4 => tables.prefix_grant_v4(PrefixV4::new(source.first_four(), *port)),
        Family::V6 => tables.prefix_grant_v6(PrefixV6::new(source.bytes, *port)),
    }
    .filter(live)
}

/// What becomes of a segment that no live grant covers.
#[inline(always)]
fn ungranted<T: Tables>(segment: &Segment, tables: &T) -> Reason {
    if segment.port.protocol == Protocol::Udp || segment.opens {
        return Reason::Denied;
    }
    let PortRule { drain, forwarded, .. } = tables.rule(segment.port);
    if forwarded != 0 {
        return if drain != 0 { Reason::Forwarded } else { Reason::Expired };
    }
    match tables.session(segment) {
        Session::None => Reason::NoSession,
        Session::Established if drain != 0 => Reason::Established,
        Session::Established => Reason::Expired,
    }
}

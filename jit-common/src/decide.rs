//! The decision about one packet: a plain function of the frame, the tables and the time.
//!
//! It decides and never acts: counting, events, and turning a drop into a pass in observe mode are
//! the caller's (a switch around the decision, not a branch in it).

use crate::{
    Address, Family, GrantEntry, HostKey, Link, Place, PortKey, PortRule, PrefixV4, PrefixV6,
    Protocol, Reason, Segment, Session,
    grant_entry::{limited, unlimited},
    headers::{self, Frame, MAX_VLAN_TAGS, Network},
    session::ends_cut,
};

/// The answer of a grant with a limit to a segment that belongs to no established session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A new connection; it is counted now.
    Fresh,
    /// It belongs to a connection that was counted before.
    Known,
    /// It belongs to no counted connection, and the limit is reached.
    Refused,
}

/// The decision's questions to the tables. Every method must give an answer: an entry that cannot
/// be read counts as missing, and a missing rule is the strictest one ([`PortRule::default`]).
pub trait Tables {
    /// Whether the port is protected.
    fn protected(&self, port: PortKey) -> bool;
    /// How the port is treated.
    fn rule(&self, port: PortKey) -> PortRule;
    /// Whether the summary has this place: if not, no entry has it.
    fn summarized(&self, _place: Place) -> bool {
        true
    }
    /// A time that has passed less than [`LATELY`] ago, if one is at hand: to ask for the exact one
    /// takes as long as a look-up.
    fn lately(&self) -> Option<u64>;
    /// The entry for exactly this address.
    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry>;
    /// The entry of the longest matching IPv4 prefix.
    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry>;
    /// The entry of the longest matching IPv6 prefix.
    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry>;
    /// The state of the session with the segment's 4-tuple in this network namespace: with its own,
    /// or if there is none, with the one that this host translates it to. A datagram's session is a
    /// connected UDP socket.
    fn session(&self, segment: &Segment) -> Session;
    /// Whether this host opened the TCP session that [`Tables::session`] has just found.
    fn opened_here(&self, segment: &Segment) -> bool;
    /// Whether this host translates the sources of packets for itself ([`Settings`]).
    ///
    /// [`Settings`]: crate::Settings
    fn translates_sources(&self) -> bool;
    /// Finds the segment among the connections of a grant with a limit whose handshake goes on, and
    /// notes what it adds to the handshake. Only a SYN can be [`Admission::Fresh`]; this call
    /// counts it, because two packets at once must not take the same place.
    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission;
    /// The same for a look-up of a listening socket, which does not say which segment it is for.
    /// Without `fresh` it must be of a connection that was counted; with it, it takes a place for
    /// another one.
    fn admit_lookup(&self, slot: u32, segment: &Segment, fresh: bool) -> Admission;
    /// The segment's handshake has ended. If a grant with a limit counted the connection, it
    /// forgets the handshake: from now on the session alone shows that the connection was let in.
    fn handshake_done(&self, slot: u32, segment: &Segment);
}

/// How long ago the time of [`Tables::lately`] may be at most, nanoseconds.
pub const LATELY: u64 = 1_000_000_000;

/// The outcome for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why the packet passes or is dropped.
    pub reason: Reason,
    /// The segment, when it is for a protected port.
    pub segment: Option<Segment>,
    /// Slot of the grant that covers it; zero unless the reason is [`Reason::Granted`].
    pub slot: u32,
    /// The packet opens a connection that its grant lets in, or is a datagram under a grant. If the
    /// grant has a limit: only when the connection was not counted before.
    pub fresh: bool,
    /// The connection was counted by [`Tables::admit_segment`].
    pub counted: bool,
    /// The time that was asked for, CLOCK_BOOTTIME nanoseconds; zero: it was not asked for.
    pub time: u64,
}

impl Decision {
    const fn early(reason: Reason) -> Self {
        Self { reason, segment: None, slot: 0, fresh: false, counted: false, time: 0 }
    }

    pub(crate) const fn of(reason: Reason, segment: Segment) -> Self {
        Self { reason, segment: Some(segment), slot: 0, fresh: false, counted: false, time: 0 }
    }

    pub(crate) const fn granted(segment: Segment, slot: u32, fresh: bool) -> Self {
        Self { slot, fresh, ..Self::of(Reason::Granted, segment) }
    }

    pub(crate) const fn at(self, time: u64) -> Self {
        Self { time, ..self }
    }

    /// A grant with a limit lets the packet in.
    #[inline(always)]
    pub(crate) const fn admitted(segment: Segment, slot: u32, admission: Admission) -> Self {
        let counted = matches!(admission, Admission::Fresh);
        Self { counted, ..Self::granted(segment, slot, counted) }
    }
}

/// Decides about one packet.
///
/// `now` is CLOCK_BOOTTIME in nanoseconds. It is asked only if a table has an entry for the source: for
/// what would open a connection, and where a deadline is near. A grant is live while its deadline is
/// later than `now`, strictly.
#[inline(always)]
pub fn decide<F: Frame, T: Tables>(
    frame: &F,
    link: Link,
    tables: &T,
    now: impl Fn() -> u64,
) -> Decision {
    match protected_segment(frame, link, tables) {
        Ok(segment) => judge(segment, tables, now),
        Err(reason) => Decision::early(reason),
    }
}

/// The segment to a protected port in the frame, or why there is none.
#[inline(always)]
fn protected_segment<F: Frame, T: Tables>(
    frame: &F,
    link: Link,
    tables: &T,
) -> Result<Segment, Reason> {
    let network = match link {
        Link::Ethernet => headers::ethernet(frame, MAX_VLAN_TAGS)?,
        Link::EthernetUntagged => headers::ethernet(frame, MAX_VLAN_TAGS - 1)?,
        Link::Network(protocol) => headers::bare(frame, protocol)?,
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
        sequence: ports.sequence,
    })
}

/// The entry for exactly this address.
#[inline(always)]
pub(crate) fn host_grant<T: Tables>(
    source: Address,
    port: PortKey,
    tables: &T,
) -> Option<&GrantEntry> {
    if !tables.summarized(Place::of_host(source, port)) {
        return None;
    }
    tables.host_grant(&HostKey::new(source, port))
}

/// The entry of the longest prefix that covers a source.
#[inline(always)]
pub(crate) fn prefix_grant<T: Tables>(
    source: Address,
    port: PortKey,
    tables: &T,
) -> Option<&GrantEntry> {
    if !tables.summarized(Place::of_block(source, port))
        && !tables.summarized(Place::of_port(source.family, port))
    {
        return None;
    }
    match source.family {
        Family::V4 => tables.prefix_grant_v4(PrefixV4::new(source, port)),
        Family::V6 => tables.prefix_grant_v6(PrefixV6::new(source, port)),
    }
}

/// The time to judge an entry by. Where no deadline is near, and nothing would be opened, a time of
/// a moment ago gives the same answer as the exact one.
#[inline(always)]
fn time_for<T: Tables>(
    entry: Option<&GrantEntry>,
    fresh: bool,
    tables: &T,
    clock: &impl Fn() -> u64,
) -> u64 {
    match tables.lately() {
        Some(time) if !fresh && entry.is_none_or(|entry| !entry.ends_within(time, LATELY)) => time,
        _ => clock(),
    }
}

/// Decides about a segment to a protected port. A dead host entry does not hide a live prefix, and
/// an entry that is used up does not hide one that is not.
#[inline(always)]
fn judge<T: Tables>(segment: Segment, tables: &T, clock: impl Fn() -> u64) -> Decision {
    let Segment { source, port, opens, .. } = segment;
    let fresh = opens || port.protocol == Protocol::Udp;
    let host = host_grant(source, port, tables);
    // To ask for the time takes as long as a look-up, and without an entry nothing depends on it.
    let mut now = 0;
    if host.is_some() {
        now = time_for(host, fresh, tables, &clock);
        if let Some(slot) = unlimited(host, now) {
            return Decision::granted(segment, slot, fresh).at(now);
        }
    }
    let prefix = prefix_grant(source, port, tables);
    if prefix.is_some() {
        // The later of the two is right for both.
        if now == 0 || !fresh {
            now = now.max(time_for(prefix, fresh, tables, &clock));
        }
        if let Some(slot) = unlimited(prefix, now) {
            return Decision::granted(segment, slot, fresh).at(now);
        }
    }
    if port.protocol == Protocol::Udp {
        // Datagrams have no connections that a limit could count.
        let PortRule { drain, forwarded, .. } = tables.rule(port);
        let may = drain != 0 && forwarded == 0 && !ends_cut(host, prefix);
        let answer = may && tables.session(&segment) == Session::Established;
        let reason = if answer { Reason::Established } else { Reason::Denied };
        return Decision::of(reason, segment);
    }
    let limited_host = MaybeSlot::new(limited(host, now));
    let limited_prefix = MaybeSlot::new(limited(prefix, now));
    if !opens {
        let PortRule { drain, forwarded, .. } = tables.rule(port);
        let without_grant = if forwarded != 0 {
            Some(Reason::Forwarded)
        } else if tables.session(&segment) == Session::Established {
            Some(Reason::Established)
        } else {
            None
        };
        if let Some(reason) = without_grant {
            if let Some(slot) = limited_host.or(limited_prefix).get() {
                if let Some(slot) = limited_host.get() {
                    tables.handshake_done(slot, &segment);
                }
                if let Some(slot) = limited_prefix.get() {
                    tables.handshake_done(slot, &segment);
                }
                return Decision::granted(segment, slot, false);
            }
            if drain != 0 && !ends_cut(host, prefix) {
                return Decision::of(reason, segment);
            }
            // The peer of a connection that this host opened needs no grant to answer.
            let own = reason == Reason::Established && tables.opened_here(&segment);
            return Decision::of(if own { reason } else { Reason::Expired }, segment);
        }
    }
    // Here the segment opens a connection, by a SYN or as the last step of a handshake. Only a
    // grant with a limit can have a place for it.
    let mut slot = limited_host.get().unwrap_or_default();
    let mut admission = admit(limited_host.get(), &segment, tables);
    if admission == Admission::Refused {
        slot = limited_prefix.get().unwrap_or_default();
        admission = admit(limited_prefix.get(), &segment, tables);
    }
    match admission {
        Admission::Refused if opens => Decision::of(Reason::Denied, segment),
        Admission::Refused => Decision::of(Reason::NoSession, segment),
        admission => Decision::admitted(segment, slot, admission),
    }
}

/// A slot or none, in one number. For an `Option` that is `None`, the compiler may copy the slot,
/// which was never written. The verifiers of Linux before 6.3 refuse that ("invalid read from
/// stack").
#[derive(Clone, Copy)]
struct MaybeSlot(u64);

impl MaybeSlot {
    /// None: a number that no `u32` is.
    const NONE: u64 = u64::MAX;

    #[inline(always)]
    fn new(slot: Option<u32>) -> Self {
        Self(slot.map_or(Self::NONE, u64::from))
    }

    #[inline(always)]
    const fn or(self, other: Self) -> Self {
        if self.0 == Self::NONE { other } else { self }
    }

    #[inline(always)]
    fn get(self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }
}

/// Asks a grant with a limit, if there is one.
#[inline(always)]
fn admit<T: Tables>(slot: Option<u32>, segment: &Segment, tables: &T) -> Admission {
    match slot {
        Some(slot) => tables.admit_segment(slot, segment),
        None => Admission::Refused,
    }
}

#[cfg(test)]
mod tests;

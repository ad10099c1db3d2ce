//! The decision about one packet: a plain function of the frame, the tables and the time.
//!
//! It decides and never acts: counting, events, and turning a drop into a pass in observe mode are
//! the caller's (a switch around the decision, not a branch in it).

use crate::{
    Address, Family, GrantEntry, HostKey, PortKey, PortRule, PrefixV4, PrefixV6, Protocol, Reason,
    headers::{self, Frame, MAX_VLAN_TAGS, Network},
};

/// What a frame starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header, possibly with VLAN tags.
    Ethernet,
    /// The same, of which the kernel has taken the outermost tag off already (`skb_vlan_untag`).
    EthernetUntagged,
    /// The network header itself (tun, WireGuard, ipip), of this protocol (an ethertype, IEEE
    /// 802.3): the device tells, not the frame.
    Network(u16),
}

impl Link {
    /// Whether an IP packet may be behind it: an Ethernet header says so itself.
    #[inline(always)]
    pub const fn is_ip(self) -> bool {
        match self {
            Self::Ethernet | Self::EthernetUntagged => true,
            Self::Network(protocol) => {
                protocol == headers::ETHERTYPE_IPV4 || protocol == headers::ETHERTYPE_IPV6
            }
        }
    }

    /// Of a packet that begins with an IP header whose first byte is this: what the version in it
    /// says (RFC 791 section 3.1, RFC 8200 section 3). For whoever has no device to ask.
    pub const fn of_ip(first: u8) -> Self {
        Self::Network(match first >> 4 {
            4 => headers::ETHERTYPE_IPV4,
            6 => headers::ETHERTYPE_IPV6,
            _ => 0,
        })
    }
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
    /// TCP sequence number, host byte order; zero for UDP.
    pub sequence: u32,
}

/// What a grant with a limit says to what belongs to no established session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// A new connection; it is counted now.
    Fresh,
    /// Of a connection that was counted before.
    Known,
    /// Neither, and the limit is reached.
    Refused,
}

/// What the decision asks of the tables. All methods must be total: what cannot be read is as if
/// it were not there, except that a missing rule is the strictest one ([`PortRule::default`]).
pub trait Tables {
    /// Whether the port is protected.
    fn protected(&self, port: PortKey) -> bool;
    /// How the port is treated.
    fn rule(&self, port: PortKey) -> PortRule;
    /// The entry for exactly this address.
    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry>;
    /// The entry of the longest matching IPv4 prefix.
    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry>;
    /// The entry of the longest matching IPv6 prefix.
    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry>;
    /// The state of the TCP session with the segment's own 4-tuple in this network namespace.
    fn session(&self, segment: &Segment) -> Session;
    /// Finds the segment among the connections of a grant with a limit whose handshake goes on, and
    /// notes what it adds to that. Only a SYN can be [`Ticket::Fresh`], and is counted by being found
    /// so: two packets at once must not take the same place.
    fn ticket(&self, slot: u32, segment: &Segment) -> Ticket;
    /// The same for a look-up of a listening socket, which does not tell what segment it is for: it
    /// is of a connection that was counted, or, `fresh`, takes a place for another one.
    fn look(&self, slot: u32, segment: &Segment, fresh: bool) -> Ticket;
    /// The segment's handshake is over, if its connection was counted by a grant with a limit: only
    /// its session is known from now on.
    fn settle(&self, slot: u32, segment: &Segment);
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
    /// It opens a connection that its grant lets in, or is a datagram, which may; of a grant with a
    /// limit, not one that was counted before.
    pub fresh: bool,
    /// The connection was counted by [`Tables::ticket`].
    pub counted: bool,
}

impl Decision {
    const fn early(reason: Reason) -> Self {
        Self { reason, segment: None, slot: 0, fresh: false, counted: false }
    }

    pub(crate) const fn of(reason: Reason, segment: Segment) -> Self {
        Self { reason, segment: Some(segment), slot: 0, fresh: false, counted: false }
    }

    pub(crate) const fn granted(segment: Segment, slot: u32, fresh: bool) -> Self {
        Self { reason: Reason::Granted, segment: Some(segment), slot, fresh, counted: false }
    }

    /// Let in by a grant with a limit.
    #[inline(always)]
    pub(crate) const fn ticket(segment: Segment, slot: u32, ticket: Ticket) -> Self {
        let counted = matches!(ticket, Ticket::Fresh);
        Self { counted, ..Self::granted(segment, slot, counted) }
    }
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
    match protected_segment(frame, link, tables) {
        Ok(segment) => judge(segment, tables, now()),
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

/// The entry of the longest prefix that covers a source.
#[inline(always)]
pub(crate) fn prefix_grant<T: Tables>(
    source: Address,
    port: PortKey,
    tables: &T,
) -> Option<&GrantEntry> {
    match source.family {
        Family::V4 => tables.prefix_grant_v4(PrefixV4::new(source.first_four(), port)),
        Family::V6 => tables.prefix_grant_v6(PrefixV6::new(source.bytes, port)),
    }
}

/// What becomes of a segment to a protected port. A dead host entry does not hide a live prefix, and
/// one that is used up does not hide one that is not.
#[inline(always)]
fn judge<T: Tables>(segment: Segment, tables: &T, now: u64) -> Decision {
    let Segment { source, port, opens, .. } = segment;
    let fresh = opens || port.protocol == Protocol::Udp;
    let host = tables.host_grant(&HostKey::new(source, port));
    if let Some(slot) = unlimited(host, now) {
        return Decision::granted(segment, slot, fresh);
    }
    let prefix = prefix_grant(source, port, tables);
    if let Some(slot) = unlimited(prefix, now) {
        return Decision::granted(segment, slot, fresh);
    }
    if port.protocol == Protocol::Udp {
        return Decision::of(Reason::Denied, segment);
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
                    tables.settle(slot, &segment);
                }
                if let Some(slot) = limited_prefix.get() {
                    tables.settle(slot, &segment);
                }
                return Decision::granted(segment, slot, false);
            }
            let drain = drain != 0 && !ends_cut(host, prefix);
            return Decision::of(if drain { reason } else { Reason::Expired }, segment);
        }
    }
    // What is left opens a connection, by a SYN or as the last step of a handshake, and only a grant
    // with a limit can have a place for it.
    let mut slot = limited_host.get().unwrap_or_default();
    let mut ticket = ask(limited_host.get(), &segment, tables);
    if ticket == Ticket::Refused {
        slot = limited_prefix.get().unwrap_or_default();
        ticket = ask(limited_prefix.get(), &segment, tables);
    }
    match ticket {
        Ticket::Refused if opens => Decision::of(Reason::Denied, segment),
        Ticket::Refused => Decision::of(Reason::NoSession, segment),
        ticket => Decision::ticket(segment, slot, ticket),
    }
}

/// A slot or none, in one number. Of an `Option` that is `None` the compiler may carry about the slot
/// that nobody wrote, which the verifiers of Linux before 6.3 refuse ("invalid read from stack").
#[derive(Clone, Copy)]
struct MaybeSlot(u64);

impl MaybeSlot {
    /// No `u32`.
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

/// Whether an established session of a source is over: no grant covers it any more, and the port, or
/// the grant that covered the source last, wants sessions cut. It is what [`decide`] says about the
/// session's segments, for whoever has the socket and no segment.
pub fn session_is_over(
    host: Option<&GrantEntry>,
    prefix: Option<&GrantEntry>,
    rule: PortRule,
    now: u64,
) -> bool {
    let live = |entry| unlimited(entry, now).or(limited(entry, now)).is_some();
    let drain = rule.drain != 0 && !ends_cut(host, prefix);
    !live(host) && !live(prefix) && !drain
}

/// What a grant with a limit says, if there is one.
#[inline(always)]
fn ask<T: Tables>(slot: Option<u32>, segment: &Segment, tables: &T) -> Ticket {
    match slot {
        Some(slot) => tables.ticket(slot, segment),
        None => Ticket::Refused,
    }
}

/// Slot of the entry's grant without a limit, if it is live.
#[inline(always)]
pub(crate) fn unlimited(entry: Option<&GrantEntry>, now: u64) -> Option<u32> {
    entry.filter(|entry| entry.unlimited.live(now)).map(|entry| entry.unlimited.slot)
}

/// Slot of the entry's grant with a limit, if it is live.
#[inline(always)]
pub(crate) fn limited(entry: Option<&GrantEntry>, now: u64) -> Option<u32> {
    entry.filter(|entry| entry.limited.live(now)).map(|entry| entry.limited.slot)
}

/// Whether the grant that covered the source last wants its sessions cut: then they are, from its
/// deadline on, for as long as its entry stands.
#[inline(always)]
fn ends_cut(host: Option<&GrantEntry>, prefix: Option<&GrantEntry>) -> bool {
    let (host_end, host_cut) = last(host);
    let (prefix_end, prefix_cut) = last(prefix);
    if prefix_end > host_end { prefix_cut } else { host_cut }
}

/// Deadline of the claim that lasts longest, and whether its sessions are cut.
#[inline(always)]
fn last(entry: Option<&GrantEntry>) -> (u64, bool) {
    let Some(GrantEntry { unlimited, limited }) = entry else {
        return (0, false);
    };
    let last = if limited.deadline > unlimited.deadline { limited } else { unlimited };
    (last.deadline, last.deadline != 0 && last.cut != 0)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::{Cell, RefCell};
    use std::vec::Vec;

    use super::*;
    use crate::Claim;

    const CLIENT: [u8; 4] = [192, 0, 2, 7];
    const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    const NOW: u64 = 1_000;

    struct Bytes(Vec<u8>);

    impl Frame for Bytes {
        fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            self.0.get(offset..)?.first_chunk().copied()
        }
    }

    /// One host grant, one prefix of each family, one session at most; port 22 of both protocols.
    #[derive(Default)]
    struct One {
        rule: PortRule,
        host: Option<GrantEntry>,
        prefix_v4: Option<GrantEntry>,
        prefix_v6: Option<GrantEntry>,
        session: bool,
        /// What is asked about is UDP, not TCP.
        udp: bool,
        /// What grants with a limit say, by slot.
        tickets: Vec<Ticket>,
        /// Slots in which a handshake was over.
        settled: RefCell<Vec<u32>>,
    }

    impl One {
        const fn port(&self) -> PortKey {
            let protocol = if self.udp { Protocol::Udp } else { Protocol::Tcp };
            PortKey { protocol, port: 22 }
        }
    }

    fn until(deadline: u64, slot: u32) -> Option<GrantEntry> {
        Some(GrantEntry::until(deadline, slot))
    }

    impl Tables for One {
        fn protected(&self, port: PortKey) -> bool {
            port.port == 22
        }

        fn rule(&self, _: PortKey) -> PortRule {
            self.rule
        }

        fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
            let clients = [Address::v4(CLIENT), Address::v6(CLIENT_V6)];
            assert!(clients.iter().any(|client| *key == HostKey::new(*client, self.port())));
            self.host.as_ref()
        }

        fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry> {
            assert_eq!(data, PrefixV4::new(CLIENT, self.port()));
            self.prefix_v4.as_ref()
        }

        fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry> {
            assert_eq!(data, PrefixV6::new(CLIENT_V6, self.port()));
            self.prefix_v6.as_ref()
        }

        fn session(&self, segment: &Segment) -> Session {
            assert_eq!((segment.source, segment.source_port), (Address::v4(CLIENT), 0x9c40));
            if self.session { Session::Established } else { Session::None }
        }

        fn ticket(&self, slot: u32, segment: &Segment) -> Ticket {
            assert!(segment.opens || !self.session);
            self.tickets.get(slot as usize).copied().unwrap_or(Ticket::Refused)
        }

        fn look(&self, _: u32, _: &Segment, _: bool) -> Ticket {
            unreachable!("a packet is no look-up")
        }

        fn settle(&self, slot: u32, segment: &Segment) {
            assert!(!segment.opens && (self.session || self.rule.forwarded != 0));
            self.settled.borrow_mut().push(slot);
        }
    }

    /// IPv4 and TCP from the client's port 40,000 to port 22.
    fn segment(flags: u8) -> Vec<u8> {
        let mut packet = std::vec![0x45, 0, 0, 40, 0, 7, 0, 0, 64, 6, 0, 0];
        packet.extend(CLIENT);
        packet.extend([198, 51, 100, 1]);
        packet.extend([0x9c, 0x40, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags]);
        packet.extend([0; 6]);
        packet
    }

    fn of_ip(packet: Vec<u8>, tables: &One) -> Decision {
        decide(&Bytes(packet), V4, tables, || NOW)
    }

    const V4: Link = Link::of_ip(0x45);
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    #[test]
    fn a_grant_is_dead_at_the_deadline_itself() {
        for (deadline, reason) in [
            (0, Reason::Denied),
            (NOW - 1, Reason::Denied),
            (NOW, Reason::Denied),
            (NOW + 1, Reason::Granted),
            (u64::MAX, Reason::Granted),
        ] {
            let host = One { host: until(deadline, 1), ..One::default() };
            assert_eq!(of_ip(segment(SYN), &host).reason, reason, "host {deadline}");
            let prefix = One { prefix_v4: until(deadline, 2), ..One::default() };
            assert_eq!(of_ip(segment(SYN), &prefix).reason, reason, "prefix {deadline}");
        }
    }

    #[test]
    fn a_dead_host_entry_does_not_hide_a_live_prefix() {
        let tables = One { host: until(NOW, 1), prefix_v4: until(NOW + 1, 2), ..One::default() };
        let decision = of_ip(segment(SYN), &tables);
        assert_eq!((decision.reason, decision.slot), (Reason::Granted, 2));
        let tables =
            One { host: until(NOW + 1, 1), prefix_v4: until(NOW + 1, 2), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).slot, 1);
    }

    #[test]
    fn a_prefix_of_the_other_family_covers_nothing() {
        let tables = One { prefix_v6: until(u64::MAX, 3), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Denied);

        let mut packet = std::vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        packet.extend(CLIENT_V6);
        packet.extend([0; 16]);
        packet.extend(&segment(SYN)[20..]);
        let decide =
            |tables: &One| decide(&Bytes(packet.clone()), Link::of_ip(0x60), tables, || NOW);
        let decision = decide(&tables);
        assert_eq!((decision.reason, decision.slot), (Reason::Granted, 3));
        let tables = One { prefix_v4: until(u64::MAX, 2), ..One::default() };
        assert_eq!(decide(&tables).reason, Reason::Denied);
    }

    #[test]
    fn what_opens_nothing_is_judged_by_rule_and_session() {
        let rule = |drain, forwarded| PortRule { drain, forwarded, ..PortRule::default() };
        for (rule, session, reason) in [
            (rule(0, 0), false, Reason::NoSession),
            (rule(0, 0), true, Reason::Expired),
            (rule(1, 0), false, Reason::NoSession),
            (rule(1, 0), true, Reason::Established),
            (rule(0, 1), false, Reason::Expired),
            (rule(0, 1), true, Reason::Expired),
            (rule(1, 1), false, Reason::Forwarded),
            (rule(1, 1), true, Reason::Forwarded),
        ] {
            let tables = One { rule, session, ..One::default() };
            for flags in [ACK, 0, 0x04, SYN | ACK, 0xff] {
                assert_eq!(of_ip(segment(flags), &tables).reason, reason, "{rule:?} {flags:#x}");
            }
            for flags in [SYN, SYN | 0xc0, !ACK] {
                assert_eq!(of_ip(segment(flags), &tables).reason, Reason::Denied, "{flags:#x}");
            }
            let granted = One { host: until(u64::MAX, 1), rule, session, ..One::default() };
            assert_eq!(of_ip(segment(ACK), &granted).reason, Reason::Granted);
        }
    }

    /// Every pair of entries, rule and family: the socket's end and the segment's say the same.
    #[test]
    fn a_session_is_over_exactly_when_its_segments_are_dropped() {
        let claims = || {
            [0, NOW, NOW + 1]
                .into_iter()
                .flat_map(|deadline| [0, 1].map(|cut| Claim { cut, ..Claim::until(deadline, 1) }))
        };
        let entries = || {
            let pairs = claims().flat_map(|unlimited| {
                claims().map(move |limited| Some(GrantEntry { unlimited, limited }))
            });
            core::iter::once(None).chain(pairs)
        };
        let (mut over, mut lives) = (0, 0);
        for (host, prefix) in entries().flat_map(|host| entries().map(move |other| (host, other))) {
            for rule in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let rule = PortRule { drain: rule.0, forwarded: rule.1, ..PortRule::default() };
                let tables = One { host, prefix_v4: prefix, rule, session: true, ..One::default() };
                let dropped = of_ip(segment(ACK), &tables).reason == Reason::Expired;
                let ended = session_is_over(host.as_ref(), prefix.as_ref(), rule, NOW);
                assert_eq!(ended, dropped, "{host:?} {prefix:?} {rule:?}");
                *(if ended { &mut over } else { &mut lives }) += 1;
            }
        }
        assert!(over > 500 && lives > 500, "{over} {lives}");
    }

    #[test]
    fn the_clock_is_read_only_for_protected_ports_and_once() {
        let read = Cell::new(0);
        let clock = || {
            read.set(read.get() + 1);
            NOW
        };
        let mut packet = segment(SYN);
        packet[23] = 80;
        let tables = One::default();
        let decision = decide(&Bytes(packet), V4, &tables, clock);
        assert_eq!((decision.reason, read.get()), (Reason::Unprotected, 0));
        let decision = decide(&Bytes(segment(SYN)), V4, &tables, clock);
        assert_eq!((decision.reason, read.get()), (Reason::Denied, 1));
    }

    #[test]
    fn the_device_tells_the_protocol_where_there_is_no_ethernet_header() {
        let tables = One::default();
        assert_eq!(of_ip(Vec::new(), &tables).reason, Reason::Malformed);
        for version in [0, 1, 5, 6, 7, 15_u8] {
            let mut packet = segment(SYN);
            packet[0] = version << 4 | 5;
            let reason = of_ip(packet, &tables).reason;
            assert!(reason.drops(), "version {version}: {reason:?}");
        }
        // An ARP request is not IP, and no IPv4 packet.
        let mut ethernet = std::vec![0; 12];
        ethernet.extend([0x08, 0x06, 0, 1]);
        let arp = decide(&Bytes(ethernet.clone()), Link::Ethernet, &tables, || NOW);
        assert_eq!(arp.reason, Reason::NotIp);
        assert_eq!(of_ip(ethernet, &tables).reason, Reason::Malformed);
        // MPLS in GRE is none of the gate's business, whatever it looks like.
        let mpls = decide(&Bytes(segment(SYN)), Link::Network(0x8847), &tables, || NOW);
        assert_eq!(mpls.reason, Reason::NotIp);
        for (protocol, is_ip) in [(0x0800, true), (0x86dd, true), (0x8847, false), (0, false)] {
            assert_eq!(Link::Network(protocol).is_ip(), is_ip, "{protocol:#06x}");
        }
        assert!(Link::Ethernet.is_ip() && Link::EthernetUntagged.is_ip());
    }

    #[test]
    fn a_packet_cut_anywhere_in_its_headers_is_dropped_also_with_a_grant() {
        let tables = One { host: until(u64::MAX, 1), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Granted);
        for length in 0..40 {
            let packet = segment(SYN)[..length].to_vec();
            assert_eq!(of_ip(packet, &tables).reason, Reason::Malformed, "{length} bytes");
        }
    }

    /// An entry with both kinds of grants: deadlines, slots as in [`One`] and 3 more.
    fn both(unlimited: u64, limited: u64, slot: u32) -> Option<GrantEntry> {
        Some(GrantEntry {
            unlimited: Claim::until(unlimited, slot),
            limited: Claim::until(limited, slot + 3),
        })
    }

    const LATER: u64 = NOW + 1;

    fn tickets(host: Ticket, prefix: Ticket) -> Vec<Ticket> {
        let mut tickets = std::vec![Ticket::Refused; 4];
        tickets.extend([host, prefix]);
        tickets
    }

    #[test]
    fn a_syn_under_a_grant_with_a_limit_needs_a_place() {
        for (host, prefix, reason, slot, fresh) in [
            (Ticket::Fresh, Ticket::Fresh, Reason::Granted, 4, true),
            (Ticket::Known, Ticket::Fresh, Reason::Granted, 4, false),
            (Ticket::Refused, Ticket::Fresh, Reason::Granted, 5, true),
            (Ticket::Refused, Ticket::Known, Reason::Granted, 5, false),
            (Ticket::Refused, Ticket::Refused, Reason::Denied, 0, false),
        ] {
            let tables = One {
                host: both(0, LATER, 1),
                prefix_v4: both(NOW, LATER, 2),
                tickets: tickets(host, prefix),
                ..One::default()
            };
            let decision = of_ip(segment(SYN), &tables);
            let got = (decision.reason, decision.slot, decision.fresh, decision.counted);
            assert_eq!(got, (reason, slot, fresh, fresh), "{host:?} {prefix:?}");
        }
    }

    #[test]
    fn a_grant_with_a_limit_is_dead_at_its_deadline_too() {
        let tickets = tickets(Ticket::Fresh, Ticket::Fresh);
        let tables = One { host: both(NOW, NOW, 1), tickets, ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Denied);
        let session = One { session: true, ..tables };
        assert_eq!(of_ip(segment(ACK), &session).reason, Reason::Expired);
    }

    #[test]
    fn a_live_grant_without_a_limit_is_asked_first_and_counts_nothing() {
        let tickets = tickets(Ticket::Fresh, Ticket::Fresh);
        let host = One { host: both(LATER, LATER, 1), tickets, ..One::default() };
        let decision = of_ip(segment(SYN), &host);
        assert_eq!((decision.slot, decision.fresh, decision.counted), (1, true, false));
        let prefix = One { host: both(0, LATER, 1), prefix_v4: until(LATER, 2), ..host };
        let decision = of_ip(segment(SYN), &prefix);
        assert_eq!((decision.slot, decision.fresh, decision.counted), (2, true, false));
        assert!(!of_ip(segment(ACK), &prefix).fresh);
    }

    #[test]
    fn the_last_step_of_a_handshake_passes_only_for_a_connection_that_was_counted() {
        for (ticket, reason) in
            [(Ticket::Known, Reason::Granted), (Ticket::Refused, Reason::NoSession)]
        {
            let tickets = tickets(ticket, Ticket::Refused);
            let tables = One { host: both(0, LATER, 1), tickets, ..One::default() };
            let decision = of_ip(segment(ACK), &tables);
            assert_eq!((decision.reason, decision.fresh), (reason, false));
        }
    }

    #[test]
    fn a_session_lives_while_any_grant_covers_its_source_used_up_or_not() {
        let rule = |forwarded| PortRule { forwarded, ..PortRule::default() };
        for (rule, session) in [(rule(0), true), (rule(1), false)] {
            let host = One { rule, session, host: both(0, LATER, 1), ..One::default() };
            assert_eq!(of_ip(segment(ACK), &host).reason, Reason::Granted);
            let prefix = One { host: both(0, 0, 1), prefix_v4: both(0, LATER, 2), ..host };
            let decision = of_ip(segment(ACK), &prefix);
            assert_eq!((decision.reason, decision.slot), (Reason::Granted, 5));
            assert_eq!(*prefix.settled.borrow(), [4, 5]);
            let both = One { host: both(0, LATER, 1), settled: RefCell::default(), ..prefix };
            assert_eq!(of_ip(segment(ACK), &both).slot, 4);
            assert_eq!(*both.settled.borrow(), [4, 5], "whichever counted it");
        }
    }

    #[test]
    fn datagrams_are_let_in_by_grants_without_a_limit_alone() {
        let mut datagram = segment(SYN);
        datagram[9] = 17;
        // There would be a place, but nobody asks.
        let tickets = std::vec![Ticket::Fresh; 8];
        let limited = One { host: both(NOW, LATER, 1), tickets, udp: true, ..One::default() };
        assert_eq!(of_ip(datagram.clone(), &limited).reason, Reason::Denied);
        let unlimited = One { host: both(LATER, 0, 1), udp: true, ..One::default() };
        let decision = of_ip(datagram, &unlimited);
        assert_eq!((decision.reason, decision.fresh), (Reason::Granted, true));
    }

    #[test]
    fn the_grant_that_ended_last_says_whether_sessions_are_cut_on_a_port_that_drains() {
        let claim = |deadline, cut| Claim { cut, ..Claim::until(deadline, 1) };
        let entry = |unlimited, limited| Some(GrantEntry { unlimited, limited });
        let none = claim(0, 1);
        let drain = PortRule { drain: 1, ..PortRule::default() };
        for (host, prefix, reason) in [
            (None, None, Reason::Established),
            (entry(none, none), entry(none, none), Reason::Established),
            (entry(claim(5, 1), none), None, Reason::Expired),
            (entry(none, claim(5, 1)), None, Reason::Expired),
            (entry(claim(5, 1), claim(6, 0)), None, Reason::Established),
            (entry(claim(5, 0), claim(6, 1)), None, Reason::Expired),
            (None, entry(claim(NOW, 1), none), Reason::Expired),
            (entry(claim(5, 1), none), entry(claim(6, 0), none), Reason::Established),
            (entry(claim(5, 0), none), entry(claim(6, 1), none), Reason::Expired),
        ] {
            let tables =
                One { rule: drain, host, prefix_v4: prefix, session: true, ..One::default() };
            assert_eq!(of_ip(segment(ACK), &tables).reason, reason, "{host:?} {prefix:?}");
            let forwarded = PortRule { forwarded: 1, ..drain };
            let tables = One { rule: forwarded, session: false, ..tables };
            let expected =
                if reason == Reason::Established { Reason::Forwarded } else { Reason::Expired };
            assert_eq!(of_ip(segment(ACK), &tables).reason, expected, "{host:?} {prefix:?}");
        }
    }

    #[test]
    fn a_tag_that_the_kernel_took_off_counts_as_one() {
        let tables = One::default();
        for (tags, link, reason) in [
            (4, Link::Ethernet, Reason::Denied),
            (5, Link::Ethernet, Reason::VlanDepth),
            (3, Link::EthernetUntagged, Reason::Denied),
            (4, Link::EthernetUntagged, Reason::VlanDepth),
        ] {
            let mut frame = std::vec![0; 12];
            for _ in 0..tags {
                frame.extend([0x81, 0, 0, 5]);
            }
            frame.extend([0x08, 0]);
            frame.extend(segment(SYN));
            let decision = decide(&Bytes(frame), link, &tables, || NOW);
            assert_eq!(decision.reason, reason, "{tags} {link:?}");
        }
    }
}

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

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::Cell;
    use std::vec::Vec;

    use super::*;

    const CLIENT: [u8; 4] = [192, 0, 2, 7];
    const PORT: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
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
        host: Option<u64>,
        prefix_v4: Option<u64>,
        prefix_v6: Option<u64>,
        session: bool,
    }

    fn entry(deadline: Option<u64>, slot: u32) -> Option<GrantEntry> {
        deadline.map(|deadline| GrantEntry { deadline, slot, reserved: 0 })
    }

    impl Tables for One {
        fn protected(&self, port: PortKey) -> bool {
            port.port == 22
        }

        fn rule(&self, _: PortKey) -> PortRule {
            self.rule
        }

        fn host_grant(&self, key: &HostKey) -> Option<GrantEntry> {
            assert_eq!((key.port, key.protocol), ([0, 22], 6));
            entry(self.host, 1)
        }

        fn prefix_grant_v4(&self, data: PrefixV4) -> Option<GrantEntry> {
            assert_eq!(data, PrefixV4::new(CLIENT, PORT));
            entry(self.prefix_v4, 2)
        }

        fn prefix_grant_v6(&self, _: PrefixV6) -> Option<GrantEntry> {
            entry(self.prefix_v6, 3)
        }

        fn session(&self, segment: &Segment) -> Session {
            assert_eq!((segment.source, segment.source_port), (Address::v4(CLIENT), 0x9c40));
            if self.session { Session::Established } else { Session::None }
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
        decide(&Bytes(packet), Link::Ip, tables, || NOW)
    }

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
            let host = One { host: Some(deadline), ..One::default() };
            assert_eq!(of_ip(segment(SYN), &host).reason, reason, "host {deadline}");
            let prefix = One { prefix_v4: Some(deadline), ..One::default() };
            assert_eq!(of_ip(segment(SYN), &prefix).reason, reason, "prefix {deadline}");
        }
    }

    #[test]
    fn a_dead_host_entry_does_not_hide_a_live_prefix() {
        let tables = One { host: Some(NOW), prefix_v4: Some(NOW + 1), ..One::default() };
        let decision = of_ip(segment(SYN), &tables);
        assert_eq!((decision.reason, decision.slot), (Reason::Granted, 2));
        let tables = One { host: Some(NOW + 1), prefix_v4: Some(NOW + 1), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).slot, 1);
    }

    #[test]
    fn a_prefix_of_the_other_family_covers_nothing() {
        let tables = One { prefix_v6: Some(u64::MAX), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Denied);
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
            let granted = One { host: Some(u64::MAX), rule, session, ..One::default() };
            assert_eq!(of_ip(segment(ACK), &granted).reason, Reason::Granted);
        }
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
        let decision = decide(&Bytes(packet), Link::Ip, &tables, clock);
        assert_eq!((decision.reason, read.get()), (Reason::Unprotected, 0));
        let decision = decide(&Bytes(segment(SYN)), Link::Ip, &tables, clock);
        assert_eq!((decision.reason, read.get()), (Reason::Denied, 1));
    }

    #[test]
    fn the_version_decides_where_there_is_no_ethernet_header() {
        let tables = One::default();
        assert_eq!(of_ip(Vec::new(), &tables).reason, Reason::Malformed);
        for version in [0, 1, 5, 6, 7, 15_u8] {
            let mut packet = segment(SYN);
            packet[0] = version << 4 | 5;
            let reason = of_ip(packet, &tables).reason;
            assert!(reason.drops(), "version {version}: {reason:?}");
        }
        // An ARP request is not IP, and behind an IP device it is nothing.
        let mut ethernet = std::vec![0; 12];
        ethernet.extend([0x08, 0x06, 0, 1]);
        let arp = decide(&Bytes(ethernet.clone()), Link::Ethernet, &tables, || NOW);
        assert_eq!(arp.reason, Reason::NotIp);
        assert_eq!(of_ip(ethernet, &tables).reason, Reason::Malformed);
    }

    #[test]
    fn a_packet_cut_anywhere_in_its_headers_is_dropped_also_with_a_grant() {
        let tables = One { host: Some(u64::MAX), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Granted);
        for length in 0..40 {
            let packet = segment(SYN)[..length].to_vec();
            assert_eq!(of_ip(packet, &tables).reason, Reason::Malformed, "{length} bytes");
        }
    }
}

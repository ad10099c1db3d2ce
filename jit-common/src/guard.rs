//! The decision about one look-up of a listening socket: the second gate, which parses no packets.
//!
//! It runs after the kernel has undone VLAN tags, fragments, tunnels and redirects, and for packets
//! of every interface. So it also closes to packets that the packet gate missed or never saw. It
//! does not see established sessions or forwarded packets; the packet gate does.

use crate::{
    Address, Admission, Decision, Family, PortKey, Protocol, Reason, Segment, Tables,
    decide::{host_grant, prefix_grant},
    grant_entry::{limited, unlimited},
};

/// A look-up of a listening socket, as the socket guard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Source address of the packet.
    pub source: Address,
    /// Destination address, after all redirects.
    pub destination: Address,
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, after all redirects.
    pub port: PortKey,
    /// It came in by the loopback interface: the host speaks to itself. `None`: the kernel does not
    /// say (before 5.17). For a packet from one of the host's own IPv4 addresses the kernel names
    /// the interface that has the address, so the addresses have to be compared as well.
    pub loopback: Option<bool>,
}

/// Decides about a look-up of a listening socket; `None`: the guard has nothing to say about it.
///
/// A grant with a limit has a place for a connection that the packet gate counted. It also has one
/// for a connection that came past the packet gate (by a tunnel or a redirect), while places are
/// left. A look-up has no flags and no sequence number, so a few look-ups of each counted
/// connection pass: [`Handshake::with_lookup`].
///
/// [`Handshake::with_lookup`]: crate::Handshake::with_lookup
#[inline(always)]
pub fn guard<T: Tables>(
    lookup: &Lookup,
    tables: &T,
    now: impl FnOnce() -> u64,
) -> Option<Decision> {
    let Lookup { source, destination, source_port, port, .. } = *lookup;
    let tcp = matches!(port.protocol, Protocol::Tcp);
    if is_own(lookup, tables) || !tables.protected(port) {
        return None;
    }
    let segment = Segment { source, destination, source_port, port, opens: tcp, sequence: 0 };
    if tcp && source.is_bad_tcp_source() {
        return Some(Decision::of(Reason::BadSource, segment));
    }
    let now = now();
    let host = host_grant(source, port, tables);
    let prefix = prefix_grant(source, port, tables);
    if let Some(slot) = unlimited(host, now).or(unlimited(prefix, now)) {
        // It is new, unless the packet gate counted it a moment ago.
        return Some(Decision::granted(segment, slot, true).at(now));
    }
    if !tcp {
        return Some(Decision::of(Reason::Denied, segment));
    }
    let (host, prefix) = (limited(host, now), limited(prefix, now));
    for fresh in [false, true] {
        for slot in [host, prefix].into_iter().flatten() {
            match tables.admit_lookup(slot, &segment, fresh) {
                Admission::Refused => {}
                admission => return Some(Decision::admitted(segment, slot, admission)),
            }
        }
    }
    Some(Decision::of(Reason::Denied, segment))
}

/// Whether the host speaks to itself. The way in shows it: by loopback. Where the kernel does not
/// name that way, the addresses show it, but only if they are those on the wire: a host that
/// translates sources on their way to its own sockets gives a stranger an own address.
#[inline(always)]
fn is_own<T: Tables>(lookup: &Lookup, tables: &T) -> bool {
    let Lookup { source, destination, port, loopback, .. } = lookup;
    if *loopback == Some(true) {
        return true;
    }
    // A sender that claims to be the host itself gets no answer, and over IPv4 the kernel drops its
    // packets; only an IPv6 datagram would come in.
    let answered = port.protocol == Protocol::Tcp || matches!(source.family, Family::V4);
    let itself = source.words == destination.words && answered;
    if !itself && !source.is_loopback() {
        return false;
    }
    // On an old kernel the host must still reach its services by 127.0.0.1 and ::1.
    let by_loopback = source.is_loopback() && destination.is_loopback();
    !tables.translates_sources() || loopback.is_none() && by_loopback
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Claim, GrantEntry, HostKey, PortRule, PrefixV4, PrefixV6, Session};

    const CLIENT: Address = Address::v4([192, 0, 2, 7]);
    const SERVER: Address = Address::v4([198, 51, 100, 1]);
    const NOW: u64 = 1_000;

    struct One {
        host: Option<GrantEntry>,
        prefix: Option<GrantEntry>,
        /// What grants with a limit say: slot, asked for a new place or not.
        admissions: [((u32, bool), Admission); 1],
        /// The host translates sources.
        translates: bool,
    }

    impl Tables for One {
        fn protected(&self, port: PortKey) -> bool {
            port.port == 22
        }
        fn rule(&self, _: PortKey) -> PortRule {
            PortRule::default()
        }
        fn lately(&self) -> Option<u64> {
            None
        }

        fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
            self.host.as_ref().filter(|_| key.address == CLIENT.words)
        }
        fn prefix_grant_v4(&self, _: PrefixV4) -> Option<&GrantEntry> {
            self.prefix.as_ref()
        }
        fn prefix_grant_v6(&self, _: PrefixV6) -> Option<&GrantEntry> {
            None
        }
        fn session(&self, _: &Segment) -> Session {
            unreachable!("the guard asks for no session")
        }
        fn opened_here(&self, _: &Segment) -> bool {
            unreachable!("the guard asks for no session")
        }
        fn translates_sources(&self) -> bool {
            self.translates
        }
        fn admit_segment(&self, _: u32, _: &Segment) -> Admission {
            unreachable!("the guard sees no segments")
        }
        fn admit_lookup(&self, slot: u32, _: &Segment, fresh: bool) -> Admission {
            let [(asked, admission)] = self.admissions;
            if asked == (slot, fresh) { admission } else { Admission::Refused }
        }
        fn handshake_done(&self, _: u32, _: &Segment) {
            unreachable!("the guard sees no sessions")
        }
    }

    const CLOSED: One = One {
        host: None,
        prefix: None,
        admissions: [((0, false), Admission::Refused)],
        translates: false,
    };

    fn lookup(port: u16) -> Lookup {
        let port = PortKey { protocol: Protocol::Tcp, port };
        let loopback = Some(false);
        Lookup { source: CLIENT, destination: SERVER, source_port: 40_000, port, loopback }
    }

    fn judge(lookup: &Lookup, tables: &One) -> Option<Reason> {
        guard(lookup, tables, || NOW).map(|decision| decision.reason)
    }

    #[test]
    fn a_live_grant_in_either_table_lets_in() {
        let (live, dead) = (GrantEntry::until(NOW + 1, 1), GrantEntry::until(NOW, 1));
        for (host, prefix, reason) in [
            (None, None, Reason::Denied),
            (Some(dead), Some(dead), Reason::Denied),
            (Some(live), None, Reason::Granted),
            (Some(dead), Some(live), Reason::Granted),
        ] {
            let tables = One { host, prefix, ..CLOSED };
            assert_eq!(judge(&lookup(22), &tables), Some(reason), "{host:?} {prefix:?}");
        }
    }

    #[test]
    fn a_grant_with_a_limit_lets_in_what_was_counted_or_finds_a_place() {
        let entry = |slot| {
            let limited = Claim::until(NOW + 1, slot);
            Some(GrantEntry { limited, ..GrantEntry::default() })
        };
        for (asked, admission, reason, counted) in [
            ((4, false), Admission::Known, Reason::Granted, false),
            ((5, false), Admission::Known, Reason::Granted, false),
            ((4, true), Admission::Fresh, Reason::Granted, true),
            ((5, true), Admission::Fresh, Reason::Granted, true),
            ((5, true), Admission::Refused, Reason::Denied, false),
            ((6, true), Admission::Fresh, Reason::Denied, false),
        ] {
            let admissions = [(asked, admission)];
            let tables = One { host: entry(4), prefix: entry(5), admissions, ..CLOSED };
            let decision = guard(&lookup(22), &tables, || NOW).unwrap();
            assert_eq!((decision.reason, decision.counted), (reason, counted), "{asked:?}");
            assert!(decision.segment.is_some());
            let ended = guard(&lookup(22), &tables, || NOW + 1).unwrap();
            assert_eq!(ended.reason, Reason::Denied, "{asked:?}");
        }
    }

    #[test]
    fn a_datagram_needs_a_grant_without_a_limit() {
        let port = PortKey { protocol: Protocol::Udp, port: 22 };
        let limited = GrantEntry { limited: Claim::until(NOW + 1, 4), ..GrantEntry::default() };
        let admissions = [((4, true), Admission::Fresh)];
        let tables = One { host: Some(limited), admissions, ..CLOSED };
        assert_eq!(judge(&Lookup { port, ..lookup(22) }, &tables), Some(Reason::Denied));
    }

    #[test]
    fn other_ports_and_the_host_itself_are_left_alone() {
        assert_eq!(judge(&lookup(80), &CLOSED), None);
        let own = Lookup { loopback: Some(true), ..lookup(22) };
        assert_eq!(judge(&own, &CLOSED), None);
    }

    #[test]
    fn addresses_tell_the_host_itself() {
        for loopback in [None, Some(false)] {
            let of = |source, destination| Lookup { source, destination, loopback, ..lookup(22) };
            let local = Address::v4([127, 0, 0, 9]);
            let local_v6 = Address::v6(1_u128.to_be_bytes());
            let global_v6 = Address::v6([0x20; 16]);
            for (source, destination) in
                [(SERVER, SERVER), (local, SERVER), (local_v6, local_v6), (global_v6, global_v6)]
            {
                assert_eq!(judge(&of(source, destination), &CLOSED), None, "{source:?}");
            }
            assert_eq!(judge(&of(CLIENT, SERVER), &CLOSED), Some(Reason::Denied));
            let port = PortKey { protocol: Protocol::Udp, port: 22 };
            let datagram = |source| Lookup { port, ..of(source, source) };
            assert_eq!(judge(&datagram(SERVER), &CLOSED), None);
            assert_eq!(judge(&datagram(local_v6), &CLOSED), None);
            assert_eq!(judge(&datagram(global_v6), &CLOSED), Some(Reason::Denied));
        }
    }

    #[test]
    fn where_sources_are_translated_only_the_way_in_shows_the_host_itself() {
        let translating = One { translates: true, ..CLOSED };
        let local = Address::v4([127, 0, 0, 9]);
        let (global_v6, local_v6) = (Address::v6([0x20; 16]), Address::v6(1_u128.to_be_bytes()));
        for (source, destination) in [
            (SERVER, SERVER),
            (local, SERVER),
            (local, local),
            (local_v6, local_v6),
            (local_v6, global_v6),
            (global_v6, global_v6),
        ] {
            for loopback in [None, Some(false), Some(true)] {
                let lookup = Lookup { source, destination, loopback, ..lookup(22) };
                let by_loopback = source.is_loopback() && destination.is_loopback();
                let own = loopback.unwrap_or(by_loopback);
                let expected = (!own).then_some(Reason::Denied);
                assert_eq!(judge(&lookup, &translating), expected, "{lookup:?}");
            }
        }
    }

    #[test]
    fn a_mapped_source_on_the_wire_is_refused_for_tcp() {
        let mut bytes = [0; 16];
        bytes[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        let mapped = Lookup { source: Address::v6(bytes), ..lookup(22) };
        assert_eq!(judge(&mapped, &CLOSED), Some(Reason::BadSource));
        let port = PortKey { protocol: Protocol::Udp, port: 22 };
        assert_eq!(judge(&Lookup { port, ..mapped }, &CLOSED), Some(Reason::Denied));
    }
}

//! The decision about one look-up of a listening socket: the second gate, which parses no packets.
//!
//! It runs behind VLAN tags, fragments, tunnels and redirects, whatever interface the packet came in
//! on, and so closes what the packet gate may have missed or never saw. It sees neither established
//! sessions nor what is forwarded; the packet gate does.

use crate::{
    Address, GrantEntry, HostKey, PortKey, Protocol, Reason,
    decide::{Tables, prefix_grant},
};

/// A look-up of a listening socket, as the socket guard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Who sent the packet.
    pub source: Address,
    /// Whom it is for, behind all redirects.
    pub destination: Address,
    /// The port behind all redirects.
    pub port: PortKey,
    /// It came in by the loopback interface: the host speaks to itself. `None`: the kernel does not
    /// tell (before 5.17); then the addresses do.
    pub loopback: Option<bool>,
}

/// Decides about a look-up of a listening socket; `None`: nothing that the guard looks at.
///
/// A grant with a limit is live here until its deadline: its connections are counted where the
/// packets are seen.
#[inline(always)]
pub fn guard<T: Tables>(lookup: &Lookup, tables: &T, now: impl FnOnce() -> u64) -> Option<Reason> {
    let Lookup { source, destination, port, loopback } = lookup;
    let own = match loopback {
        Some(loopback) => *loopback,
        None => source.bytes == destination.bytes || source.is_loopback(),
    };
    if own || !tables.protected(*port) {
        return None;
    }
    if port.protocol == Protocol::Tcp && source.is_bad_tcp_source() {
        return Some(Reason::BadSource);
    }
    let now = now();
    let live = |entry: &GrantEntry| entry.unlimited.live(now) || entry.limited.live(now);
    let granted = tables.host_grant(&HostKey::new(*source, *port)).is_some_and(live)
        || prefix_grant(*source, *port, tables).is_some_and(live);
    Some(if granted { Reason::Granted } else { Reason::Denied })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Claim, PortRule, PrefixV4, PrefixV6, Segment, Session, Ticket};

    const CLIENT: Address = Address::v4([192, 0, 2, 7]);
    const SERVER: Address = Address::v4([198, 51, 100, 1]);
    const NOW: u64 = 1_000;

    struct One {
        host: Option<GrantEntry>,
        prefix: Option<GrantEntry>,
    }

    impl Tables for One {
        fn protected(&self, port: PortKey) -> bool {
            port.port == 22
        }
        fn rule(&self, _: PortKey) -> PortRule {
            PortRule::default()
        }
        fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
            self.host.as_ref().filter(|_| key.address == CLIENT.bytes)
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
        fn ticket(&self, _: u32, _: &Segment) -> Ticket {
            unreachable!("the guard counts no connection")
        }
    }

    const CLOSED: One = One { host: None, prefix: None };

    fn lookup(port: u16) -> Lookup {
        let port = PortKey { protocol: Protocol::Tcp, port };
        Lookup { source: CLIENT, destination: SERVER, port, loopback: Some(false) }
    }

    fn judge(lookup: &Lookup, tables: &One) -> Option<Reason> {
        guard(lookup, tables, || NOW)
    }

    #[test]
    fn a_live_grant_of_either_kind_in_either_table_lets_in() {
        let live = GrantEntry::until(NOW + 1, 1);
        let limited = GrantEntry { unlimited: Claim::until(NOW, 1), limited: live.unlimited };
        let dead = GrantEntry::until(NOW, 1);
        for (host, prefix, reason) in [
            (None, None, Reason::Denied),
            (Some(dead), Some(dead), Reason::Denied),
            (Some(live), None, Reason::Granted),
            (Some(limited), None, Reason::Granted),
            (Some(dead), Some(live), Reason::Granted),
            (None, Some(limited), Reason::Granted),
        ] {
            let tables = One { host, prefix };
            assert_eq!(judge(&lookup(22), &tables), Some(reason), "{host:?} {prefix:?}");
        }
    }

    #[test]
    fn other_ports_and_the_host_itself_are_left_alone() {
        assert_eq!(judge(&lookup(80), &CLOSED), None);
        let own = Lookup { loopback: Some(true), ..lookup(22) };
        assert_eq!(judge(&own, &CLOSED), None);
    }

    #[test]
    fn without_the_interface_only_addresses_tell_the_host_itself() {
        let of = |source, destination| Lookup { source, destination, loopback: None, ..lookup(22) };
        let local = Address::v4([127, 0, 0, 9]);
        let local_v6 = Address::v6(1_u128.to_be_bytes());
        for own in [of(SERVER, SERVER), of(local, SERVER), of(local_v6, local_v6)] {
            assert_eq!(judge(&own, &CLOSED), None, "{own:?}");
        }
        assert_eq!(judge(&of(CLIENT, SERVER), &CLOSED), Some(Reason::Denied));
        // Where the kernel tells the interface, addresses prove nothing.
        let claimed = Lookup { source: local, ..lookup(22) };
        assert_eq!(judge(&claimed, &CLOSED), Some(Reason::Denied));
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

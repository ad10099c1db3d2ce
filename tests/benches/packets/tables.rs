//! Tables of a given size: grants of single hosts and of prefixes, half of them IPv4.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{Address, GrantEntry, HostKey, PortKey, PortRule, Protocol};
use jit_tests::kernel::CAPACITY;

use crate::rows::{GRANTED_V4, GRANTED_V6, Grant, IN_PREFIX_V4, IN_PREFIX_V6, PORT};

/// Number of grants in the tables.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) hosts: u32,
    pub(crate) prefixes: u32,
}

/// The sizes that are measured.
pub(crate) const SIZES: &[Size] = &[
    Size { hosts: 0, prefixes: 0 },
    Size { hosts: 0, prefixes: 10_000 },
    Size { hosts: 1_000, prefixes: 10_000 },
    Size { hosts: 100_000, prefixes: 0 },
    Size { hosts: 100_000, prefixes: 10_000 },
    Size { hosts: 1_000_000, prefixes: 0 },
    Size { hosts: 1_000_000, prefixes: 10_000 },
];
/// The sizes of the short form.
pub(crate) const FEW: &[Size] =
    &[Size { hosts: 0, prefixes: 0 }, Size { hosts: 1_000, prefixes: 100 }];

const TCP: PortKey = PortKey { protocol: Protocol::Tcp, port: PORT };
const UDP: PortKey = PortKey { protocol: Protocol::Udp, port: PORT };
/// Addresses from one prefix with a grant to the next one: a /26 and a /64.
const STEP_V4: u32 = 2 << 6;
const STEP_V6: u128 = 2 << 64;

impl Size {
    /// Whether there is a grant of this kind.
    pub(crate) const fn has(self, grant: Grant) -> bool {
        match grant {
            Grant::None => true,
            Grant::Host => self.hosts > 0,
            Grant::Prefix => self.prefixes > 0,
        }
    }

    /// Room for the grants of each kind.
    pub(crate) fn capacity(self) -> u32 {
        // Some more, for the grants of UDP.
        (self.hosts + 2).max(self.prefixes).max(CAPACITY)
    }

    /// The tables: the port is protected in both protocols, and sessions outlive their grant.
    pub(crate) fn tables(self) -> MemoryTables {
        let mut tables = MemoryTables::default();
        let entry = GrantEntry::until(u64::MAX, 1);
        // The agent counts its first ports by index.
        for (port, counters) in [(TCP, 1), (UDP, 2)] {
            let rule = PortRule { drain: 1, counters, ..PortRule::default() };
            tables.ports.insert(port, rule);
            for source in self.hosts().take(if port == UDP { 2 } else { usize::MAX }) {
                tables.hosts.insert(HostKey::new(source, port), entry);
            }
        }
        for (address, length) in self.prefixes() {
            tables.prefixes.insert((TCP, address, length), entry);
        }
        tables
    }

    /// The sources with a grant of their own, of each family in turns.
    fn hosts(self) -> impl Iterator<Item = Address> {
        let (v4, v6) = (u32::from(GRANTED_V4), u128::from(GRANTED_V6));
        (0..self.hosts / 2).flat_map(move |number| {
            let v6 = Ipv6Addr::from(v6 + u128::from(number));
            [address_v4(v4 + number), Address::v6(v6.octets())]
        })
    }

    fn prefixes(self) -> impl Iterator<Item = (Address, u8)> {
        let (v4, v6) = (u32::from(IN_PREFIX_V4), u128::from(IN_PREFIX_V6));
        (0..self.prefixes / 2).flat_map(move |number| {
            let v6 = Ipv6Addr::from(v6 + u128::from(number) * STEP_V6);
            [(address_v4(v4 + number * STEP_V4), 26), (Address::v6(v6.octets()), 64)]
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hosts, {} prefixes", thousands(self.hosts), thousands(self.prefixes))
    }
}

fn address_v4(address: u32) -> Address {
    Address::v4(Ipv4Addr::from(address).octets())
}

/// The number with a comma before each three digits.
fn thousands(number: u32) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1_000), number % 1_000),
    }
}

//! Random, overlapping sets of grants in the kernel's tables: the kernel lets in exactly the
//! sources that some live grant covers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jit_agent::{
    kernel::datapath::{Datapath as _, memory::MemoryDatapath},
    rules::{
        claims::{Capacity, Claims, Kind, PlaceClaim},
        clock::BootNanos,
        reconcile::{Access, EntryKey, Write},
    },
};
use jit_common::{PortKey, PortRule, Protocol, Reason};
use jit_proto::SourcePrefix;
use jit_tests::{
    frames::{Ipv4, Ipv6, Tcp, Udp, flag},
    kernel::{Kernel, boot_nanos, programs},
    random::Random,
};

use crate::fixture::{HOUR, address, v4, v6};

/// Number of sets of grants, and of packets for each.
const SETS: usize = 100;
const PACKETS: usize = 60;
const PORTS: std::ops::Range<u16> = 20..28;
const BASES: [&str; 7] = [
    "10.1.2.3",
    "10.1.2.130",
    "10.1.200.1",
    "10.200.0.1",
    "2001:db8:1::7",
    "2001:db8:1::8000:0:0:7",
    "2001:db8:2::7",
];

/// A grant as the specification sees it.
#[derive(Debug)]
struct Granted {
    source: SourcePrefix,
    protocol: Protocol,
    ports: std::ops::RangeInclusive<u16>,
    deadline: u64,
}

impl Granted {
    fn random(random: &mut Random, now: u64) -> Self {
        let base: IpAddr = random.pick(&BASES).parse().unwrap();
        let length = match base {
            IpAddr::V4(_) => *random.pick(&[8, 16, 24, 25, 30, 32, 32]),
            IpAddr::V6(_) => *random.pick(&[32, 48, 64, 66, 127, 128, 128]),
        };
        let most = if base.is_ipv4() { 32 } else { 128 };
        let host = SourcePrefix::new(address(base), most).unwrap();
        let source = host.widened(length);
        let first = PORTS.start + random.short() % 8;
        let last = (first + random.short() % 4).min(PORTS.end - 1);
        // Ended or live, and none that ends while the test runs.
        let deadline = *random.pick(&[now - 1, now / 2, now + HOUR, now + 2 * HOUR, u64::MAX, 0]);
        Self { source, protocol: protocol(random), ports: first..=last, deadline }
    }

    fn covers(&self, from: IpAddr, port: PortKey, now: u64) -> bool {
        let most = if from.is_ipv4() { 32 } else { 128 };
        let host = SourcePrefix::new(address(from), most).unwrap();
        self.deadline > now
            && self.protocol == port.protocol
            && self.ports.contains(&port.port)
            && self.source.contains(&host)
    }
}

fn protocol(random: &mut Random) -> Protocol {
    if random.chance(50) { Protocol::Tcp } else { Protocol::Udp }
}

/// An address in or near the sources of the grants.
fn near(random: &mut Random) -> IpAddr {
    let base: IpAddr = random.pick(&BASES).parse().unwrap();
    let bit = random.below(128);
    match base {
        _ if random.chance(40) => base,
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) ^ (1 << (bit % 24))).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) ^ (1 << (bit % 96))).into(),
    }
}

fn frame(from: IpAddr, port: PortKey) -> Vec<u8> {
    let (syn, datagram) = (Tcp::with_flags(port.port, flag::SYN), Udp::to(port.port));
    match (from, port.protocol) {
        (IpAddr::V4(source), Protocol::Tcp) => Ipv4 { source, ..v4() }.tcp(&syn).frame(),
        (IpAddr::V4(source), Protocol::Udp) => Ipv4 { source, ..v4() }.udp(&datagram).frame(),
        (IpAddr::V6(source), Protocol::Tcp) => Ipv6 { source, ..v6() }.tcp(&syn).frame(),
        (IpAddr::V6(source), Protocol::Udp) => Ipv6 { source, ..v6() }.udp(&datagram).frame(),
    }
}

#[test]
fn the_kernel_lets_in_exactly_whom_some_live_grant_covers() {
    let seed = std::env::var("JIT_TEST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut random = Random::new(seed);
    let mut kernel = Kernel::load();
    let (mut open, mut closed) = (0, 0);
    for _ in 0..SETS {
        let now = boot_nanos();
        let grants: Vec<_> =
            (0..2 + random.below(24)).map(|_| Granted::random(&mut random, now)).collect();
        let mut claims = Claims::new(Capacity { hosts: 1024, prefixes: 1024 });
        for (slot, grant) in (1..).zip(&grants) {
            let access = Access { deadline: BootNanos(grant.deadline), cut: false, slot };
            let claim = PlaceClaim { access, kind: Kind::Unlimited };
            for port in grant.ports.clone() {
                let port = PortKey { protocol: grant.protocol, port };
                claims.add(EntryKey { port, source: grant.source }, claim);
            }
        }
        let mut twin = MemoryDatapath::default();
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let ports = PORTS.flat_map(|port| protocols.map(|protocol| PortKey { protocol, port }));
        twin.protect(&ports.map(|port| (port, PortRule::default())).collect()).unwrap();
        for (key, entry) in claims.all() {
            twin.write(&Write::Set(key, entry.unwrap())).unwrap();
        }
        kernel.fill(&twin.tables());
        for _ in 0..PACKETS {
            let from = near(&mut random);
            let (port, protocol) = if random.chance(70) {
                let grant = random.pick(&grants);
                (*grant.ports.start(), grant.protocol)
            } else {
                (PORTS.start + random.short() % 8, protocol(&mut random))
            };
            let port = PortKey { protocol, port };
            let covered = grants.iter().any(|grant| grant.covers(from, port, now));
            let expected = if covered { Reason::Granted } else { Reason::Denied };
            for program in programs() {
                let outcome = kernel.run(program, &frame(from, port));
                let what = || format!("seed {seed}, {program}: {from} to {port:?}, {grants:#?}");
                assert_eq!(outcome.reason, expected, "{}", what());
                assert_eq!(outcome.dropped, !covered, "{}", what());
            }
            *if covered { &mut open } else { &mut closed } += 1;
        }
    }
    println!("{open} packets let in, {closed} dropped");
    assert!(open > 1_000 && closed > 1_000, "{open} {closed}");
}

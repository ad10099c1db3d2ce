//! Time for a packet. Ratios are against a program of two instructions in the same run. Absolute
//! times differ between machines.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

use std::net::Ipv4Addr;

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{Address, GrantEntry, HostKey, PortKey, PortRule, Protocol, Settings};
use jit_tests::{
    frames::{Ipv4, Ipv6, Tcp},
    kernel::{Kernel, all_programs, xdp_programs},
    sys,
};

const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
/// Number of runs of a program over one frame.
const REPEAT: u32 = 1_000_000;
const ACK: u8 = 0x10;

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    packets();
}

/// Nanoseconds a packet by BPF_PROG_TEST_RUN.
fn packets() {
    let mut kernel = Kernel::load();
    let mut tables = MemoryTables::default();
    let rule = PortRule { drain: 1, ..PortRule::default() };
    tables.ports.insert(SSH, rule);
    for number in 0..1_000_u32 {
        let source = Address::v4((0x0a00_0000 + number).to_be_bytes());
        let entry = GrantEntry::until(u64::MAX, 1);
        tables.hosts.insert(HostKey::new(source, SSH), entry);
    }
    kernel.fill(&tables);
    kernel.set(Settings { drop_events: 128, grant_events: 4096, ..Settings::default() });
    let (granted, denied) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(192, 0, 2, 7));
    let to = Ipv4Addr::new(198, 51, 100, 1);
    let (v6, to_v6) = ("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let rows = [
        ("ACK to an unprotected port, IPv4", Ipv4::new(denied, to).tcp(&Tcp::with_flags(80, ACK))),
        ("ACK to an unprotected port, IPv6", Ipv6::new(v6, to_v6).tcp(&Tcp::with_flags(80, ACK))),
        ("SYN denied, 1,000 grants, IPv4", Ipv4::new(denied, to).tcp(&Tcp::syn(22))),
        ("SYN denied, 1,000 grants, IPv6", Ipv6::new(v6, to_v6).tcp(&Tcp::syn(22))),
        ("SYN granted", Ipv4::new(granted, to).tcp(&Tcp::syn(22))),
        ("ACK granted", Ipv4::new(granted, to).tcp(&Tcp::with_flags(22, ACK))),
        ("ACK without a session, dropped", Ipv4::new(denied, to).tcp(&Tcp::with_flags(22, ACK))),
    ];
    println!("\n| packet | ns | times the empty program |\n|---|---|---|");
    let program = xdp_programs().last().unwrap();
    let sample = rows.first().map(|(_, packet)| packet.frame()).unwrap();
    for (name, packet) in rows {
        // The smallest of several: other work of the machine only adds time.
        let (mut gate, mut empty) = (f64::MAX, f64::MAX);
        for _ in 0..5 {
            empty = empty.min(sys::empty_nanos(&sample, REPEAT));
            gate = gate.min(kernel.nanos(program, &packet.frame(), REPEAT));
        }
        println!("| {name} | {gate:.0} | {:.1} |", gate / empty);
    }
    for program in all_programs() {
        println!("{program}: {:?} instructions verified", kernel.verified_instructions(program));
    }
}

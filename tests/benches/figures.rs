//! The figures of the README: time for a packet, push to open, memory, size. Ratios are against a
//! program of two instructions in the same run. Absolute times differ between machines.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{Address, GrantEntry, HostKey, PortKey, PortRule, Protocol, Settings};
use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, Site, opens},
    frames::{Ipv4, Ipv6, Tcp},
    kernel::{Kernel, all_programs, xdp_programs},
    programs::binary,
    sys,
};

const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
/// Number of runs of a program over one frame.
const REPEAT: u32 = 1_000_000;
/// Number of grants pushed, one after the other.
const PUSHES: u16 = 1_000;
const ACK: u8 = 0x10;

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    packets();
    pushes();
    sizes();
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

/// Time from the start of a push until a connection has opened, sync to disk included.
fn pushes() {
    let mut site = Site::new();
    site.start();
    let idle = resident(site.pid());
    let mut answers = Vec::new();
    let mut first_connections = Vec::new();
    site.call(async |mut client| {
        for number in 0..PUSHES {
            let source = format!("10.1.{}.{}", number >> 8, number & 0xff);
            // Every tenth grant is for the client. Its connection is timed too.
            let real = number % 10 == 0;
            let sources = if real { CLIENT.to_vec() } else { vec![source.as_str()] };
            let envelope = Some(site.envelope(&sources, Duration::from_secs(600)));
            let start = Instant::now();
            client.push(v1::PushRequest { envelope }).await?;
            answers.push(start.elapsed());
            if real {
                let address = jit_tests::agent::address(jit_tests::agent::TO_CLIENT, 0, 22);
                assert!(site.client.run(|| opens(address, Duration::from_secs(1))));
                first_connections.push(start.elapsed());
            }
        }
        Ok(())
    })
    .unwrap();
    println!("\n| push of one grant, sync included | median | p99 |\n|---|---|---|");
    for (name, times) in [
        ("until the answer (open in the kernel)", &mut answers),
        ("until a client's first connection is served", &mut first_connections),
    ] {
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        println!("| {name}, {} pushes | {:.2?} | {:.2?} |", times.len(), at(50), at(99));
    }
    let batch: Vec<_> = (0..10_000_u32)
        .map(|number| {
            let source = Ipv4Addr::from(0x0b00_0000 + number).to_string();
            site.envelope(&[&source], Duration::from_secs(600))
        })
        .collect();
    let start = Instant::now();
    for envelopes in batch.chunks(1_000) {
        let request = v1::PushBatchRequest { envelopes: envelopes.to_vec(), ..Default::default() };
        let answer = site.call(async |mut client| client.push_batch(request).await).unwrap();
        assert!(answer.into_inner().outcomes.iter().all(|outcome| outcome.accepted));
    }
    let rate = 10_000.0 / start.elapsed().as_secs_f64();
    println!("\nbatches of 1,000: {rate:.0} grants a second");
    let start = Instant::now();
    assert_eq!(site.revoke_all(), 11_000);
    println!("revoke-all of 11,000: {:.0?}", start.elapsed());
    println!("resident memory: {idle} KiB idle, {} KiB with 11,000 grants", resident(site.pid()));
}

fn sizes() {
    let size = fs::metadata(binary("jit-agent")).unwrap().len();
    println!("jit-agent, stripped: {:.1} MiB", f64::from(u32::try_from(size).unwrap()) / 1048576.0);
}

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

//! The figures of the README: push to open, memory, size. Absolute times differ between machines.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, Site, opens},
    programs::binary,
};

/// Number of grants pushed, one after the other.
const PUSHES: u16 = 1_000;

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    pushes();
    sizes();
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

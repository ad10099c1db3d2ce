//! Time for a packet, by BPF_PROG_TEST_RUN: the gate by XDP and by TC beside xdp-filter, an empty
//! program, one that drops, and one that parses and drops. And what the programs are: bytes,
//! instructions, stack, cycles.
//!
//! Each row says which answer it measures, and the bench fails if the gate gives another one. One
//! frame is run many times, so its entries are in the processor's caches: the floods of the bench
//! `attack` show what other sources cost.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

mod cycles;
mod facts;
mod rows;
mod tables;

use jit_agent::kernel::datapath::object::PROGRAM_TC;
use jit_common::Settings;
use jit_tests::{
    figures::{self, GATE, Subject},
    frames::{Ipv4, Tcp},
    kernel::{Kernel, xdp_programs},
    peers::{Small, XDP_FILTER, XdpFilter},
};

use crate::{rows::Row, tables::Size};

/// What every size of the tables is compared with.
const BASE: Size = Size { hosts: 1_000, prefixes: 0 };
/// Names of the subjects beside the gate and xdp-filter.
const GATE_TC: &str = "jit-agent, TC";
const EMPTY: &str = "empty program";
const ONE_DROP: &str = "XDP_DROP";
const PARSES: &str = "XDP, parse and drop";
const FEWER: &str = "jit-agent, 1,000 hosts";

/// The programs that the gate is compared with.
struct Peers {
    filter: XdpFilter,
    empty: Small,
    drops: Small,
    parses: Small,
}

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    let peers = Peers {
        filter: XdpFilter::load(),
        empty: Small::pass(),
        drops: Small::drop(),
        parses: Small::parse_and_drop(),
    };
    let namespace = rows::namespace();
    namespace.run(|| {
        // The sessions of two rows, which the programs find by looking for their sockets.
        let _sessions = rows::sessions();
        let mut base = loaded(BASE);
        packets(&base, &peers);
        new_connections(&mut base, &peers);
        for size in figures::size(tables::SIZES, tables::FEW) {
            sizes(*size, &base, &peers);
        }
        cycles::report(&base, &peers.filter);
        facts::report(&base, &peers.filter);
    });
}

/// The gate with tables of this size.
fn loaded(size: Size) -> Kernel {
    let mut kernel = Kernel::sized(size.capacity());
    kernel.fill(&size.tables());
    kernel.set(Settings { drop_events: 128, grant_events: 4096, ..Settings::default() });
    kernel
}

/// The XDP program that the agent prefers.
fn program() -> &'static str {
    xdp_programs().last().expect("an XDP program")
}

fn repeat() -> u32 {
    figures::size(300_000, 2_000)
}

fn rounds() -> usize {
    figures::size(9, 2)
}

/// Fails unless the gate gives the answer that the row is about.
fn check(kernel: &Kernel, row: &Row) {
    for program in [program(), PROGRAM_TC] {
        let outcome = kernel.run(program, &row.frame);
        assert_eq!(outcome.reason, row.reason, "{program}: {}", row.name);
    }
}

/// All rows, beside all peers.
fn packets(base: &Kernel, peers: &Peers) {
    for row in rows::all().iter().filter(|row| BASE.has(row.grant)) {
        check(base, row);
        let frame = &row.frame;
        let mut subjects: Vec<Subject<'_>> = vec![
            (GATE, Box::new(|| base.nanos(program(), frame, repeat()))),
            (GATE_TC, Box::new(|| base.nanos(PROGRAM_TC, frame, repeat()))),
            (XDP_FILTER, Box::new(|| peers.filter.run(frame, repeat()).1)),
            (EMPTY, Box::new(|| peers.empty.run(frame, repeat()).1)),
            (ONE_DROP, Box::new(|| peers.drops.run(frame, repeat()).1)),
        ];
        // It only parses segments without a tag and without extension headers.
        if peers.parses.run(frame, 1).0 != peers.empty.run(frame, 1).0 {
            subjects.push((PARSES, Box::new(|| peers.parses.run(frame, repeat()).1)));
        }
        figures::in_turns(("packets", &row.name), ("ns", false), rounds(), &mut subjects);
    }
}

/// SYNs under a grant, each from a port that has not been counted. The programs run once over each,
/// and the kernel asks the clock around each run: the empty program shows what that adds.
fn new_connections(base: &mut Kernel, peers: &Peers) {
    let ports = 1_024..1_024 + figures::size(4_096_u16, 64);
    let count = f64::from(figures::size(4_096_u16, 64));
    let frames: Vec<_> = ports
        .map(|port| {
            let syn = Tcp::syn(rows::PORT).from_port(port);
            Ipv4::new(rows::GRANTED_V4, rows::SERVER_V4).tcp(&syn).frame()
        })
        .collect();
    let mean =
        |run: &dyn Fn(&[u8]) -> f64| frames.iter().map(|frame| run(frame)).sum::<f64>() / count;
    let mut subjects: Vec<Subject<'_>> = vec![
        (
            GATE,
            Box::new(|| {
                base.forget_counted();
                mean(&|frame| base.nanos(program(), frame, 1))
            }),
        ),
        (XDP_FILTER, Box::new(|| mean(&|frame| peers.filter.run(frame, 1).1))),
        (EMPTY, Box::new(|| mean(&|frame| peers.empty.run(frame, 1).1))),
    ];
    let row = "SYN granted by host, each a new connection and a run of its own, IPv4";
    figures::in_turns(("packets", row), ("ns", false), rounds(), &mut subjects);
}

/// The rows whose look-ups depend on the size of the tables, beside the same with [`BASE`].
fn sizes(size: Size, base: &Kernel, peers: &Peers) {
    println!("filling tables: {size}");
    let kernel = loaded(size);
    for row in rows::all().iter().filter(|row| row.by_size && size.has(row.grant)) {
        check(&kernel, row);
        let mut subjects: Vec<Subject<'_>> = vec![
            (GATE, Box::new(|| mean(row, |frame, times| kernel.nanos(program(), frame, times)))),
            (XDP_FILTER, Box::new(|| mean(row, |frame, times| peers.filter.run(frame, times).1))),
        ];
        if BASE.has(row.grant) {
            let base = || mean(row, |frame, times| base.nanos(program(), frame, times));
            subjects.push((FEWER, Box::new(base)));
        }
        let name = format!("{}, {size}", row.name);
        figures::in_turns(("sizes", &name), ("ns", false), rounds(), &mut subjects);
    }
}

/// Mean over all sources of a row, of the time for a packet.
fn mean(row: &Row, nanos: impl Fn(&[u8], u32) -> f64) -> f64 {
    let frames: Vec<_> = [&row.frame].into_iter().chain(&row.others).collect();
    let sources = u32::try_from(frames.len()).unwrap();
    let all: f64 = frames.iter().map(|frame| nanos(frame, repeat() / sources)).sum();
    all / f64::from(sources)
}

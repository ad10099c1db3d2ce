//! How fast a flood of SYNs to a closed port is dropped: live frames over a veth, millions a second.
//!
//! One CPU sends the frames and drops them. So the rates compare what a frame costs in all: to send
//! it (the same for all subjects), and to drop it.

use std::{cell::RefCell, env, rc::Rc};

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{GrantEntry, HostKey, PortKey, PortRule, Protocol, Settings};
use jit_tests::{
    figures::{self, GATE, size},
    filters::{Filter, Granted, Hook, drop_all, gate, ipset, nftables, parse_and_drop, xdp_filter},
    kernel::Kernel,
    live::Sources,
};

const TABLE: &str = "frames";
const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
/// Entries of the agent's tables where its configuration does not set them.
const ENTRIES: u32 = 131_072;
/// Events of dropped packets and of connections in a second, as the agent sets them.
const SETTINGS: Settings = Settings { drop_events: 128, grant_events: 4096, ..NO_SETTINGS };
const NO_SETTINGS: Settings = Settings {
    observe: 0,
    drop_events: 0,
    grant_events: 0,
    translates_sources: 0,
    trial: 0,
    reserved: 0,
    trial_until: 0,
};
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// Grants of each family: half of those in the name of a row.
const FEW: Granted = Granted(500);
const MANY: Granted = Granted(50_000);

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    let kernel = loaded(FEW);
    let mut subjects = gates(&kernel);
    subjects.extend([
        parse_and_drop(),
        drop_all(),
        xdp_filter(),
        nftables::ingress(FEW),
        nftables::input(FEW),
        ipset(FEW),
    ]);
    measure(&subjects, "1,000 grants");
    drop(subjects);
    let kernel = loaded(MANY);
    let mut subjects = gates(&kernel);
    subjects.extend([parse_and_drop(), nftables::ingress(MANY)]);
    measure(&subjects, "100,000 grants");
}

/// The gate's programs with grants of single addresses, half of them IPv4.
fn loaded(granted: Granted) -> Rc<RefCell<Kernel>> {
    let mut tables = MemoryTables::default();
    tables.ports.insert(SSH, PortRule { drain: 1, ..PortRule::default() });
    for source in granted.all() {
        tables.hosts.insert(HostKey::new(source, SSH), GrantEntry::until(u64::MAX, 1));
    }
    let mut kernel = Kernel::sized(ENTRIES);
    kernel.fill(&tables);
    kernel.set(SETTINGS);
    Rc::new(RefCell::new(kernel))
}

fn gates(kernel: &Rc<RefCell<Kernel>>) -> Vec<Filter> {
    vec![
        gate(GATE, kernel, Hook::Native),
        gate("jit-agent, TC", kernel, Hook::Tc),
        gate("jit-agent, generic XDP", kernel, Hook::Generic),
    ]
}

/// All subjects in turns, for each family and number of sources.
fn measure(subjects: &[Filter], grants: &str) {
    let (frames, rounds) = size((500_000, 7), (50_000, 1));
    for (family, name) in FAMILIES.into_iter().enumerate() {
        for sources in [Sources::One, Sources::Million] {
            let row = format!("SYN flood dropped, {name}, {}, {grants}", sources.name());
            let mut measured: Vec<figures::Subject<'_>> = Vec::new();
            for subject in subjects {
                let flood = subject.lane().flood(family, sources);
                measured.push((subject.name(), Box::new(move || subject.rate(&flood, frames))));
            }
            figures::in_turns((TABLE, &row), ("Mpps", true), rounds, &mut measured);
        }
    }
}

//! The figures of the controller with real agents: from a request to an open port, beside a push
//! straight to the agent; a request for many hosts; pages of long lists; the pages for people, and
//! what open ones learn; the mailboxes of a fleet for checkpoints; a fleet whose agents dial; hubs
//! of a bus; memory.
//!
//! `cargo bench -p jit-tests --bench controller [NAME...]` runs these parts, or all.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

mod bus;
mod fleet;
mod lists;
mod mailboxes;
mod portal;
#[path = "../../../jit-agent/controller/tests/bus/ports.rs"]
mod ports;
mod requests;

use std::time::Duration;

use jit_tests::{
    controller::{Stage, people::Person},
    figures::Figure,
};

/// A part, and its name on the command line.
const PARTS: [(&str, fn()); 7] = [
    ("one", requests::one_host),
    ("many", requests::many_hosts),
    ("lists", lists::measure),
    ("portal", portal::measure),
    ("mailboxes", mailboxes::measure),
    ("fleet", fleet::measure),
    ("bus", bus::measure),
];

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure();
        }
    }
}

/// A stage with running agents on so many hosts, whose requests need nobody, and a requester.
fn stage(hosts: usize) -> (Stage, Person, Vec<String>) {
    let mut stage = Stage::new(None);
    let ids: Vec<_> = (0..hosts).map(|number| format!("dev-{number:03}")).collect();
    for id in &ids {
        let number = stage.add_host(id, &[("env", "dev")]);
        stage.host_mut(number).spawn();
    }
    for number in 0..hosts {
        stage.host_mut(number).wait();
    }
    for id in &ids {
        stage.wait_until_enforcing(id);
    }
    let ana = stage.person("ana", "ana@example.org", &["developers"], &["read", "request"]);
    let here = ana.at(&stage.client);
    (stage, here, ids)
}

/// Reports values of the controller.
fn report(table: &str, row: &str, (unit, more_is_better): (&str, bool), values: Vec<f64>) {
    let subject = jit_tests::figures::GATE;
    Figure { table, row, subject, unit, more_is_better, values }.report();
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn at_99(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    millis(times.get(times.len() * 99 / 100).copied().unwrap())
}

//! Cycles and cache misses of a packet, by `perf`, where the processor counts them: a virtual machine
//! often does not. Then it says so, and reports nothing.

use std::process::{Command, Stdio};

use jit_tests::{
    figures::{Figure, GATE},
    kernel::Kernel,
    peers::{XDP_FILTER, XdpFilter},
};

use crate::{program, repeat, rows};

const EVENTS: [&str; 3] = ["cycles", "instructions", "cache-misses"];
/// Seconds of a measurement.
const SECONDS: &str = "0.3";

/// Reports them for each row that needs no prefix.
pub(crate) fn report(base: &Kernel, filter: &XdpFilter) {
    for row in rows::all().iter().filter(|row| crate::BASE.has(row.grant)) {
        let gate = || base.nanos(program(), &row.frame, repeat());
        let peer = || filter.run(&row.frame, repeat()).1;
        let subjects: [(&str, &dyn Fn() -> f64); 2] = [(GATE, &gate), (XDP_FILTER, &peer)];
        for (subject, run) in subjects {
            match counted(run) {
                Ok(counts) => counts.iter().for_each(|(event, count)| {
                    let name = format!("{}: {event}", row.name);
                    let (table, unit, values) = ("cycles", "per packet", vec![*count]);
                    let (row, more_is_better) = (&*name, false);
                    Figure { table, row, subject, unit, more_is_better, values }.report();
                }),
                Err(why) => {
                    println!("cycles: perf does not count them on this machine: {why}");
                    return;
                }
            }
        }
    }
}

/// Counts of each event for a packet, while `run` runs.
fn counted(run: &dyn Fn() -> f64) -> Result<Vec<(&'static str, f64)>, String> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut perf = Command::new("perf")
        .args(["stat", "-x", ",", "-e", &EVENTS.join(","), "-t", &thread, "--", "sleep", SECONDS])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("perf cannot be started: {error}"))?;
    let mut packets = 0.0;
    while perf.try_wait().map_err(|error| error.to_string())?.is_none() {
        run();
        packets += f64::from(repeat());
    }
    let output = perf.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    EVENTS
        .iter()
        .map(|event| {
            let count = count(&said, event).ok_or_else(|| format!("{event}: {}", said.trim()))?;
            Ok((*event, count / packets))
        })
        .collect()
}

/// The count of an event in the output of `perf stat -x ,`: value, unit, event.
fn count(output: &str, event: &str) -> Option<f64> {
    output.lines().find_map(|line| {
        let mut fields = line.split(',');
        let value = fields.next()?.parse().ok()?;
        let named = fields.nth(1)?;
        (named.split(':').next() == Some(event)).then_some(value)
    })
}

//! Cycles and cache misses of a packet, by `perf`, where the processor counts them: a virtual machine
//! often does not. Then it says so, and reports nothing.

use jit_tests::{
    figures::{Figure, GATE},
    kernel::Kernel,
    peers::{XDP_FILTER, XdpFilter},
    perf,
};

use crate::{program, repeat, rows};

const EVENTS: [&str; 3] = ["cycles", "instructions", "cache-misses"];

/// Reports them for each row that needs no prefix.
pub(crate) fn report(base: &Kernel, filter: &XdpFilter) {
    for row in rows::all().iter().filter(|row| crate::BASE.has(row.grant)) {
        let gate = || base.nanos(program(), &row.frame, repeat());
        let peer = || filter.run(&row.frame, repeat()).1;
        let subjects: [(&str, &dyn Fn() -> f64); 2] = [(GATE, &gate), (XDP_FILTER, &peer)];
        for (subject, run) in subjects {
            let counted = perf::counted(&EVENTS, || {
                run();
                f64::from(repeat())
            });
            match counted {
                Ok(counts) => figures(&row.name, subject, &counts),
                Err(why) => {
                    println!("cycles: perf does not count them on this machine: {why}");
                    return;
                }
            }
        }
    }
}

fn figures(row: &str, subject: &str, counts: &[f64]) {
    for (event, count) in EVENTS.iter().zip(counts) {
        let row = &format!("{row}: {event}");
        let (table, unit, values) = ("cycles", "per packet", vec![*count]);
        Figure { table, row, subject, unit, more_is_better: false, values }.report();
    }
}

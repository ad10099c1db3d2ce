//! The readers of what the kernel reports: events, log lines, links, and a clock that is set. Each
//! fails by itself: the gate looks at links and clock every 2 s without them.

use std::thread;

use aya::maps::{MapData, RingBuf};
use jit_common::Event;

use crate::{
    app::RETRY,
    gate::{GateHandle, faults::Faults},
    kernel::{
        clock_watch,
        datapath::{bpf, kernel::KernelEvents},
        netlink::{
            nat_watch::{self, Waker},
            watch::LinkWatch,
        },
    },
    rules::problem::ProblemKind,
};

/// Names of the faults.
const CLOCK: ProblemKind = ProblemKind::ClockWatch;
const EVENTS: ProblemKind = ProblemKind::KernelEvents;
const LINKS: ProblemKind = ProblemKind::LinkWatch;

/// Opens the watch over the links. It is opened before the gate lists them, so that every later
/// change is reported.
pub(super) fn open_links(faults: &Faults) -> Option<LinkWatch> {
    match LinkWatch::open() {
        Ok(watch) => {
            faults.set(LINKS, None);
            Some(watch)
        }
        Err(error) => {
            let text = format!(
                "cannot listen for changes of the network interfaces: {error}; new ones are seen \
                 every 2 s"
            );
            if faults.set(LINKS, Some(text.clone())) {
                tracing::error!("{text}");
            }
            None
        }
    }
}

/// Starts all readers.
pub(super) fn start(
    kernel: KernelEvents,
    links: Option<LinkWatch>,
    translations: Waker,
    gate: &GateHandle,
    faults: &Faults,
) {
    tokio::spawn(read_events(kernel.events, gate.clone(), faults.clone()));
    if let Some(log) = kernel.log {
        tokio::spawn(read_log(log));
    }
    let (of_links, board) = (gate.clone(), faults.clone());
    thread::spawn(move || watch_links(links, &of_links, &board));
    tokio::spawn(watch_clock(gate.clone(), faults.clone()));
    let of_nat = gate.clone();
    thread::spawn(move || {
        nat_watch::run(&translations, |read| {
            of_nat.saw_translations(read.map_err(|error| error.to_string()))
        });
    });
}

/// Waits for the kernel's messages about links on a thread of its own, so that the gate gets them at
/// once, however busy the agent is.
fn watch_links(mut links: Option<LinkWatch>, gate: &GateHandle, faults: &Faults) {
    loop {
        if let Some(watch) = links.take() {
            let error = watch.run(|indices| gate.saw_links(indices));
            tracing::error!("cannot listen for changes of the network interfaces: {error}");
        }
        links = open_links(faults);
        match &links {
            // Something may have changed meanwhile.
            Some(_) => gate.saw_links(&[]),
            None => thread::sleep(RETRY),
        }
    }
}

async fn watch_clock(gate: GateHandle, faults: Faults) {
    loop {
        let of_clock = gate.clone();
        let Err(error) = clock_watch::watch(move || of_clock.clock_was_set()) else {
            faults.set(CLOCK, None);
            return;
        };
        let text = format!("cannot watch for a clock that is set: {error}; it is seen every 2 s");
        if faults.set(CLOCK, Some(text.clone())) {
            tracing::error!("{text}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn read_events(events: RingBuf<MapData>, gate: GateHandle, faults: Faults) {
    let error = match bpf::watch_events(events) {
        Ok(mut events) => loop {
            match events.readable_mut().await {
                Ok(mut ready) => {
                    while let Some(bytes) = ready.get_inner_mut().next() {
                        if let Some(event) = Event::from_bytes(&bytes) {
                            gate.saw_packet(event);
                        }
                    }
                    ready.clear_ready();
                }
                Err(error) => break error.to_string(),
            }
        },
        Err(error) => error.to_string(),
    };
    let text = format!(
        "the kernel's events cannot be read: {error}; connections are missing in the audit until \
         `systemctl restart jit-agent`"
    );
    tracing::error!("{text}");
    faults.set(EVENTS, Some(text));
}

async fn read_log(log: bpf::Logger) {
    let mut log = match bpf::watch_log(log) {
        Ok(log) => log,
        Err(error) => {
            return tracing::error!("cannot wait for the kernel programs' log: {error}");
        }
    };
    while let Ok(mut ready) = log.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
    tracing::error!("the kernel programs' log cannot be read any more");
}

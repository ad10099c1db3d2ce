//! What all ways to drop a flood have in common.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_common::Address;

use crate::{
    live::{Flood, Lane},
    netns::Namespace,
};

/// How long the entries of a peer's set last, seconds.
pub const LASTS: u32 = 3600;
/// Longest wait for the last frames of a flood.
const LAST_FRAMES: Duration = Duration::from_millis(500);
/// First granted source of each family, as the last 32 bits of the address.
const FIRST_V4: u32 = 0x0a00_0000;
const FIRST_V6: u32 = 0;

/// Number of sources of each family that are let in.
#[derive(Clone, Copy, Debug)]
pub struct Granted(pub u32);

impl Granted {
    /// The IPv4 addresses.
    pub fn v4(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..self.0).map(|number| Ipv4Addr::from(FIRST_V4 + number))
    }

    /// The IPv6 addresses.
    pub fn v6(self) -> impl Iterator<Item = Ipv6Addr> {
        let first = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0);
        (0..self.0)
            .map(move |number| Ipv6Addr::from(u128::from(first) + u128::from(FIRST_V6 + number)))
    }

    /// All of them, as the gate has them.
    pub fn all(self) -> impl Iterator<Item = Address> {
        let v4 = self.v4().map(|address| Address::v4(address.octets()));
        v4.chain(self.v6().map(|address| Address::v6(address.octets())))
    }
}

/// A way to drop a flood, in force on a host of its own.
pub struct Filter {
    name: &'static str,
    dropped: Box<dyn Fn(&Lane) -> u64>,
    /// Dropped before the lane.
    _in_force: Box<dyn std::any::Any>,
    lane: Lane,
}

impl Filter {
    /// In force until `in_force` is dropped. `dropped` reads its own counter of dropped frames.
    pub(super) fn new(
        name: &'static str,
        lane: Lane,
        in_force: impl std::any::Any,
        dropped: impl Fn(&Lane) -> u64 + 'static,
    ) -> Self {
        Self { name, lane, dropped: Box::new(dropped), _in_force: Box::new(in_force) }
    }

    /// What the figures call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The host under the flood.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Millions of frames of a flood that it drops in a second. Its own counter says how many it
    /// dropped: a frame that did not arrive does not count.
    pub fn rate(&self, flood: &Flood, frames: u32) -> f64 {
        let before = (self.dropped)(&self.lane);
        let time = self.lane.send(flood, frames);
        let end = Instant::now() + LAST_FRAMES;
        let dropped = loop {
            let dropped = (self.dropped)(&self.lane) - before;
            if dropped >= u64::from(frames) || Instant::now() >= end {
                break dropped;
            }
            thread::sleep(Duration::from_millis(1));
        };
        if dropped != u64::from(frames) {
            println!("{}: {dropped} of {frames} frames were dropped by it", self.name);
        }
        assert!(
            dropped <= u64::from(frames) && dropped >= u64::from(frames) / 10 * 9,
            "{}: the flood did not arrive, or was not dropped",
            self.name
        );
        // Below 2^53: exact.
        let dropped = f64::from(u32::try_from(dropped).expect("at most the frames"));
        dropped / time.as_secs_f64() / 1e6
    }
}

/// Runs a command in a namespace and gives it this text. Returns what it prints.
pub(super) fn output_of(
    namespace: &Namespace,
    program: &str,
    arguments: &[&str],
    text: &str,
) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = namespace.start(&mut command);
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("write to it");
    let output = child.wait_with_output().expect("wait for it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The values, separated by commas, each with what follows it.
pub(super) fn listed<T: std::fmt::Display>(values: impl Iterator<Item = T>, then: &str) -> String {
    let mut text = String::new();
    for value in values {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}{value}{then}").expect("a string grows");
    }
    text
}

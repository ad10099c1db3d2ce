//! xdp-filter of xdp-tools, by its command line.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use super::{Filter, filter::output_of};
use crate::{
    live::{INTERFACE, Lane},
    netns::Namespace,
};

/// Drops what goes to TCP port 22, and lets everything else pass. All its features are loaded. It
/// has no list of those who may come in where a port is closed: one entry of its own is enough.
pub fn xdp_filter() -> Filter {
    let lane = Lane::new();
    let mounts = Mounts::new(&lane.host);
    let id = mounts.0.id().to_string();
    let command = |arguments: &str| {
        let inside = ["--mount", "--target", id.as_str(), "xdp-filter"].into_iter();
        let all: Vec<_> = inside.chain(arguments.split(' ')).collect();
        output_of(&lane.host, "nsenter", &all, "")
    };
    command(&format!("load --mode native --policy allow --features all {INTERFACE}"));
    command("port 22 --mode dst --proto tcp");
    let dropped = move |lane: &Lane| {
        let all = ["--mount", "--target", &id, "xdp-filter", "status"];
        let text = output_of(&lane.host, "nsenter", &all, "");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("XDP_DROP"));
        let packets = line.and_then(|line| line.split_whitespace().next());
        packets.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("status: {text}"))
    };
    Filter::new("xdp-filter", lane, mounts, dropped)
}

/// A mount namespace with a bpf filesystem of its own: xdp-filter pins its tables to fixed names. A
/// process holds it, and ends with this one.
struct Mounts(Child);

impl Mounts {
    fn new(host: &Namespace) -> Self {
        let script = "mount -t bpf bpf /sys/fs/bpf && echo ready && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        let mut child = host.start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("read what it says");
        assert_eq!(line, "ready\n", "a bpf filesystem of its own");
        Self(child)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

//! Devices of real servers: bonds, teams, VLANs, VRFs, children of an interface, geneve. Each is
//! closed by the programs on it alone, by those on what is below it alone, and by the socket guard
//! alone. Sessions go on in drain, and end when it is ordered.
//!
//! A kernel that does not have a kind of device must refuse it by its type, and its name is
//! printed. In the virtual machines of `cargo xtask vm-test` all of them are there, or the test
//! fails.

mod bundles;
mod kinds;

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1::revoke_request::What;
use jit_tests::{
    agent::{PATIENCE, STRANGER, Site, TO_STRANGER, carries},
    lacks,
    netns::Namespace,
    sockets, team,
};
use rustix::process::Signal;

use crate::rungs::interface;
use kinds::{BUNDLES, Kind, OTHERS};

const LONG: Duration = Duration::from_secs(600);
/// Longest wait for a way to open, or for a count, also on an emulated machine.
const SETTLED: Duration = Duration::from_secs(60);

/// A device that the kernel has made, with a way by it to the host's port 22.
struct Device {
    kind: &'static Kind,
    number: usize,
}

impl Device {
    /// Names on the host: the device, its members, what is between.
    fn names(&self) -> [String; 4] {
        let Self { number, .. } = self;
        [format!("jt{number}"), format!("jl{number}"), format!("jm{number}"), format!("jo{number}")]
    }

    fn far_names(&self) -> [String; 4] {
        let Self { number, .. } = self;
        [format!("ft{number}"), format!("fl{number}"), format!("fm{number}"), format!("fo{number}")]
    }

    /// An address on its network: 1 is the host's, 2 the user's, 3 the stranger's.
    fn address(&self, family: usize, end: u8) -> String {
        let Self { number, .. } = self;
        match family {
            0 => format!("198.18.{number}.{end}"),
            _ => format!("2001:db8:18:{number}::{end}"),
        }
    }

    fn fill(&self, lines: &str, [device, member, other, middle]: &[String; 4]) -> String {
        lines
            .replace("DEVICE", device)
            .replace("MEMBER", member)
            .replace("OTHER", other)
            .replace("MIDDLE", middle)
            .replace("FAR4", &self.address(0, 2))
            .replace("FAR6", &self.address(1, 2))
            .replace("HOST4", TO_STRANGER[0])
            .replace("STRANGER4", STRANGER[0])
    }

    /// Makes the veth pair at one of its places.
    fn pair(&self, site: &Site, at: usize) {
        let (ours, theirs) = (&self.names()[at], &self.far_names()[at]);
        let far = site.stranger.name();
        site.host.ip(&["link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", far]);
    }

    /// Makes the device on both ends. `false` if the kernel has none of its type.
    fn make(&self, site: &Site) -> bool {
        let Self { kind, .. } = self;
        for at in 1..=kind.pairs {
            self.pair(site, usize::try_from(at).unwrap());
        }
        let ends =
            [(&site.host, self.names(), kind.host), (&site.stranger, self.far_names(), kind.far)];
        for (namespace, names, lines) in &ends {
            if !lines.lines().all(|line| made(namespace, &self.fill(line, names))) {
                return false;
            }
            if kind.name == "team" {
                team::set_mode(namespace, &names[0], "roundrobin");
                for member in &names[1..3] {
                    namespace.ip(&["link", "set", member, "master", &names[0]]);
                }
            }
        }
        for (at, (namespace, names, lines)) in ends.iter().enumerate() {
            self.finish(namespace, names, lines.is_empty() || at == 0 && kind.on_member, at == 0);
        }
        if kind.known {
            self.introduce(site);
        }
        true
    }

    /// Sets one end up, with its addresses.
    fn finish(&self, namespace: &Namespace, names: &[String; 4], on_member: bool, host: bool) {
        let pairs = usize::try_from(self.kind.pairs).unwrap();
        let [device, member, ..] = names;
        let holder = if on_member { member } else { device };
        let mut lines = String::new();
        for name in &names[1..=pairs] {
            lines += &format!("link set {name} up\n");
        }
        if host || !self.kind.far.is_empty() {
            lines += &format!("link set {device} up\n");
        }
        let ends: &[u8] = if host { &[1] } else { &[2, 3] };
        for end in ends {
            let (v4, v6) = (self.address(0, *end), self.address(1, *end));
            lines +=
                &format!("addr add {v4}/24 dev {holder}\naddr add {v6}/64 dev {holder} nodad\n");
        }
        namespace.ip_batch(&lines);
    }

    /// Gives both ends each other's hardware address: a child and its parent share answers.
    fn introduce(&self, site: &Site) {
        let ([device, member, ..], [_, far, ..]) = (self.names(), self.far_names());
        let (here, there) = (site.host.mac(&device), site.stranger.mac(&far));
        for family in [0, 1] {
            let address = |end| self.address(family, end).parse().unwrap();
            site.stranger.neighbour(&far, address(1), here);
            site.host.neighbour(&member, address(2), there);
        }
    }

    /// Connects from one of the addresses at the other end.
    fn connect(&self, site: &Site, family: usize, end: u8) -> Option<TcpStream> {
        let at = |end, port| SocketAddr::new(self.address(family, end).parse().unwrap(), port);
        let (from, to) = (at(end, 0), at(1, 22));
        site.stranger.run(|| {
            let mut stream = sockets::connect_from(from, to, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut greeting = [0; 2];
            stream.read_exact(&mut greeting).ok().filter(|()| greeting == *b"hi")?;
            Some(stream)
        })
    }
}

/// Runs a line of `ip`. `false` if the kernel has no device of its type.
fn made(namespace: &Namespace, line: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name()]).args(line.split(' '));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let unknown = said.contains("Unknown device type");
    assert!(output.status.success() || unknown, "ip {line}: {said}");
    !unknown
}

/// Makes all devices of these kinds that the kernel has.
fn make(site: &Site, kinds: impl Iterator<Item = &'static Kind>) -> Vec<Device> {
    let all: Vec<_> = kinds.enumerate().map(|(number, kind)| Device { kind, number }).collect();
    let (there, lacking): (Vec<_>, Vec<_>) = all.into_iter().partition(|device| device.make(site));
    let lacking: Vec<_> = lacking.iter().map(|device| device.kind.name).collect();
    println!("{} devices, and this kernel has none of {lacking:?}", there.len());
    assert!(!lacks::variable_is_set() || lacking.is_empty(), "no modules for {lacking:?}");
    there
}

/// The connections that open, of all tried at once, and the names of those that do not.
fn connect<'a>(site: &Site, devices: &[&'a Device]) -> (Vec<(String, TcpStream)>, Vec<String>) {
    let ways = devices.iter().flat_map(|device| [(*device, 0), (*device, 1)]);
    let name = |(device, family): (&'a Device, usize)| {
        format!("{} over IPv{}", device.kind.name, [4, 6][family])
    };
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let attempts: Vec<_> =
            ways.map(|way| (way, scope.spawn(move || way.0.connect(site, way.1, 2)))).collect();
        for (way, attempt) in attempts {
            match attempt.join().unwrap() {
                Some(stream) => open.push((name(way), stream)),
                None => closed.push(name(way)),
            }
        }
    });
    (open, closed)
}

#[track_caller]
fn assert_open(site: &Site, devices: &[&Device], why: &str) -> Vec<(String, TcpStream)> {
    let end = Instant::now() + SETTLED;
    loop {
        let (open, closed) = connect(site, devices);
        if closed.is_empty() {
            return open;
        }
        assert!(Instant::now() < end, "closed {why}: {closed:?}\n{}", site.log());
    }
}

#[track_caller]
fn assert_closed(site: &Site, devices: &[&Device], why: &str) {
    let (open, _) = connect(site, devices);
    let open: Vec<_> = open.iter().map(|(name, _)| name).collect();
    assert!(open.is_empty(), "open {why}: {open:?}\n{}", site.log());
}

/// The names of sessions that do not carry data.
fn silent(sessions: &mut [(String, TcpStream)]) -> Vec<&str> {
    thread::scope(|scope| {
        let asked: Vec<_> = sessions
            .iter_mut()
            .map(|(name, stream)| (name, scope.spawn(|| carries(stream))))
            .collect();
        let silent = asked
            .into_iter()
            .filter_map(|(name, carries)| (!carries.join().unwrap()).then_some(name.as_str()));
        silent.collect()
    })
}

/// The gate alone in one place: closed, open with a grant, a session in drain, ended by order.
#[track_caller]
fn assert_gated(site: &Site, devices: &[&Device], found: impl Fn(&Device) -> bool, why: &str) {
    assert_closed(site, devices, &format!("without a grant, {why}"));
    let addresses: Vec<_> =
        devices.iter().flat_map(|device| [device.address(0, 2), device.address(1, 2)]).collect();
    let sources: Vec<_> = addresses.iter().map(String::as_str).collect();
    site.admit(&sources, LONG);
    let mut sessions = assert_open(site, devices, &format!("with a grant, {why}"));
    let answer = site.revoke(What::All(true), false);
    assert_eq!(answer.revoked, 1);
    assert_closed(site, devices, &format!("after the revocation, {why}"));
    let lost: Vec<_> = devices.iter().filter(|device| !found(device)).collect();
    let lost: Vec<_> = lost.iter().map(|device| device.kind.name).collect();
    let mut silent_ones = silent(&mut sessions);
    silent_ones.retain(|name| !lost.iter().any(|lost| name.starts_with(lost)));
    assert!(silent_ones.is_empty(), "ended in drain, {why}: {silent_ones:?}\n{}", site.log());
    let expected = u32::try_from(sessions.len()).unwrap();
    assert!(answer.sessions_open >= expected, "{why}: {answer:?}");
    let answer = site.revoke(What::All(true), true);
    assert!(answer.sessions_ended >= expected && answer.sessions_open == 0, "{why}: {answer:?}");
    assert_eq!(silent(&mut sessions).len(), sessions.len(), "not ended, {why}");
}

#[test]
fn each_device_that_the_kernel_has_is_gated_by_each_gate_alone() {
    let mut site = Site::new();
    // A listener of all VRFs, and children of an interface that does not answer for them.
    site.host.sysctl("ipv4/tcp_l3mdev_accept", "1");
    let devices = make(&site, BUNDLES.iter().chain(OTHERS));
    let chosen = |wanted: fn(&Kind) -> bool| -> Vec<&Device> {
        devices.iter().filter(|device| wanted(device.kind)).collect()
    };
    let all = chosen(|_| true);
    assert_open(&site, &all, "without an agent");
    for (why, interfaces, hook, guard, devices) in [
        ("by programs on the devices", "[\"jt*\"]", "auto", false, chosen(|kind| kind.seen_above)),
        (
            "by native XDP below",
            "[\"jl*\", \"jm*\"]",
            "auto",
            false,
            chosen(|kind| kind.seen_below),
        ),
        ("by TC below", "[\"jl*\", \"jm*\"]", "tc", false, chosen(|kind| kind.seen_below)),
        ("by the guard", "[\"c0\"]", "auto", true, all.clone()),
    ] {
        let gate = format!("[gate]\nsocket_guard = {guard}");
        site.write_config(&site.base(interfaces, hook).replace("[gate]", &gate));
        site.start();
        let found = |device: &Device| device.kind.found_below || !why.ends_with("below");
        assert_gated(&site, &devices, found, why);
        site.end(Signal::TERM);
        assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    }
    assert_open(&site, &all, "after detach");
}

/// No packet passes a program on such a device: it must not be shown as gated.
#[test]
fn a_device_that_no_packet_passes_is_not_shown_as_gated() {
    let mut site = Site::new();
    let devices = make(&site, OTHERS.iter().filter(|kind| !kind.seen_above));
    site.start();
    for device in devices {
        let (status, _) = site.status();
        let shown = status["interfaces"].as_array().unwrap();
        let [above, below, ..] = device.names();
        assert!(shown.iter().all(|shown| shown["name"] != *above), "{}", device.kind.name);
        let below = interface(&site, &below);
        assert_eq!(below["attached"], true, "{}", device.kind.name);
        let warned = below["note"].to_string().contains("it is in a VRF");
        assert_eq!(warned, device.kind.name == "VRF", "{below:#}");
    }
}

//! Devices of real servers: bonds, teams, VLANs, VRFs, children of an interface, geneve. Each is
//! closed by the programs on it alone, by those on what is below it alone, and by the socket guard
//! alone. In drain sessions go on, and end when it is ordered. In cut they end with their grant.
//!
//! A kernel that does not have a kind of device must refuse it by its type, and its name is
//! printed. In the virtual machines of `cargo xtask vm-test` all of them are there, or the test
//! fails.

mod bundles;
mod doubted;
mod kinds;

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1::{self, revoke_request::What};
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
/// Time for a grant to arrive, also on an emulated machine, before it ends.
const SHORT: Duration = Duration::from_secs(6);
/// Longest wait for a way to open, or for a count, also on an emulated machine.
const SETTLED: Duration = Duration::from_secs(60);
/// Longest wait for the end of a session, also on an emulated machine.
const ENDED: Duration = Duration::from_secs(20);
/// The port with `sessions = "drain"`, and the one with `sessions = "cut"`.
const DRAIN: u16 = 22;
const CUT: u16 = 2222;

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
    fn connect(&self, site: &Site, family: usize, end: u8, port: u16) -> Option<TcpStream> {
        let at = |end, port| SocketAddr::new(self.address(family, end).parse().unwrap(), port);
        let (from, to) = (at(end, 0), at(1, port));
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

/// A session of the user, by a device.
struct Session {
    name: String,
    port: u16,
    stream: TcpStream,
}

impl Session {
    /// Whether the host ends it by a reset.
    fn is_reset(&mut self) -> bool {
        self.stream.set_read_timeout(Some(ENDED)).unwrap();
        let read = self.stream.read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }
}

/// The connections that open, of all tried at once, and the names of those that do not.
fn connect<'a>(site: &Site, devices: &[&'a Device], ports: &[u16]) -> (Vec<Session>, Vec<String>) {
    let ways = devices.iter().flat_map(|device| [(*device, 0), (*device, 1)]);
    let ways =
        ways.flat_map(|(device, family)| ports.iter().map(move |port| (device, family, *port)));
    let name = |device: &'a Device, family: usize, port: u16| {
        format!("{} over IPv{} to {port}", device.kind.name, [4, 6][family])
    };
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let attempts: Vec<_> = ways
            .map(|way @ (device, family, port)| {
                (way, scope.spawn(move || device.connect(site, family, 2, port)))
            })
            .collect();
        for ((device, family, port), attempt) in attempts {
            let name = name(device, family, port);
            match attempt.join().unwrap() {
                Some(stream) => open.push(Session { name, port, stream }),
                None => closed.push(name),
            }
        }
    });
    (open, closed)
}

#[track_caller]
fn assert_open(site: &Site, devices: &[&Device], ports: &[u16], why: &str) -> Vec<Session> {
    let end = Instant::now() + SETTLED;
    loop {
        let (open, closed) = connect(site, devices, ports);
        if closed.is_empty() {
            return open;
        }
        assert!(Instant::now() < end, "closed {why}: {closed:?}\n{}", site.log());
    }
}

#[track_caller]
fn assert_closed(site: &Site, devices: &[&Device], why: &str) {
    let (open, _) = connect(site, devices, &[DRAIN, CUT]);
    let open: Vec<_> = open.iter().map(|session| &session.name).collect();
    assert!(open.is_empty(), "open {why}: {open:?}\n{}", site.log());
}

/// The names of the sessions of which this does not hold, asked at once.
fn without(sessions: &mut [Session], holds: fn(&mut Session) -> bool) -> Vec<&str> {
    let sessions = thread::scope(|scope| {
        let asked: Vec<_> =
            sessions.iter_mut().map(|one| scope.spawn(move || (holds(one), &one.name))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    sessions.into_iter().filter(|(held, _)| !held).map(|(_, name)| name.as_str()).collect()
}

/// The names of sessions that do not carry data.
fn silent(sessions: &mut [Session]) -> Vec<&str> {
    without(sessions, |session| carries(&mut session.stream))
}

/// How the grant for the port in cut ends.
#[derive(Clone, Copy)]
enum End {
    Revoked,
    Over,
}

/// Grants a port to the user's addresses on every device, instead of what an earlier grant opened.
fn admit(
    site: &Site,
    devices: &[&Device],
    port: u16,
    lasts: Duration,
    instead_of: Option<&v1::Grant>,
) -> v1::Grant {
    let addresses: Vec<_> =
        devices.iter().flat_map(|device| [device.address(0, 2), device.address(1, 2)]).collect();
    let sources: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut grant = site.grant(&sources, lasts);
    for range in &mut grant.ports {
        (range.first, range.last) = (port.into(), port.into());
    }
    grant.replaces = instead_of.map(|earlier| earlier.id.clone()).unwrap_or_default();
    site.push(site.sign(&grant)).unwrap();
    grant
}

/// The gate alone in one place: closed, open with a grant, a session in drain, ended by order, and
/// one in cut, ended with its grant.
#[track_caller]
fn assert_gated(
    site: &Site,
    devices: &[&Device],
    found: impl Fn(&Device) -> bool,
    end: End,
    why: &str,
) {
    assert_closed(site, devices, &format!("without a grant, {why}"));
    admit(site, devices, DRAIN, LONG, None);
    let grant = admit(site, devices, CUT, LONG, None);
    let sessions = assert_open(site, devices, &[DRAIN, CUT], &format!("with a grant, {why}"));
    let (mut sessions, mut cut): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|session| session.port == DRAIN);
    if matches!(end, End::Over) {
        admit(site, devices, CUT, SHORT, Some(&grant));
        assert_reset(site, &mut cut, &format!("at the end of the grant, {why}"));
    }
    let answer = site.revoke(What::All(true), false);
    if matches!(end, End::Revoked) {
        assert_reset(site, &mut cut, &format!("after the revocation, {why}"));
    }
    assert_eq!(answer.revoked, if matches!(end, End::Over) { 1 } else { 2 });
    assert_closed(site, devices, &format!("after the revocation, {why}"));
    let lost: Vec<_> = devices.iter().filter(|device| !found(device)).collect();
    let lost: Vec<_> = lost.iter().map(|device| device.kind.name).collect();
    let mut silent_ones = silent(&mut sessions);
    silent_ones.retain(|name| !lost.iter().any(|lost| name.starts_with(lost)));
    assert!(silent_ones.is_empty(), "ended in drain, {why}: {silent_ones:?}\n{}", site.log());
    let expected = u32::try_from(sessions.len()).unwrap();
    let answer = counted(site, answer);
    assert!(answer.sessions_open >= expected, "{why}: {answer:?}");
    let answer = site.revoke(What::All(true), true);
    assert!(answer.sessions_ended >= expected && answer.sessions_open == 0, "{why}: {answer:?}");
    assert_eq!(silent(&mut sessions).len(), sessions.len(), "not ended, {why}");
}

/// The answer once it counts sessions: a slow machine does not count them soon after a cut.
#[track_caller]
fn counted(site: &Site, mut answer: v1::RevokeResponse) -> v1::RevokeResponse {
    let end = Instant::now() + SETTLED;
    while answer.warning.contains("sessions were not counted") {
        assert!(Instant::now() < end, "{answer:?}");
        thread::sleep(Duration::from_millis(500));
        answer = site.revoke(What::All(true), false);
    }
    answer
}

/// Fails unless the peer of each session sees a reset.
#[track_caller]
fn assert_reset(site: &Site, sessions: &mut [Session], why: &str) {
    let goes_on = without(sessions, Session::is_reset);
    assert!(goes_on.is_empty(), "not ended in cut {why}: {goes_on:?}\n{}", site.log());
}

#[test]
fn each_device_that_the_kernel_has_is_gated_by_each_gate_alone() {
    let mut site = Site::new();
    site.serve(CUT);
    // A listener of all VRFs, and children of an interface that does not answer for them.
    site.host.sysctl("ipv4/tcp_l3mdev_accept", "1");
    let devices = make(&site, BUNDLES.iter().chain(OTHERS));
    let chosen = |wanted: fn(&Kind) -> bool| -> Vec<&Device> {
        devices.iter().filter(|device| wanted(device.kind)).collect()
    };
    let all = chosen(|_| true);
    assert_open(&site, &all, &[DRAIN, CUT], "without an agent");
    let (above, below) = (chosen(|kind| kind.seen_above), chosen(|kind| kind.seen_below));
    let members = "[\"jl*\", \"jm*\"]";
    for (why, interfaces, hook, guard, devices, end) in [
        ("by programs on the devices", "[\"jt*\"]", "auto", false, &above, End::Revoked),
        ("by native XDP below", members, "auto", false, &below, End::Revoked),
        ("by TC below", members, "tc", false, &below, End::Revoked),
        ("by the guard", "[\"c0\"]", "auto", true, &all, End::Over),
    ] {
        let gate = format!("[gate]\nsocket_guard = {guard}");
        let cut = format!(
            "[[port]]\nport = {CUT}\nprotocol = \"tcp\"\nsessions = \"cut\"\n\
             sources = [\"0.0.0.0/0\", \"::/0\"]\n"
        );
        site.write_config(&(site.base(interfaces, hook).replace("[gate]", &gate) + &cut));
        site.start();
        let found = |device: &Device| device.kind.found_below || !why.ends_with("below");
        assert_gated(&site, devices, found, end, why);
        site.end(Signal::TERM);
        assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    }
    assert_open(&site, &all, &[DRAIN, CUT], "after detach");
}

/// No packet passes a program on such a device: it must not be shown as gated.
#[test]
fn a_device_that_no_packet_passes_is_not_shown_as_gated() {
    let mut site = Site::new();
    let devices = make(&site, OTHERS.iter().filter(|kind| !kind.seen_above));
    site.start();
    for device in devices {
        let (status, _) = site.status_by_the_agent();
        let shown = status["interfaces"].as_array().unwrap();
        let [above, below, ..] = device.names();
        assert!(shown.iter().all(|shown| shown["name"] != *above), "{}", device.kind.name);
        let below = interface(&site, &below);
        assert_eq!(below["attached"], true, "{}", device.kind.name);
        let warned = below["note"].to_string().contains("it is in a VRF");
        assert_eq!(warned, device.kind.name == "VRF", "{below:#}");
    }
}

//! Network namespaces with addresses and veth pairs, removed when dropped, also on a panic.
//!
//! Namespaces are named `jt-<pid>-<n>`. The next run removes those of a run that was killed.
//! Nothing here ever touches the namespace that the tests were started in.

use std::{
    fs,
    fs::File,
    io::Write as _,
    net::{IpAddr, UdpSocket},
    os::fd::AsFd as _,
    panic,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "jt-";

/// Longest wait for an address or an interface to be usable.
const SETTLED: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A new network namespace, with loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace.
    #[expect(clippy::new_without_default, reason = "it acts on the kernel")]
    pub fn new() -> Self {
        require_root();
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{}", std::process::id(), unique());
        command("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// The namespace's name, for `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in the namespace. Options such as the address family may come first.
    #[track_caller]
    pub fn ip(&self, arguments: &[&str]) {
        command("ip", &[&["-n", &self.name], arguments].concat());
    }

    /// Runs many commands of `ip`, a line each, in one process.
    #[track_caller]
    pub fn ip_batch(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run ip");
        let mut input = child.stdin.take().expect("its input is a pipe");
        input.write_all(lines.as_bytes()).expect("write to ip");
        drop(input);
        let output = child.wait_with_output().expect("wait for ip");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip -batch:\n{lines}{errors}");
    }

    /// Runs `body` on a new thread inside the namespace. Returns its value, or panics as it did.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    body()
                })
                .join()
        });
        inside.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Starts `body` on a thread that stays inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = self.open();
        thread::spawn(move || {
            enter(&file);
            body()
        })
    }

    /// Starts a process inside. Unlike under `ip netns exec`, /sys stays what it was, with the bpf
    /// filesystem on it.
    pub fn start(&self, command: &mut Command) -> Child {
        self.run(|| command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Writes a sysctl below /proc/sys/net, such as `ipv4/tcp_syncookies`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(key);
        self.run(|| {
            fs::write(&path, value)
                .unwrap_or_else(|error| panic!("write {value} to {}: {error}", path.display()));
        });
    }

    /// Adds an address to an interface, usable at once (no duplicate address detection).
    pub fn address(&self, interface: &str, address: &str) {
        if address.contains(':') {
            self.sysctl(&format!("ipv6/conf/{interface}/accept_dad"), "0");
            self.ip(&["addr", "add", address, "dev", interface, "nodad"]);
            if interface == "lo" {
                self.wait_until_reachable(address);
            }
        } else {
            self.ip(&["addr", "add", address, "dev", interface]);
        }
    }

    /// The kernel makes the route to an IPv6 address of its own a moment after the address.
    fn wait_until_reachable(&self, address: &str) {
        let (address, _) = address.split_once('/').expect("address/length");
        let address: IpAddr = address.parse().expect("an address");
        let end = Instant::now() + SETTLED;
        let reachable = || UdpSocket::bind((address, 0))?.connect((address, 9));
        self.run(|| {
            while let Err(error) = reachable() {
                assert!(Instant::now() < end, "no route to the own address {address}: {error}");
                thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// Index of an interface inside.
    pub fn index(&self, interface: &str) -> u32 {
        read_number(&self.property(interface, "ifindex"))
    }

    /// Hardware address of an interface inside.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let text = self.property(interface, "address");
        let mut mac = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut mac {
            let part = parts.next().unwrap_or_default();
            *byte = u8::from_str_radix(part, 16).unwrap_or_else(|_| panic!("MAC address {text}"));
        }
        mac
    }

    /// Connects an interface of this namespace with one of `peer` and gives both addresses
    /// (`address/length`).
    pub fn connect(
        &self,
        interface: &str,
        addresses: &[&str],
        peer: &Self,
        peer_interface: &str,
        peer_addresses: &[&str],
    ) {
        self.ip(&[
            "link",
            "add",
            interface,
            "type",
            "veth",
            "peer",
            "name",
            peer_interface,
            "netns",
            &peer.name,
        ]);
        for (namespace, name, addresses) in
            [(self, interface, addresses), (peer, peer_interface, peer_addresses)]
        {
            for address in addresses {
                namespace.address(name, address);
            }
            namespace.ip(&["link", "set", name, "up"]);
        }
        self.wait_until_up(interface);
        peer.wait_until_up(peer_interface);
    }

    /// Until the kernel has noticed that both ends are up it drops what is sent, and on a machine with
    /// other work all three requests of a neighbour discovery.
    fn wait_until_up(&self, interface: &str) {
        let end = Instant::now() + SETTLED;
        while self.property(interface, "operstate") != "UP" {
            assert!(Instant::now() < end, "{interface} does not come up");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until each interface that is up has its IPv6 link-local address and no other machine was found
    /// to have one of its addresses (RFC 4862, section 5.4): the kernel does this some seconds later. A
    /// browser drops what it loads when an address comes.
    pub fn wait_until_settled(&self) {
        let end = Instant::now() + SETTLED;
        loop {
            let links = self.addresses();
            if links.iter().all(is_settled) {
                return;
            }
            assert!(Instant::now() < end, "addresses do not settle: {links:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn addresses(&self) -> Vec<serde_json::Value> {
        let output = Command::new("ip").args(["-n", &self.name, "-j", "addr", "show"]).output();
        serde_json::from_slice(&output.expect("run ip").stdout).expect("ip answers with JSON")
    }

    /// Sets the neighbour's hardware address, so that no ARP or ND is needed.
    pub fn neighbour(&self, interface: &str, address: IpAddr, mac: [u8; 6]) {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let address = address.to_string();
        self.ip(&["neigh", "replace", &address, "lladdr", &mac, "dev", interface]);
    }

    /// Frames that came in at an interface inside.
    pub fn received(&self, interface: &str) -> u64 {
        let output = Command::new("ip")
            .args(["-n", &self.name, "-j", "-s", "link", "show", "dev", interface])
            .output()
            .expect("run ip");
        let links: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("ip answers with JSON");
        let packets = links.pointer("/0/stats64/rx/packets").and_then(serde_json::Value::as_u64);
        packets.unwrap_or_else(|| panic!("interface {interface} has no counter"))
    }

    /// A property of an interface, by `ip`: /sys shows the namespace of the process that mounted
    /// it.
    fn property(&self, interface: &str, what: &str) -> String {
        let output = Command::new("ip")
            .args(["-n", &self.name, "-j", "link", "show", "dev", interface])
            .output()
            .expect("run ip");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let links: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("no interface {interface}"));
        let value = links.get(0).and_then(|link| link.get(what)).cloned();
        match value {
            Some(serde_json::Value::String(text)) => text,
            Some(number) => number.to_string(),
            None => panic!("interface {interface} has no {what}"),
        }
    }

    fn enter(&self) {
        enter(&self.open());
    }

    fn open(&self) -> File {
        let path = PathBuf::from(DIRECTORY).join(&self.name);
        File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !matches!(deleted, Ok(status) if status.success()) && !thread::panicking() {
            panic!("cannot delete network namespace {}", self.name);
        }
    }
}

/// Panics unless the tests run as root: a skipped test must not look like a passed one.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root: run them with sudo");
}

/// A number that no other caller of this process has.
pub fn unique() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether the process in a leftover's name has ended. `name` is `<pid>-<n>`.
pub(crate) fn is_orphan(name: &str) -> bool {
    let Some((pid, number)) = name.split_once('-') else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(pid) && digits(number) && !Path::new("/proc").join(pid).exists()
}

/// Removes namespaces of test runs that were killed.
fn sweep() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PREFIX).is_some_and(is_orphan) {
            // Another run may remove it at the same time.
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

fn enter(file: &File) {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("enter the network namespace");
}

#[track_caller]
fn command(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

/// Whether an interface, as `ip` shows it, is down or has the addresses that it will have.
fn is_settled(link: &serde_json::Value) -> bool {
    let addresses = link.get("addr_info").and_then(serde_json::Value::as_array);
    let mut addresses = addresses.into_iter().flatten();
    let is = |of: &serde_json::Value, key, what| of.get(key).is_some_and(|value| value == what);
    let local = |one: &&serde_json::Value| is(one, "family", "inet6") && is(one, "scope", "link");
    !is(link, "operstate", "UP")
        || addresses.find(local).is_some_and(|one| one.get("tentative").is_none())
}

fn read_number(text: &str) -> u32 {
    text.trim().parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_orphans() {
        assert!(!is_orphan(&format!("{}-1", std::process::id())));
        // No such process: it is above the largest pid_max of Linux (2^22).
        assert!(is_orphan("4194305-0"));
        for foreign in ["", "x", "4194305", "4194305-", "-1", "4194305-a", "a-1", "4194305-1-2"] {
            assert!(!is_orphan(foreign), "{foreign}");
        }
    }
}

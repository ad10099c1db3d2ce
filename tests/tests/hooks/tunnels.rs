//! Tunnels, each gated by the program on its own device alone: no other program sees the inner
//! packet, and most of these devices have no Ethernet header.
//!
//! A kernel that does not have a kind of device must refuse it by its type, and its name is
//! printed. In the virtual machines of `cargo xtask vm-test` all of them are there, or the test
//! fails.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jit_tests::{
    agent::{CLIENT, PATIENCE, STRANGER, Site, TO_CLIENT, TO_STRANGER, opens},
    lacks,
    netns::Namespace,
    wireguard,
};

use crate::{kernels::best_tc, rungs::interface};

const LONG: Duration = Duration::from_secs(600);
/// Longest wait for a way to open, or for a count, also on an emulated machine.
const SETTLED: Duration = Duration::from_secs(30);

/// A kind of tunnel.
struct Kind {
    name: &'static str,
    /// The words after `link add DEVICE type` on the host, with the placeholders of [`End`].
    host: &'static str,
    /// The same at the other end.
    peer: &'static str,
    /// More lines of `ip` for both ends.
    more: &'static str,
    /// Whether it carries IPv4 and IPv6.
    carries: [bool; 2],
    /// Between host and client instead of host and stranger, for a kind of which there can be only
    /// one.
    to_client: bool,
}

impl Kind {
    const fn new(name: &'static str, both: &'static str) -> Self {
        let carries = [true; 2];
        Self { name, host: both, peer: both, more: "", carries, to_client: false }
    }
}

/// IPsec without encryption: what matters is the device that the inner packets come from.
const XFRM: &str = "\
    xfrm state add src PEER4 dst OWN4 proto esp spi 1 reqid 1 mode tunnel if_id 7 \
    flag af-unspec enc ecb(cipher_null) \"\" auth digest_null \"\"\n\
    xfrm state add src OWN4 dst PEER4 proto esp spi 1 reqid 1 mode tunnel if_id 7 \
    flag af-unspec enc ecb(cipher_null) \"\" auth digest_null \"\"\n\
    xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir in if_id 7 \
    tmpl src PEER4 dst OWN4 proto esp reqid 1 mode tunnel\n\
    xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 7 \
    tmpl src OWN4 dst PEER4 proto esp reqid 1 mode tunnel\n\
    xfrm policy add src ::/0 dst ::/0 dir in if_id 7 \
    tmpl src PEER4 dst OWN4 proto esp reqid 1 mode tunnel\n\
    xfrm policy add src ::/0 dst ::/0 dir out if_id 7 \
    tmpl src OWN4 dst PEER4 proto esp reqid 1 mode tunnel\n";

const KINDS: &[Kind] = &[
    Kind::new("gre", "gre local OWN4 remote PEER4"),
    // Its device has a link-layer header of its own, the outer one, until a remote is named.
    Kind {
        host: "gre local OWN4 key 7",
        more: "neigh replace INNER4 lladdr PEER4 dev DEVICE\n\
               neigh replace INNER6 lladdr PEER4 dev DEVICE\n",
        ..Kind::new("gre without a remote", "gre local OWN4 key 7")
    },
    Kind::new("gretap", "gretap local OWN4 remote PEER4 key 8"),
    Kind::new("erspan", "erspan local OWN4 remote PEER4 seq key 9 erspan_ver 1"),
    Kind { carries: [true, false], ..Kind::new("ipip", "ipip local OWN4 remote PEER4") },
    Kind {
        host: "ipip local OWN4",
        more: "route replace INNER4 via PEER4 dev DEVICE onlink\n",
        carries: [true, false],
        to_client: true,
        ..Kind::new("ipip without a remote", "ipip local OWN4 remote PEER4")
    },
    Kind { carries: [false, true], ..Kind::new("sit", "sit local OWN4 remote PEER4") },
    Kind::new("ip6gre", "ip6gre local OWN6 remote PEER6"),
    Kind::new("ip6gretap", "ip6gretap local OWN6 remote PEER6 key 8"),
    Kind::new("ip6tnl", "ip6tnl mode any local OWN6 remote PEER6"),
    Kind { more: XFRM, ..Kind::new("xfrm", "xfrm dev UNDER if_id 7") },
    Kind { to_client: true, ..Kind::new("wireguard", "wireguard") },
];

/// One end of a tunnel.
struct End<'a> {
    namespace: &'a Namespace,
    device: &'a str,
    /// The interface below.
    under: &'static str,
    /// Outer addresses, of both families.
    own: [&'static str; 2],
    peer: [&'static str; 2],
    /// Inner addresses.
    inner: [String; 2],
    inner_peer: [String; 2],
}

impl End<'_> {
    fn fill(&self, template: &str) -> String {
        template
            .replace("DEVICE", self.device)
            .replace("UNDER", self.under)
            .replace("OWN4", self.own[0])
            .replace("OWN6", self.own[1])
            .replace("PEER4", self.peer[0])
            .replace("PEER6", self.peer[1])
            .replace("INNER4", &self.inner_peer[0])
            .replace("INNER6", &self.inner_peer[1])
    }

    /// Makes the device. `false` if the kernel has none of its type.
    fn make(&self, kind: &str) -> bool {
        let line = self.fill(&format!("link add DEVICE type {kind}"));
        let mut command = Command::new("ip");
        command.args(["-n", self.namespace.name()]).args(line.split(' '));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let unknown = said.contains("Unknown device type");
        assert!(output.status.success() || unknown, "ip {line}: {said}");
        !unknown
    }

    /// Adds the remaining settings and addresses, and sets it up.
    fn finish(&self, more: &str, carries: [bool; 2]) {
        let Self { namespace, device, inner: [v4, v6], .. } = self;
        let mut lines = String::new();
        if carries[0] {
            lines += &format!("addr add {v4}/24 dev {device}\n");
        }
        if carries[1] {
            lines += &format!("addr add {v6}/64 dev {device} nodad\n");
        }
        let more = self.fill(more);
        namespace.ip_batch(&format!("link set {device} up\n{lines}{more}"));
    }
}

/// A way to the host's port 22 through one tunnel.
struct Way {
    name: String,
    /// From the client, not the stranger.
    from_client: bool,
    source: String,
    to: IpAddr,
}

impl Way {
    fn opens(&self, site: &Site, port: u16) -> bool {
        let from = if self.from_client { &site.client } else { &site.stranger };
        from.run(|| opens(SocketAddr::new(self.to, port), PATIENCE))
    }
}

/// The names of the ways that open. All are tried at once.
fn open<'a>(site: &Site, ways: &'a [Way], port: u16) -> Vec<&'a str> {
    thread::scope(|scope| {
        let attempts: Vec<_> =
            ways.iter().map(|way| (way, scope.spawn(move || way.opens(site, port)))).collect();
        let opened = attempts
            .into_iter()
            .filter_map(|(way, attempt)| attempt.join().unwrap().then_some(way.name.as_str()));
        opened.collect()
    })
}

#[track_caller]
fn assert_open(site: &Site, ways: &[Way], port: u16, why: &str) {
    let end = Instant::now() + SETTLED;
    loop {
        let opened = open(site, ways, port);
        let closed: Vec<_> =
            ways.iter().map(|way| &way.name).filter(|name| !opened.contains(&&***name)).collect();
        if closed.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "closed {why}: {closed:?}\n{}", site.log());
    }
}

/// Fails unless the ways are closed by the gate: it has counted every attempt.
#[track_caller]
fn assert_closed(site: &Site, ways: &[Way], why: &str) {
    let denied = || site.status().0["dropped"]["by_reason"]["denied"].as_u64().unwrap_or_default();
    let before = denied();
    let opened = open(site, ways, 22);
    assert!(opened.is_empty(), "open {why}: {opened:?}\n{}", site.log());
    let end = Instant::now() + SETTLED;
    while denied() < before + ways.len() as u64 {
        assert!(Instant::now() < end, "{why}: {} attempts, {before} and {}", ways.len(), denied());
    }
}

/// Makes every tunnel that the kernel has. Also returns those that it does not have.
fn make(site: &Site) -> (Vec<Way>, Vec<&'static str>) {
    let (mut ways, mut lacking) = (Vec::new(), Vec::new());
    for (number, kind) in KINDS.iter().enumerate() {
        let device = &device(number);
        let inner =
            |end| [format!("198.18.{number}.{end}"), format!("2001:db8:18:{number}::{end}")];
        let (namespace, under, own, peer) = if kind.to_client {
            (&site.client, "c0", TO_CLIENT, CLIENT)
        } else {
            (&site.stranger, "s0", TO_STRANGER, STRANGER)
        };
        let (inner, inner_peer) = (inner(1), inner(2));
        let host = End { namespace: &site.host, device, under, own, peer, inner, inner_peer };
        let (inner, inner_peer) = (host.inner_peer.clone(), host.inner.clone());
        let far = End { namespace, device, under: "p0", own: peer, peer: own, inner, inner_peer };
        if !host.make(kind.host) {
            lacking.push(kind.name);
            continue;
        }
        assert!(far.make(kind.peer), "{} here and not there", kind.name);
        if kind.name == "wireguard" {
            secure(&host, &far);
        }
        host.finish(kind.more, kind.carries);
        far.finish(kind.more, kind.carries);
        for (family, carries) in ["IPv4", "IPv6"].into_iter().zip(kind.carries) {
            let at = usize::from(family == "IPv6");
            if carries {
                ways.push(Way {
                    name: format!("{family} by {}", kind.name),
                    from_client: kind.to_client,
                    source: far.inner[at].clone(),
                    to: host.inner[at].parse().unwrap(),
                });
            }
        }
    }
    (ways, lacking)
}

/// Gives both ends their keys.
fn secure(host: &End<'_>, far: &End<'_>) {
    const PORT: u16 = 51_820;
    let [one, other] = wireguard::PAIRS;
    for (end, own, peer) in [(host, one, other), (far, other, one)] {
        let to = SocketAddrV4::new(end.peer[0].parse().unwrap(), PORT);
        wireguard::set(end.namespace, end.device, own, PORT, peer, to);
    }
}

/// Name of the device of a kind.
fn device(number: usize) -> String {
    format!("jt{number}")
}

#[test]
fn each_tunnel_that_the_kernel_has_is_gated_by_the_program_on_it() {
    let mut site = Site::new();
    let config = site.base("[\"jt*\"]", "auto");
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.serve(80);
    let (ways, lacking) = make(&site);
    println!("tunnels: {} ways, and this kernel has no device for {lacking:?}", ways.len());
    assert!(!lacks::variable_is_set() || lacking.is_empty(), "no modules for {lacking:?}");
    if ways.is_empty() {
        return;
    }
    assert_open(&site, &ways, 22, "without an agent");
    site.start();
    for (number, kind) in KINDS.iter().enumerate() {
        if !lacking.contains(&kind.name) {
            let state = interface(&site, &device(number));
            assert_eq!(state["hook"], best_tc(), "{}: {state:#}", kind.name);
        }
    }
    assert_closed(&site, &ways, "without a grant");
    assert_open(&site, &ways, 80, "at an unprotected port");
    let sources: Vec<&str> = ways.iter().map(|way| way.source.as_str()).collect();
    site.admit(&sources, LONG);
    assert_open(&site, &ways, 22, "with a grant");
    assert_eq!(site.revoke_all(), 1);
    assert_closed(&site, &ways, "after the revocation");
}

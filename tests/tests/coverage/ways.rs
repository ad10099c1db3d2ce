//! Ways in by other interfaces than the one that the packet reached first, and by interfaces that
//! are not plain Ethernet. The packet gate alone closes each, wherever on the way it is attached.
//! So does the socket guard alone.

use jit_tests::{
    agent::{STRANGER, Site, TO_CLIENT, TO_STRANGER},
    sockets, tun,
};

use crate::path::{self, Gate, Path, serve};

#[test]
fn a_vxlan_tunnel_is_gated() {
    let path =
        Path { from: ["198.18.1.2", "2001:db8:18:1::2"], to: ["198.18.1.1", "2001:db8:18:1::1"] };
    let mut site = Site::new();
    for (namespace, device, local, remote, inner) in [
        (&site.host, "s0", TO_STRANGER[0], STRANGER[0], path.to),
        (&site.stranger, "p0", STRANGER[0], TO_STRANGER[0], path.from),
    ] {
        namespace.ip_batch(&format!(
            "link add vx0 type vxlan id 7 dstport 4789 local {local} remote {remote} dev {device}\n\
             addr add {}/24 dev vx0\n\
             addr add {}/64 dev vx0 nodad\n\
             link set vx0 up\n",
            inner[0], inner[1]
        ));
    }
    path.assert_gated_by(
        &mut site,
        &[
            ("by the program on the tunnel's interface", Gate::PACKETS),
            ("by the guard", Gate { exclude: "[\"vx0\"]", guard: true, ..Gate::PACKETS }),
        ],
    );
}

#[test]
fn a_bridge_and_its_port_are_gated() {
    let path =
        Path { from: ["198.18.2.2", "2001:db8:18:2::2"], to: ["198.18.2.1", "2001:db8:18:2::1"] };
    let mut site = Site::new();
    path::connect(&site, "b0", "p2", &path);
    site.host.ip_batch(&format!(
        "link add br0 type bridge forward_delay 0\n\
         addr flush dev b0\n\
         link set b0 master br0\n\
         addr add {}/24 dev br0\n\
         addr add {}/64 dev br0 nodad\n\
         link set br0 up\n",
        path.to[0], path.to[1]
    ));
    path.assert_gated_by(
        &mut site,
        &[
            ("by both programs", Gate::PACKETS),
            ("by the port's program", Gate { exclude: "[\"br0\"]", ..Gate::PACKETS }),
            ("by the bridge's program", Gate { exclude: "[\"b0\"]", ..Gate::PACKETS }),
            ("by the guard", Gate { exclude: "[\"b*\"]", guard: true, ..Gate::PACKETS }),
        ],
    );
}

#[test]
fn a_macvlan_child_on_the_host_is_gated() {
    let path =
        Path { from: ["198.18.3.2", "2001:db8:18:3::2"], to: ["198.18.3.1", "2001:db8:18:3::1"] };
    let mut site = Site::new();
    // Otherwise the parent answers for the child's address too, and frames sometimes go to the
    // parent.
    site.host.sysctl("ipv4/conf/all/arp_ignore", "1");
    site.stranger.address("p0", &format!("{}/24", path.from[0]));
    site.stranger.address("p0", &format!("{}/64", path.from[1]));
    site.host.ip_batch(&format!(
        "link add link s0 name m0 type macvlan mode bridge\n\
         addr add {}/24 dev m0\n\
         addr add {}/64 dev m0 nodad\n\
         link set m0 up\n",
        path.to[0], path.to[1]
    ));
    path.assert_gated_by(
        &mut site,
        &[
            ("by both programs", Gate::PACKETS),
            ("by the parent's program", Gate { exclude: "[\"m0\"]", ..Gate::PACKETS }),
            ("by the child's program", Gate { exclude: "[\"s0\"]", ..Gate::PACKETS }),
            ("by the guard", Gate { exclude: "[\"s0\", \"m0\"]", guard: true, ..Gate::PACKETS }),
        ],
    );
}

/// The weak host model: Linux answers for its addresses on every interface.
#[test]
fn another_interfaces_address_is_gated() {
    let path = Path { from: STRANGER, to: TO_CLIENT };
    let mut site = Site::new();
    site.stranger.ip_batch(&format!(
        "route add 198.51.100.0/24 via {}\nroute add 2001:db8:1::/64 via {}\n",
        TO_STRANGER[0], TO_STRANGER[1]
    ));
    path.assert_gated_by(
        &mut site,
        &[
            ("by the program on the way", Gate::PACKETS),
            ("by the guard", Gate { interfaces: "[\"c0\"]", guard: true, ..Gate::PACKETS }),
        ],
    );
}

/// The packets have no Ethernet header.
#[test]
fn a_tun_device_is_gated() {
    let path =
        Path { from: ["198.18.4.2", "2001:db8:18:4::2"], to: ["198.18.4.1", "2001:db8:18:4::1"] };
    let mut site = Site::new();
    tun::connect("t0", &site.host, &site.stranger);
    for (namespace, inner) in [(&site.host, path.to), (&site.stranger, path.from)] {
        namespace.ip_batch(&format!(
            "addr add {}/24 dev t0\naddr add {}/64 dev t0 nodad\nlink set t0 up\n",
            inner[0], inner[1]
        ));
    }
    path.assert_gated_by(
        &mut site,
        &[
            ("by the program on the device", Gate::PACKETS),
            ("by the guard", Gate { exclude: "[\"t0\"]", guard: true, ..Gate::PACKETS }),
        ],
    );
}

#[test]
fn jumbo_frames_are_gated_natively_and_a_granted_session_carries_them() {
    let path =
        Path { from: ["198.18.5.2", "2001:db8:18:5::2"], to: ["198.18.5.1", "2001:db8:18:5::1"] };
    let mut site = Site::new();
    path::connect(&site, "j0", "p5", &path);
    site.host.ip(&["link", "set", "j0", "mtu", "9000"]);
    site.stranger.ip(&["link", "set", "p5", "mtu", "9000"]);
    path.assert_open(&site, "without an agent");
    serve(&site.host, 2222, *b"ok");
    Gate::PACKETS.configure(&site);
    site.start();
    let (status, _) = site.status();
    let interfaces = status["interfaces"].as_array().unwrap();
    let jumbo = interfaces.iter().find(|interface| interface["name"] == "j0").unwrap();
    assert_eq!(jumbo["hook"], "xdp_native", "{status:#}");
    path.assert_gated(&site, "with frames of 9,000 bytes");
    site.admit(&path.from, path::LONG);
    for family in [0, 1] {
        let (from, to) = (path.from[family], path.to[family]);
        let mut session = site.stranger.run(|| {
            let from = std::net::SocketAddr::new(from.parse().unwrap(), 0);
            let to = std::net::SocketAddr::new(to.parse().unwrap(), 22);
            sockets::connect_from(from, to, sockets::PATIENCE).unwrap()
        });
        let mut greeting = [0; 2];
        std::io::Read::read_exact(&mut session, &mut greeting).unwrap();
        let before = site.stranger.run(|| sent("p5"));
        sockets::exchange(&mut session, 8 << 20);
        let after = site.stranger.run(|| sent("p5"));
        // Half of the frames may be acknowledgements.
        let size = (after.0 - before.0) / (after.1 - before.1);
        assert!(size > 3_000, "frames of {size} bytes");
    }
}

/// Bytes and frames that an interface has sent.
fn sent(interface: &str) -> (u64, u64) {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
    let fields: Vec<u64> =
        line.unwrap().split_whitespace().map(|field| field.parse().unwrap()).collect();
    (fields[8], fields[9])
}

//! Ways in that no program on an interface sees: closed without a grant, open with one, and open
//! without the guard.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{PATIENCE, STRANGER, Site, TO_CLIENT, TO_STRANGER, address, opens},
    netns::Namespace,
    sockets,
};

const LONG: Duration = Duration::from_secs(600);

/// The result of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Open,
    Reset,
    Silence,
}

fn knock(from: &Namespace, address: SocketAddr) -> Answer {
    match from.run(|| TcpStream::connect_timeout(&address, PATIENCE)) {
        Ok(_) => Answer::Open,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Reset,
        Err(error) if sockets::is_silence(&error) => Answer::Silence,
        Err(error) => panic!("{address}: {error}"),
    }
}

/// A host whose interface towards the stranger has no gate, with the guard or without.
fn ungated(guard: bool) -> Site {
    let mut site = Site::new();
    let config = site.base("[\"c0\"]", "auto");
    site.write_config(&config.replace("[gate]", &format!("[gate]\nsocket_guard = {guard}")));
    site.start();
    site
}

fn nft(namespace: &Namespace, rules: &str) {
    let file = format!("/run/netns/{}", namespace.name());
    let output =
        Command::new("nsenter").arg(format!("--net={file}")).args(["nft", rules]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {rules}: {errors}");
}

#[test]
fn an_interface_without_a_gate_is_closed_by_the_guard_alone() {
    for family in [0, 1] {
        let to_stranger = address(TO_STRANGER, family, 22);
        let without = ungated(false);
        assert_eq!(knock(&without.stranger, to_stranger), Answer::Open, "without the guard");
        drop(without);
        let site = ungated(true);
        assert_eq!(knock(&site.stranger, to_stranger), Answer::Reset);
        assert_eq!(knock(&site.client, address(TO_CLIENT, family, 22)), Answer::Silence);
        let (status, _) = site.status();
        assert!(status["dropped"]["by_socket_guard"].as_u64().unwrap() >= 1, "{status:#}");
        assert!(status["dropped"]["by_port"]["22/tcp"]["denied"].as_u64().unwrap() >= 2);
        site.admit(&STRANGER, LONG);
        assert!(site.stranger_gets_in(family, 22));
        assert_eq!(site.status().0["grants"][0]["hits"], 1, "counted, though no program saw it");
        assert!(!site.client_opens(family, 22));
        site.revoke_all();
        assert_eq!(knock(&site.stranger, to_stranger), Answer::Reset);
    }
}

#[test]
fn a_grant_ends_on_time_at_the_guard_with_the_agent_killed() {
    let mut site = ungated(true);
    site.admit(&STRANGER, Duration::from_secs(3));
    let opened = site.stranger_opens(0, 22);
    site.end(rustix::process::Signal::KILL);
    assert!(opened);
    std::thread::sleep(Duration::from_millis(3_100));
    assert_eq!(knock(&site.stranger, address(TO_STRANGER, 0, 22)), Answer::Reset);
}

#[test]
fn a_port_redirect_to_a_protected_port_is_closed_by_the_guard() {
    for guard in [false, true] {
        let mut site = Site::new();
        let config = site.base("[\"*\"]", "auto");
        site.write_config(&config.replace("[gate]", &format!("[gate]\nsocket_guard = {guard}")));
        site.start();
        nft(&site.host, "add table inet t");
        nft(&site.host, "add chain inet t p { type nat hook prerouting priority dstnat ; }");
        nft(&site.host, "add rule inet t p tcp dport 2222 redirect to :22");
        for family in [0, 1] {
            let answer = knock(&site.stranger, address(TO_STRANGER, family, 2222));
            let expected = if guard { Answer::Reset } else { Answer::Open };
            assert_eq!(answer, expected, "guard {guard}, family {family}");
        }
        if guard {
            site.admit(&STRANGER, LONG);
            assert!(site.stranger_gets_in(0, 2222) && site.stranger_gets_in(1, 2222));
            assert!(!site.client_opens(0, 2222), "a grant opens its source alone");
        }
    }
}

/// A redirect past the packet gate, to a service that then takes the stranger for the host itself.
#[test]
fn a_stranger_with_an_own_address_is_closed_by_the_guard() {
    const RULES: [(&str, &str, usize); 3] = [
        ("snat ip to 203.0.113.1", "the host's address", 0),
        ("snat ip6 to 2001:db8:2::1", "the host's address", 1),
        ("snat ip to 127.0.0.1", "loopback", 0),
    ];
    for (rule, address_of, family) in RULES {
        for guard in [false, true] {
            let mut site = Site::new();
            let config = site.base("[\"*\"]", "auto");
            let gate = format!("[gate]\nsocket_guard = {guard}");
            site.write_config(&config.replace("[gate]", &gate));
            site.host.sysctl("ipv4/conf/all/route_localnet", "1");
            nft(&site.host, "add table inet t");
            nft(&site.host, "add chain inet t p { type nat hook prerouting priority dstnat ; }");
            nft(&site.host, "add rule inet t p tcp dport 2222 redirect to :22");
            site.start();
            nft(&site.host, "add chain inet t i { type nat hook input priority 100 ; }");
            nft(&site.host, &format!("add rule inet t i iifname s0 tcp dport 22 {rule}"));
            let to = address(TO_STRANGER, family, 2222);
            if !guard {
                assert_eq!(knock(&site.stranger, to), Answer::Open, "{rule}: without the guard");
                continue;
            }
            wait_until_translating(&site);
            assert_eq!(knock(&site.stranger, to), Answer::Reset, "{rule}: {address_of}");
            // The way in shows the host itself.
            for local in ["127.0.0.1", "::1"] {
                let local = SocketAddr::new(local.parse::<IpAddr>().unwrap(), 22);
                assert!(site.host.run(|| opens(local, PATIENCE)), "{local}");
            }
            site.end(rustix::process::Signal::KILL);
            assert_eq!(knock(&site.stranger, to), Answer::Reset, "{rule}: with the agent dead");
            site.start();
            assert_eq!(knock(&site.stranger, to), Answer::Reset, "{rule}: after a restart");
            nft(&site.host, "delete chain inet t i");
            let end = Instant::now() + Duration::from_secs(10);
            let own = address(TO_STRANGER, family, 22);
            while !site.host.run(|| opens(own, PATIENCE)) {
                assert!(Instant::now() < end, "{rule}: the address is the host's own again");
            }
        }
    }
}

/// Waits until the agent has seen that sources are translated.
fn wait_until_translating(site: &Site) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let (status, _) = site.status();
        if status["socket_guard"]["note"].as_str().unwrap_or_default().contains("translates") {
            return;
        }
        assert!(Instant::now() < end, "{status:#}\n{}", site.log());
    }
}

#[test]
fn what_a_tunnel_brings_is_closed_by_the_guard() {
    for guard in [false, true] {
        let mut site = Site::new();
        let config = site.base("[\"*\"]", "auto");
        let gate = format!("[gate]\nsocket_guard = {guard}\nexclude = [\"vx0\"]");
        site.write_config(&config.replace("[gate]", &gate));
        for (namespace, interface, local, remote, inner) in [
            (&site.host, "s0", TO_STRANGER[0], STRANGER[0], "198.18.0.1/24"),
            (&site.stranger, "p0", STRANGER[0], TO_STRANGER[0], "198.18.0.2/24"),
        ] {
            let link = "link add vx0 type vxlan id 7 dstport 4789";
            let mut arguments: Vec<_> = link.split(' ').collect();
            arguments.extend(["local", local, "remote", remote, "dev", interface]);
            namespace.ip(&arguments);
            namespace.address("vx0", inner);
            namespace.ip(&["link", "set", "vx0", "up"]);
        }
        site.start();
        let inner: SocketAddr = "198.18.0.1:22".parse().unwrap();
        let answer = knock(&site.stranger, inner);
        assert_eq!(answer, if guard { Answer::Reset } else { Answer::Open }, "guard {guard}");
        if guard {
            // The grant is for the source of the inner packet.
            site.admit(&[STRANGER[0]], LONG);
            assert_eq!(knock(&site.stranger, inner), Answer::Reset);
            site.admit(&["198.18.0.2"], LONG);
            assert!(site.stranger.run(|| opens(inner, PATIENCE)));
        }
    }
}

#[test]
fn the_host_speaks_to_itself_by_every_address_without_a_grant() {
    let site = ungated(true);
    let local = ["127.0.0.1", "127.5.5.5", "::1"];
    for address in local.iter().chain(&TO_CLIENT).chain(&TO_STRANGER) {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 22);
        assert!(site.host.run(|| opens(address, PATIENCE)), "{address}");
    }
    assert_eq!(site.status().0["dropped"]["by_socket_guard"], 0);
}

#[test]
fn an_ipv4_grant_opens_a_dual_stack_listener_to_its_ipv4_client_alone() {
    let site = ungated(true);
    site.admit(&[STRANGER[0]], LONG);
    assert_eq!(knock(&site.stranger, address(TO_STRANGER, 0, 22)), Answer::Open);
    assert_eq!(knock(&site.stranger, address(TO_STRANGER, 1, 22)), Answer::Reset);
    site.revoke_all();
    assert_eq!(knock(&site.stranger, address(TO_STRANGER, 0, 22)), Answer::Reset);
    site.admit(&[STRANGER[1]], LONG);
    assert_eq!(knock(&site.stranger, address(TO_STRANGER, 0, 22)), Answer::Reset);
    assert_eq!(knock(&site.stranger, address(TO_STRANGER, 1, 22)), Answer::Open);
}

#[test]
fn datagrams_to_a_protected_port_are_closed_by_the_guard() {
    const PORT: u16 = 2300;
    let mut site = Site::new();
    let config = site.base("[\"c0\"]", "auto");
    site.write_config(&format!(
        "{config}\n[[port]]\nport = {PORT}\nprotocol = \"udp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n"
    ));
    let server = site.host.run(|| UdpSocket::bind(("::", PORT)).unwrap());
    server.set_read_timeout(Some(sockets::SILENCE)).unwrap();
    let arrives = |site: &Site, family: usize, port: u16| {
        let to = address(TO_STRANGER, family, port);
        let from = SocketAddr::new(address(STRANGER, family, 0).ip(), 0);
        site.stranger.run(|| UdpSocket::bind(from).unwrap().send_to(b"knock", to).unwrap());
        let mut buffer = [0; 16];
        matches!(server.recv_from(&mut buffer), Ok((5, _)))
    };
    assert!(arrives(&site, 0, PORT) && arrives(&site, 1, PORT), "open without an agent");
    site.start();
    assert!(!arrives(&site, 0, PORT) && !arrives(&site, 1, PORT));
    let mut grant = site.grant(&STRANGER, LONG);
    grant.ports = vec![v1::PortRange {
        protocol: v1::Protocol::Udp.into(),
        first: PORT.into(),
        last: PORT.into(),
    }];
    site.push(site.sign(&grant)).unwrap();
    assert!(arrives(&site, 0, PORT) && arrives(&site, 1, PORT));
    assert_eq!(site.status().0["grants"][0]["hits"], 2, "two flows");
}

#[test]
fn the_guard_of_an_observing_gate_lets_everybody_in_and_counts() {
    let mut site = Site::new();
    let config = site.base("[\"c0\"]", "auto");
    site.write_config(&config.replace("[gate]", "[gate]\nmode = \"observe\""));
    site.start();
    for family in [0, 1] {
        assert!(site.stranger_gets_in(family, 22) && site.client_gets_in(family, 22));
    }
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("not_enforcing"), 2), "{status:#}");
    assert!(status["dropped"]["by_socket_guard"].as_u64().unwrap() >= 2, "{status:#}");
}

#[test]
fn the_guard_leaves_an_unprotected_port_alone() {
    let site = ungated(true);
    site.serve(80);
    assert!(site.stranger_gets_in(0, 80) && site.stranger_gets_in(1, 80));
    assert_eq!(site.status().0["dropped"]["by_socket_guard"], 0);
}

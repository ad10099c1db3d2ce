//! Answers to what the host itself sends from a protected port, as a client whose port is one of
//! `ip_local_port_range` does. They come in without a grant; everything else stays closed.

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use jit_tests::{
    agent::{PATIENCE, STRANGER, Site, TO_STRANGER, address, carries, opens},
    programs::{binary, next_agent},
    sockets,
};
use rustix::process::Signal;

/// Protected ports of the host that its clients use.
const PORT: u16 = 40_000;
/// The stranger's service.
const SERVICE: u16 = 7007;

/// A host whose port 40,000 is protected, of both protocols, with sessions of this kind.
fn site(sessions: &str) -> Site {
    site_with(sessions, "")
}

/// The same with more keys for UDP.
fn site_with(sessions: &str, udp: &str) -> Site {
    let mut site = Site::new();
    let section = |protocol| {
        format!(
            "[[port]]\nport = {PORT}\nprotocol = \"{protocol}\"\nsessions = \"{sessions}\"\n\
             sources = [\"0.0.0.0/0\", \"::/0\"]\n"
        )
    };
    site.configure(&[&section("tcp"), &section("udp"), udp].concat());
    site.start();
    site
}

fn own(family: usize) -> SocketAddr {
    address(TO_STRANGER, family, PORT)
}

#[test]
fn the_hosts_own_connections_from_a_port_that_cuts_are_answered_and_not_cut() {
    let site = site("cut");
    for family in [0, 1] {
        let peer = address(STRANGER, family, SERVICE);
        let listener = site.stranger.run(|| TcpListener::bind(peer).unwrap());
        std::thread::spawn(|| sockets::serve_tcp_echo(listener));
        let mut session =
            site.host.run(|| sockets::connect_from(own(family), peer, PATIENCE)).unwrap();
        assert!(carries(&mut session), "family {family}: {}", site.log());
        // What ends here makes the agent look for sessions to cut.
        site.admit(&STRANGER, Duration::from_secs(600));
        assert_eq!(site.revoke_all(), 1);
        std::thread::sleep(Duration::from_secs(3));
        assert!(carries(&mut session), "family {family}: after a revocation");
        assert!(!site.stranger.run(|| opens(own(family), PATIENCE)), "family {family}");
    }
}

/// Also the agents of two versions of the tables' layouts.
#[test]
fn the_hosts_own_connections_stay_its_own_over_restarts_and_changes_of_the_layout() {
    let mut site = site("cut");
    let peer = address(STRANGER, 0, SERVICE);
    let listener = site.stranger.run(|| TcpListener::bind(peer).unwrap());
    std::thread::spawn(|| sockets::serve_tcp_echo(listener));
    let mut session = site.host.run(|| sockets::connect_from(own(0), peer, PATIENCE)).unwrap();
    assert!(carries(&mut session), "{}", site.log());
    for program in [binary("jit-agent"), next_agent(), binary("jit-agent")] {
        site.end(Signal::TERM);
        site.use_program(program);
        site.start();
        assert!(carries(&mut session), "{}", site.log());
    }
}

/// A session that the peer opened has no such privilege.
#[test]
fn a_peers_session_at_the_same_port_is_cut() {
    let site = site("cut");
    let listener = site.host.run(|| TcpListener::bind(("::", PORT)).unwrap());
    std::thread::spawn(|| sockets::serve_tcp_echo(listener));
    let mut grant = site.grant(&STRANGER, Duration::from_secs(600));
    for port in &mut grant.ports {
        (port.first, port.last) = (PORT.into(), PORT.into());
    }
    site.push(site.sign(&grant)).unwrap();
    let mut sessions = [0, 1].map(|family| {
        let session = site.stranger.run(|| TcpStream::connect_timeout(&own(family), PATIENCE));
        session.unwrap()
    });
    assert!(sessions.iter_mut().all(carries));
    site.revoke_all();
    assert!(!sessions.iter_mut().any(carries), "{}", site.log());
}

#[test]
fn answers_to_a_connected_udp_socket_come_in_and_datagrams_to_another_do_not() {
    let site = site("drain");
    for family in [0, 1] {
        let [peer, other] = [SERVICE, SERVICE + 1]
            .map(|port| site.stranger.run(|| sockets::udp(address(STRANGER, family, port))));
        let socket = site.host.run(|| sockets::udp(own(family)));
        let arrives = |from: &UdpSocket| {
            from.send_to(b"answer", own(family)).unwrap();
            sockets::receive(&socket, sockets::SILENCE).is_some()
        };
        assert!(!arrives(&peer), "family {family}: it is not connected");
        socket.connect(peer.local_addr().unwrap()).unwrap();
        socket.send(b"question").unwrap();
        assert!(sockets::receive(&peer, sockets::PATIENCE).is_some());
        assert!(arrives(&peer), "family {family}: {}", site.log());
        assert!(!arrives(&other), "family {family}: of another peer");
    }
}

/// Asks the stranger's service from this socket, and waits for the answer.
fn is_answered(site: &Site, socket: &UdpSocket, family: usize) -> bool {
    let peer = address(STRANGER, family, SERVICE);
    let service = site.stranger.run(|| sockets::udp(peer));
    socket.connect(peer).unwrap();
    socket.send(b"question").unwrap();
    assert!(sockets::receive(&service, sockets::PATIENCE).is_some());
    service.send_to(b"answer", socket.local_addr().unwrap()).unwrap();
    sockets::receive(socket, sockets::SILENCE).is_some()
}

/// A connected socket may be the service's session with a peer whose grant has ended. So answers
/// stay out, and the cure that `check` prints keeps clients off the port.
#[test]
fn under_cut_answers_to_the_hosts_own_datagrams_come_in_once_the_port_is_reserved() {
    let site = site("cut");
    // The kernel gives a client one of these ports.
    let client = |ports: &str, family| {
        site.host.sysctl("ipv4/ip_local_port_range", ports);
        site.host.run(|| sockets::udp(address(TO_STRANGER, family, 0)))
    };
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    for family in [0, 1] {
        let socket = client("40000 40000", family);
        assert_eq!(port(&socket), PORT);
        assert!(!is_answered(&site, &socket, family), "family {family}");
    }
    let checked = || String::from_utf8(site.run(&["check"]).stdout).unwrap();
    let said = checked();
    let warning = said.lines().find(|line| line.contains(": warning: 40000/udp")).unwrap();
    assert!(warning.contains("which drops them"), "{warning}");
    let (_, cure) = said.split_once("do: sysctl -w net.ipv4.ip_local_reserved_ports=").unwrap();
    let reserved = cure.lines().next().unwrap();
    site.host.sysctl("ipv4/ip_local_reserved_ports", reserved);
    for family in [0, 1] {
        // Many sockets: none gets the port.
        let sockets: Vec<_> = (0..7).map(|_| client("40000 40007", family)).collect();
        for socket in sockets {
            assert_ne!(port(&socket), PORT);
            assert!(is_answered(&site, &socket, family), "family {family}: {}", site.log());
        }
    }
    assert!(!checked().contains("ip_local_port_range"), "{}", checked());
}

/// A reserved port can still be bound by name, as ntpd and WireGuard do. Then the peers need an
/// exemption.
#[test]
fn under_cut_an_exempt_peer_answers_the_hosts_own_datagrams() {
    let [v4, v6] = STRANGER;
    let exempt = |source| format!("{{ source = \"{source}\", reason = \"time\", owner = \"o\" }}");
    let site = site_with("cut", &format!("exempt = [{}, {}]\n", exempt(v4), exempt(v6)));
    site.host.sysctl("ipv4/ip_local_reserved_ports", &PORT.to_string());
    for family in [0, 1] {
        let socket = site.host.run(|| sockets::udp(own(family)));
        assert!(is_answered(&site, &socket, family), "family {family}: {}", site.log());
    }
}

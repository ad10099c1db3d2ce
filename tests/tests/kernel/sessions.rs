//! The session lookup: real sockets in a network namespace of their own, frames of their 4-tuples
//! through both programs, and the same sessions as plain data on the host.

use std::{
    io::Read as _,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
};

use jit_agent::datapath::memory::MemoryTables;
use jit_common::Reason;
use jit_tests::{
    frames::{Macs, Tcp, flag},
    kernel::{Kernel, boot_nanos, programs},
    netns::Namespace,
    raw::Wire,
    sockets::{self, PATIENCE},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::fixture::{
    CLIENT_V4, CLIENT_V6, CLOSED, DRAIN, FORWARDED_CUT, FORWARDED_DRAIN, Ip, SERVER_V4, SERVER_V6,
    address, closed, granted, hex, on_host,
};

const SOURCE_PORT: u16 = 40_000;

#[test]
fn an_established_session_lives_on_in_drain_and_ends_in_cut() {
    for ip in Ip::BOTH {
        for (port, expected) in [(DRAIN, Reason::Established), (CLOSED, Reason::Expired)] {
            loopback().run(|| {
                let (_client, _server) = session(ip, listener(ip, port), port);
                let mut kernel = Kernel::load();
                let mut tables = closed();
                remember(&mut tables, ip, port);
                for flags in [flag::ACK, flag::ACK | flag::PSH, flag::FIN | flag::ACK, flag::RST] {
                    check(&mut kernel, &tables, ip, Tcp::with_flags(port, flags), expected);
                }
                // A new SYN on the same 4-tuple is a new connection.
                check(&mut kernel, &tables, ip, Tcp::syn(port), Reason::Denied);
                // Beside the session there is only the listener.
                let other = Tcp::with_flags(port, flag::ACK).from_port(SOURCE_PORT + 1);
                check(&mut kernel, &tables, ip, other, Reason::NoSession);
                let mut covered = granted(boot_nanos());
                remember(&mut covered, ip, port);
                let ack = Tcp::with_flags(port, flag::ACK);
                check(&mut kernel, &covered, ip, ack, Reason::Granted);
            });
        }
    }
}

#[test]
fn a_forwarded_port_never_asks_for_a_session() {
    for ip in Ip::BOTH {
        for (port, expected) in
            [(FORWARDED_DRAIN, Reason::Forwarded), (FORWARDED_CUT, Reason::Expired)]
        {
            loopback().run(|| {
                let (_client, _server) = session(ip, listener(ip, port), port);
                let mut kernel = Kernel::load();
                let mut tables = closed();
                remember(&mut tables, ip, port);
                let ack = Tcp::with_flags(port, flag::ACK);
                check(&mut kernel, &tables, ip, ack, expected);
            });
        }
    }
}

#[test]
fn an_ipv4_session_of_a_dual_stack_listener_is_found() {
    loopback().run(|| {
        let listener = sockets::listen(SocketAddr::new("::".parse().unwrap(), DRAIN));
        let (_client, _server) = session(Ip::V4, listener, DRAIN);
        let mut kernel = Kernel::load();
        let mut tables = closed();
        remember(&mut tables, Ip::V4, DRAIN);
        let ack = Tcp::with_flags(DRAIN, flag::ACK);
        check(&mut kernel, &tables, Ip::V4, ack.clone(), Reason::Established);
        // The same addresses as mapped IPv6 are no session of anybody.
        check(&mut kernel, &tables, Ip::V6, ack, Reason::NoSession);
    });
}

#[test]
fn a_session_in_time_wait_is_still_a_session() {
    for ip in Ip::BOTH {
        loopback().run(|| {
            let (mut client, server) = session(ip, listener(ip, DRAIN), DRAIN);
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
            drop(client);
            let mut server = server;
            assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
            drop(server);
            let mut kernel = Kernel::load();
            let mut tables = closed();
            remember(&mut tables, ip, DRAIN);
            let ack = Tcp::with_flags(DRAIN, flag::ACK);
            check(&mut kernel, &tables, ip, ack, Reason::Established);
        });
    }
}

/// A connection that this host opens from a protected local port, as an NFS client does: the answer
/// comes to that port.
#[test]
fn the_answer_to_an_outbound_connection_from_a_protected_port_comes_in() {
    for ip in Ip::BOTH {
        let (server, client) = neighbours();
        let _client = client;
        server.run(|| {
            let mut kernel = Kernel::load();
            let (from, to) = (end(ip, true, DRAIN), end(ip, false, SOURCE_PORT));
            let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket =
                socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
            bind(&socket, &from).unwrap();
            // Nobody has the address: it stays in SYN_SENT.
            assert_eq!(connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
            let mut tables = closed();
            remember(&mut tables, ip, DRAIN);
            let answer = Tcp::with_flags(DRAIN, flag::SYN | flag::ACK);
            check(&mut kernel, &tables, ip, answer, Reason::Established);
        });
    }
}

#[test]
fn a_half_open_request_is_no_session() {
    for ip in Ip::BOTH {
        let (server, client) = neighbours();
        let macs = Macs { source: client.mac("client0"), destination: server.mac("host0") };
        let index = client.index("client0");
        server.run(|| {
            let _listener = listener(ip, DRAIN);
            let answer = client.run(|| {
                let wire = Wire::open(index);
                wire.send(&ip.tcp(&Tcp::syn(DRAIN)).between(macs, &[]));
                let at = 14 + ip.bytes() + 13;
                wire.receive(PATIENCE, |frame| frame.get(at) == Some(&(flag::SYN | flag::ACK)))
            });
            assert!(answer.is_some(), "without a gate the listener answers: the request is there");
            let mut kernel = Kernel::load();
            let ack = Tcp::with_flags(DRAIN, flag::ACK);
            check(&mut kernel, &closed(), ip, ack, Reason::NoSession);
        });
    }
}

/// The same reason from the host's decision and from both programs, which look in the calling
/// thread's namespace.
fn check(kernel: &mut Kernel, tables: &MemoryTables, ip: Ip, segment: Tcp, expected: Reason) {
    kernel.fill(tables);
    let frame = ip.tcp(&segment).frame();
    let host = on_host(&frame, tables, boot_nanos()).reason;
    assert_eq!(host, expected, "host, {ip:?}: {}", hex(&frame));
    // More than once: a reference that is not released would show as a leak, not here.
    for program in programs() {
        let outcome = kernel.run(program, &frame);
        assert_eq!(outcome.reason, expected, "{program}, {ip:?}: {}", hex(&frame));
        assert_eq!(outcome.dropped, expected.drops(), "{program}, {ip:?}");
    }
}

/// A namespace in which client and server are both at home.
fn loopback() -> Namespace {
    let namespace = Namespace::new();
    for (address, length) in
        [("192.0.2.7", 32), ("198.51.100.1", 32), ("2001:db8:7::7", 128), ("2001:db8:1::1", 128)]
    {
        namespace.address("lo", &format!("{address}/{length}"));
    }
    namespace
}

/// The server, and a neighbour through which the client's address would be reached; nobody has
/// that address, so nobody answers in its name.
fn neighbours() -> (Namespace, Namespace) {
    let (server, client) = (Namespace::new(), Namespace::new());
    server.connect(
        "host0",
        &["198.51.100.1/24", "2001:db8:1::1/64"],
        &client,
        "client0",
        &["198.51.100.9/24", "2001:db8:1::9/64"],
    );
    server.ip(&["route", "add", "192.0.2.0/24", "dev", "host0"]);
    server.ip(&["route", "add", "2001:db8:7::/48", "dev", "host0"]);
    for address in [IpAddr::V4(CLIENT_V4), IpAddr::V6(CLIENT_V6)] {
        server.neighbour("host0", address, client.mac("client0"));
    }
    (server, client)
}

fn listener(ip: Ip, port: u16) -> TcpListener {
    sockets::listen(end(ip, true, port))
}

/// Both ends of a session from the client's [`SOURCE_PORT`].
fn session(ip: Ip, listener: TcpListener, port: u16) -> (TcpStream, TcpStream) {
    let client =
        sockets::connect_from(end(ip, false, SOURCE_PORT), end(ip, true, port), PATIENCE).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, server)
}

fn remember(tables: &mut MemoryTables, ip: Ip, port: u16) {
    let (client, server) = (end(ip, false, SOURCE_PORT).ip(), end(ip, true, port).ip());
    tables.sessions.insert((address(client), SOURCE_PORT, address(server), port));
}

fn end(ip: Ip, server: bool, port: u16) -> SocketAddr {
    let address = match (ip, server) {
        (Ip::V4, false) => IpAddr::V4(CLIENT_V4),
        (Ip::V4, true) => IpAddr::V4(SERVER_V4),
        (Ip::V6, false) => IpAddr::V6(CLIENT_V6),
        (Ip::V6, true) => IpAddr::V6(SERVER_V6),
    };
    SocketAddr::new(address, port)
}

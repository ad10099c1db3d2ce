//! The session lookup: real sockets in an own network namespace, frames of their 4-tuples through
//! both programs, and the same sessions as plain data on the host.

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use jit_agent::kernel::datapath::{memory::MemoryTables, object::PROGRAM_GUARD_LEGACY};
use jit_common::{Address, Claim, Counter, Event, GrantEntry, HostKey, Reason, Settings, Slot};
use jit_tests::{
    frames::{Macs, Tcp, flag},
    kernel::{Kernel, boot_nanos, difference, guards, programs},
    netns::Namespace,
    raw::Wire,
    sockets::{self, PATIENCE},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::fixture::{
    CLIENT_V4, CLIENT_V6, CLOSED, DRAIN, FORWARDED_CUT, FORWARDED_DRAIN, HOUR, Ip, SERVER_V4,
    SERVER_V6, address, closed, granted, hex, on_host, tcp,
};

pub(crate) const SOURCE_PORT: u16 = 40_000;

#[test]
fn an_established_session_continues_in_drain_and_ends_in_cut() {
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
                // Another source port has no session, only the listener.
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

/// The place of a connection stays taken while its session exists. After that nothing opens again:
/// neither its SYN nor the cookie that its handshake ended with.
#[test]
fn a_session_under_a_limited_grant_keeps_its_place() {
    const SLOT: u32 = 5;
    for ip in Ip::BOTH {
        for program in programs() {
            loopback().run(|| {
                let listener = listener(ip, CLOSED);
                let mut tables = closed();
                let client = address(end(ip, false, 0).ip());
                let limited = Claim::until(boot_nanos() + HOUR, SLOT);
                let entry = GrantEntry { limited, ..GrantEntry::default() };
                tables.hosts.insert(HostKey::new(client, tcp(CLOSED)), entry);
                tables.slots.insert(SLOT, Slot { hits: 0, limit: 1, generation: 1 });
                let mut kernel = Kernel::load();
                kernel.fill(&tables);
                let check = |tables: &MemoryTables, flags, expected| {
                    let segment = Tcp { sequence: 70, ..Tcp::with_flags(CLOSED, flags) };
                    let frame = ip.tcp(&segment).frame();
                    let host = on_host(&frame, tables, boot_nanos()).reason;
                    assert_eq!(host, expected, "host, {ip:?} {flags:#x}");
                    assert_eq!(kernel.run(program, &frame).reason, expected, "{program} {ip:?}");
                };
                check(&tables, flag::SYN, Reason::Granted);
                check(&tables, flag::ACK, Reason::Granted);
                check(&tables, flag::ACK, Reason::Granted);
                let streams = session(ip, listener, CLOSED);
                remember(&mut tables, ip, CLOSED);
                check(&tables, flag::ACK, Reason::Granted);
                check(&tables, flag::ACK, Reason::Granted);
                for stream in [streams.0, streams.1] {
                    // No TIME_WAIT.
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                }
                tables.sessions.clear();
                check(&tables, flag::ACK, Reason::NoSession);
                check(&tables, flag::SYN, Reason::Denied);
                assert_eq!(kernel.hits(SLOT), 1);
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
        // The same addresses as mapped IPv6 belong to no session.
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
            // No host has the address: the socket stays in SYN_SENT.
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
            assert!(answer.is_some(), "without a gate the listener answers: there is a request");
            let mut kernel = Kernel::load();
            let ack = Tcp::with_flags(DRAIN, flag::ACK);
            check(&mut kernel, &closed(), ip, ack, Reason::NoSession);
        });
    }
}

/// The packet gate's look-up of a session reaches the socket guard too, if there is a listener and
/// no session. It takes no place there, and nothing is counted twice.
#[test]
fn a_stray_segment_is_counted_once_and_takes_no_place_with_the_guard_attached() {
    const SLOT: u32 = 5;
    for ip in Ip::BOTH {
        for (guard, program) in guards().flat_map(|guard| programs().map(move |name| (guard, name)))
        {
            loopback().run(|| {
                let _listener = listener(ip, CLOSED);
                let mut kernel = Kernel::load();
                let _guard = kernel.attach_guard(guard);
                let mut tables = closed();
                let events = 1_000;
                let settings =
                    Settings { drop_events: events, grant_events: events, ..Settings::default() };
                let stray = ip.tcp(&Tcp::with_flags(CLOSED, flag::ACK)).frame();
                let client = address(end(ip, false, 0).ip());
                let limited = Claim::until(boot_nanos() + HOUR, SLOT);
                let entry = GrantEntry { limited, ..GrantEntry::default() };
                for granted in [false, true] {
                    if granted {
                        tables.hosts.insert(HostKey::new(client, tcp(CLOSED)), entry);
                        tables.slots.insert(SLOT, Slot { hits: 0, limit: 1, generation: 1 });
                    }
                    kernel.fill(&tables);
                    kernel.set(settings);
                    let before = kernel.counters();
                    for _ in 0..3 {
                        assert!(kernel.drops(program, &stray), "{guard} {program} {ip:?}");
                    }
                    let moved = difference(&before, &kernel.counters());
                    let counted = |counter: Counter| moved[counter.index() as usize];
                    assert_eq!(counted(Counter::Reason(Reason::NoSession)), 3, "{moved:?}");
                    assert_eq!(moved.iter().sum::<u64>(), 3, "and nothing else: {moved:?}");
                    let events = kernel.events();
                    let right = |event: &Event| event.reason == Reason::NoSession as u8;
                    assert!(events.len() == 3 && events.iter().all(right), "{events:?}");
                }
                assert_eq!(kernel.hits(SLOT), 0, "{guard} {program} {ip:?}");
                // The guard still decides about other look-ups.
                let connects = || {
                    let (from, to) = (end(ip, false, 0), end(ip, true, CLOSED));
                    sockets::connect_from(from, to, PATIENCE).map_err(|error| error.kind())
                };
                kernel.fill(&closed());
                let before = kernel.counters();
                // Loopback is exempt by its interface, if the kernel gives the interface.
                let own = guard != PROGRAM_GUARD_LEGACY;
                assert_eq!(connects().is_ok(), own, "{guard}");
                let moved = difference(&before, &kernel.counters());
                assert_eq!(moved[Counter::Guard.index() as usize], u64::from(!own), "{guard}");
            });
        }
    }
}

/// Fails unless the host's decision and both programs give this reason. The programs look in the
/// calling thread's namespace.
pub(crate) fn check(
    kernel: &mut Kernel,
    tables: &MemoryTables,
    ip: Ip,
    segment: Tcp,
    expected: Reason,
) {
    kernel.fill(tables);
    let frame = ip.tcp(&segment).frame();
    let host = on_host(&frame, tables, boot_nanos()).reason;
    assert_eq!(host, expected, "host, {ip:?}: {}", hex(&frame));
    // More than once, so that a reference that is not released leaks.
    for program in programs() {
        let outcome = kernel.run(program, &frame);
        assert_eq!(outcome.reason, expected, "{program}, {ip:?}: {}", hex(&frame));
        assert_eq!(outcome.dropped, expected.drops(), "{program}, {ip:?}");
    }
}

/// A namespace with the addresses of client and server.
pub(crate) fn loopback() -> Namespace {
    let namespace = Namespace::new();
    for (address, length) in
        [("192.0.2.7", 32), ("198.51.100.1", 32), ("2001:db8:7::7", 128), ("2001:db8:1::1", 128)]
    {
        namespace.address("lo", &format!("{address}/{length}"));
    }
    namespace
}

/// The server, and a neighbour with the route to the client's address. No host has that address, so
/// no host answers from it.
pub(crate) fn neighbours() -> (Namespace, Namespace) {
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
        // Nobody says that it is unreachable, which would end a connection that begins.
        client.ip(&["route", "add", "blackhole", &address.to_string()]);
    }
    (server, client)
}

pub(crate) fn listener(ip: Ip, port: u16) -> TcpListener {
    sockets::listen(end(ip, true, port))
}

/// Both ends of a session from the client's [`SOURCE_PORT`].
pub(crate) fn session(ip: Ip, listener: TcpListener, port: u16) -> (TcpStream, TcpStream) {
    let (from, to) = (end(ip, false, SOURCE_PORT), end(ip, true, port));
    let began = Instant::now();
    let client = loop {
        match sockets::connect_from(from, to, PATIENCE) {
            Ok(client) => break client,
            // The kernel makes the routes to its own IPv6 addresses a moment after these.
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable => {
                assert!(began.elapsed() < PATIENCE, "{from} to {to}: {error}");
                thread::yield_now();
            }
            Err(error) => panic!("{from} to {to}: {error}"),
        }
    };
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, server)
}

pub(crate) fn remember(tables: &mut MemoryTables, ip: Ip, port: u16) {
    tables.sessions.insert(tuple(ip, port));
}

/// The ends of [`session`].
pub(crate) fn tuple(ip: Ip, port: u16) -> (Address, u16, Address, u16) {
    let (client, server) = (end(ip, false, SOURCE_PORT).ip(), end(ip, true, port).ip());
    (address(client), SOURCE_PORT, address(server), port)
}

pub(crate) fn end(ip: Ip, server: bool, port: u16) -> SocketAddr {
    let address = match (ip, server) {
        (Ip::V4, false) => IpAddr::V4(CLIENT_V4),
        (Ip::V4, true) => IpAddr::V4(SERVER_V4),
        (Ip::V6, false) => IpAddr::V6(CLIENT_V6),
        (Ip::V6, true) => IpAddr::V6(SERVER_V6),
    };
    SocketAddr::new(address, port)
}

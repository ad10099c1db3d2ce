//! Sessions that the packet gate finds only by more than their own 4-tuple: translated ones (NAT),
//! those that the host opened itself, and connected UDP sockets. Real sockets, frames through both
//! programs, and the same as plain data on the host.

use std::net::{SocketAddr, UdpSocket};

use jit_common::{Flow, Reason};
use jit_tests::{
    frames::{Tcp, Udp, flag},
    kernel::{Kernel, boot_nanos, guards, programs},
    sockets,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::{
    fixture::{CLOSED, DRAIN, FORWARDED_DRAIN, Ip, OPEN, closed, granted, on_host, tcp, udp},
    sessions::{SOURCE_PORT, check, end, listener, loopback, neighbours, remember, session, tuple},
};

/// A connection of the client to this port of the server.
fn flow(ip: Ip, port: u16) -> Flow {
    let (source, source_port, destination, port) = tuple(ip, port);
    Flow {
        source: source.words,
        destination: destination.words,
        source_port,
        port,
        family: source.family as u8,
        reserved: [0; 3],
    }
}

/// The session is at [`OPEN`]; on the wire it has a protected port.
#[test]
fn a_translated_session_is_found_by_its_socket() {
    for ip in Ip::BOTH {
        loopback().run(|| {
            let listener = listener(ip, OPEN);
            let mut kernel = Kernel::load();
            let ack = |port| Tcp::with_flags(port, flag::ACK);
            let mut tables = closed();
            for port in [DRAIN, CLOSED] {
                tables.translated.insert(flow(ip, port), flow(ip, OPEN));
                // There is a listener alone.
                check(&mut kernel, &tables, ip, ack(port), Reason::NoSession);
            }
            let streams = session(ip, listener, OPEN);
            remember(&mut tables, ip, OPEN);
            check(&mut kernel, &tables, ip, ack(DRAIN), Reason::Established);
            check(&mut kernel, &tables, ip, ack(CLOSED), Reason::Expired);
            check(&mut kernel, &tables, ip, Tcp::syn(DRAIN), Reason::Denied);
            let other = ack(DRAIN).from_port(SOURCE_PORT + 1);
            check(&mut kernel, &tables, ip, other, Reason::NoSession);
            for stream in [streams.0, streams.1] {
                // No TIME_WAIT.
                let linger = Some(std::time::Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
            }
            tables.sessions.clear();
            check(&mut kernel, &tables, ip, ack(DRAIN), Reason::NoSession);
        });
    }
}

/// The answer to the host's SYN shows who opened the connection. A SYN that is let in between the
/// same ports is the peer's.
#[test]
fn a_connection_that_the_host_opened_is_its_own_until_the_peer_opens_one() {
    for ip in Ip::BOTH {
        for program in programs() {
            let (server, client) = neighbours();
            let _client = client;
            server.run(|| {
                let (from, to) = (end(ip, true, CLOSED), end(ip, false, SOURCE_PORT));
                let family =
                    if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let socket =
                    socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
                bind(&socket, &from).unwrap();
                // No host has the address: the socket stays in SYN_SENT.
                assert_eq!(connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
                let mut kernel = Kernel::load();
                kernel.fill(&closed());
                let run = |kernel: &Kernel, flags| {
                    let frame = ip.tcp(&Tcp::with_flags(CLOSED, flags)).frame();
                    kernel.run(program, &frame).reason
                };
                assert_eq!(run(&kernel, flag::SYN), Reason::Denied, "{program} {ip:?}");
                assert_eq!(kernel.opened_here(), 0);
                let answer = flag::SYN | flag::ACK;
                assert_eq!(run(&kernel, answer), Reason::Established, "{program} {ip:?}");
                assert_eq!(kernel.opened_here(), 1);
                assert_eq!(run(&kernel, flag::SYN), Reason::Denied, "{program} {ip:?}");
                assert_eq!(kernel.opened_here(), 1, "nobody was let in");
                let mut tables = granted(boot_nanos());
                tables.opened_here.insert(tuple(ip, CLOSED));
                kernel.fill(&tables);
                assert_eq!(run(&kernel, flag::SYN), Reason::Granted, "{program} {ip:?}");
                assert_eq!(kernel.opened_here(), 0, "{program} {ip:?}");
            });
        }
    }
}

#[test]
fn the_peer_of_the_hosts_own_connection_answers_on_a_port_that_cuts() {
    for ip in Ip::BOTH {
        loopback().run(|| {
            let _streams = session(ip, listener(ip, CLOSED), CLOSED);
            let mut kernel = Kernel::load();
            let mut tables = closed();
            remember(&mut tables, ip, CLOSED);
            let ack = Tcp::with_flags(CLOSED, flag::ACK);
            check(&mut kernel, &tables, ip, ack.clone(), Reason::Expired);
            tables.opened_here.insert(tuple(ip, CLOSED));
            check(&mut kernel, &tables, ip, ack, Reason::Established);
            check(&mut kernel, &tables, ip, Tcp::syn(CLOSED), Reason::Denied);
        });
    }
}

/// With a guard attached too: the question about the socket is none of its look-ups.
#[test]
fn a_datagram_to_a_connected_socket_comes_in_on_a_port_that_drains() {
    for ip in Ip::BOTH {
        for guard in guards() {
            loopback().run(|| {
                let mut kernel = Kernel::load();
                let _guard = kernel.attach_guard(guard);
                let mut tables = closed();
                let mut judged = |tables: &_, port, from, expected| {
                    kernel.fill(tables);
                    let frame = ip.udp(&Udp::to(port).from_port(from)).frame();
                    let host = on_host(&frame, tables, boot_nanos()).reason;
                    assert_eq!(host, expected, "host, {ip:?} {port} {from}");
                    for program in programs() {
                        // Exactly one counter moves: none of the guard.
                        let outcome = kernel.run(program, &frame).reason;
                        assert_eq!(outcome, expected, "{program} {guard} {ip:?} {port} {from}");
                    }
                };
                let ports = [DRAIN, CLOSED, FORWARDED_DRAIN];
                for port in ports {
                    let rule = tables.ports[&tcp(port)];
                    tables.ports.insert(udp(port), rule);
                }
                let socket = |port| sockets::udp(end(ip, true, port));
                let sockets = ports.map(socket);
                for port in ports {
                    // Not connected: it may be a service's.
                    judged(&tables, port, SOURCE_PORT, Reason::Denied);
                }
                let peer: SocketAddr = end(ip, false, SOURCE_PORT);
                sockets.iter().for_each(|socket: &UdpSocket| socket.connect(peer).unwrap());
                tables.connected = ports.map(|port| tuple(ip, port)).into();
                for (port, from, expected) in [
                    (DRAIN, SOURCE_PORT, Reason::Established),
                    (DRAIN, SOURCE_PORT + 1, Reason::Denied),
                    (CLOSED, SOURCE_PORT, Reason::Denied),
                    (FORWARDED_DRAIN, SOURCE_PORT, Reason::Denied),
                ] {
                    judged(&tables, port, from, expected);
                }
            });
        }
    }
}

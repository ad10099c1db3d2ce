use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
};

use super::*;

const AF_UNIX: u8 = 1;
const SEQUENCE: u32 = 7;

fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = header(kind, 0, sequence);
    message.extend(body);
    let mut message = finished(message);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// An `inet_diag_msg` of an established socket from port 22.
fn established(family: u8, local: &[u8], peer: &[u8]) -> Vec<u8> {
    let mut body = vec![family, 1, 0, 0];
    body.extend(22_u16.to_be_bytes());
    body.extend(40_000_u16.to_be_bytes());
    for address in [local, peer] {
        body.extend(address);
        body.resize(body.len() + 16 - address.len(), 0);
    }
    body.extend([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    body.resize(72, 0);
    body
}

fn mapped(v4: [u8; 4]) -> [u8; 16] {
    Ipv4Addr::from(v4).to_ipv6_mapped().octets()
}

fn sockets(datagram: &[u8]) -> (Vec<Socket>, Result<Answer, DiagError>) {
    let mut sockets = Vec::new();
    let answer = read(datagram, SEQUENCE, |socket| sockets.push(socket));
    (sockets, answer)
}

/// UNIX sockets cannot be destroyed by any kernel: it answers for them as one without
/// CONFIG_INET_DIAG_DESTROY does for TCP (`__sock_diag_cmd` in `net/core/sock_diag.c`).
#[test]
fn a_kernel_that_destroys_no_such_sockets_is_understood() {
    let mut diag = SockDiag::open().unwrap();
    let sequence = diag.next();
    let request = destroy(AF_UNIX, &[0; ID], sequence);
    let answer = diag.ask(&request, sequence, |_| {}).or_else(unless_gone);
    assert!(matches!(answer, Err(DiagError::NoDestroy)), "{answer:?}");
}

#[test]
fn one_question_finds_the_sockets_of_both_families_at_a_port_and_no_others() {
    let listen = |address: &str| TcpListener::bind(address).unwrap();
    let mut diag = SockDiag::open().unwrap();
    for listener in [listen("127.0.0.1:0"), listen("[::1]:0"), listen("[::]:0")] {
        let local = listener.local_addr().unwrap();
        let mut ends = vec![];
        let mut connect = |address: IpAddr| {
            let end = TcpStream::connect((address, local.port())).unwrap();
            // From here on its handshake is finished at both ends.
            ends.push((end, listener.accept().unwrap()));
        };
        if local.ip() != Ipv6Addr::LOCALHOST {
            connect(Ipv4Addr::LOCALHOST.into());
        }
        if local.is_ipv6() {
            connect(Ipv6Addr::LOCALHOST.into());
        }
        let port = |(end, _): &(TcpStream, _)| end.local_addr().unwrap().port();
        let peers: BTreeSet<_> = ends.iter().map(port).collect();
        let mut found = BTreeSet::new();
        let range = local.port()..=local.port();
        diag.list(range, Wanted::Sessions, |socket| {
            assert!(socket.peer.is_loopback() && !socket.listens && !socket.half_open);
            assert!(found.insert(socket.peer_port));
        })
        .unwrap();
        assert_eq!(found, peers, "{local}");
        let (mut listening, range) = (0, local.port()..=local.port());
        let count = |socket: Socket| listening += usize::from(socket.listens);
        diag.list(range, Wanted::Services(Protocol::Tcp), count).unwrap();
        assert_eq!(listening, 1, "{local}");
    }
}

#[test]
fn who_takes_what_comes_is_listed_with_its_inode() {
    use std::os::{fd::AsRawFd as _, unix::fs::MetadataExt as _};
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(udp.local_addr().unwrap()).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = |descriptor: i32| {
        let path = format!("/proc/self/fd/{descriptor}");
        std::fs::metadata(path).unwrap().ino()
    };
    let mut diag = SockDiag::open().unwrap();
    let mut open = |protocol, port: u16| {
        let mut inodes: Vec<u64> = Vec::new();
        diag.list(port..=port, Wanted::Open(protocol), |one| inodes.push(one.inode.into()))
            .unwrap();
        inodes
    };
    let ports = [&udp, &connected].map(|socket| socket.local_addr().unwrap().port());
    assert_eq!(open(Protocol::Udp, ports[0]), [inode(udp.as_raw_fd())]);
    assert_eq!(open(Protocol::Udp, ports[1]), [0_u64; 0]);
    let port = tcp.local_addr().unwrap().port();
    assert_eq!(open(Protocol::Tcp, port), [inode(tcp.as_raw_fd())]);
}

#[test]
fn an_ipv4_peer_is_one_on_both_kinds_of_socket() {
    let (local, peer) = ([198, 51, 100, 1], [192, 0, 2, 7]);
    let datagram = [
        message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &established(AF_INET, &local, &peer)),
        message(
            SOCK_DIAG_BY_FAMILY,
            SEQUENCE,
            &established(AF_INET6, &mapped(local), &mapped(peer)),
        ),
    ]
    .concat();
    let (sockets, answer) = sockets(&datagram);
    assert!(matches!(answer, Ok(Answer::More)));
    assert_eq!(sockets.len(), 2);
    for socket in sockets {
        assert_eq!((socket.peer, socket.peer_port), (Address::v4(peer), 40_000));
        assert_eq!((socket.local, socket.port), (Address::v4(local), 22));
    }
}

/// The cookie goes with it, so that no other socket of the same 4-tuple is hit.
#[test]
fn a_socket_is_destroyed_by_the_name_that_the_kernel_gave() {
    let peer = [0x20, 1, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let body = established(AF_INET6, &[0x20; 16], &peer);
    let (sockets, _) = sockets(&message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &body));
    let request = destroy_request(&sockets[0], 9);
    assert_eq!(request.len(), HEADER + REQUEST);
    assert_eq!(request[..4], 72_u32.to_ne_bytes());
    assert_eq!(request[4..6], SOCK_DESTROY.to_ne_bytes());
    assert_eq!(request[8..12], 9_u32.to_ne_bytes());
    assert_eq!(request[16..18], [AF_INET6, IPPROTO_TCP]);
    assert_eq!(request[24..], body[4..52]);
}

#[test]
fn what_belongs_to_another_request_is_passed_over() {
    let body = established(AF_INET, &[198, 51, 100, 1], &[192, 0, 2, 7]);
    let datagram = [
        message(SOCK_DIAG_BY_FAMILY, SEQUENCE - 1, &body),
        message(NLMSG_DONE, SEQUENCE - 1, &[0; 4]),
        message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &established(1, &[], &[])),
        message(NLMSG_DONE, SEQUENCE, &[0; 4]),
        message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &body),
    ]
    .concat();
    let (sockets, answer) = sockets(&datagram);
    assert!(sockets.is_empty() && matches!(answer, Ok(Answer::Done)));
}

#[test]
fn a_kernel_that_cannot_destroy_differs_from_a_socket_that_is_gone() {
    let answer = |code: i32| {
        let (_, answer) = sockets(&message(NLMSG_ERROR, SEQUENCE, &(-code).to_ne_bytes()));
        answer.map(|_| true).or_else(unless_gone)
    };
    for code in [0, libc::ENOENT, libc::ESTALE] {
        assert!(answer(code).is_ok(), "{code}");
    }
    assert!(matches!(answer(libc::EOPNOTSUPP), Err(DiagError::NoDestroy)));
    assert!(matches!(answer(libc::EPERM), Err(DiagError::Sys { .. })));
    assert!(matches!(answer(-i32::MAX), Err(DiagError::Sys { .. })));
}

#[test]
fn every_cut_of_an_answer_is_malformed_or_shorter() {
    let body = established(AF_INET, &[198, 51, 100, 1], &[192, 0, 2, 7]);
    let whole =
        [message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &body), message(NLMSG_DONE, SEQUENCE, &[0; 4])]
            .concat();
    for length in 0..whole.len() {
        let (sockets, answer) = sockets(&whole[..length]);
        assert_eq!(sockets.len(), usize::from(length >= HEADER + 72), "{length}");
        let between = length == 0 || length == HEADER + 72;
        assert_eq!(matches!(answer, Ok(Answer::More)), between, "{length}: {answer:?}");
        assert!(between || matches!(answer, Err(DiagError::Malformed(_))), "{length}");
    }
}

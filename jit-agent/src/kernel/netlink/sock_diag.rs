//! Lists sockets of this network namespace, and destroys TCP sockets so that both ends hear it, by
//! NETLINK_SOCK_DIAG (sock_diag(7), `linux/sock_diag.h`, `linux/inet_diag.h`).
//!
//! Building and reading messages is pure; only [`SockDiag`] speaks to the kernel. The crate
//! netlink-packet-sock-diag is not used: it cannot send the kernel the filter by port, and four
//! messages of a fixed form are all that is needed.

use std::{io, ops::RangeInclusive, time::Duration};

use jit_common::{Address, Protocol};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send,
        socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// Message types (`linux/netlink.h`, `linux/sock_diag.h`).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The older question about TCP sockets (`linux/inet_diag.h`).
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Message flags (`linux/netlink.h`).
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// Attribute with a filter, and its conditions "source port at least" and "at most"
/// (`linux/inet_diag.h`). The kernel calls the local end the source.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_GE: u8 = 2;
const INET_DIAG_BC_S_LE: u8 = 3;

/// Bytes of `nlmsghdr`, of `inet_diag_req_v2`, of `inet_diag_sockid`, and where the last begins in
/// `inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ID: usize = 48;
const ID_AT: usize = 4;
/// Where the device's index is in `inet_diag_sockid`, and the inode in `inet_diag_msg`.
const DEVICE_AT: usize = 36;
const INODE_AT: usize = 68;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// State of a request whose handshake is not finished (`net/tcp_states.h`: syn-recv).
const SYN_RECV: u8 = 3;
/// A bit for each state of such requests: syn-recv, and new-syn-recv as which the kernel keeps
/// them.
const HALF_OPEN: u32 = 1 << SYN_RECV | 1 << 12;
/// Likewise of sockets that a peer opened and has not closed: established, fin-wait 1 and 2,
/// close-wait, last-ack, closing. Not: listening, connecting (syn-sent is this host's own doing),
/// time-wait (nothing that could carry data is left).
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// Likewise of sockets that wait for peers. A UDP socket is never in this state.
const LISTEN: u8 = 10;
/// State of a UDP socket without a peer (`net/tcp_states.h`: close).
const WITHOUT_PEER: u8 = 7;

/// More than a message of the kernel's dumps has (32 KiB).
const BUFFER: usize = 65_536;
/// Longest wait for the kernel, which usually answers at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which sockets to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// TCP: those half open.
    HalfOpen,
    /// TCP: those half open, and those with a peer.
    Sessions,
    /// Those that listen, and those with a peer; UDP sockets have one if they are connected.
    Services(Protocol),
    /// Those that take what comes from anybody: TCP sockets that listen, UDP sockets without a peer.
    Open(Protocol),
}

/// A socket; those that listen have no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The peer's address; an IPv4 one also when the socket is a dual-stack listener's.
    pub peer: Address,
    /// The peer's port, host byte order.
    pub peer_port: u16,
    /// The address of this end; an IPv4 one as with `peer`.
    pub local: Address,
    /// The port of this end, host byte order.
    pub port: u16,
    /// The handshake is not finished.
    pub half_open: bool,
    /// It waits for peers.
    pub listens: bool,
    /// Index of the device that it is bound to; 0: to none.
    pub device: u32,
    /// Its inode, by which `/proc/PID/fd` names it; 0: no process has it.
    pub inode: u32,
    /// How the kernel names it.
    family: u8,
    id: [u8; ID],
}

/// Whether the kernel sends more answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No more answers come.
    Done,
    /// More answers come.
    More,
}

/// Why the sockets cannot be looked through, or one not destroyed.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The received bytes are no answer of this protocol.
    #[error("the kernel's answer about sockets is malformed ({0} bytes)")]
    Malformed(usize),
    /// The kernel was built without CONFIG_INET_DIAG_DESTROY.
    #[error(
        "this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY): the peer of a session that \
         is cut hears nothing more, and neither does the service, until a time-out of its own"
    )]
    NoDestroy,
    /// A call or request that failed.
    #[error("cannot {verb}: {error}")]
    Sys {
        /// What was tried.
        verb: &'static str,
        /// The cause.
        error: io::Error,
    },
}

/// Asks for all such UDP sockets of one family with a local port in a range. `sequence` comes back in
/// the answers.
fn udp_request(v6: bool, ports: &RangeInclusive<u16>, states: u32, sequence: u32) -> Vec<u8> {
    let mut request = header(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence);
    request.extend([if v6 { AF_INET6 } else { AF_INET }, Protocol::Udp as u8, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.extend([0; ID]);
    at_ports(request, ports)
}

/// Likewise for TCP sockets, of both families. For each question the kernel looks through its whole
/// table of connections, which takes long however few they are. Only in the older form one question
/// is about both families (`inet_diag_dump_compat` in `net/ipv4/inet_diag.c`).
fn tcp_request(ports: &RangeInclusive<u16>, states: u32, sequence: u32) -> Vec<u8> {
    let mut request = header(TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, sequence);
    // A family, which the kernel takes no notice of here, and nothing more about each socket.
    request.extend([0; 4]);
    request.extend([0; ID]);
    request.extend(states.to_ne_bytes());
    // The kernel's own.
    request.extend([0; 4]);
    at_ports(request, ports)
}

/// Ends a request with a filter.
fn at_ports(mut request: Vec<u8>, ports: &RangeInclusive<u16>) -> Vec<u8> {
    /// Bytes of two conditions, each an operation followed by a port.
    const FILTER: u16 = 16;
    request.extend((4 + FILTER).to_ne_bytes());
    request.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    // The jumps if it holds and if not: one to four bytes after the end says no.
    for (condition, port, left) in
        [(INET_DIAG_BC_S_GE, *ports.start(), FILTER), (INET_DIAG_BC_S_LE, *ports.end(), FILTER / 2)]
    {
        request.extend([condition, 8]);
        request.extend((left + 4).to_ne_bytes());
        request.extend([0, 0]);
        request.extend(port.to_ne_bytes());
    }
    finished(request)
}

/// Asks the kernel to destroy exactly this socket, not another one that took its place meanwhile.
pub fn destroy_request(socket: &Socket, sequence: u32) -> Vec<u8> {
    destroy(socket.family, &socket.id, sequence)
}

/// Asks to destroy a socket that does not exist: the answer shows whether the kernel can destroy
/// sockets.
pub fn probe_request(sequence: u32) -> Vec<u8> {
    destroy(AF_INET, &[0; ID], sequence)
}

/// Reads what the kernel sent: `seen` gets every socket. Answers to other requests are passed over.
pub fn read(
    datagram: &[u8],
    sequence: u32,
    mut seen: impl FnMut(Socket),
) -> Result<Answer, DiagError> {
    let malformed = || DiagError::Malformed(datagram.len());
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(*rest.first_chunk().ok_or_else(malformed)?);
        let length = usize::try_from(length).map_err(|_| malformed())?;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER);
        let (head, body) = message.ok_or_else(malformed)?.split_at(HEADER);
        // The next one begins at a multiple of four.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if bytes(head, 8).map(u32::from_ne_bytes) != Some(sequence) {
            continue;
        }
        match bytes(head, 4).map(u16::from_ne_bytes) {
            Some(SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK) => {
                if let Some(socket) = Socket::read(body).ok_or_else(malformed)? {
                    seen(socket);
                }
            }
            Some(NLMSG_ERROR) => {
                let code = bytes(body, 0).map(i32::from_ne_bytes).ok_or_else(malformed)?;
                return refused(code).map(|()| Answer::Done);
            }
            Some(NLMSG_DONE) => {
                // With the result of the dump, on kernels that send it.
                let code = bytes(body, 0).map_or(0, i32::from_ne_bytes);
                return refused(code).map(|()| Answer::Done);
            }
            _ => {}
        }
    }
    Ok(Answer::More)
}

impl Socket {
    /// From an `inet_diag_msg`; `None` inside for a family that is neither IPv4 nor IPv6.
    fn read(body: &[u8]) -> Option<Option<Self>> {
        let [family, state] = bytes(body, 0)?;
        let id: [u8; ID] = bytes(body, ID_AT)?;
        let port = |at| bytes(&id, at).map(u16::from_be_bytes);
        let (port, peer_port) = (port(0)?, port(2)?);
        let (local, peer): ([u8; 16], [u8; 16]) = (bytes(&id, 4)?, bytes(&id, 20)?);
        let address = match family {
            AF_INET => first_four,
            AF_INET6 => unmapped,
            _ => return Some(None),
        };
        let (peer, local) = (address(peer), address(local));
        let (half_open, listens) = (state == SYN_RECV, state == LISTEN);
        let device = bytes(&id, DEVICE_AT).map(u32::from_ne_bytes)?;
        let inode = bytes(body, INODE_AT).map(u32::from_ne_bytes)?;
        Some(Some(Self {
            peer,
            peer_port,
            local,
            port,
            half_open,
            listens,
            device,
            inode,
            family,
            id,
        }))
    }
}

/// A conversation with the kernel.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens it, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, DiagError> {
        let open = || -> Result<OwnedFd, Errno> {
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(netlink::SOCK_DIAG),
            )?;
            set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
            // Connected to the kernel: then the socket takes messages from nobody else.
            connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(failed("open a socket of NETLINK_SOCK_DIAG"))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Fails with [`DiagError::NoDestroy`] where the kernel cannot destroy sockets.
    pub fn probe(&mut self) -> Result<(), DiagError> {
        let sequence = self.next();
        self.ask(&probe_request(sequence), sequence, |_| {}).or_else(unless_gone).map(drop)
    }

    /// Every such socket with a local port in this range.
    pub fn list(
        &mut self,
        ports: RangeInclusive<u16>,
        wanted: Wanted,
        mut seen: impl FnMut(Socket),
    ) -> Result<(), DiagError> {
        let (protocol, states) = match wanted {
            Wanted::HalfOpen => (Protocol::Tcp, HALF_OPEN),
            Wanted::Sessions => (Protocol::Tcp, HALF_OPEN | OPEN),
            Wanted::Services(protocol) => (protocol, 1 << LISTEN | OPEN),
            Wanted::Open(Protocol::Tcp) => (Protocol::Tcp, 1 << LISTEN),
            Wanted::Open(Protocol::Udp) => (Protocol::Udp, 1 << WITHOUT_PEER),
        };
        if protocol == Protocol::Tcp {
            let sequence = self.next();
            self.ask(&tcp_request(&ports, states, sequence), sequence, seen)?;
            return Ok(());
        }
        for v6 in [false, true] {
            let sequence = self.next();
            self.ask(&udp_request(v6, &ports, states, sequence), sequence, &mut seen)?;
        }
        Ok(())
    }

    /// Destroys a socket: the peer gets a RST, the process an error. `false`: it was gone already.
    pub fn destroy(&mut self, socket: &Socket) -> Result<bool, DiagError> {
        let sequence = self.next();
        self.ask(&destroy_request(socket, sequence), sequence, |_| {}).or_else(unless_gone)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// `true`, for [`unless_gone`].
    fn ask(
        &mut self,
        request: &[u8],
        sequence: u32,
        mut seen: impl FnMut(Socket),
    ) -> Result<bool, DiagError> {
        send(&self.socket, request, SendFlags::empty())
            .map_err(failed("ask the kernel about sockets"))?;
        loop {
            let (length, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())
                .map_err(failed("hear from the kernel about sockets"))?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            if read(datagram, sequence, &mut seen)? == Answer::Done {
                return Ok(true);
            }
        }
    }
}

fn header(kind: u16, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + REQUEST + 20);
    // The length, which `finished` fills in.
    message.extend([0; 4]);
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The port of the sender: the kernel fills it in.
    message.extend([0; 4]);
    message
}

fn finished(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_ne_bytes();
    if let Some(head) = message.first_chunk_mut() {
        *head = length;
    }
    message
}

fn destroy(family: u8, id: &[u8; ID], sequence: u32) -> Vec<u8> {
    let mut request = header(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, sequence);
    request.extend([family, IPPROTO_TCP, 0, 0]);
    // The states, of which the kernel takes no notice here.
    request.extend((HALF_OPEN | OPEN).to_ne_bytes());
    request.extend(id);
    finished(request)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}

fn first_four(bytes: [u8; 16]) -> Address {
    let [a, b, c, d, ..] = bytes;
    Address::v4([a, b, c, d])
}

/// The kernel shows an IPv4 peer of an IPv6 socket as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2);
/// on the wire, and for grants, it is an IPv4 one.
fn unmapped(bytes: [u8; 16]) -> Address {
    match bytes {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Address::v4([a, b, c, d]),
        _ => Address::v6(bytes),
    }
}

/// The kernel's error codes are negative; zero says yes.
fn refused(code: i32) -> Result<(), DiagError> {
    match code.saturating_neg() {
        0 => Ok(()),
        libc::EOPNOTSUPP => Err(DiagError::NoDestroy),
        code => Err(DiagError::Sys {
            verb: "list or destroy sockets",
            error: io::Error::from_raw_os_error(code),
        }),
    }
}

/// A socket that closed by itself meanwhile is no error: there is no such socket, another one is in
/// its place, or it is already closed.
fn unless_gone(error: DiagError) -> Result<bool, DiagError> {
    match &error {
        DiagError::Sys { error: cause, .. }
            if matches!(cause.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) =>
        {
            Ok(false)
        }
        _ => Err(error),
    }
}

fn failed(verb: &'static str) -> impl Fn(Errno) -> DiagError {
    move |error| DiagError::Sys { verb, error: error.into() }
}

#[cfg(test)]
mod tests;

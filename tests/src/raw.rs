//! Sends and receives raw frames on an interface (AF_PACKET), as an attacker's machine would.
//!
//! `unsafe` is for the C library's socket calls: no safe library offers them for this family.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

/// Larger than any frame that the tests send.
const BUFFER: usize = 70_000;
const ETH_P_ALL: u16 = 0x0003;

/// A packet socket bound to one interface of the namespace it was opened in.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens the socket. Call this inside the interface's namespace.
    pub fn open(interface: u32) -> Self {
        let socket = packet_socket(interface)
            .unwrap_or_else(|error| panic!("packet socket on interface {interface}: {error}"));
        Self { socket }
    }

    /// Sends one frame as it is.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the pointer and the length are those of a live slice.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let sent = usize::try_from(sent).unwrap_or_else(|_| {
            panic!("send a frame of {} bytes: {}", frame.len(), io::Error::last_os_error())
        });
        assert_eq!(sent, frame.len(), "a frame is sent whole");
    }

    /// Sends many frames with few calls. If the peer has no room for a frame, it is lost, as on a
    /// real wire.
    pub fn send_all(&self, frames: &[Vec<u8>]) {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec {
                // The kernel only reads.
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all zero is a valid header of a message without anything.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut rest = messages.as_mut_slice();
        while !rest.is_empty() {
            let count = u32::try_from(rest.len()).expect("a batch is small");
            // SAFETY: this number of headers, each with one part of a frame, all of which live
            // during the call.
            let sent =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
            let sent = usize::try_from(sent).unwrap_or_else(|_| {
                let error = io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "send frames: {error}");
                1
            });
            rest = rest.get_mut(sent..).unwrap_or_default();
        }
    }

    /// The first incoming frame that `wanted` accepts, or `None` when none came in time.
    pub fn receive(
        &self,
        within: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let end = Instant::now() + within;
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            let frame = self.next(left)?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Drops all frames that have come in until now.
    pub fn drain(&self) {
        while self.next(Duration::ZERO).is_some() {}
    }

    /// The next frame, other than those that this host sent.
    fn next(&self, within: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if !readable(&self.socket, left).expect("poll a packet socket") {
                return None;
            }
            let (frame, outgoing) = read(&self.socket).expect("read a packet socket");
            if !outgoing {
                return Some(frame);
            }
        }
    }
}

fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let protocol = libc::c_int::from(ETH_P_ALL.to_be());
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let mut address = link_address();
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = i32::try_from(interface).expect("interface indices are small");
    // SAFETY: a sockaddr_ll that lives during the call, with its own size.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_link_address())
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn readable(socket: &OwnedFd, within: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(within.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: one pollfd that lives during the call.
    match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
        count if count < 0 => Err(io::Error::last_os_error()),
        count => Ok(count > 0),
    }
}

fn read(socket: &OwnedFd) -> io::Result<(Vec<u8>, bool)> {
    let mut frame = vec![0; BUFFER];
    let mut address = link_address();
    let mut length = size_of_link_address();
    // SAFETY: buffer and address live during the call and have the sizes that are passed.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            0,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    let Ok(received) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    frame.truncate(received);
    Ok((frame, address.sll_pkttype == libc::PACKET_OUTGOING))
}

fn link_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn size_of_link_address() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("twenty bytes")
}

//! TCP and UDP sockets of tests. Source address and port can be chosen, and every call has a time
//! limit. Call these functions inside the socket's namespace.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, socket_with,
        sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout},
    },
};

/// Longest wait for an answer: more than any answer over veth takes. Tests that wait for silence
/// use [`SILENCE`].
pub const PATIENCE: Duration = Duration::from_secs(10);
/// After this time without an answer, a test believes that none comes. Less than the time to the
/// first retransmission of a SYN (1 s).
pub const SILENCE: Duration = Duration::from_millis(300);

/// Connects from `source` (port 0: any) and gives up after `within`.
pub fn connect_from(
    source: SocketAddr,
    destination: SocketAddr,
    within: Duration,
) -> io::Result<TcpStream> {
    let family = if destination.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &source)?;
    // The send timeout also bounds connect() (socket(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(within))?;
    connect(&socket, &destination)?;
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether a connection opens. Panics unless it opens or gets no answer in time.
pub fn opens(source: SocketAddr, destination: SocketAddr, within: Duration) -> bool {
    match connect_from(source, destination, within) {
        Ok(_) => true,
        Err(error) if is_silence(&error) => false,
        Err(error) => panic!("connect from {source} to {destination}: {error}"),
    }
}

/// Whether the error means "no answer in time", not a refusal.
pub fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock) || error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// A listener.
pub fn listen(address: SocketAddr) -> TcpListener {
    bound(address, || TcpListener::bind(address))
}

/// The socket on an address that another socket of this test may have had until now. A program that
/// another test is just starting has copies of all sockets, from fork(2) to execve(2): for that moment
/// an address is taken although its socket was closed.
fn bound<S>(address: SocketAddr, bind: impl Fn() -> io::Result<S>) -> S {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Ok(socket) => return socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("a socket on {address}: {error}"),
        }
    }
}

/// Answers every connection with what it sends, until the process ends.
pub fn serve_tcp_echo(listener: TcpListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        // Ends when the peer closes.
        thread::spawn(move || {
            let Ok(mut back) = stream.try_clone() else { return };
            let _ = io::copy(&mut &stream, &mut back);
        });
    }
}

/// A UDP socket.
pub fn udp(address: SocketAddr) -> UdpSocket {
    bound(address, || UdpSocket::bind(address))
}

/// Sends one datagram back, if one comes within [`SILENCE`].
pub fn echo_one(socket: &UdpSocket) {
    if let Some((datagram, peer)) = receive_from(socket, SILENCE) {
        socket.send_to(&datagram, peer).expect("send a datagram back");
    }
}

/// The next datagram, or `None` when none comes in time.
pub fn receive(socket: &UdpSocket, within: Duration) -> Option<Vec<u8>> {
    receive_from(socket, within).map(|(datagram, _)| datagram)
}

/// The next connection, or `None` when none comes in time.
pub fn accept(listener: &TcpListener, within: Duration) -> Option<TcpStream> {
    let seconds = i64::try_from(within.as_secs()).expect("a short time");
    let limit = Timespec { tv_sec: seconds, tv_nsec: i64::from(within.subsec_nanos()) };
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    let ready = poll(&mut waiting, Some(&limit)).expect("poll a listener");
    (ready > 0).then(|| listener.accept().expect("a waiting connection").0)
}

/// Sends `bytes` bytes to an echo server while reading them back, and checks them.
pub fn exchange(stream: &mut TcpStream, bytes: usize) {
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
    let mut back = vec![0; bytes];
    let mut writer = stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&sent).expect("send"));
        stream.read_exact(&mut back).expect("read the echo");
    });
    assert!(back == sent, "the echo differs");
}

fn receive_from(socket: &UdpSocket, within: Duration) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    socket.set_read_timeout(Some(within)).expect("set a timeout");
    match socket.recv_from(&mut buffer) {
        Ok((length, peer)) => {
            buffer.truncate(length);
            Some((buffer, peer))
        }
        Err(error) if is_silence(&error) => None,
        Err(error) => panic!("receive a datagram: {error}"),
    }
}

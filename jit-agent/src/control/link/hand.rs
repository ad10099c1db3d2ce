//! Hands open sockets from the gate's process to the front, which may open none itself: the listening
//! port, and connections to hubs or proxies on which no byte was read yet (`SCM_RIGHTS`, unix(7)).
//!
//! Each socket comes with one packet that says what it is. The other way nothing is sent.

use std::{
    io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream as Socket,
    },
    sync::Arc,
};

use prost::Message as _;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::{io::Interest, net::UnixStream};

use crate::control::link::Handed;

/// The largest packet.
const LARGEST: usize = 8 * 1024;

/// The giving end. Clones give to the same front.
#[derive(Clone, Debug)]
pub(crate) struct Giver(Arc<OwnedFd>);

/// The taking end.
#[derive(Debug)]
pub(crate) struct Taker(UnixStream);

/// Both ends: the one to give with, and the one that the front gets.
pub(crate) fn pair() -> io::Result<(Giver, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Giver(Arc::new(near)), far))
}

impl Giver {
    /// Hands a socket over. It must not block.
    ///
    /// # Errors
    /// The front is gone, or does not take what was handed to it.
    pub(crate) fn give(&self, what: &Handed, socket: BorrowedFd<'_>) -> io::Result<()> {
        let bytes = what.encode_to_vec();
        if bytes.len() > LARGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sockets = [socket];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        debug_assert!(fits, "the buffer is for one descriptor");
        let Self(near) = self;
        sendmsg(near, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Taker {
    /// Takes from this socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        // It has packets, and is read by `recvmsg` alone.
        UnixStream::from_std(Socket::from(socket)).map(Self)
    }

    /// The next socket. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&self) -> io::Result<(Handed, OwnedFd)> {
        let Self(stream) = self;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || take(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return taken,
            }
        }
    }
}

fn take(stream: &UnixStream) -> io::Result<(Handed, OwnedFd)> {
    let mut bytes = [0; LARGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let sockets = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let what = bytes.get(..received.bytes).map(Handed::decode);
    match (what, sockets) {
        (Some(Ok(what)), Some(socket)) => Ok((what, socket)),
        // The gate's end is closed.
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_socket_arrives_with_what_was_said_of_it_and_still_works() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (giver, far) = pair().unwrap();
            let taker = Taker::new(far).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let made = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            let what =
                |uplink| Handed { uplink, host: "hub.example.org".into(), ..Handed::default() };
            giver.give(&what(7), made.as_fd()).unwrap();
            giver.give(&what(8), listener.as_fd()).unwrap();
            drop(made);
            let (said, socket) = taker.next().await.unwrap();
            assert_eq!(said, what(7));
            let mut stream = TcpStream::from(socket);
            other.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            assert_eq!(taker.next().await.unwrap().0, what(8));
            drop(giver);
            assert!(taker.next().await.is_err(), "the gate has ended");
        });
    }
}

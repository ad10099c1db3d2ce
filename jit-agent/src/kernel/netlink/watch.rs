//! Reports at once that a link came, went, was renamed, changed, or moved to another network
//! namespace.
//!
//! A report says that something changed: the receiver then looks at all links. So a message that is
//! lost (ENOBUFS) or not understood only costs one more look. The report also has the indices of
//! links that are there, so that a new one need not wait for that look.

use std::{io, ops::ControlFlow};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};

use crate::{
    kernel::netlink::message::{Message, messages},
    system::readable::Readable,
};

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of `linux/rtnetlink.h`: links of this
/// network namespace, and their addresses.
const GROUP_LINK: u32 = 1;
const GROUP_ADDRESSES: u32 = 0x10 | 0x100;
/// A message about a link has one to two thousand bytes; one that is cut off counts as a change.
const MESSAGE: usize = 8 * 1024;
/// Most messages that are read before a change is reported.
const BURST: usize = 256;

/// Listens for changes of links.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
}

impl LinkWatch {
    /// Begins to listen: [`LinkWatch::run`] reports all changes from now on.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: listen(GROUP_LINK, SocketFlags::CLOEXEC)? })
    }

    /// Calls `changed` after each burst of changes, with the indices of links that are new or
    /// changed. Blocks. Returns the error that ends the listening.
    pub fn run(self, changed: impl Fn(&[u32])) -> io::Error {
        let mut indices = Vec::new();
        loop {
            indices.clear();
            match read_burst(&self.socket, &mut indices) {
                Ok(true) => changed(&indices),
                Ok(false) => {}
                Err(error) => return error.into(),
            }
        }
    }
}

/// Listens for changes of links and addresses, for tasks.
#[derive(Debug)]
pub struct AddressWatch(Readable);

impl AddressWatch {
    /// Begins to listen.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Readable::new(listen(GROUP_LINK | GROUP_ADDRESSES, flags)?).map(Self)
    }

    /// Waits for a change. Those that came together, or were lost, are one.
    ///
    /// # Errors
    /// Nothing more can be read.
    pub async fn changed(&self) -> io::Result<()> {
        let Self(socket) = self;
        let read = |socket: &OwnedFd| match recv(
            socket,
            [0; MESSAGE].as_mut_slice(),
            RecvFlags::empty(),
        ) {
            Ok(_) | Err(Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error),
        };
        socket.news(read).await
    }
}

fn listen(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    // No protocol: NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits for a message and reads all that has come by then. Returns whether something about links
/// may have changed.
fn read_burst(socket: &OwnedFd, indices: &mut Vec<u32>) -> Result<bool, Errno> {
    let mut buffer = [0; MESSAGE];
    let mut changes = false;
    let mut flags = RecvFlags::TRUNC;
    for _ in 0..BURST {
        let received = recv(socket, buffer.as_mut_slice(), flags);
        let received = received.map(|(_, length)| buffer.get(..length));
        if let Ok(Some(datagram)) = received {
            indices.extend(present(datagram));
        }
        match judge(received) {
            ControlFlow::Continue(change) => changes |= change,
            ControlFlow::Break(Errno::AGAIN) => break,
            ControlFlow::Break(error) => return Err(error),
        }
        flags |= RecvFlags::DONTWAIT;
    }
    Ok(changes)
}

/// Whether what was received may mean a change; or the error that ends the reading.
fn judge(received: Result<Option<&[u8]>, Errno>) -> ControlFlow<Errno, bool> {
    match received {
        Ok(Some(datagram)) => ControlFlow::Continue(may_change_links(datagram)),
        // Lost or cut off: anything may have changed.
        Ok(None) | Err(Errno::NOBUFS) => ControlFlow::Continue(true),
        Err(Errno::INTR) => ControlFlow::Continue(false),
        Err(error) => ControlFlow::Break(error),
    }
}

/// The indices of links that a datagram says are there.
fn present(datagram: &[u8]) -> impl Iterator<Item = u32> + '_ {
    messages(datagram).filter_map(|message| match message {
        Ok(Message::Changed(link)) => Some(link.index),
        _ => None,
    })
}

/// Whether a datagram may mean a change.
pub fn may_change_links(datagram: &[u8]) -> bool {
    let mut changes = false;
    for message in messages(datagram) {
        changes |= match message {
            Ok(Message::Changed(link)) => {
                tracing::debug!(interface = link.name, index = link.index, "link changed");
                true
            }
            Ok(Message::Gone(link)) => {
                tracing::debug!(interface = link.name, index = link.index, "link gone");
                true
            }
            Ok(Message::Overrun) => true,
            Ok(Message::Other) => false,
            Err(error) => {
                tracing::debug!("a message about links is not understood: {error}");
                true
            }
        };
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_not_understood_counts_as_a_change() {
        assert_eq!(judge(Err(Errno::NOBUFS)), ControlFlow::Continue(true));
        assert_eq!(judge(Ok(None)), ControlFlow::Continue(true));
        assert_eq!(judge(Ok(Some(&[1, 2, 3]))), ControlFlow::Continue(true));
        assert_eq!(judge(Ok(Some(&[]))), ControlFlow::Continue(false));
        assert_eq!(judge(Err(Errno::INTR)), ControlFlow::Continue(false));
        assert_eq!(judge(Err(Errno::BADF)), ControlFlow::Break(Errno::BADF));
    }

    #[test]
    fn a_watch_that_cannot_listen_any_more_ends_and_says_why() {
        let socket = std::fs::File::open("/dev/null").unwrap().into();
        let error = LinkWatch { socket }.run(|_| {});
        assert_eq!(error.raw_os_error(), Some(Errno::NOTSOCK.raw_os_error()));
    }
}

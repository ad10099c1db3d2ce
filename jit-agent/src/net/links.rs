//! The interfaces of this process's network namespace.
//!
//! Asked for by netlink, because `/sys/class/net` shows the namespace of whoever mounted it; and not
//! by getifaddrs(3), which asks for all addresses as well and takes an incomplete list for a whole
//! one. The list decides what the gate is taken off: an interface may not be missing from it.

use std::{collections::BTreeMap, io, time::Duration};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink,
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::net::message::{Content, LinkInfo, list_request, messages};

/// How often a list is asked for again that something changed under.
const ATTEMPTS: u32 = 8;
/// The kernel answers at once; a call of the gate's task never waits for ever all the same.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the kernel sends in one piece of a list at most (`NLMSG_GOODSIZE`, `netlink_dump`).
const PIECE: usize = 32 * 1024;
/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const HARDWARE_ETHERNET: u16 = 1;
/// `IFF_LOOPBACK` of `linux/if.h`.
const FLAG_LOOPBACK: u32 = 8;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Frames start with an Ethernet header.
    pub ethernet: bool,
    /// It is a loopback.
    pub loopback: bool,
}

/// All interfaces, by index. Where they change faster than they can be listed, everything that was
/// seen: one that is gone by then does no harm, one that is missing would.
pub fn interfaces() -> io::Result<Vec<NetworkInterface>> {
    let mut seen = BTreeMap::new();
    for _ in 0..ATTEMPTS {
        let (whole, links) = list()?;
        if whole {
            return Ok(links.into_iter().map(NetworkInterface::from).collect());
        }
        seen.extend(links.into_iter().map(|link| (link.index, link)));
    }
    Ok(seen.into_values().map(NetworkInterface::from).collect())
}

/// A socket of route netlink, which tells of these groups (a bit each, `RTMGRP_*`) as well.
pub(super) fn socket(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    // No protocol: NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// One list, and whether nothing changed meanwhile.
fn list() -> io::Result<(bool, Vec<LinkInfo>)> {
    let socket = socket(0)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    send(&socket, &list_request(), SendFlags::empty())?;
    let mut buffer = vec![0; PIECE];
    let (mut whole, mut links) = (true, Vec::new());
    loop {
        let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
        let piece = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        for message in messages(piece) {
            let message =
                message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            whole &= !message.interrupted;
            match message.content {
                Content::Changed(link) => links.push(link),
                Content::Done(0) => return Ok((whole, links)),
                Content::Done(error) | Content::Refused(error) => {
                    return Err(io::Error::from_raw_os_error(error));
                }
                Content::Overrun => whole = false,
                Content::Gone(_) | Content::Other => {}
            }
        }
    }
}

impl From<LinkInfo> for NetworkInterface {
    fn from(LinkInfo { index, hardware, flags, name }: LinkInfo) -> Self {
        Self {
            index,
            name,
            ethernet: hardware == HARDWARE_ETHERNET,
            loopback: flags & FLAG_LOOPBACK != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_of_this_machine_is_listed() {
        let all = interfaces().unwrap();
        let loopback = all.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(loopback.loopback && !loopback.ethernet, "{loopback:?}");
    }
}

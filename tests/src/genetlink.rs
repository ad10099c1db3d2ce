//! Orders by generic netlink (`linux/genetlink.h`), for devices whose tools the test machines do not
//! have.

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netlink, recv, send,
        socket_with,
    },
};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLMSG_ERROR: u16 = 2;
/// The type of attributes that hold others.
pub(crate) const NESTED: u16 = 1 << 15;

/// The family that reports the numbers of the others.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Bytes of `nlmsghdr` and of `genlmsghdr`.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// A conversation with one family of the kernel's, in the namespace of the calling thread.
pub(crate) struct Conversation {
    socket: OwnedFd,
    family: u16,
}

impl Conversation {
    /// Panics if the kernel has no such family.
    pub(crate) fn with(name: &str) -> Self {
        let socket = open();
        let family = family(&socket, name);
        Self { socket, family }
    }

    /// Panics if the kernel refuses.
    pub(crate) fn order(&self, command: u8, attributes: &[u8]) {
        ask(&self.socket, self.family, command, attributes, NLM_F_ACK);
    }
}

fn open() -> OwnedFd {
    let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(kind.0, kind.1, kind.2, Some(netlink::GENERIC));
    let socket = socket.expect("a socket of generic netlink");
    connect(&socket, &netlink::SocketAddrNetlink::new(0, 0)).expect("connect it to the kernel");
    socket
}

/// Asks the kernel for the number of a family.
fn family(socket: &OwnedFd, name: &str) -> u16 {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, format!("{name}\0").as_bytes());
    let answer = ask(socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name, 0);
    let mut rest = answer.get(HEADER + GENERIC..).expect("a family");
    loop {
        let length = usize::from(number(rest, 0));
        if number(rest, 2) == CTRL_ATTR_FAMILY_ID {
            return number(rest, 4);
        }
        rest = rest.get(length.next_multiple_of(4)..).expect("the number of a family");
    }
}

/// Sends a request and returns the first answer. Panics if it is an error.
fn ask(socket: &OwnedFd, kind: u16, command: u8, attributes: &[u8], flags: u16) -> Vec<u8> {
    let length = u32::try_from(HEADER + GENERIC + attributes.len()).expect("a short message");
    let parts: [&[u8]; 6] = [
        &length.to_ne_bytes(),
        &kind.to_ne_bytes(),
        &(NLM_F_REQUEST | flags).to_ne_bytes(),
        &[0; 8], // sequence and port
        &[command, 1, 0, 0],
        attributes,
    ];
    send(socket, &parts.concat(), SendFlags::empty()).expect("ask the kernel");
    let mut answer = vec![0; 8192];
    let (length, _) =
        recv(socket, &mut answer[..], RecvFlags::empty()).expect("the kernel's answer");
    answer.truncate(length);
    if number(&answer, 4) == NLMSG_ERROR {
        let code = answer.get(HEADER..).and_then(|body| body.first_chunk()).expect("a code");
        let code = i32::from_ne_bytes(*code);
        // Done, and nobody listens to the news of it.
        let unheard = code == -libc::ESRCH;
        assert!(code == 0 || unheard, "generic netlink refuses command {command}: {code}");
    }
    answer
}

/// An attribute with its header, padded.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).expect("a whole answer");
    u16::from_ne_bytes(*bytes)
}

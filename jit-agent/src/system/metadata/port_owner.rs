//! Who listens on a port of loopback: a metadata service there may be any local process, unless the
//! socket belongs to somebody who may speak for the machine.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Where the kernel lists TCP sockets of this network namespace (proc(5)).
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// Column "st" of a socket that listens (`net/tcp_states.h`).
const LISTEN: &str = "0A";

/// A socket as a line of the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    uid: u32,
    inode: u64,
}

/// Uids of all sockets that may take a connection to this address, and of the one that took the
/// connection from `peer`. Empty: nobody listens.
pub(super) fn uids(port: SocketAddr, peer: Option<SocketAddr>) -> io::Result<Vec<u32>> {
    let mut uids = Vec::new();
    for table in TABLES {
        let text = match fs::read_to_string(table) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        uids.extend(of_table(&text, port, peer));
    }
    uids.sort_unstable();
    uids.dedup();
    Ok(uids)
}

fn of_table(text: &str, port: SocketAddr, peer: Option<SocketAddr>) -> Vec<u32> {
    let lines = text.lines().skip(1).filter_map(line);
    let takes = |one: &Line| {
        let there = one.local.port() == port.port()
            && (one.local.ip().is_unspecified() || one.local.ip() == port.ip());
        // One that nobody has accepted yet has no inode, and not its owner's uid.
        let accepted = peer == Some(one.remote) && one.local == port && one.inode != 0;
        (one.listens && there) || accepted
    };
    lines.filter(takes).map(|one| one.uid).collect()
}

fn line(text: &str) -> Option<Line> {
    let mut columns = text.split_ascii_whitespace();
    let (local, remote) = (columns.nth(1)?, columns.next()?);
    let state = columns.next()?;
    let uid = columns.nth(3)?.parse().ok()?;
    let inode = columns.nth(1)?.parse().ok()?;
    Some(Line {
        local: address(local)?,
        remote: address(remote)?,
        listens: state == LISTEN,
        uid,
        inode,
    })
}

/// `0100007F:9D96`: words in the order of this machine, and the port. IPv4 in IPv6 is IPv4.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn every_socket_that_could_take_the_connection_counts() {
        let line = |local: &str, remote: &str, state: &str, uid: u32, inode: u64| {
            format!(
                "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 {inode} 1\n"
            )
        };
        let port: SocketAddr = "127.0.0.1:40342".parse().unwrap();
        let peer: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        let hex = |address: u32, port: u16| format!("{:08X}:{port:04X}", address.to_be());
        let (loopback, any, other) = (0x7f00_0001, 0, 0xc000_0201);
        let table = [
            "  sl  local_address rem_address   st\n".to_owned(),
            line(&hex(loopback, 40342), &hex(0, 0), LISTEN, 101, 1),
            line(&hex(any, 40342), &hex(0, 0), LISTEN, 102, 1),
            line(&hex(other, 40342), &hex(0, 0), LISTEN, 103, 1),
            line(&hex(loopback, 40343), &hex(0, 0), LISTEN, 104, 1),
            line(&hex(loopback, 40342), &hex(loopback, 50000), "01", 105, 1),
            line(&hex(loopback, 40342), &hex(loopback, 50001), "01", 106, 1),
            line(&hex(loopback, 50000), &hex(loopback, 40342), "01", 107, 1),
            "torn\n".to_owned(),
        ]
        .concat();
        assert_eq!(of_table(&table, port, None), [101, 102]);
        assert_eq!(of_table(&table, port, Some(peer)), [101, 102, 105]);
        let waiting = table.replace("105 0 1 1", "  0 0 0 1");
        assert_eq!(of_table(&waiting, port, Some(peer)), [101, 102], "not accepted yet");
        assert_eq!(address("0000000000000000FFFF00000100007F:9D96"), Some(port));
        assert_eq!(
            address("00000000000000000000000000000000:0016").map(|one| one.port()),
            Some(22)
        );
    }

    #[test]
    fn the_kernel_names_the_user_of_a_listener() {
        let me = geteuid().as_raw();
        for at in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            // Without IPv6 there is none to look at.
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let port =
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
            assert_eq!(uids(port, None).unwrap(), [me], "{at}");
            let peer = TcpStream::connect(port).unwrap();
            let (_accepted, _) = listener.accept().unwrap();
            drop(listener);
            assert_eq!(uids(port, Some(peer.local_addr().unwrap())).unwrap(), [me], "accepted");
            assert_eq!(uids(port, None).unwrap(), [0; 0]);
        }
    }
}

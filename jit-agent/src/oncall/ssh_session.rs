//! The SSH session that a command runs in: `SSH_CONNECTION` of the process or of one above it. `sudo`
//! and `su -` drop the variable; the shell above them still has it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use jit_proto::v1;

/// The most processes above this one that are looked at.
const DEPTH: usize = 64;
const NAME: &str = "SSH_CONNECTION";

/// An SSH session: the peer's end, and this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SshSession {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl SshSession {
    /// The session of this process; `None`: it was not started over SSH, as far as can be seen.
    pub(super) fn own() -> Option<Self> {
        let own = std::env::var(NAME).ok();
        own.as_deref().and_then(Self::parse).or_else(|| Self::above(Path::new("/proc"), "self"))
    }

    /// The session of a process above this one.
    fn above(proc: &Path, process: &str) -> Option<Self> {
        let mut process = process.to_owned();
        for _ in 0..DEPTH {
            let directory = proc.join(&process);
            let environment = fs::read(directory.join("environ")).unwrap_or_default();
            let found = environment.split(|byte| *byte == 0).find_map(|variable| {
                let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
                (name == NAME).then(|| Self::parse(value)).flatten()
            });
            if found.is_some() {
                return found;
            }
            process = parent(&fs::read_to_string(directory.join("stat")).ok()?)?;
        }
        None
    }

    /// From the variable: the peer's address and port, and this host's (`sshd(8)`).
    fn parse(text: &str) -> Option<Self> {
        let [peer, peer_port, local, port] = *text.split_whitespace().collect::<Vec<_>>() else {
            return None;
        };
        let end = |address: &str, port: &str| {
            // A link-local address has its interface after it.
            let address: IpAddr = address.split('%').next()?.parse().ok()?;
            Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
        };
        Some(Self { peer: end(peer, peer_port)?, local: end(local, port)? })
    }

    pub(super) fn message(self) -> v1::Session {
        let bytes = |end: SocketAddr| match end.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec().into(),
            IpAddr::V6(v6) => v6.octets().to_vec().into(),
        };
        v1::Session {
            peer: bytes(self.peer),
            peer_port: self.peer.port().into(),
            local: bytes(self.local),
            port: self.local.port().into(),
        }
    }

    /// Whether a session of the agent's answer is this one.
    pub(super) fn is(self, session: &v1::Session) -> bool {
        self.message() == *session
    }
}

/// The parent of a process; `None`: it has none. Its name, in brackets, may have spaces and brackets.
fn parent(stat: &str) -> Option<String> {
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    (parent != "0").then(|| parent.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_both_ends() {
        let session = SshSession::parse("198.51.100.2 40000 198.51.100.1 22").unwrap();
        assert_eq!(session.peer, "198.51.100.2:40000".parse().unwrap());
        assert_eq!(session.local, "198.51.100.1:22".parse().unwrap());
        let mapped = SshSession::parse("::ffff:198.51.100.2 40000 ::ffff:198.51.100.1 22").unwrap();
        assert_eq!(mapped, session);
        let local = SshSession::parse("fe80::2%eth0 40000 fe80::1%eth0 22").unwrap();
        assert_eq!(local.peer, "[fe80::2]:40000".parse().unwrap());
        for bad in ["", "198.51.100.2 40000 198.51.100.1", "a 1 b 2", "192.0.2.1 1 192.0.2.2 70000"]
        {
            assert_eq!(SshSession::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn it_is_found_above_a_process_that_has_not_got_it() {
        let proc = tempfile::tempdir().unwrap();
        let process = |id: &str, parent: &str, environment: &[u8]| {
            let directory = proc.path().join(id);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("stat"), format!("{id} (su (x) y) S {parent} 1 1")).unwrap();
            fs::write(directory.join("environ"), environment).unwrap();
        };
        process("30", "20", b"HOME=/root\0MY_SSH_CONNECTION=192.0.2.1 1 192.0.2.2 2\0");
        process("20", "10", b"A=b\0SSH_CONNECTION=192.0.2.7 40000 192.0.2.1 22\0C=d\0");
        process("10", "0", b"SSH_CONNECTION=192.0.2.8 1 192.0.2.1 22\0");
        process("40", "0", b"");
        let found = SshSession::above(proc.path(), "30").unwrap();
        assert_eq!(found.peer, "192.0.2.7:40000".parse().unwrap());
        assert_eq!(SshSession::above(proc.path(), "40"), None);
        assert_eq!(SshSession::above(proc.path(), "50"), None);
    }
}

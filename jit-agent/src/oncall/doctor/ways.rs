//! What comes in on this host: its ports, who listens, what leads elsewhere, the certificates that
//! controllers see, and the ways around the gate. Here the host is read; the files below judge.

mod certificates;
mod listeners;
mod localnet;
mod nat;
mod ports;
mod remote;
mod translation;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io,
    path::Path,
};

use jit_common::{Address, PortKey, PortRule, Protocol};
use jit_proto::{SourcePrefix, prefix::ip};
use rustix::process::geteuid;

use super::{
    finding::{Finding, Level},
    host::Host,
};
use crate::{
    config::{Config, Loaded},
    kernel::{
        datapath::view,
        netlink::sock_diag::{DiagError, SockDiag, Wanted},
    },
    system::{
        processes::{self, Process},
        sys,
    },
};
use nat::Nat;

/// Where the kernel shows processes.
const PROC: &str = "/proc";
/// Where it shows the settings of each interface.
const LOCALNET: &str = "/proc/sys/net/ipv4/conf";

/// A socket that takes what comes from anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    port: PortKey,
    address: Address,
    /// Whose it is, where that can be seen.
    process: Option<Process>,
}

/// What was read of the host.
struct Seen<'a> {
    /// The configuration, also where a signer's key file is missing.
    config: Option<&'a Config>,
    /// The protected ports: those in force, or those of the configuration where none is.
    protected: BTreeMap<PortKey, PortRule>,
    listeners: Vec<Listener>,
    nat: Nat,
    is_root: bool,
}

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let path = host.glimpse.files.first();
    let loaded = path.and_then(|path| as_service(host, || Loaded::read(path, &[])).ok()?.ok());
    let config = loaded.as_ref().map(|loaded| &loaded.config);
    let mut findings = Vec::new();
    let listeners = seen("listeners", listeners(), &mut findings);
    let own = seen("redirects", sys::addresses(), &mut findings);
    let own: Vec<_> = own.into_iter().map(|one| SourcePrefix::from(ip(one))).collect();
    let nat = if host.is_root { Nat::read(&own) } else { Nat::hidden() };
    let protected = protected(host, config);
    let seen = Seen { config, protected, listeners, nat, is_root: host.is_root };
    findings.extend(listeners::findings(&seen));
    findings.extend(ports::findings(&seen, sys::now().wall));
    findings.extend(translation::findings(&seen));
    findings.extend(localnet::findings(Path::new(LOCALNET)));
    findings.extend(certificates::findings(host, loaded.as_ref(), &own));
    findings.extend(remote::findings(Path::new("/"), Path::new(PROC)));
    findings
}

/// A listener by which the host is administered, from anywhere but loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::oncall) struct Administered {
    pub(in crate::oncall) port: PortKey,
    /// What is administered by it: "SSH".
    pub(in crate::oncall) what: &'static str,
    /// The name of the process, where it can be seen.
    pub(in crate::oncall) process: Option<String>,
}

/// The listeners by which this host is administered, one for each port.
pub(in crate::oncall) fn for_administration() -> Result<Vec<Administered>, DiagError> {
    let mut ports = BTreeMap::new();
    for listener in listeners()?.iter().filter(|listener| !listener.address.is_loopback()) {
        if let Some(what) = listeners::service(listener) {
            let process = listener.process.as_ref().map(|process| process.name.clone());
            ports.entry(listener.port).or_insert(Administered {
                port: listener.port,
                what,
                process,
            });
        }
    }
    Ok(ports.into_values().collect())
}

/// What the gate of a configuration that is not in force yet would not see: findings that are not well.
pub(in crate::oncall) fn around(config: &Config) -> Vec<Finding> {
    let is_root = geteuid().is_root();
    let mut findings = Vec::new();
    let listeners = seen("listeners", listeners(), &mut findings);
    let own = seen("redirects", sys::addresses(), &mut findings);
    let own: Vec<_> = own.into_iter().map(|one| SourcePrefix::from(ip(one))).collect();
    let nat = if is_root { Nat::read(&own) } else { Nat::hidden() };
    let protected = config.policy.rules().collect();
    let seen = Seen { config: Some(config), protected, listeners, nat, is_root };
    findings.extend(listeners::findings(&seen));
    findings.extend(translation::findings(&seen));
    findings.extend(localnet::findings(Path::new(LOCALNET)));
    findings.extend(remote::findings(Path::new("/"), Path::new(PROC)));
    findings.retain(|finding| finding.level > Level::Ok);
    findings
}

/// What is odd about the protected ports of a configuration: findings that are not well, but for
/// exemptions.
pub(in crate::oncall) fn of_ports(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let listeners = seen("listeners", listeners(), &mut findings);
    let own = seen("redirects", sys::addresses(), &mut findings);
    let own: Vec<_> = own.into_iter().map(|one| SourcePrefix::from(ip(one))).collect();
    let is_root = geteuid().is_root();
    let nat = if is_root { Nat::read(&own) } else { Nat::hidden() };
    let protected = config.policy.rules().collect();
    let seen = Seen { config: Some(config), protected, listeners, nat, is_root };
    findings.extend(ports::of_host(&seen));
    findings.retain(|finding| finding.level > Level::Ok);
    findings
}

/// Reads as the service does: root can read more than it, and trusts other owners of files.
fn as_service<T: Send>(host: &Host, read: impl FnOnce() -> T + Send) -> io::Result<T> {
    match host.glimpse.paths.owner() {
        Some(owner) => owner.act(read),
        None => Ok(read()),
    }
}

/// What was read; otherwise nothing, and a finding that says why.
fn seen<T: Default>(
    check: &'static str,
    read: Result<T, impl Display>,
    findings: &mut Vec<Finding>,
) -> T {
    read.unwrap_or_else(|error| {
        findings.push(Finding::unseen(check, error.to_string()));
        T::default()
    })
}

fn protected(host: &Host, config: Option<&Config>) -> BTreeMap<PortKey, PortRule> {
    let pinned = view::protected(&host.glimpse.paths.pins).ok().flatten();
    pinned
        .unwrap_or_else(|| config.map(|config| config.policy.rules().collect()).unwrap_or_default())
}

fn listeners() -> Result<Vec<Listener>, DiagError> {
    let mut diag = SockDiag::open()?;
    let mut sockets = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        diag.list(1..=u16::MAX, Wanted::Open(protocol), |socket| {
            sockets.push((PortKey { protocol, port: socket.port }, socket.local, socket.inode));
        })?;
    }
    let inodes: BTreeSet<_> = sockets.iter().map(|(.., inode)| *inode).collect();
    let holders = processes::holders(Path::new(PROC), &inodes).unwrap_or_default();
    let listeners = sockets.into_iter().map(|(port, address, inode)| Listener {
        port,
        address,
        process: holders.get(&inode).cloned(),
    });
    Ok(listeners.collect())
}

/// "22/tcp".
fn port_text(port: PortKey) -> String {
    format!("{}/{}", port.port, port.protocol.word())
}

/// What to write into the configuration so that a port is protected.
fn section(port: &str, protocol: Protocol, forwarded: bool) -> String {
    let forwarded = if forwarded { ", terminates = \"forwarded\"" } else { "" };
    format!(
        "protect it: add a [[port]] section with port = {port}, protocol = \"{}\", the sources that \
         grants may let in{forwarded}; then `jit-agent check` and `systemctl reload jit-agent`",
        protocol.word()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration with these sections, and a signer.
    pub(super) fn config(sections: &str) -> Config {
        use p256::pkcs8::{EncodePublicKey as _, LineEnding};
        let directory = tempfile::tempdir().unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(directory.path().join("prod.pem"), pem).unwrap();
        let signer = "[[signer]]\nid = \"prod\"\npublic_key = \"prod.pem\"\n";
        let text = format!("[host]\nid = \"web-1\"\n{sections}{signer}");
        Config::parse(&text, &directory.path().join("config.toml")).unwrap()
    }

    /// A section of these ports, with more keys.
    pub(super) fn port(port: &str, keys: &str) -> String {
        format!(
            "[[port]]\nport = \"{port}\"\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n{keys}\n"
        )
    }

    pub(super) fn tcp(port: u16) -> PortKey {
        PortKey { protocol: Protocol::Tcp, port }
    }

    pub(super) fn listener(port: u16, address: &str, process: Option<&str>) -> Listener {
        let prefix: SourcePrefix = address.parse().unwrap();
        let process = process.map(|line| {
            let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
            Process { id: 700, name: arguments[0].clone(), arguments }
        });
        Listener { port: tcp(port), address: prefix.address(), process }
    }

    pub(super) fn seen(config: Option<&Config>) -> Seen<'_> {
        let protected = config.map(|config| config.policy.rules().collect()).unwrap_or_default();
        Seen { config, protected, listeners: Vec::new(), nat: Nat::default(), is_root: true }
    }
}

//! Which agent to talk to, and how to reach it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use rustls_pki_types::ServerName;

/// The port of an agent where the address names none.
const DEFAULT_PORT: u16 = 7443;

/// An agent, how to reach it, and how long to wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// How to reach it.
    pub way: Way,
    /// The longest wait for a connection, and for each answer.
    pub timeout: Duration,
}

/// How to reach an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    /// The unix socket of the agent on this machine.
    Socket(PathBuf),
    /// TLS 1.3 with a client certificate.
    Tls(Box<Tls>),
    /// The connection that the agent made itself, from this address: nobody can dial it.
    Uplink(SocketAddr),
}

/// What a TLS connection needs. The files are named here and read later.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// DNS name or IP address to connect to.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// DNS name or IP address that the agent's certificate must contain.
    pub name: ServerName<'static>,
    /// The CA of the agent's certificate, PEM.
    pub ca: PathBuf,
    /// The client certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key of the client certificate, PEM.
    pub key: PathBuf,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tls(tls) if tls.host.contains(':') => write!(f, "[{}]:{}", tls.host, tls.port),
            Self::Tls(tls) => write!(f, "{}:{}", tls.host, tls.port),
            Self::Uplink(peer) => write!(f, "{peer} (uplink)"),
        }
    }
}

/// Host and port of `web-1.example.org:7443`, `192.0.2.10`, `[2001:db8::1]:7443`, `2001:db8::1`.
pub fn split_address(text: &str) -> Result<(String, u16), String> {
    let bad = || format!("`{text}` is not HOST:PORT (an IPv6 address goes in brackets)");
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_owned(), DEFAULT_PORT));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(bad)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_with_brackets_for_ipv6() {
        for (text, host, port) in [
            ("web-1.example.org:7444", "web-1.example.org", 7444),
            ("web-1", "web-1", 7443),
            ("192.0.2.10", "192.0.2.10", 7443),
            ("[2001:db8::1]:9", "2001:db8::1", 9),
            ("[2001:db8::1]", "2001:db8::1", 7443),
            ("2001:db8::1", "2001:db8::1", 7443),
        ] {
            assert_eq!(split_address(text), Ok((host.to_owned(), port)), "{text}");
        }
        for bad in ["", ":7443", "web-1:", "web-1:0", "web-1:x", "[2001:db8::1", "[web]:1", "a/b:1"]
        {
            assert!(split_address(bad).is_err(), "{bad}");
        }
    }
}

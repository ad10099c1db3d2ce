//! `[uplink]`: the hubs that the agent connects to, where nobody can connect to the agent.

use std::{fmt, net::IpAddr, path::PathBuf};

use jit_proto::wrong::Wrongs;
use rustls::pki_types::ServerName;

use crate::config::{base::Base, raw};

/// The most hubs of one agent.
const MOST: usize = 16;
/// Value of `proxy`: the service's environment says it.
const ENVIRONMENT: &str = "environment";

/// Where the agent connects to, and what it proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The hubs. The agent is connected to one of them.
    pub hubs: Vec<Hub>,
    /// The agent's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of the CAs that issue the hubs' certificates, PEM.
    pub ca: PathBuf,
    /// What stands between.
    pub proxy: Proxy,
    /// The file with `USER:PASSWORD` for the proxy.
    pub proxy_credentials: Option<PathBuf>,
}

/// Host and port of a hub or a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// A name or an address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How a hub is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// Through this HTTP proxy, by CONNECT.
    At(Hub),
    /// As `HTTPS_PROXY` and `NO_PROXY` in the service's environment say.
    Environment,
    /// Directly, whatever the environment says.
    #[default]
    None,
}

impl Hub {
    /// The name that its certificate must bear.
    pub fn name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }

    /// Reads `HOST:PORT`; an IPv6 address stands in brackets. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) =
            text.rsplit_once(':').ok_or("a port is missing, such as hub.example.org:443")?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or("what follows the last colon is no port")?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err("no IPv6 address stands in the brackets".into()),
            None if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                return Err(format!("write [{host}]:{port}"));
            }
            None => host,
        };
        let hub = Self { host: host.to_owned(), port };
        match hub.name() {
            Some(_) => Ok(hub),
            None => Err(format!("{host:?} is neither a host name nor an address")),
        }
    }
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            _ => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(proxy) => write!(f, "http://{proxy}"),
            Self::Environment => f.write_str(ENVIRONMENT),
            Self::None => f.write_str("none"),
        }
    }
}

impl Proxy {
    /// Reads the value of `proxy`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            ENVIRONMENT => Ok(Self::Environment),
            "none" => Ok(Self::None),
            _ => {
                let rest = text.strip_prefix("http://").ok_or_else(|| {
                    format!(
                        "{text:?} is neither \"http://HOST:PORT\", \"{ENVIRONMENT}\" nor \"none\""
                    )
                })?;
                // Whoever reads a refused value in a log must not find a password there.
                if rest.contains('@') {
                    return Err(
                        "credentials do not belong into the address: put USER:PASSWORD into \
                                a file of mode 0640 and name it in proxy_credentials"
                            .into(),
                    );
                }
                let rest = rest.strip_suffix('/').unwrap_or(rest);
                Hub::parse(rest).map(Self::At).map_err(|why| format!("{text:?}: {why}"))
            }
        }
    }
}

impl Uplink {
    /// Checks an `[uplink]`. `None`: it is wrong.
    pub(super) fn new(raw: raw::Uplink, base: &Base<'_>, wrongs: &mut Wrongs) -> Option<Self> {
        let raw::Uplink { hubs: texts, certificate, key, ca, proxy, proxy_credentials } = raw;
        let mut hubs: Vec<Hub> = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match Hub::parse(text) {
                Ok(hub) if hubs.contains(&hub) => {
                    let what = format!("[uplink] hubs: {text:?} is there twice");
                    wrongs.add(format!("uplink.hubs.{index}"), what);
                }
                Ok(hub) => hubs.push(hub),
                Err(why) => {
                    let what = format!("[uplink] hubs: {text:?}: {why}");
                    wrongs.add(format!("uplink.hubs.{index}"), what);
                }
            }
        }
        if texts.is_empty() || texts.len() > MOST {
            wrongs.add("uplink.hubs", format!("[uplink] hubs: name 1 to {MOST} hubs"));
        }
        let proxy = proxy.as_deref().map_or(Ok(Proxy::None), Proxy::parse);
        if proxy == Ok(Proxy::None) && proxy_credentials.is_some() {
            let what = "[uplink] proxy_credentials: without proxy nobody asks for them";
            wrongs.add("uplink.proxy_credentials", what);
        }
        let proxy = proxy.map_err(|why| format!("[uplink] proxy: {why}"));
        let proxy = wrongs.or("uplink.proxy", proxy, Proxy::None);
        Some(Self {
            hubs,
            certificate: base.path(certificate),
            key: base.path(key),
            ca: base.path(ca),
            proxy,
            proxy_credentials: proxy_credentials.map(|path| base.path(path)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_a_name_or_an_address_with_a_port() {
        for (text, host, port) in [
            ("hub.example.org:443", "hub.example.org", 443),
            ("192.0.2.1:7444", "192.0.2.1", 7444),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
        ] {
            let hub = Hub::parse(text).unwrap();
            assert_eq!((hub.host.as_str(), hub.port, hub.to_string()), (host, port, text.into()));
        }
        for (text, says) in [
            ("hub.example.org", "a port is missing"),
            ("hub.example.org:0", "no port"),
            ("hub.example.org:65536", "no port"),
            ("2001:db8::1:443", "is no port"),
            ("[192.0.2.1]:443", "no IPv6 address"),
            (":443", "neither a host name"),
            ("https://hub.example.org:443", "neither a host name"),
            ("hub example:443", "neither a host name"),
        ] {
            let why = Hub::parse(text).unwrap_err();
            assert!(why.contains(says) || why.contains("write ["), "{text}: {why}");
        }
    }

    #[test]
    fn a_proxy_is_named_without_its_password() {
        let at = |text: &str| Proxy::parse(text);
        let proxy = Hub { host: "proxy.example.org".into(), port: 3128 };
        assert_eq!(at("http://proxy.example.org:3128"), Ok(Proxy::At(proxy.clone())));
        assert_eq!(at("http://proxy.example.org:3128/"), Ok(Proxy::At(proxy)));
        assert_eq!(at("environment"), Ok(Proxy::Environment));
        assert_eq!(at("none"), Ok(Proxy::None));
        for text in ["https://proxy.example.org:3128", "proxy.example.org:3128", "http://p", ""] {
            assert!(at(text).is_err(), "{text}");
        }
        let why = at("http://ana:secret@proxy.example.org:3128").unwrap_err();
        assert!(why.contains("proxy_credentials") && !why.contains("secret"), "{why}");
    }
}

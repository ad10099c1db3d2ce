//! Which agent is meant: options and environment become a checked [`Target`].

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use rustls_pki_types::ServerName;

use crate::{cli::AgentArgs, failure::Failure, text};

/// Port that agents listen on unless configured otherwise.
const DEFAULT_PORT: u16 = 7443;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// An agent and the way to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) way: Way,
    /// Longest wait for a connection, and for an answer.
    pub(crate) timeout: Duration,
}

/// How to reach it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Way {
    /// The unix socket of the agent on this machine.
    Socket(PathBuf),
    /// TLS 1.3 with a client certificate.
    Tls(Box<Tls>),
}

/// Everything for a TLS connection except the files' content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What the agent's certificate must bear.
    pub(crate) name: ServerName<'static>,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Target {
    /// From the command line, and from the environment where that is silent.
    pub(crate) fn new(
        args: &AgentArgs,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let env_text = |name: &str| {
            env(name)
                .map(|value| {
                    value.into_string().map_err(|_| Failure::usage(format!("{name} is not UTF-8")))
                })
                .transpose()
        };
        let timeout = match (args.timeout, env_text("JITCTL_TIMEOUT")?) {
            (Some(timeout), _) => timeout,
            (None, None) => DEFAULT_TIMEOUT,
            (None, Some(value)) => text::parse_duration(&value)
                .map_err(|why| Failure::usage(format!("JITCTL_TIMEOUT: {why}")))?,
        };
        // An option beats the environment, also the other option's variable.
        let (agent, socket) = match (&args.agent, &args.socket) {
            (None, None) => (env_text("JITCTL_AGENT")?, env("JITCTL_SOCKET").map(PathBuf::from)),
            (agent, socket) => (agent.clone(), socket.clone()),
        };
        let agent = match (agent, socket) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    "both JITCTL_AGENT and JITCTL_SOCKET are set; unset one, or say --agent or \
                     --socket",
                ));
            }
            (None, Some(socket)) => return Ok(Self { way: Way::Socket(socket), timeout }),
            (Some(agent), None) => agent,
            (None, None) => {
                return Err(Failure::usage(
                    "which agent? Say --agent HOST:PORT (or JITCTL_AGENT) with --ca, --cert and \
                     --key, or --socket PATH for the agent on this machine",
                ));
            }
        };
        let file = |given: &Option<PathBuf>, option: &str, variable: &str, role: &str| {
            given.clone().or_else(|| env(variable).map(PathBuf::from)).ok_or_else(|| {
                Failure::usage(format!(
                    "--agent {agent} needs --{option} FILE (or {variable}): {role}"
                ))
            })
        };
        let ca = file(&args.ca, "ca", "JITCTL_CA", "the CA of the agent's certificate")?;
        let cert = file(
            &args.cert,
            "cert",
            "JITCTL_CERT",
            "agents talk only to those who show a client certificate",
        )?;
        let key = file(&args.key, "key", "JITCTL_KEY", "the private key of --cert")?;
        let (host, port) = split_address(&agent).map_err(Failure::usage)?;
        let name = match args.server_name.clone() {
            Some(name) => name,
            None => env_text("JITCTL_SERVER_NAME")?.unwrap_or_else(|| host.clone()),
        };
        let name = ServerName::try_from(name.clone()).map_err(|_| {
            Failure::usage(format!(
                "`{name}` is not a name or an address that a certificate can bear; say --server-name"
            ))
        })?;
        Ok(Self { way: Way::Tls(Box::new(Tls { host, port, name, ca, cert, key })), timeout })
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tls(tls) if tls.host.contains(':') => write!(f, "[{}]:{}", tls.host, tls.port),
            Self::Tls(tls) => write!(f, "{}:{}", tls.host, tls.port),
        }
    }
}

/// `web-1.example.org:7443`, `192.0.2.10`, `[2001:db8::1]:7443`, `2001:db8::1`.
fn split_address(text: &str) -> Result<(String, u16), String> {
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
    use crate::failure::Exit;

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    fn files() -> AgentArgs {
        AgentArgs {
            ca: Some("ca.pem".into()),
            cert: Some("c.pem".into()),
            key: Some("c.key".into()),
            ..AgentArgs::default()
        }
    }

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

    #[test]
    fn a_missing_client_certificate_is_named() {
        let args = AgentArgs { agent: Some("web-1".into()), cert: None, ..files() };
        let failure = Target::new(&args, nothing).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("--cert"), "{failure}");
    }

    #[test]
    fn an_option_beats_the_environment() {
        let env = |name: &str| (name == "JITCTL_AGENT").then(|| OsString::from("other"));
        let args = AgentArgs { socket: Some("/run/s".into()), ..AgentArgs::default() };
        let target = Target::new(&args, env).unwrap();
        assert_eq!(target.way, Way::Socket("/run/s".into()));
        let target = Target::new(&files(), env).unwrap();
        assert_eq!(target.way.to_string(), "other:7443");
        assert_eq!(Target::new(&AgentArgs::default(), nothing).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn the_name_to_verify_is_the_host_unless_said_otherwise() {
        let name = |args: &AgentArgs| match Target::new(args, nothing).unwrap().way {
            Way::Tls(tls) => tls.name.to_str().into_owned(),
            Way::Socket(_) => panic!("a TLS target was asked for"),
        };
        let args = AgentArgs { agent: Some("192.0.2.10:1".into()), ..files() };
        assert_eq!(name(&args), "192.0.2.10");
        let args = AgentArgs { server_name: Some("web-1".into()), ..args };
        assert_eq!(name(&args), "web-1");
    }
}

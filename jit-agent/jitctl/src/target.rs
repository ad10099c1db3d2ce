//! Which agent to talk to: options and environment become a checked [`Target`].

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;
use jit_client::target::{Target, Tls, Way, split_address};
use rustls_pki_types::ServerName;

use crate::{failure::Failure, text};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which agent to talk to, and as whom. Each option can also be set as an environment variable.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Agent")]
pub(crate) struct AgentArgs {
    /// Agent to talk to over TLS 1.3; the port defaults to 7443 [env: JITCTL_AGENT]
    #[arg(long, global = true, value_name = "HOST:PORT", conflicts_with = "socket")]
    pub(crate) agent: Option<String>,
    /// Certificates (PEM) of the CAs that may have issued the agent's certificate [env: JITCTL_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate chain (PEM) to show to the agent [env: JITCTL_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Private key (PEM) of --cert [env: JITCTL_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Name or address that the agent's certificate must contain [default: the host of --agent]
    /// [env: JITCTL_SERVER_NAME]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Talk to the agent on this machine through its unix socket instead [env: JITCTL_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Talk to all agents of a file at once, in parallel: push, revoke, list, status, grant, watch. TOML
    /// with [defaults] ca, cert, key and [[agent]] address, server_name, labels; or CSV with these
    /// columns (labels: a=b;c=d)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) agents: Option<PathBuf>,
    /// Only agents of the file with this label; repeated: with all of them
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = text::parse_label)]
    pub(crate) select: Vec<(String, String)>,
    /// Longest wait for a connection, and for an answer [default: 10s] [env: JITCTL_TIMEOUT]
    #[arg(long, global = true, value_name = "TIME", value_parser = text::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

impl AgentArgs {
    /// The longest wait that the command line names, or the environment.
    pub(crate) fn timeout_or(&self, env: &Environment<'_>) -> Result<Duration, Failure> {
        match (self.timeout, env.text("JITCTL_TIMEOUT")?) {
            (Some(timeout), _) => Ok(timeout),
            (None, None) => Ok(DEFAULT_TIMEOUT),
            (None, Some(value)) => text::parse_duration(&value)
                .map_err(|why| Failure::usage(format!("JITCTL_TIMEOUT: {why}"))),
        }
    }
}

/// The agent that the command line names, or the environment where that is silent.
pub(crate) fn target(
    args: &AgentArgs,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Target, Failure> {
    if args.agents.is_some() {
        return Err(Failure::usage(
            "this command talks to one agent at a time: use --agent in place of --agents",
        ));
    }
    let env = Environment(&env);
    let timeout = args.timeout_or(&env)?;
    // An option takes precedence over both variables, also over the other option's.
    let (agent, socket) = match (&args.agent, &args.socket) {
        (None, None) => (env.text("JITCTL_AGENT")?, env.path("JITCTL_SOCKET")),
        (agent, socket) => (agent.clone(), socket.clone()),
    };
    let way = match (agent, socket) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage(
                "both JITCTL_AGENT and JITCTL_SOCKET are set; unset one, or use --agent or \
                 --socket",
            ));
        }
        (None, Some(socket)) => Way::Socket(socket),
        (Some(agent), None) => Way::Tls(Box::new(tls(&agent, args, &env)?)),
        (None, None) => {
            return Err(Failure::usage(
                "which agent? Say --agent HOST:PORT (or JITCTL_AGENT) with --ca, --cert and \
                 --key, or --socket PATH for the agent on this machine",
            ));
        }
    };
    Ok(Target { way, timeout })
}

/// Variables of the environment; an empty one counts as missing.
pub(crate) struct Environment<'a>(pub(crate) &'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        let text = self.get(name).map(OsString::into_string).transpose();
        text.map_err(|_| Failure::usage(format!("{name} is not UTF-8")))
    }
}

fn tls(agent: &str, args: &AgentArgs, env: &Environment<'_>) -> Result<Tls, Failure> {
    let file = |given: &Option<PathBuf>, option: &str, variable: &str, role: &str| {
        given.clone().or_else(|| env.path(variable)).ok_or_else(|| {
            Failure::usage(format!("--agent {agent} needs --{option} FILE (or {variable}): {role}"))
        })
    };
    let ca = file(&args.ca, "ca", "JITCTL_CA", "the CA of the agent's certificate")?;
    let role = "agents talk only to those who show a client certificate";
    let cert = file(&args.cert, "cert", "JITCTL_CERT", role)?;
    let key = file(&args.key, "key", "JITCTL_KEY", "the private key of --cert")?;
    let (host, port) = split_address(agent).map_err(Failure::usage)?;
    let name = match args.server_name.clone() {
        Some(name) => name,
        None => env.text("JITCTL_SERVER_NAME")?.unwrap_or_else(|| host.clone()),
    };
    let name = ServerName::try_from(name.clone()).map_err(|_| {
        Failure::usage(format!(
            "`{name}` is not a name or an address that a certificate can contain; add --server-name"
        ))
    })?;
    Ok(Tls { host, port, name, ca, cert, key })
}

#[cfg(test)]
mod tests {
    use jit_client::exit::Exit;

    use super::*;

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
    fn a_missing_client_certificate_is_named() {
        let args = AgentArgs { agent: Some("web-1".into()), cert: None, ..files() };
        let failure = target(&args, nothing).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("--cert"), "{failure}");
    }

    #[test]
    fn an_option_beats_the_environment() {
        let env = |name: &str| (name == "JITCTL_AGENT").then(|| OsString::from("other"));
        let args = AgentArgs { socket: Some("/run/s".into()), ..AgentArgs::default() };
        let parsed = target(&args, env).unwrap();
        assert_eq!(parsed.way, Way::Socket("/run/s".into()));
        let parsed = target(&files(), env).unwrap();
        assert_eq!(parsed.way.to_string(), "other:7443");
        assert_eq!(target(&AgentArgs::default(), nothing).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn the_name_to_verify_is_the_host_unless_said_otherwise() {
        let name = |args: &AgentArgs| match target(args, nothing).unwrap().way {
            Way::Tls(tls) => tls.name.to_str().into_owned(),
            Way::Socket(_) | Way::Uplink(_) => panic!("a TLS target was asked for"),
        };
        let args = AgentArgs { agent: Some("192.0.2.10:1".into()), ..files() };
        assert_eq!(name(&args), "192.0.2.10");
        let args = AgentArgs { server_name: Some("web-1".into()), ..args };
        assert_eq!(name(&args), "web-1");
    }
}

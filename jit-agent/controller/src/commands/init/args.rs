//! What `init` is asked for.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use jit_client::signing::Algorithm;

const EXAMPLES: &str = "\
Examples:
    jit-controller init --name jit.example.org --admin ana
    jit-controller init --dir /srv/jit --name jit.example.org --database postgres://jit@db/jit

It makes in one directory: controller.toml, the database, an authority for the certificates of
agents and of the controller (pki), the controller's certificates, the keys that sign grants,
revocations and checkpoints, the key of the audit, the default rules, and an administrator,
whose token is shown once. It replaces nothing.";

/// Arguments of `init`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// DNS name or address by which people reach the controller; may be repeated
    #[arg(long, value_name = "NAME", required = true)]
    pub name: Vec<String>,
    /// Account of the first administrator
    #[arg(long, value_name = "ACCOUNT", default_value = "admin")]
    pub admin: String,
    /// The person that this account belongs to; without it the account's name
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// How long the first token is good
    #[arg(long = "token-for", value_name = "TIME", default_value = "720h")]
    #[arg(value_parser = parse_duration)]
    pub token_for: Duration,
    /// Write the token to this file (mode 0600) in place of showing it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Signature algorithm of the keys that sign grants, revocations and checkpoints
    #[arg(long, value_enum, default_value = "ed25519")]
    pub algorithm: AlgorithmArg,
    /// The database: postgres://USER@HOST/DATABASE; without it a file of SQLite
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// File with the password for --database
    #[arg(long, value_name = "FILE", requires = "database")]
    pub password_file: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:8443")]
    pub listen: std::net::SocketAddr,
    /// Name of the controller in agents' configurations; without it spiffe://NAME/jit-controller
    #[arg(long, value_name = "URI")]
    pub identity: Option<String>,
    /// Print JSON; the token is in it unless --token-file is given
    #[arg(long)]
    pub json: bool,
}

/// Algorithms that agents accept.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AlgorithmArg {
    /// Ed25519 (RFC 8032): small and fast
    Ed25519,
    /// ECDSA over P-256 with SHA-256: what hardware and cloud key services offer
    P256,
}

impl From<AlgorithmArg> for Algorithm {
    fn from(argument: AlgorithmArg) -> Self {
        match argument {
            AlgorithmArg::Ed25519 => Self::Ed25519,
            AlgorithmArg::P256 => Self::P256,
        }
    }
}

impl InitArgs {
    /// The first name, for URLs: an IPv6 address in brackets.
    pub(super) fn first_name(&self) -> String {
        let name = self.name.first().map_or("localhost", String::as_str);
        match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            Ok(IpAddr::V4(_)) | Err(_) => name.to_owned(),
        }
    }

    /// Where people reach the API.
    pub(super) fn url(&self) -> String {
        format!("https://{}:{}", self.first_name(), self.listen.port())
    }

    /// Name of the controller in agents' configurations.
    pub(super) fn identity(&self) -> String {
        let default =
            || format!("spiffe://{}/jit-controller", self.first_name().replace(['[', ']'], ""));
        self.identity.clone().unwrap_or_else(default)
    }
}

/// `45s`, `30m`, `720h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    jit_proto::toml_value::duration("the time", text)
}

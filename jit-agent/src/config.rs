//! The configuration file, read once and checked as a whole: a [`Config`] is never half right.
//!
//! There are two steps. `raw` is the file as TOML; it refuses unknown keys by name and line.
//! [`Config`] is what the rest of the agent uses; each section has a file with its checks. Key
//! files are read here, so that a configuration with an unreadable key is refused before any socket
//! or map exists. [`Glimpse`] is for commands that must work with a broken file.

mod audit;
mod ceiling;
mod control;
mod gate;
mod glimpse;
mod interfaces;
mod limits;
mod paths;
mod port;
mod raw;
mod signer;
mod value;

use std::path::{Path, PathBuf};

use jit_proto::PayloadType;

pub(crate) use self::limits::DEFAULT_MAX_DURATION;
pub use self::{
    audit::AuditConfig,
    control::{Control, Controller},
    gate::{GateConfig, HookChoice},
    glimpse::Glimpse,
    interfaces::InterfaceFilter,
    limits::Limits,
    paths::{DEFAULT_PATH, Paths},
};
use crate::{
    rules::{ceiling::Ceiling, keyring::Keyring, policy::Policy},
    system::sys,
};

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id that grants name.
    pub host: String,
    /// Which interfaces get programs, and how they are attached.
    pub gate: GateConfig,
    /// The protected ports, and the most that a grant may open.
    pub policy: Policy,
    /// The most that a pushed policy may ask for; `None`: the host accepts no policies.
    pub ceiling: Option<Ceiling>,
    /// Trusted signing keys.
    pub keyring: Keyring,
    /// Where controllers connect; `None`: the agent does not listen.
    pub control: Option<Control>,
    /// The controllers that may connect.
    pub controllers: Vec<Controller>,
    /// Size and number of the audit's files.
    pub audit: AuditConfig,
    /// Sizes of the kernel's tables.
    pub limits: Limits,
    /// The directories of the agent.
    pub paths: Paths,
}

/// Why a configuration is refused: the file, the key and the first cause.
#[derive(Debug, thiserror::Error)]
#[error("configuration {}: {what}", file.display())]
pub struct ConfigError {
    file: PathBuf,
    what: String,
}

impl Config {
    /// Reads and checks a file and the key files that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = sys::read_trusted(path)
            .map_err(|error| ConfigError { file: path.to_owned(), what: error.to_string() })?;
        Self::parse(&text, path)
    }

    /// Checks a text as if it were the content of this file, and reads the key files that it names.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let fail = |what: String| ConfigError { file: path.to_owned(), what };
        let raw: raw::Config =
            toml::from_str(text).map_err(|error| fail(error.to_string().trim_end().into()))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        Self::check(raw, directory).map_err(fail)
    }

    fn check(raw: raw::Config, directory: &Path) -> Result<Self, String> {
        let raw::Config {
            host: raw::Host { id: host },
            gate,
            port,
            control,
            controller,
            signer,
            audit,
            limits,
            ceiling,
            paths,
        } = raw;
        check_host(&host)?;
        let keyring = signer::keyring(signer, directory)?;
        let max_duration = limits::max_duration(limits.max_duration)?;
        let granting = keyring.signers_of(PayloadType::Grant).count();
        let policy = port::policy(port, granting, max_duration)?;
        let ceiling = ceiling.map(|raw| ceiling::ceiling(raw, &keyring)).transpose()?;
        let control = control.map(|raw| Control::new(raw, directory, &policy)).transpose()?;
        let controllers = Controller::all(controller)?;
        let paths = Paths::new(paths)?;
        Ok(Self {
            host,
            gate: GateConfig::new(gate)?,
            policy,
            ceiling,
            keyring,
            control,
            controllers,
            audit: AuditConfig::new(audit)?,
            limits: Limits::new(limits.hosts, limits.prefixes)?,
            paths,
        })
    }
}

/// The id of `[host]`.
fn check_host(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > 512 || id.chars().any(char::is_control) {
        return Err("[host] id: 1 to 512 printable characters, exactly as grants name it".into());
    }
    if id == "auto" {
        return Err("[host] id: this version does not know \"auto\"; write the id".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GOOD: &str = r#"
        [host]
        id = "web-1"
        [gate]
        interfaces = ["eth*", "ens5"]
        exclude = ["eth9"]
        [[port]]
        port = 22
        protocol = "tcp"
        sources = ["203.0.113.0/24", "2001:db8::/32"]
        [[port]]
        port = "5985-5986"
        protocol = "tcp"
        sources = ["0.0.0.0/0"]
        max_duration = "1h30m"
        sessions = "cut"
        exempt = [{ source = "192.0.2.5", reason = "probe", owner = "netops", until = "2030-01-01T00:00:00Z" }]
        [control]
        listen = "0.0.0.0:7443"
        certificate = "agent.pem"
        key = "agent.key"
        client_ca = "ca.pem"
        [[controller]]
        identity = "spiffe://example.org/controller"
        may = ["grant", "read"]
        [[signer]]
        id = "prod"
        public_key = "prod.pem"
    "#;

    /// Checks the text with a good public key as prod.pem beside it.
    fn read(text: &str) -> Result<Config, String> {
        use p256::pkcs8::{EncodePublicKey as _, LineEnding};
        let directory = tempfile::tempdir().unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(directory.path().join("prod.pem"), pem).unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_file_gives_every_value() {
        let config = read(GOOD).unwrap();
        assert_eq!(config.host, "web-1");
        assert!(config.gate.interfaces.matches("eth0"));
        assert!(!config.gate.interfaces.matches("eth9"));
        assert_eq!(config.gate.interfaces.exact_names().collect::<Vec<_>>(), ["ens5"]);
        let ports: Vec<_> = config.policy.rules().map(|(port, _)| port.port).collect();
        assert_eq!(ports, [22, 5985, 5986]);
        let winrm = &config.policy.sections()[1];
        assert_eq!(winrm.max_duration, Duration::from_secs(5400));
        assert_eq!((winrm.rule().drain, winrm.exemptions.len()), (0, 1));
        assert_eq!(config.controllers[0].may.to_string(), "grant, read");
        assert_eq!(config.audit, AuditConfig { max_size: 32 << 20, keep: 16 });
        let config =
            read(&GOOD.replacen("[gate]", "[audit]\nmax_size = \"1 MiB\"\nkeep = 3\n[gate]", 1));
        assert_eq!(config.unwrap().audit, AuditConfig { max_size: 1 << 20, keep: 3 });
    }

    #[test]
    fn each_bad_value_is_refused_with_its_key() {
        for (from, to, expected) in [
            ("[gate]", "[gate]\nmodus = 1", "modus"),
            ("[gate]", "[gate]\nmode = \"off\"", "off"),
            ("port = 22", "port = 0", "port"),
            ("port = 22", "port = 70000", "port"),
            ("\"5985-5986\"", "\"5986-5985\"", "not a range"),
            ("\"5985-5986\"", "\"20-30\"", "two sections"),
            ("203.0.113.0/24", "203.0.113.1/24", "203.0.113.0/24"),
            ("\"1h30m\"", "\"soon\"", "max_duration"),
            ("\"1h30m\"", "\"-1h\"", "max_duration"),
            ("0.0.0.0:7443", "0.0.0.0:22", "lock the controllers out"),
            ("0.0.0.0:7443", "everywhere", "listen"),
            ("\"prod.pem\"", "\"missing.pem\"", "missing.pem"),
            ("id = \"web-1\"", "id = \"\"", "[host] id"),
            ("id = \"web-1\"", "id = \"auto\"", "[host] id"),
            ("\"read\"", "\"root\"", "root"),
            ("sessions = \"cut\"", "approvals = 2", "approvals"),
            ("[\"eth*\", \"ens5\"]", "[]", "interfaces"),
            ("[\"eth*\", \"ens5\"]", "[\"[\"]", "interfaces"),
            ("owner = \"netops\"", "owner = \"\"", "owner"),
            ("2030-01-01T00:00:00Z", "tomorrow", "until"),
            ("[gate]", "[audit]\nmax_size = \"1KiB\"\n[gate]", "[audit] max_size"),
            ("[gate]", "[audit]\nmax_size = \"5 parsecs\"\n[gate]", "[audit] max_size"),
            ("[gate]", "[audit]\nkeep = 0\n[gate]", "[audit] keep"),
            ("[gate]", "[audit]\nkeeps = 1\n[gate]", "keeps"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let error = read(&text).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name_and_line() {
        let error = read("[host]\nid = \"x\"\nidd = 1\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("idd"), "{error}");
    }
}

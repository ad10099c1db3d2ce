//! The configuration file, read once and checked as a whole: a [`Config`] is never half right.
//!
//! There are two steps. `raw` is the file as TOML; it refuses unknown keys by name and line.
//! [`Config`] is what the rest of the agent uses; each section has a file with its checks. Key
//! files are read here. `check` refuses one that cannot be used; the agent itself uses the copy that
//! it kept, or does without that signer ([`Loaded`]): the gate does not need it. [`Glimpse`] is for
//! commands that must work with a broken file.

mod audit;
mod base;
mod break_glass;
mod ceiling;
mod control;
mod enforcing;
mod error;
mod freshness;
mod gate;
mod glimpse;
mod interfaces;
mod limits;
mod metrics;
mod mistakes;
mod paths;
mod port;
mod raw;
mod signer;
mod spelling;
mod uplink;
mod value;

use std::{path::Path, time::Duration};

use jit_proto::{
    PayloadType,
    port_section::DEFAULT_APPROVALS,
    wrong::{Places, Wrong, Wrongs},
};

pub(crate) use self::limits::DEFAULT_MAX_DURATION;
pub use self::{
    audit::AuditConfig,
    control::{Control, ControlLines, Controller},
    enforcing::enforcing_text,
    error::ConfigError,
    freshness::OnStale,
    gate::{CONFIRM_WITHIN, GateConfig, HookChoice, TRIALS},
    glimpse::Glimpse,
    interfaces::InterfaceFilter,
    limits::Limits,
    metrics::MetricsAddress,
    mistakes::Mistake,
    paths::{DEFAULT_PATH, Paths},
    signer::{KeyFault, KeyFile},
    uplink::{Hub, Proxy, Uplink},
};
use self::{base::Base, signer::Signers};
use crate::{
    rules::{ceiling::Ceiling, keyring::Keyring, policy::Policy},
    system::{image::Files, metadata::Source, sys},
};

/// The id that lets a metadata service say which host this is.
pub const AUTO: &str = "auto";

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id that grants name; empty: not known yet.
    pub host: String,
    /// `[host] id = "auto"`: a metadata service gives the id. The file has none, so `host` is what the
    /// agent found.
    pub auto_host: bool,
    /// The service that gave the id; `None`: the file did, or nobody yet.
    pub host_source: Option<Source>,
    /// Which interfaces get programs, and how they are attached.
    pub gate: GateConfig,
    /// The protected ports, and the most that a grant may open.
    pub policy: Policy,
    /// The most that a pushed policy may ask for; `None`: the host accepts no policies.
    pub ceiling: Option<Ceiling>,
    /// Checkpoints are expected, and what is done when something may be withheld; `None`: none are.
    pub freshness: Option<OnStale>,
    /// Trusted signing keys.
    pub keyring: Keyring,
    /// Ids of the signers whose key cannot be used, and of which there is no copy.
    pub absent_signers: Vec<String>,
    /// Where controllers connect; `None`: the agent does not listen.
    pub control: Option<Control>,
    /// The controllers that may connect.
    pub controllers: Vec<Controller>,
    /// Size and number of the audit's files.
    pub audit: AuditConfig,
    /// The longest opening by root on the host; `None`: root may open nothing without a grant.
    pub break_glass: Option<Duration>,
    /// Where the metrics are served; `None`: nowhere.
    pub metrics: Option<MetricsAddress>,
    /// Sizes of the kernel's tables.
    pub limits: Limits,
    /// The directories of the agent.
    pub paths: Paths,
    /// The hubs that the agent connects to; `None`: none.
    pub uplink: Option<Uplink>,
}

/// A configuration and what it was made from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The text of the file.
    pub text: String,
    /// The signers' keys that are used.
    pub keys: Vec<KeyFile>,
    /// The key files that cannot be used.
    pub faults: Vec<KeyFault>,
    /// Where the file names what controllers need.
    pub lines: ControlLines,
}

/// What `check` takes from a file: all of it that is good, and every mistake.
#[derive(Debug)]
pub struct Examined {
    /// The configuration, without the signers whose key cannot be used.
    pub config: Result<Config, ConfigError>,
    /// The signers' key files that cannot be used.
    pub faults: Vec<KeyFault>,
    /// `[control]`, if it can be read, also where something else is wrong.
    pub control: Option<Control>,
    /// `[uplink]`, likewise.
    pub uplink: Option<Uplink>,
}

impl Config {
    /// Reads and checks a file and the key files that it names. Every one of them must be good.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_text(path)?, path)
    }

    /// Checks a text as if it were the content of this file, and reads the key files that it names.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let Examined { config, faults, .. } = Examined::of(text, path, Some(&Files::Host));
        let config = config?;
        if faults.is_empty() {
            return Ok(config);
        }
        let places = Places::of(text);
        let mut mistakes: Vec<_> = faults.iter().map(|fault| fault.mistake(&places)).collect();
        mistakes.sort();
        Err(ConfigError::new(path, mistakes))
    }
}

impl Examined {
    /// Of a file that cannot be read.
    pub fn unread(path: &Path, why: String) -> Self {
        let config = Err(ConfigError::whole(path, why));
        Self { config, faults: Vec::new(), control: None, uplink: None }
    }

    /// Checks a text as if it were the content of this file. `files`: where the files are that it
    /// names; `None`: they are not read.
    pub fn of(text: &str, path: &Path, files: Option<&Files>) -> Self {
        let base = Base { text, directory: directory(path), files };
        let Draft { loaded, mistakes } = Draft::of(&base, &[]);
        let refused = |mistakes| Err(ConfigError::new(path, mistakes));
        match loaded {
            None => {
                let config = refused(mistakes);
                Self { config, faults: Vec::new(), control: None, uplink: None }
            }
            Some(Loaded { config, faults, .. }) => {
                let (control, uplink) = (config.control.clone(), config.uplink.clone());
                let config = if mistakes.is_empty() { Ok(config) } else { refused(mistakes) };
                Self { config, faults, control, uplink }
            }
        }
    }
}

impl Loaded {
    /// Reads a file and the key files that it names. `kept` are copies of keys that could be read
    /// before.
    ///
    /// # Errors
    /// The file itself cannot be used.
    pub fn read(path: &Path, kept: &[KeyFile]) -> Result<Self, ConfigError> {
        Self::parse(&read_text(path)?, path, kept)
    }

    /// The same with this text as the file's content.
    ///
    /// # Errors
    /// As [`Loaded::read`].
    pub fn parse(text: &str, path: &Path, kept: &[KeyFile]) -> Result<Self, ConfigError> {
        let base = Base { text, directory: directory(path), files: Some(&Files::Host) };
        match Draft::of(&base, kept) {
            Draft { loaded: Some(loaded), mistakes } if mistakes.is_empty() => Ok(loaded),
            Draft { mistakes, .. } => Err(ConfigError::new(path, mistakes)),
        }
    }
}

/// A configuration as far as a text could be read. It is one only if there is no mistake; what is wrong
/// has some other value meanwhile.
struct Draft {
    loaded: Option<Loaded>,
    /// In the order of the file.
    mistakes: Vec<Mistake>,
}

impl Draft {
    fn of(base: &Base<'_>, kept: &[KeyFile]) -> Self {
        let text = base.text;
        let mut draft = match toml::from_str(text) {
            Ok(raw) => Self::checked(raw, base, kept, &Places::of(text)),
            Err(error) => Self::mended(base, kept, &error),
        };
        draft.mistakes.sort();
        draft.mistakes.dedup();
        draft
    }

    /// From a text that cannot be read as it is. The values are checked as if it could.
    fn mended(base: &Base<'_>, kept: &[KeyFile], error: &toml::de::Error) -> Self {
        let (mut mistakes, root) = mistakes::syntax(base.text);
        let mut loaded = None;
        if let Some(root) = root
            && let Ok(raw) = mistakes::read(root.clone())
        {
            let places = Places::of_table(base.text, root);
            let draft = Self::checked(raw, base, kept, &places);
            loaded = draft.loaded;
            mistakes.extend(draft.mistakes);
        }
        if mistakes.is_empty() {
            let at = error.span().map_or(0, |span| span.start);
            mistakes.push(Mistake::at(base.text, at, error.message().to_owned()));
        }
        Self { loaded, mistakes }
    }

    fn checked(raw: raw::Config, base: &Base<'_>, kept: &[KeyFile], places: &Places<'_>) -> Self {
        let mut wrongs = Wrongs::default();
        let loaded = check(raw, base, kept, &mut wrongs);
        // A value without a place was put in for one that is missing, which is said already.
        let placed =
            |Wrong { path, text }: Wrong| Some(Mistake { place: Some(places.at(&path)?), text });
        Self { loaded: Some(loaded), mistakes: wrongs.into_iter().filter_map(placed).collect() }
    }
}

fn check(raw: raw::Config, base: &Base<'_>, kept: &[KeyFile], wrongs: &mut Wrongs) -> Loaded {
    let raw::Config {
        approver,
        host: raw::Host { id: host },
        gate,
        port,
        control,
        controller,
        signer,
        audit,
        limits,
        ceiling,
        freshness,
        break_glass,
        metrics,
        paths,
        uplink,
    } = raw;
    wrongs.or("host.id", check_host(&host), ());
    let auto_host = host == AUTO;
    let host = if auto_host { String::new() } else { host };
    let signers = Signers::read(signer, approver, base, kept, wrongs);
    let longest = limits::max_duration(limits.max_duration);
    let longest = wrongs.or("limits.max_duration", longest, DEFAULT_MAX_DURATION);
    let gate = GateConfig::new(gate, wrongs);
    let keys = signers.number_of(PayloadType::Grant);
    // Observe mode shuts nobody out: a host may begin before it has a signer. `check` warns.
    let keys = if gate.observe { keys.max(DEFAULT_APPROVALS) } else { keys };
    let policy = port::policy(port, keys, longest, wrongs);
    let signing = signers.number_of(PayloadType::Policy);
    let ceiling = ceiling.map(|raw| ceiling::ceiling(raw, signing, wrongs));
    let freshness = freshness.map(|raw| freshness::freshness(raw.on_stale, &signers, wrongs));
    let lines = control.as_ref().map(|raw| ControlLines::new(raw, base.text));
    let control = control.and_then(|raw| Control::new(raw, base, &policy, wrongs));
    let uplink = uplink.and_then(|raw| Uplink::new(raw, base, wrongs));
    let Signers { keyring, files: keys, faults, .. } = signers;
    let absent = faults.iter().filter(|fault| !fault.kept).map(|fault| fault.id.clone());
    let paths = Paths::new(paths, wrongs);
    let metrics = MetricsAddress::new(metrics, &paths);
    let break_glass = break_glass::longest(break_glass);
    let config = Config {
        host,
        auto_host,
        host_source: None,
        gate,
        policy,
        ceiling,
        freshness,
        keyring,
        absent_signers: absent.collect(),
        control,
        controllers: Controller::all(controller, wrongs),
        audit: AuditConfig::new(audit, wrongs),
        break_glass: wrongs.or("break_glass.max_duration", break_glass, None),
        metrics: wrongs.or("metrics.listen", metrics, None),
        limits: Limits::new(limits.hosts, limits.prefixes, wrongs),
        paths,
        uplink,
    };
    Loaded { config, text: base.text.to_owned(), keys, faults, lines: lines.unwrap_or_default() }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    sys::read_trusted(path).map_err(|error| ConfigError::whole(path, error.to_string()))
}

/// Where the relative paths of a configuration start.
fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// The id of `[host]`.
fn check_host(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > 512 || id.chars().any(char::is_control) {
        return Err("[host] id: 1 to 512 printable characters, exactly as grants name it".into());
    }
    if id != AUTO && id.trim().eq_ignore_ascii_case(AUTO) {
        return Err(format!("[host] id: write \"{AUTO}\", or the id exactly as grants name it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
    fn auto_is_no_id_and_leaves_it_to_a_metadata_service() {
        let config = read(&GOOD.replacen("\"web-1\"", "\"auto\"", 1)).unwrap();
        assert_eq!((config.host.as_str(), config.auto_host), ("", true));
        assert!(!read(GOOD).unwrap().auto_host);
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
            ("id = \"web-1\"", "id = \"Auto\"", "[host] id"),
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
    fn only_in_observe_mode_a_port_needs_no_signer() {
        let text = |mode: &str| {
            format!(
                "[host]\nid = \"h\"\n[gate]\nmode = \"{mode}\"\n[[port]]\nport = 22\n\
                 protocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n"
            )
        };
        assert_eq!(read(&text("observe")).unwrap().policy.sections().len(), 1);
        let error = read(&text("enforce")).unwrap_err();
        assert!(error.contains("only 0 [[signer]] and [[approver]] keys sign grants"), "{error}");
        let two = format!("{}approvals = 2\n", text("observe"));
        assert!(read(&two).unwrap_err().contains("only 1 [[signer]]"), "one is to come, not two");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_taken_from_its_copy_or_is_absent() {
        use p256::pkcs8::{EncodePublicKey as _, LineEnding};
        let text = GOOD.replacen("sessions = \"cut\"", "approvals = 2", 1)
            + "[[signer]]\nid = \"second\"\npublic_key = \"second.pem\"\n";
        let file = Path::new("/nowhere/config.toml");
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        let path = PathBuf::from("/nowhere/prod.pem");
        let copy = KeyFile { id: "prod".into(), path, pem };
        // A copy counts for its own id and file alone.
        let others = [
            KeyFile { id: "second".into(), ..copy.clone() },
            KeyFile { path: "/nowhere/other.pem".into(), ..copy.clone() },
        ];
        let loaded = Loaded::parse(&text, file, &others).unwrap();
        assert_eq!(loaded.config.absent_signers, ["prod", "second"], "the threshold is kept");
        let loaded = Loaded::parse(&text, file, std::slice::from_ref(&copy)).unwrap();
        assert_eq!(
            (loaded.config.absent_signers, &loaded.keys),
            (vec!["second".into()], &vec![copy])
        );
        let texts: Vec<_> = loaded.faults.iter().map(KeyFault::text).collect();
        let [prod, second] = &texts[..] else { panic!("{texts:?}") };
        assert!(
            prod.starts_with("line 28: [[signer]] \"prod\": public_key: cannot read"),
            "{prod}"
        );
        assert!(prod.ends_with("was kept when it could be read is used"), "{prod}");
        assert!(second.ends_with("nothing that this key signs opens"), "{second}");
    }

    #[test]
    fn faults_of_control_name_the_line_of_the_file() {
        let lines = Loaded::parse(GOOD, Path::new("/nowhere/config.toml"), &[]).unwrap().lines;
        let located = lines.locate("[control] key /x: does not fit the certificate");
        assert_eq!(located, "line 21: [control] key /x: does not fit the certificate");
        assert_eq!(lines.locate("something else"), "something else");
        assert_eq!(ControlLines::default().locate("[control] key"), "[control] key");
    }

    #[test]
    fn unknown_keys_are_refused_by_name_and_line() {
        let error = read("[host]\nid = \"x\"\nidd = 1\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("idd"), "{error}");
        let text = "[host]\nid = \"x\"\nidd = 1\n";
        let error = Loaded::parse(text, Path::new("/nowhere/config.toml"), &[]).unwrap_err();
        assert!(
            error.brief().starts_with("line 3: [host]: unknown field `idd`"),
            "{}",
            error.brief()
        );
        assert_eq!(error.brief().lines().count(), 1);
    }
}

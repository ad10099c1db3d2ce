//! The configuration file, read once and checked whole: what comes out of here is never half right.
//!
//! Two steps: `raw` is the file as TOML (unknown keys refused by name and line), [`Config`] is what
//! the rest of the agent works with. Key files are read here, so that a configuration whose keys
//! cannot be read is refused before any socket or map exists.

mod raw;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use glob::Pattern;
use jit_common::{Family, PortKey, Protocol};
use jit_proto::permission::Permissions;

use crate::{
    prefix::SourcePrefix,
    rules::{
        ceiling::{Ceiling, DEFAULT_APPROVALS, DEFAULT_PORT_DURATION},
        claims::Capacity,
        clock::WallTime,
        envelope::PayloadType,
        grant::{PortRange, Sessions},
        keyring::{Keyring, Signer},
        mandate::Mandate,
        policy::{Exemption, Policy, PortPolicy},
        proposal::{DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6},
    },
    system::sys,
};

/// Default place of the configuration.
pub const DEFAULT_PATH: &str = "/etc/jit-agent/config.toml";
/// No grant is longer than this unless `[limits] max_duration` says so.
const DEFAULT_MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Kernel table sizes that do not say.
const DEFAULT_HOSTS: u32 = 131_072;
const DEFAULT_PREFIXES: u32 = 16_384;
/// Size at which a file of the audit is full, bytes, and full files that are kept: 544 MiB at most,
/// some two years of 200 grants a day.
const DEFAULT_AUDIT_SIZE: u64 = 32 * 1024 * 1024;
const DEFAULT_AUDIT_KEEP: u32 = 16;
/// Smallest and largest file of the audit, bytes, and most that are kept.
const AUDIT_SIZES: std::ops::RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;
const MAX_AUDIT_KEEP: u32 = 10_000;
/// Most entries of a kernel table.
const MAX_ENTRIES: u32 = 4_194_304;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id that grants name.
    pub host: String,
    /// What is attached where.
    pub gate: Gate,
    /// Protected ports and ceilings.
    pub policy: Policy,
    /// The most that a pushed policy may ask for; `None`: none is taken.
    pub ceiling: Option<Ceiling>,
    /// Trusted signing keys.
    pub keyring: Keyring,
    /// The listening port for controllers, if there is one.
    pub control: Option<Control>,
    /// Who may talk to the agent.
    pub controllers: Vec<Controller>,
    /// Sizes of the audit's files.
    pub audit: Audit,
    /// Sizes of the kernel's tables.
    pub limits: Limits,
    /// Where things are kept.
    pub paths: Paths,
}

/// What is attached where.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Count, drop nothing.
    pub observe: bool,
    /// Which interfaces.
    pub interfaces: InterfaceFilter,
    /// How.
    pub hook: HookChoice,
    /// Whether look-ups of listening sockets are guarded too.
    pub socket_guard: bool,
}

/// Which interfaces are gated.
#[derive(Clone, Debug)]
pub struct InterfaceFilter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// The best that works: native XDP, TC, generic XDP, else the socket guard alone.
    Auto,
    /// A classifier of a clsact qdisc, also where the kernel has links for TC.
    Clsact,
    /// Generic XDP only.
    Generic,
    /// Native XDP only.
    Native,
    /// TC: by a link, or by a classifier where the kernel has none (before 6.6).
    Tc,
}

/// The listening port for controllers.
#[derive(Clone, Debug)]
pub struct Control {
    /// Address and port.
    pub listen: SocketAddr,
    /// The agent's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates that controllers' certificates must descend from, PEM.
    pub client_ca: PathBuf,
}

/// Who may talk to the agent, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// A subject alternative name of its certificate: a URI or a DNS name.
    pub identity: String,
    /// What it may do.
    pub may: Permissions,
}

/// Sizes of the audit's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Size at which a file is full, bytes.
    pub max_size: u64,
    /// Full files that are kept beside the one that is written to.
    pub keep: u32,
}

/// Sizes of the kernel's tables. The length of the table of hits follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Grants for single addresses.
    pub hosts: u32,
    /// Grants for prefixes, for each family.
    pub prefixes: u32,
}

impl Limits {
    /// Grants that can be held at once. More than there are entries, because a grant may be renewed
    /// while the tables are full: the new one claims the places of the old.
    pub const fn slots(self) -> u32 {
        2 * (self.hosts + 2 * self.prefixes) + 1
    }
}

impl From<Limits> for Capacity {
    fn from(limits: Limits) -> Self {
        let size = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        Self { hosts: size(limits.hosts), prefixes: size(limits.prefixes) }
    }
}

/// Where things are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Database, audit and the host's key; survives reboots.
    pub state: PathBuf,
    /// Unix socket.
    pub runtime: PathBuf,
    /// Pins, on a BPF file system.
    pub pins: PathBuf,
}

impl Paths {
    /// The unix socket for the command line.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }
}

/// Why a configuration is refused. One cause, with the file and the key.
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

    /// Checks a text as if it stood in this file; the key files that it names are read.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let fail = |what: String| ConfigError { file: path.to_owned(), what };
        let raw: raw::Config =
            toml::from_str(text).map_err(|error| fail(error.to_string().trim_end().into()))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        Self::check(raw, directory).map_err(fail)
    }

    fn check(raw: raw::Config, directory: &Path) -> Result<Self, String> {
        let raw::Config {
            host,
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
        let raw::Host { id } = host;
        if id.is_empty() || id.len() > 512 || id.chars().any(char::is_control) {
            return Err(
                "[host] id: 1 to 512 printable characters, exactly as grants name it".into()
            );
        }
        if id == "auto" {
            return Err("[host] id: \"auto\" is not in this version; write the id".into());
        }
        let mut keyring = Keyring::default();
        for signer in signer {
            let name = signer.id.clone();
            add_signer(&mut keyring, signer, directory)
                .map_err(|error| format!("[[signer]] {name:?}: {error}"))?;
        }
        let max_duration = limits
            .max_duration
            .map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("[limits] max_duration", &text))?;
        let granting = keyring.signers_of(PayloadType::Grant).count();
        let sections = port
            .into_iter()
            .map(|port| check_port(port, granting))
            .collect::<Result<Vec<_>, _>>()?;
        let policy = Policy::new(sections, max_duration).map_err(twice)?;
        let ceiling = ceiling.map(|raw| check_ceiling(raw, &keyring)).transpose()?;
        let control = control.map(|raw| check_control(raw, directory, &policy)).transpose()?;
        let controllers =
            controller.into_iter().map(check_controller).collect::<Result<Vec<_>, _>>()?;
        let mut identities = std::collections::BTreeSet::new();
        if let Some(twice) = controllers.iter().find(|one| !identities.insert(&one.identity)) {
            return Err(format!("[[controller]] {:?} stands twice", twice.identity));
        }
        let state = paths.state.unwrap_or_else(|| "/var/lib/jit-agent".into());
        let runtime = paths.runtime.unwrap_or_else(|| "/run/jit-agent".into());
        let pins = paths.pins.unwrap_or_else(|| "/sys/fs/bpf/jit-agent".into());
        let paths = Paths { state, runtime, pins };
        for (key, path) in
            [("state", &paths.state), ("runtime", &paths.runtime), ("pins", &paths.pins)]
        {
            if !path.is_absolute() {
                return Err(format!("[paths] {key}: {} is not absolute", path.display()));
            }
        }
        Ok(Self {
            host: id,
            gate: check_gate(gate)?,
            policy,
            ceiling,
            keyring,
            control,
            controllers,
            audit: check_audit(audit)?,
            limits: check_limits(limits.hosts, limits.prefixes)?,
            paths,
        })
    }
}

/// A policy as a file: the configuration's `[[port]]` sections, and whom it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyFile {
    /// Its version, if the file says.
    pub version: Option<u64>,
    /// The hosts it is for; empty when the file does not say.
    pub hosts: Vec<String>,
    /// What it protects; no port stands in two sections.
    pub sections: Vec<PortPolicy>,
}

impl FromStr for PolicyFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let raw: raw::PolicyFile =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let raw::PolicyFile { version, hosts, port } = raw;
        // How many keys a host trusts is the host's to know.
        let sections = port
            .into_iter()
            .map(|port| check_port(port, usize::MAX))
            .collect::<Result<Vec<_>, _>>()?;
        Policy::new(sections.clone(), DEFAULT_MAX_DURATION).map_err(twice)?;
        Ok(Self { version, hosts, sections })
    }
}

impl Default for InterfaceFilter {
    /// Every interface.
    fn default() -> Self {
        let all = Pattern::new("*").expect("a star is a glob");
        Self { include: vec![all], exclude: Vec::new() }
    }
}

impl InterfaceFilter {
    /// From the globs of `[gate] interfaces` (all, when it does not say) and `exclude`.
    ///
    /// # Errors
    /// A glob that is none, or no interface at all.
    pub fn new(interfaces: Option<Vec<String>>, exclude: &[String]) -> Result<Self, String> {
        let patterns = |key: &str, globs: &[String]| {
            let pattern = |glob: &String| {
                Pattern::new(glob).map_err(|error| format!("[gate] {key}: {glob:?}: {error}"))
            };
            globs.iter().map(pattern).collect::<Result<Vec<_>, _>>()
        };
        let include = match interfaces {
            Some(globs) => patterns("interfaces", &globs)?,
            None => Self::default().include,
        };
        if include.is_empty() {
            return Err("[gate] interfaces is empty: nothing would be gated; [\"*\"] is all".into());
        }
        Ok(Self { include, exclude: patterns("exclude", exclude)? })
    }

    /// Whether an interface of this name is gated.
    pub fn matches(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        any(&self.include) && !any(&self.exclude)
    }

    /// Whether every interface is gated, whatever its name.
    pub fn is_all(&self) -> bool {
        self.exclude.is_empty() && self.include.iter().any(|pattern| pattern.as_str() == "*")
    }

    /// Names that stand in `interfaces` without a wildcard: they must exist.
    pub fn exact_names(&self) -> impl Iterator<Item = &str> {
        self.include
            .iter()
            .map(Pattern::as_str)
            .filter(|name| !name.contains(['*', '?', '[']) && self.matches(name))
    }
}

fn add_signer(keyring: &mut Keyring, raw: raw::Signer, directory: &Path) -> Result<(), String> {
    let raw::Signer { id, public_key, signs, ports, sources, max_duration, not_before, not_after } =
        raw;
    if id.is_empty() {
        return Err("id is empty".into());
    }
    if keyring.signers().iter().any(|signer| signer.id == id) {
        return Err("the id stands twice".into());
    }
    let mandate = Mandate {
        grants: signs.contains(&raw::Signs::Grant),
        max_duration: max_duration
            .map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("max_duration", &text))?,
        not_after: moment("not_after", not_after)?,
        not_before: moment("not_before", not_before)?,
        policies: signs.contains(&raw::Signs::Policy),
        ports: parsed("ports", ports)?,
        sources: parsed("sources", sources)?,
    };
    if signs.is_empty() {
        return Err("signs is empty: the key could sign nothing; leave it out for grants".into());
    }
    if !mandate.grants && (mandate.ports.is_some() || mandate.sources.is_some()) {
        return Err("ports and sources limit grants, and `signs` does not list \"grant\"".into());
    }
    if let (Some(from), Some(to)) = (mandate.not_before, mandate.not_after)
        && to <= from
    {
        return Err(format!("not_after {to} is not later than not_before {from}"));
    }
    let path = directory.join(&public_key);
    let pem = sys::read_trusted(&path).map_err(|error| format!("public_key: {error}"))?;
    let signer = Signer::from_pem(id, mandate.max_duration, &pem)
        .map_err(|error| format!("public_key {}: {error}", path.display()))?;
    keyring.add(signer.with_mandate(mandate)).map_err(|error| error.to_string())
}

/// A list that is either left out or not empty: an empty one would look like no limit.
fn parsed<T: FromStr<Err: fmt::Display>>(
    key: &str,
    texts: Option<Vec<String>>,
) -> Result<Option<Vec<T>>, String> {
    let Some(texts) = texts else { return Ok(None) };
    if texts.is_empty() {
        return Err(format!("{key} is empty: that allows nothing; leave it out for no limit"));
    }
    each(key, &texts).map(Some)
}

fn each<T: FromStr<Err: fmt::Display>>(key: &str, texts: &[String]) -> Result<Vec<T>, String> {
    texts.iter().map(|text| text.parse().map_err(|error| format!("{key}: {error}"))).collect()
}

/// An RFC 3339 time.
fn moment(key: &str, text: Option<String>) -> Result<Option<WallTime>, String> {
    text.map(|text| {
        text.parse::<jiff::Timestamp>()
            .map(|time| WallTime(time.as_millisecond()))
            .map_err(|error| format!("{key}: {error}"))
    })
    .transpose()
}

fn check_gate(raw: raw::Gate) -> Result<Gate, String> {
    let raw::Gate { mode, interfaces, exclude, hook, socket_guard } = raw;
    let observe = mode.is_some_and(|mode| mode == raw::Mode::Observe);
    let interfaces = InterfaceFilter::new(interfaces, &exclude)?;
    let hook = match hook {
        None | Some(raw::Hook::Auto) => HookChoice::Auto,
        Some(raw::Hook::Clsact) => HookChoice::Clsact,
        Some(raw::Hook::Generic) => HookChoice::Generic,
        Some(raw::Hook::Native) => HookChoice::Native,
        Some(raw::Hook::Tc) => HookChoice::Tc,
    };
    Ok(Gate { observe, interfaces, hook, socket_guard: socket_guard.unwrap_or(true) })
}

fn check_port(raw: raw::Port, signers: usize) -> Result<PortPolicy, String> {
    let raw::Port {
        port,
        protocol,
        mode,
        sources,
        widest_v4,
        widest_v6,
        max_duration,
        approvals,
        sessions,
        terminates,
        exempt,
    } = raw;
    let protocol = match protocol {
        raw::Protocol::Tcp => Protocol::Tcp,
        raw::Protocol::Udp => Protocol::Udp,
    };
    let range = port_range(&port, protocol)?;
    let at = |what: String| format!("[[port]] {range}: {what}");
    let sources = sources
        .iter()
        .map(|text| text.parse().map_err(|error| at(format!("sources: {error}"))))
        .collect::<Result<Vec<SourcePrefix>, _>>()?;
    if sources.is_empty() {
        return Err(at(
            "sources is empty: no grant could ever open it; [\"0.0.0.0/0\", \"::/0\"] \
                       is everyone"
                .into(),
        ));
    }
    let max_duration = max_duration
        .map_or(Ok(DEFAULT_PORT_DURATION), |text| duration("max_duration", &text))
        .map_err(at)?;
    let approvals = approvals.map_or(DEFAULT_APPROVALS, usize::from);
    if approvals == 0 || approvals > signers {
        return Err(at(format!(
            "approvals: {approvals}, but there are {signers} [[signer]] keys that sign grants; from 1 \
             to that"
        )));
    }
    let widest_v4 = width("widest_v4", widest_v4, Family::V4).map_err(at)?;
    let widest_v6 = width("widest_v6", widest_v6, Family::V6).map_err(at)?;
    Ok(PortPolicy {
        range,
        observe: mode.is_some_and(|mode| mode == raw::Mode::Observe),
        sources,
        widest_v4: widest_v4.unwrap_or(DEFAULT_WIDEST_V4),
        widest_v6: widest_v6.unwrap_or(DEFAULT_WIDEST_V6),
        max_duration,
        approvals,
        sessions: match sessions {
            None | Some(raw::Sessions::Drain) => Sessions::Drain,
            Some(raw::Sessions::Cut) => Sessions::Cut,
        },
        forwarded: terminates.is_some_and(|place| place == raw::Terminates::Forwarded),
        exemptions: exempt
            .into_iter()
            .map(|raw| check_exemption(raw).map_err(at))
            .collect::<Result<_, _>>()?,
    })
}

fn twice(port: PortKey) -> String {
    format!("[[port]]: {}/{} stands in two sections", port.port, port.protocol.word())
}

fn check_ceiling(raw: raw::Ceiling, keyring: &Keyring) -> Result<Ceiling, String> {
    let at = |what: String| format!("[ceiling] {what}");
    let raw::Ceiling {
        arm,
        disarm,
        sources,
        widest_v4,
        widest_v6,
        max_duration,
        approvals,
        policy_approvals,
        observe,
        drain,
        forwarded,
        exemptions,
    } = raw;
    let signing = keyring.signers_of(PayloadType::Policy).count();
    let policy_approvals = policy_approvals.map_or(1, usize::from);
    if policy_approvals == 0 || policy_approvals > signing {
        return Err(at(format!(
            "policy_approvals: {policy_approvals}, but there are {signing} [[signer]] keys with \
             signs = [\"policy\"]; from 1 to that"
        )));
    }
    if approvals == Some(0) {
        return Err(at("approvals: 0 would let a port open without a signature".into()));
    }
    Ok(Ceiling {
        approvals: approvals.map(usize::from),
        arm: each("arm", &arm).map_err(at)?,
        disarm: each("disarm", &disarm).map_err(at)?,
        drain,
        exemptions,
        forwarded,
        max_duration: max_duration
            .map(|text| duration("max_duration", &text))
            .transpose()
            .map_err(at)?,
        observe,
        policy_approvals,
        sources: each("sources", &sources).map_err(at)?,
        widest_v4: width("widest_v4", widest_v4, Family::V4).map_err(at)?,
        widest_v6: width("widest_v6", widest_v6, Family::V6).map_err(at)?,
    })
}

fn width(key: &str, value: Option<u8>, family: Family) -> Result<Option<u8>, String> {
    let most = crate::prefix::bits(family);
    match value {
        Some(width) if width > most => Err(format!("{key}: {width} is more than {most}")),
        width => Ok(width),
    }
}

fn check_exemption(raw: raw::Exempt) -> Result<Exemption, String> {
    let raw::Exempt { source, reason, owner, until } = raw;
    if reason.is_empty() || owner.is_empty() {
        return Err(format!("exempt {source}: reason and owner may not be empty"));
    }
    let until = moment("until", until).map_err(|error| format!("exempt {source}: {error}"))?;
    let source = source.parse().map_err(|error| format!("exempt: source: {error}"))?;
    Ok(Exemption { source, reason, owner, until })
}

fn check_control(raw: raw::Control, directory: &Path, policy: &Policy) -> Result<Control, String> {
    let raw::Control { listen, certificate, key, client_ca } = raw;
    let listen: SocketAddr =
        listen.parse().map_err(|_| format!("[control] listen: {listen:?} is not address:port"))?;
    if policy.port(PortKey { protocol: Protocol::Tcp, port: listen.port() }).is_some() {
        return Err(format!(
            "[control] listen: port {} is protected by a [[port]] section; the gate would lock \
             the controllers out",
            listen.port()
        ));
    }
    Ok(Control {
        listen,
        certificate: directory.join(certificate),
        key: directory.join(key),
        client_ca: directory.join(client_ca),
    })
}

fn check_controller(raw: raw::Controller) -> Result<Controller, String> {
    let raw::Controller { identity, may } = raw;
    if identity.is_empty() {
        return Err("[[controller]] identity is empty".into());
    }
    Ok(Controller { identity, may: may.into_iter().collect() })
}

fn check_audit(raw: raw::Audit) -> Result<Audit, String> {
    let raw::Audit { max_size, keep } = raw;
    let max_size = max_size.map_or(Ok(DEFAULT_AUDIT_SIZE), |text| {
        bytes(&text).filter(|size| AUDIT_SIZES.contains(size)).ok_or_else(|| {
            format!("[audit] max_size: {text:?} is not a size from 64KiB to 1GiB, like 32MiB")
        })
    })?;
    match keep.unwrap_or(DEFAULT_AUDIT_KEEP) {
        keep @ 1..=MAX_AUDIT_KEEP => Ok(Audit { max_size, keep }),
        keep => Err(format!("[audit] keep: {keep} is not from 1 to {MAX_AUDIT_KEEP}")),
    }
}

fn check_limits(hosts: Option<u32>, prefixes: Option<u32>) -> Result<Limits, String> {
    let limit = |key: &str, value: Option<u32>, default: u32| match value.unwrap_or(default) {
        entries @ 1..=MAX_ENTRIES => Ok(entries),
        entries => Err(format!("[limits] {key}: {entries} is not from 1 to {MAX_ENTRIES}")),
    };
    Ok(Limits {
        hosts: limit("hosts", hosts, DEFAULT_HOSTS)?,
        prefixes: limit("prefixes", prefixes, DEFAULT_PREFIXES)?,
    })
}

fn port_range(port: &raw::Ports, protocol: Protocol) -> Result<PortRange, String> {
    let (first, last) = match port {
        raw::Ports::One(port) => (*port, *port),
        raw::Ports::Range(text) => {
            let bounds = text.split_once('-').unwrap_or((text, text));
            let (Ok(first), Ok(last)) = (bounds.0.trim().parse(), bounds.1.trim().parse()) else {
                return Err(format!("[[port]] port: {text:?} is not a port or first-last"));
            };
            (first, last)
        }
    };
    if first == 0 || first > last {
        return Err(format!("[[port]] port: {first}-{last} is no range from 1 to 65535"));
    }
    Ok(PortRange { protocol, first, last })
}

/// A size as people write it: `64KiB`, `32MiB`, `1GiB`.
fn bytes(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(number.len()..)? {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// A duration as people write it: `90m`, `3h`, `1h30m`, `45s`.
fn duration(key: &str, text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration >= Duration::from_secs(1))
        .ok_or_else(|| format!("{key}: {text:?} is not a duration of a second or more, like 3h"))
}

#[cfg(test)]
mod tests {
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
        assert_eq!(config.audit, Audit { max_size: 32 << 20, keep: 16 });
        let config =
            read(&GOOD.replacen("[gate]", "[audit]\nmax_size = \"1 MiB\"\nkeep = 3\n[gate]", 1));
        assert_eq!(config.unwrap().audit, Audit { max_size: 1 << 20, keep: 3 });
    }

    #[test]
    fn each_bad_value_is_refused_with_its_key() {
        for (from, to, expected) in [
            ("[gate]", "[gate]\nmodus = 1", "modus"),
            ("[gate]", "[gate]\nmode = \"off\"", "off"),
            ("port = 22", "port = 0", "port"),
            ("port = 22", "port = 70000", "port"),
            ("\"5985-5986\"", "\"5986-5985\"", "no range"),
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

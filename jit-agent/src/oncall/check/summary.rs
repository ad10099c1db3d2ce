//! What a configuration says, for a person to judge: who may open what, for how long, with whose
//! signatures, and on which interfaces. Pure.

use jit_client::text;
use jit_proto::{
    Exemption, PayloadType, Permission, PortSection, Sessions, WallTime,
    port_section::{DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6},
    printable::clean,
};
use serde::Serialize;

use crate::{
    config::{AUTO, Config, Controller},
    control::{certificate::Facts, tls::Material},
    kernel::datapath::rtnetlink::Device,
    rules::keyring::Signer,
};

/// The longest line, characters.
const LONGEST: usize = 2000;
/// Columns of the names.
const NAMES: usize = 14;

/// What a configuration says.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    host: String,
    mode: &'static str,
    /// `None`: a reload needs no confirmation.
    confirm_within_s: Option<u64>,
    socket_guard: bool,
    ports: Vec<Port>,
    /// `None`: it does not listen.
    listen: Option<String>,
    /// Those that it connects to.
    hubs: Vec<String>,
    controllers: Vec<Peer>,
    /// Those that were read.
    certificates: Vec<Certificate>,
    /// Those whose key was read.
    signers: Vec<Key>,
    /// Those that are there now, but loopback; `None`: they were not looked at.
    interfaces: Option<Vec<Interface>>,
    accepts_policies: bool,
    /// The longest opening by root on the host; `None`: there is none.
    break_glass_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Port {
    port: String,
    mode: &'static str,
    sources: Vec<String>,
    widest_v4: u8,
    widest_v6: u8,
    max_duration_s: u64,
    approvals: usize,
    sessions: &'static str,
    terminates: &'static str,
    exemptions: Vec<Exempt>,
}

#[derive(Debug, Serialize)]
struct Exempt {
    source: String,
    reason: String,
    owner: String,
    until: Option<String>,
}

#[derive(Debug, Serialize)]
struct Peer {
    identity: String,
    may: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    /// The key of `[control]`.
    of: &'static str,
    subject: String,
    /// The names and addresses by which a peer may dial it.
    names: Vec<String>,
    issuer: String,
    key: String,
    not_before: String,
    not_after: String,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Key {
    id: String,
    key_id: String,
    /// Of the whole key: `key_id` is its first 8 bytes.
    sha256: String,
    signs: Vec<&'static str>,
    /// For whom the assertions of an approver's key are, and from which pages; `None`: it is a
    /// signer's.
    rp_id: Option<String>,
    origins: Option<Vec<String>>,
    /// `None`: all that the host allows.
    ports: Option<Vec<String>>,
    sources: Option<Vec<String>>,
    max_duration_s: u64,
    not_before: Option<String>,
    not_after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    gated: bool,
    /// Why it needs no gate; empty: nobody said, or it is gated.
    reason: String,
}

impl Summary {
    /// `material`: the certificates, if they could be read. `devices`: those of this network namespace,
    /// if they are looked at.
    pub(super) fn new(
        config: &Config,
        material: Option<&Material>,
        devices: Option<&[Device]>,
    ) -> Self {
        let facts = material.map(Material::facts).unwrap_or_default();
        let longest = config.policy.max_duration();
        let hubs = config.uplink.iter().map(|uplink| &uplink.hubs);
        Self {
            host: if config.auto_host { AUTO.into() } else { config.host.clone() },
            mode: mode(config.gate.observe),
            confirm_within_s: config.gate.confirm_within.map(|time| time.as_secs()),
            socket_guard: config.gate.socket_guard,
            ports: config
                .policy
                .sections()
                .iter()
                .map(|section| Port {
                    max_duration_s: section.max_duration.min(longest).as_secs(),
                    ..Port::of(section)
                })
                .collect(),
            listen: config.control.as_ref().map(|control| control.listen.to_string()),
            hubs: hubs.flatten().map(ToString::to_string).collect(),
            controllers: config.controllers.iter().map(Peer::of).collect(),
            certificates: facts.into_iter().map(Certificate::of).collect(),
            signers: config.keyring.signers().iter().map(Key::of).collect(),
            interfaces: devices.map(|devices| interfaces(config, devices)),
            accepts_policies: config.ceiling.is_some(),
            break_glass_s: config.break_glass.map(|time| time.as_secs()),
        }
    }

    /// The same as lines.
    pub(super) fn text(&self) -> String {
        let mut lines = Lines::default();
        lines.add("host", &self.host);
        lines.add("mode", &self.mode_text());
        for port in &self.ports {
            lines.add(&port.port, &port.text());
            for Exempt { source, reason, owner, until } in &port.exemptions {
                let until = until.as_ref().map(|until| format!(" until {until}"));
                let until = until.unwrap_or_default();
                lines.add("", &format!("{source} needs no grant{until}: {reason} ({owner})"));
            }
        }
        if self.ports.is_empty() {
            lines.add("ports", "none: nothing is protected");
        }
        if self.accepts_policies {
            lines.add("policies", "pushed ones may replace these ports, within [ceiling]");
        }
        if let Some(listen) = &self.listen {
            lines.add("listens on", listen);
        }
        for hub in &self.hubs {
            lines.add("hub", hub);
        }
        for Peer { identity, may } in &self.controllers {
            lines.add("controller", &format!("{identity} may {}", or_nothing(may)));
        }
        for certificate in &self.certificates {
            lines.add(certificate.of, &certificate.text());
        }
        for signer in &self.signers {
            lines.add("signer", &signer.text());
        }
        if let Some(interfaces) = &self.interfaces {
            lines.add("interfaces", &interfaces_text(interfaces));
        }
        let root = match self.break_glass_s {
            Some(longest) => format!("may open a port without a grant for {}", seconds(longest)),
            None => "may open nothing without a grant".to_owned(),
        };
        lines.add("root", &root);
        lines.0
    }

    fn mode_text(&self) -> String {
        let trial = match self.confirm_within_s {
            Some(time) => format!(
                "a reload that closes something waits {} for `jit-agent confirm`",
                seconds(time)
            ),
            None => "a reload is in force at once".to_owned(),
        };
        let guard = if self.socket_guard { "with" } else { "without" };
        let drops = if self.mode == "observe" { ", which drops nothing" } else { "" };
        format!("{}{drops}, {guard} the socket guard; {trial}", self.mode)
    }
}

/// Lines with a name in front of each.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, text: &str) {
        let text = clean(text, LONGEST);
        self.0 +=
            &format!("  {name:<NAMES$}{}{text}\n", if name.len() < NAMES { "" } else { "  " });
    }
}

impl Port {
    fn of(section: &PortSection) -> Self {
        let PortSection { sources, widest_v4, widest_v6, max_duration, approvals, .. } = section;
        Self {
            port: section.range.to_string(),
            mode: mode(section.observe),
            sources: sources.iter().map(ToString::to_string).collect(),
            widest_v4: *widest_v4,
            widest_v6: *widest_v6,
            max_duration_s: max_duration.as_secs(),
            approvals: *approvals,
            sessions: match section.sessions {
                Sessions::Cut => "cut",
                Sessions::Drain => "drain",
            },
            terminates: if section.forwarded { "forwarded" } else { "host" },
            exemptions: section.exemptions.iter().map(Exempt::of).collect(),
        }
    }

    fn text(&self) -> String {
        let Self { mode, sources, widest_v4, widest_v6, max_duration_s, approvals, .. } = self;
        let signatures = if *approvals == 1 { "signature" } else { "signatures" };
        let mut text = format!(
            "{mode}; {approvals} {signatures} may open it to {} for {}",
            sources.join(", "),
            seconds(*max_duration_s)
        );
        if (*widest_v4, *widest_v6) != (DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6) {
            text += &format!(", at most /{widest_v4} or /{widest_v6} at once");
        }
        let then = match self.sessions {
            "cut" => "; then sessions end",
            _ => "; then sessions go on",
        };
        text += then;
        if self.terminates == "forwarded" {
            text += "; the service is behind this host";
        }
        text
    }
}

impl Exempt {
    fn of(exemption: &Exemption) -> Self {
        let Exemption { source, reason, owner, until } = exemption;
        Self {
            source: source.to_string(),
            reason: reason.clone(),
            owner: owner.clone(),
            until: until.map(|until| until.to_string()),
        }
    }
}

impl Peer {
    fn of(controller: &Controller) -> Self {
        let Controller { identity, may } = controller;
        let may = Permission::ALL.into_iter().filter(|one| may.contains(*one));
        Self { identity: identity.clone(), may: may.map(Permission::word).collect() }
    }
}

impl Certificate {
    fn of((of, facts): (&'static str, Facts)) -> Self {
        let Facts { subject, issuer, hosts, not_before, not_after, fingerprint, key, .. } = facts;
        Self {
            of,
            subject,
            names: hosts,
            issuer,
            key,
            not_before: not_before.to_string(),
            not_after: not_after.to_string(),
            sha256: fingerprint,
        }
    }

    fn text(&self) -> String {
        let Self { subject, names, issuer, key, not_after, sha256, .. } = self;
        let names = if names.is_empty() || self.of == "client_ca" {
            String::new()
        } else {
            format!(" for {}", names.join(", "))
        };
        let issuer = if issuer == subject { "itself" } else { issuer };
        format!("{subject}{names}, issued by {issuer}, {key}, until {not_after}, SHA-256 {sha256}")
    }
}

impl Key {
    fn of(signer: &Signer) -> Self {
        let mandate = &signer.mandate;
        let signs = PayloadType::ALL.into_iter().filter(|payload| mandate.signs(*payload));
        let texts = |time: Option<WallTime>| time.map(|time| time.to_string());
        let ports = mandate.ports.as_ref();
        let sources = mandate.sources.as_ref();
        Self {
            id: signer.id.clone(),
            key_id: signer.fingerprint().to_owned(),
            sha256: signer.sha256().to_owned(),
            signs: signs.map(PayloadType::word).collect(),
            rp_id: signer.approver().map(|party| party.id().to_owned()),
            origins: signer.approver().map(|party| party.origins().to_vec()),
            ports: ports.map(|all| all.iter().map(ToString::to_string).collect()),
            sources: sources.map(|all| all.iter().map(ToString::to_string).collect()),
            max_duration_s: mandate.max_duration.as_secs(),
            not_before: texts(mandate.not_before),
            not_after: texts(mandate.not_after),
        }
    }

    fn text(&self) -> String {
        let Self { id, key_id, sha256, signs, ports, sources, not_before, not_after, .. } = self;
        let mut text = format!("{id:?}, key id {key_id}, ");
        text += &match (&self.rp_id, &self.origins) {
            (Some(rp_id), Some(origins)) => {
                format!("approves by a passkey of {rp_id} at {}", origins.join(", "))
            }
            _ => format!("signs {}", signs.join(", ")),
        };
        if signs.contains(&"grant") {
            text += &format!(" up to {}", seconds(self.max_duration_s));
        }
        for (before, all) in [("for", ports), ("from", sources)] {
            if let Some(all) = all {
                text += &format!(", only {before} {}", all.join(", "));
            }
        }
        for (word, time) in [("from", not_before), ("until", not_after)] {
            if let Some(time) = time {
                text += &format!(", {word} {time}");
            }
        }
        text + ", SHA-256 " + sha256
    }
}

fn interfaces(config: &Config, devices: &[Device]) -> Vec<Interface> {
    let filter = &config.gate.interfaces;
    let devices = devices.iter().filter(|device| !device.loopback);
    let of = |Device { name, .. }: &Device| Interface {
        name: name.clone(),
        gated: filter.matches(name),
        reason: if filter.matches(name) { String::new() } else { filter.reason(name).to_owned() },
    };
    devices.map(of).collect()
}

fn interfaces_text(interfaces: &[Interface]) -> String {
    let names = |gated: bool| {
        let chosen = interfaces.iter().filter(|one| one.gated == gated);
        let named = chosen.map(|Interface { name, reason, .. }| match &**reason {
            "" => name.clone(),
            reason => format!("{name} ({reason})"),
        });
        named.collect::<Vec<_>>().join(", ")
    };
    match (names(true), names(false)) {
        (gated, _) if gated.is_empty() => "none of those here now is gated".to_owned(),
        (gated, others) if others.is_empty() => format!("{gated}: gated"),
        (gated, others) => format!("{gated}: gated; left out: {others}"),
    }
}

const fn mode(observe: bool) -> &'static str {
    if observe { "observe" } else { "enforce" }
}

fn or_nothing(words: &[&str]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn seconds(seconds: u64) -> String {
    text::duration(std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Examined;

    const FILE: &str = "[host]\nid = \"web-1\"\n[gate]\nexclude = [{ name = \"mgmt*\", reason = \"own \
        network\" }]\n[limits]\nmax_duration = \"2h\"\n[[port]]\nport = 22\nprotocol = \"tcp\"\n\
        sources = [\"10.0.0.0/8\"]\nsessions = \"cut\"\nexempt = [{ source = \"192.0.2.5\", reason = \
        \"probe\", owner = \"netops\" }]\n[[signer]]\nid = \"a\"\npublic_key = \"a.pem\"\n\
        [[controller]]\nidentity = \"c\"\nmay = [\"revoke\", \"grant\"]\n";

    #[test]
    fn a_person_sees_who_may_open_what_for_how_long() {
        let config = Examined::of(FILE, Path::new("/nowhere/config.toml"), None).config.unwrap();
        let devices = ["eth0", "mgmt1"].map(|name| Device::example(name, 2));
        let text = Summary::new(&config, None, Some(&devices)).text();
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "  host          web-1",
                "  mode          enforce, with the socket guard; a reload that closes something \
                 waits 2m for `jit-agent confirm`",
                "  22/tcp        enforce; 1 signature may open it to 10.0.0.0/8 for 2h; then \
                 sessions end",
                "                192.0.2.5 needs no grant: probe (netops)",
                "  controller    c may grant, revoke",
                "  interfaces    eth0: gated; left out: mgmt1 (own network)",
                "  root          may open a port without a grant for 1h",
            ]
        );
    }

    #[test]
    fn what_protects_nothing_says_so() {
        let text = "[host]\nid = \"x\"\n[gate]\nmode = \"observe\"\nconfirm_within = \"off\"\n\
                    [break_glass]\nmax_duration = \"off\"\n";
        let config = Examined::of(text, Path::new("/nowhere/config.toml"), None).config.unwrap();
        let text = Summary::new(&config, None, None).text();
        for says in [
            "observe, which drops nothing",
            "a reload is in force at once",
            "none: nothing is protected",
            "may open nothing without a grant",
        ] {
            assert!(text.contains(says), "{says:?} is not in: {text}");
        }
        assert!(!text.contains("interfaces"), "{text}");
    }
}

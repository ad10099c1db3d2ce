//! What a configuration that is not wrong will most likely not do, for `check` and `doctor`. Pure: what
//! the host looks like is an argument.

use std::{path::Path, time::Duration};

use jit_common::Family;
use jit_proto::{PortSection, WallTime, words::duration_text};

use crate::{config::Config, oncall::finding::Finding, rules::everybody};

pub(super) const SETTINGS: &str = "configuration";
pub(in crate::oncall) const EXEMPT: &str = "exemptions";

/// What the host is like.
pub(super) struct Host<'a> {
    /// The names of its interfaces but loopback; `None`: they cannot be listed.
    pub(super) interfaces: Option<Vec<String>>,
    /// Whether a path lies on a BPF file system, or will when its directory is made there.
    pub(super) is_bpffs: &'a dyn Fn(&Path) -> bool,
}

/// Settings that do nothing, or less than they say.
pub(super) fn settings(config: &Config, host: Option<&Host<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(host) = host {
        findings.extend(pins(config, host));
        findings.extend(interfaces(config, host));
    }
    findings.extend(ports(config));
    findings
}

fn pins(config: &Config, host: &Host<'_>) -> Option<Finding> {
    let pins = &config.paths.pins;
    let good = pins.ancestors().any(|path| (host.is_bpffs)(path));
    (!good).then(|| {
        let what = format!(
            "[paths] pins: {} is not on a BPF file system, so nothing can stay in force without \
             the agent and it refuses to start",
            pins.display()
        );
        Finding::warning(SETTINGS, what)
            .at("paths.pins")
            .fix("mount -t bpf bpf /sys/fs/bpf")
            .fix("or name a directory below a BPF file system")
    })
}

fn interfaces(config: &Config, host: &Host<'_>) -> Vec<Finding> {
    let Some(names) = &host.interfaces else { return Vec::new() };
    let filter = &config.gate.interfaces;
    let warning = |what: String| {
        let finding = Finding::warning(SETTINGS, what).at("gate.interfaces");
        finding.fix("`ip link` lists the interfaces; correct [gate] interfaces")
    };
    if !names.iter().any(|name| filter.matches(name)) {
        return vec![warning(format!(
            "[gate] interfaces: no interface of this host matches, so none is gated; it has: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(" ") }
        ))];
    }
    let missing = filter.exact_names().filter(|exact| !names.iter().any(|name| name == exact));
    missing
        .map(|exact| {
            warning(format!("[gate] interfaces: this host has no interface {exact:?} now"))
        })
        .collect()
}

fn ports(config: &Config) -> Vec<Finding> {
    let policy = &config.policy;
    if policy.sections().is_empty() {
        let finding = Finding::warning(SETTINGS, "no [[port]] section: nothing is protected");
        return vec![finding.fix("add a [[port]] section for each port to protect")];
    }
    let long = policy.sections().iter().enumerate().filter_map(|(index, section)| {
        let key = format!("[[port]] {} max_duration", section.range);
        let what = above(&key, section.max_duration, policy.max_duration())?;
        let finding = Finding::warning(SETTINGS, what).at(format!("port.{index}.max_duration"));
        Some(finding.fix("set the shorter duration in both places"))
    });
    long.collect()
}

/// What does not drop anything, or is not taken back by itself.
pub(super) fn modes(config: &Config) -> Vec<Finding> {
    let gate = &config.gate;
    let observes = |what: String, at: &str| {
        let fix = "`jit-agent enforce` shows who would be shut out, and enforces on trial";
        Finding::warning(SETTINGS, what).at(at).fix(fix)
    };
    let mut findings = Vec::new();
    if gate.observe {
        let what = "[gate] mode is \"observe\": nothing is dropped, and every port is open to \
                    everybody";
        findings.push(observes(what.into(), "gate.mode"));
    } else {
        let sections = config.policy.sections().iter().enumerate();
        for (index, section) in sections.filter(|(_, section)| section.observe) {
            let range = section.range;
            let what = format!("[[port]] {range} mode is \"observe\": it is open to everybody");
            findings.push(observes(what, &format!("port.{index}.mode")));
        }
        if gate.confirm_within.is_none() && config.policy.sections().iter().any(|one| !one.observe)
        {
            let what = "[gate] confirm_within is \"off\": a reload that shuts you out is in force \
                        at once, and stays";
            let finding = Finding::warning(SETTINGS, what).at("gate.confirm_within");
            findings.push(finding.fix("remove the line, or write a time such as \"2m\""));
        }
    }
    findings
}

/// Exemptions that let in everybody, or nobody any more.
pub(in crate::oncall) fn exemptions(sections: &[PortSection], now: WallTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        let range = section.range;
        let all = section.exemptions.iter().enumerate();
        let (live, ended): (Vec<_>, Vec<_>) =
            all.partition(|(_, one)| one.until.is_none_or(|end| now < end));
        let sources: Vec<_> = live.iter().map(|(_, one)| one.source).collect();
        let families = everybody::open_to_all(&sources);
        if !families.is_empty() {
            let families: Vec<_> = families.iter().map(family).collect();
            let families = families.join(" and ");
            findings.push(
                Finding::failure(
                    EXEMPT,
                    format!("the exemptions of {range} cover every {families} address: it is open"),
                )
                .about(range.to_string())
                .at(format!("port.{index}.exempt"))
                .fix(format!("name only the sources that need it in `exempt` of [[port]] {range}")),
            );
        }
        for (number, one) in ended {
            let (source, reason) = (one.source, &one.reason);
            let seen = format!("the exemption of {source} ({reason}) has ended: it lets nobody in");
            findings.push(
                Finding::warning(EXEMPT, seen)
                    .about(range.to_string())
                    .at(format!("port.{index}.exempt.{number}.until"))
                    .fix(format!("remove it from [[port]] {range}, or set `until` later")),
            );
        }
    }
    findings
}

const fn family(family: &Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A duration that a lower limit makes shorter.
pub(super) fn above(key: &str, duration: Duration, limit: Duration) -> Option<String> {
    (duration > limit).then(|| {
        format!(
            "{key}: {} is above [limits] max_duration, so {} counts",
            duration_text(duration),
            duration_text(limit)
        )
    })
}

#[cfg(test)]
mod tests {
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};

    use super::*;
    use crate::oncall::finding::{At, Level};

    const NOW: WallTime = WallTime(1_800_000_000_000);
    const QUIET: &str = "[host]\nid = \"h\"\n[[signer]]\nid = \"prod\"\npublic_key = \"prod.pem\"\n\
        [[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n";

    /// The findings about a configuration on a host with eth0, wg0 and a BPF file system.
    fn of(text: &str) -> Vec<Finding> {
        let directory = tempfile::tempdir().unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(directory.path().join("prod.pem"), pem).unwrap();
        let config = Config::parse(text, &directory.path().join("config.toml")).unwrap();
        let host = Host {
            interfaces: Some(vec!["eth0".into(), "wg0".into()]),
            is_bpffs: &|path| path == Path::new("/sys/fs/bpf"),
        };
        let mut findings = settings(&config, Some(&host));
        findings.extend(modes(&config));
        findings.extend(exemptions(config.policy.sections(), NOW));
        findings
    }

    #[test]
    fn a_configuration_that_does_what_it_says_raises_no_doubt() {
        assert_eq!(of(QUIET), []);
    }

    #[test]
    fn what_nobody_can_use_is_said_with_its_place_and_what_to_do() {
        for (from, to, expected, at) in [
            ("", "[paths]\npins = \"/tmp/pins\"\n", "/tmp/pins is not on a BPF", "paths.pins"),
            ("", "[gate]\ninterfaces = [\"ens*\"]\n", "it has: eth0 wg0", "gate.interfaces"),
            ("", "[gate]\ninterfaces = [\"eth0\", \"eth1\"]\n", "\"eth1\" now", "gate.interfaces"),
            (
                "",
                "[limits]\nmax_duration = \"1h\"\n",
                "tcp max_duration: 3h",
                "port.0.max_duration",
            ),
            ("", "[gate]\nmode = \"observe\"\n", "every port is open to everybody", "gate.mode"),
            ("", "[gate]\nconfirm_within = \"off\"\n", "at once, and stays", "gate.confirm_within"),
            ("port = 22", "port = 22\nmode = \"observe\"", "22/tcp mode is", "port.0.mode"),
        ] {
            let text =
                if from.is_empty() { format!("{QUIET}{to}") } else { QUIET.replace(from, to) };
            let found = of(&text);
            let [one] = found.as_slice() else { panic!("{to}: {found:?}") };
            assert!(one.seen.contains(expected) && !one.fix.is_empty(), "{to}: {one:?}");
            assert_eq!(one.at, At::Value(at.into()), "{to}");
        }
        assert!(of("[host]\nid = \"h\"\n")[0].seen.contains("no [[port]]"));
        let off = of("[host]\nid = \"h\"\n[gate]\nconfirm_within = \"off\"\n");
        assert_eq!(off.len(), 1, "what protects nothing shuts nobody out: {off:?}");
    }

    #[test]
    fn exemptions_that_are_everybody_or_have_ended_are_named() {
        let exempt = |source: &str, until: &str| {
            format!("{{ source = \"{source}\", reason = \"probe\", owner = \"netops\"{until} }}")
        };
        let ended = ", until = \"2026-01-01T00:00:00Z\"";
        for (entries, expected) in [
            (vec![exempt("192.0.2.7", "")], None),
            (vec![exempt("0.0.0.0/0", "")], Some((Level::Failure, "port.0.exempt"))),
            (
                vec![exempt("0.0.0.0/1", ""), exempt("128.0.0.0/1", "")],
                Some((Level::Failure, "port.0.exempt")),
            ),
            (
                vec![exempt("192.0.2.7", ""), exempt("::/0", ended)],
                Some((Level::Warning, "port.0.exempt.1.until")),
            ),
        ] {
            let found = of(&format!("{QUIET}exempt = [{}]\n", entries.join(", ")));
            let seen = found.first().map(|one| (one.level, one.at.clone()));
            let expected = expected.map(|(level, at)| (level, At::Value(at.into())));
            assert_eq!(seen, expected, "{entries:?}: {found:?}");
        }
    }
}

//! What a configuration that is not wrong will most likely not do. Pure: what the host looks like is
//! an argument.

use std::time::Duration;

use jit_proto::{PayloadType, PortSection, WallTime, words::duration_text};

use crate::{
    config::{Config, DEFAULT_MAX_DURATION},
    rules::keyring::Signer,
};

/// What the host is like.
pub(super) struct Host<'a> {
    pub(super) now: WallTime,
    /// The names of its interfaces but loopback; `None`: they cannot be listed.
    pub(super) interfaces: Option<Vec<String>>,
    /// Whether a path lies on a BPF file system, or will when its directory is made there.
    pub(super) is_bpffs: &'a dyn Fn(&std::path::Path) -> bool,
}

/// Each doubt in one sentence, with what to do.
pub(super) fn doubts(config: &Config, host: &Host<'_>) -> Vec<String> {
    let mut doubts = settings(config, host);
    doubts.extend(ended_exemptions(config, host.now));
    doubts.extend(signers(config, host.now));
    doubts.extend(controllers(config));
    doubts
}

/// The same, without exemptions, signers and controllers: `doctor` has checks of their own for them.
pub(super) fn settings(config: &Config, host: &Host<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    doubts.extend(pins(config, host));
    doubts.extend(interfaces(config, host));
    doubts.extend(ports(config));
    doubts
}

fn pins(config: &Config, host: &Host<'_>) -> Option<String> {
    let pins = &config.paths.pins;
    let good = pins.ancestors().any(|path| (host.is_bpffs)(path));
    (!good).then(|| {
        format!(
            "[paths] pins: {} is not on a BPF file system, so nothing can stay in force without \
             the agent and it refuses to start; `mount -t bpf bpf /sys/fs/bpf`, or name a \
             directory below one",
            pins.display()
        )
    })
}

fn interfaces(config: &Config, host: &Host<'_>) -> Vec<String> {
    let Some(names) = &host.interfaces else { return Vec::new() };
    let filter = &config.gate.interfaces;
    if !names.iter().any(|name| filter.matches(name)) {
        return vec![format!(
            "[gate] interfaces: no interface of this host matches, so none is gated; it has: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(" ") }
        )];
    }
    let missing = filter.exact_names().filter(|exact| !names.iter().any(|name| name == exact));
    missing
        .map(|exact| format!("[gate] interfaces: this host has no interface {exact:?} now"))
        .collect()
}

fn ports(config: &Config) -> Vec<String> {
    let policy = &config.policy;
    if policy.sections().is_empty() {
        return vec!["no [[port]] section: nothing is protected".to_owned()];
    }
    let long = policy.sections().iter().filter_map(|section| {
        let key = format!("[[port]] {} max_duration", section.range);
        above(&key, section.max_duration, policy.max_duration())
    });
    long.collect()
}

fn ended_exemptions(config: &Config, now: WallTime) -> Vec<String> {
    let ended = |section: &PortSection| {
        let range = section.range;
        let ended = section.exemptions.iter().filter(|one| one.until.is_some_and(|end| end <= now));
        let sentence = ended.map(|exemption| {
            format!(
                "[[port]] {range} exempt {} ({}) has ended: it lets nobody in; remove it, or set \
                 `until` later",
                exemption.source, exemption.reason
            )
        });
        sentence.collect::<Vec<_>>()
    };
    config.policy.sections().iter().flat_map(ended).collect()
}

/// Signers that do not count, or not as long as they say.
pub(in crate::oncall) fn signers(config: &Config, now: WallTime) -> Vec<String> {
    let keyring = &config.keyring;
    let mut doubts = Vec::new();
    let counts = |signer: &&Signer| signer.mandate.valid_at(now).is_ok();
    if !keyring.signers_of(PayloadType::Grant).any(|signer| counts(&signer)) {
        doubts.push("no [[signer]] may sign grants now: nothing can be opened".to_owned());
    }
    for signer in keyring.signers() {
        let id = &signer.id;
        if let Err(beyond) = signer.mandate.valid_at(now) {
            doubts.push(format!("[[signer]] {id:?} {}", beyond.detail));
        }
        let (key, longest) =
            (format!("[[signer]] {id:?} max_duration"), signer.mandate.max_duration);
        if longest != DEFAULT_MAX_DURATION {
            doubts.extend(above(&key, longest, config.policy.max_duration()));
        }
    }
    doubts
}

/// A duration that a lower limit makes shorter.
fn above(key: &str, duration: Duration, limit: Duration) -> Option<String> {
    (duration > limit).then(|| {
        format!(
            "{key}: {} is above [limits] max_duration, so {} counts",
            duration_text(duration),
            duration_text(limit)
        )
    })
}

/// Controllers that cannot connect.
pub(in crate::oncall) fn controllers(config: &Config) -> Option<String> {
    match (&config.control, config.controllers.as_slice()) {
        (Some(_), []) => {
            Some("[control] without a [[controller]]: nobody may connect; add one".into())
        }
        (None, [_, ..]) => Some(
            "[[controller]] without [control]: the agent does not listen; add [control], or remove \
             the controllers"
                .into(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use p256::pkcs8::{EncodePublicKey as _, LineEnding};

    use super::*;

    const QUIET: &str = "[host]\nid = \"h\"\n[[signer]]\nid = \"prod\"\npublic_key = \"prod.pem\"\n\
        [[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n";

    /// The doubts about a configuration on a host with eth0, wg0 and a BPF file system.
    fn of(text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(directory.path().join("prod.pem"), pem).unwrap();
        let config = Config::parse(text, &directory.path().join("config.toml")).unwrap();
        let host = Host {
            now: WallTime(1_800_000_000_000),
            interfaces: Some(vec!["eth0".into(), "wg0".into()]),
            is_bpffs: &|path| path == Path::new("/sys/fs/bpf"),
        };
        doubts(&config, &host)
    }

    #[test]
    fn a_configuration_that_does_what_it_says_raises_no_doubt() {
        assert_eq!(of(QUIET), [""; 0]);
    }

    #[test]
    fn what_nobody_can_use_is_said_with_what_to_do() {
        let exempt = "exempt = [{ source = \"192.0.2.5\", reason = \"probe\", owner = \"o\", \
                      until = \"2026-01-01T00:00:00Z\" }]\n";
        for (extra, expected) in [
            ("[paths]\npins = \"/tmp/pins\"\n", "/tmp/pins is not on a BPF file system"),
            ("[gate]\ninterfaces = [\"ens*\"]\n", "none is gated; it has: eth0 wg0"),
            ("[gate]\ninterfaces = [\"eth0\", \"eth1\"]\n", "no interface \"eth1\" now"),
            ("[limits]\nmax_duration = \"1h\"\n", "[[port]] 22/tcp max_duration: 3h"),
            ("[[controller]]\nidentity = \"c\"\nmay = [\"grant\"]\n", "does not listen"),
            (
                "[control]\nlisten = \"0.0.0.0:7443\"\ncertificate = \"a\"\nkey = \"b\"\n\
                 client_ca = \"c\"\n",
                "nobody may connect",
            ),
            (exempt, "192.0.2.5 (probe) has ended"),
        ] {
            let doubts = of(&format!("{QUIET}{extra}"));
            assert!(doubts.iter().any(|doubt| doubt.contains(expected)), "{extra}: {doubts:?}");
        }
        let ended =
            QUIET.replacen("prod.pem\"\n", "prod.pem\"\nnot_after = \"2026-01-01T00:00:00Z\"\n", 1);
        let doubts = of(&ended);
        assert!(doubts.iter().any(|doubt| doubt.contains("nothing can be opened")), "{doubts:?}");
        assert!(doubts.iter().any(|doubt| doubt.contains("counts no longer since")), "{doubts:?}");
        assert!(of("[host]\nid = \"h\"\n").iter().any(|doubt| doubt.contains("no [[port]]")));
    }
}

//! What `check` and `doctor` say of certificates and keys. `control` judges them; here it becomes
//! findings. Pure.

use std::{io, time::Duration};

use jit_proto::{WallTime, words::duration_text};

use super::settings::above;
use crate::{
    config::{Config, DEFAULT_MAX_DURATION, KeyFault},
    control::tls::{HubMaterial, Material, TlsError},
    gate::about::CertificateEnd,
    oncall::finding::Finding,
    system::{
        owner::{KEY_GROUP, STATUS_GROUP},
        sys::FileError,
    },
};

pub(in crate::oncall) const CERTIFICATE: &str = "certificate";
pub(super) const KEY: &str = "private-key";
const CLIENT_CA: &str = "client-ca";
pub(super) const SIGNERS: &str = "signers";
const CONTROLLERS: &str = "controllers";
/// What ends within this time has to be renewed.
const SOON: Duration = Duration::from_secs(14 * 86_400);
const ANEW: &str =
    "issue it anew, put it in place, then `jit-agent check` and `systemctl reload jit-agent`";

/// A file that cannot be used.
pub(in crate::oncall) fn unusable(error: &TlsError, is_root: bool) -> Finding {
    let (key, cause, denied) = match error {
        TlsError::File { key, error, .. } => (*key, error.to_string(), is_denied(error)),
        TlsError::NotNow { why, .. } => ("certificate", why.clone(), false),
        TlsError::Content { key, path, cause, .. } => (*key, format!("{path}: {cause}"), false),
    };
    let check = check_of(key);
    if denied && !is_root {
        return Finding::unseen(check, cause).fix("sudo jit-agent doctor");
    }
    let commands = quoted(&cause);
    let section = error.section();
    let finding = Finding::failure(check, format!("[{section}] {key}: {cause}"));
    let finding = finding.at(format!("{section}.{key}"));
    let finding = match error {
        TlsError::File { error: FileError::Io { path, .. }, .. } if denied => finding.fix(format!(
            "chgrp {group} {path} && chmod g+r {path}; its directories need g+x",
            group = if key == "key" { KEY_GROUP } else { STATUS_GROUP },
            path = path.display()
        )),
        TlsError::File { error: FileError::Io { path, .. }, .. } => finding.fix(format!(
            "put the file there, or name another in [{section}] {key}: {}",
            path.display()
        )),
        _ => finding,
    };
    let finding = commands.into_iter().fold(finding, Finding::fix);
    if finding.fix.is_empty() { finding.fix(ANEW) } else { finding }
}

fn is_denied(error: &FileError) -> bool {
    matches!(error, FileError::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
}

fn check_of(key: &str) -> &'static str {
    match key {
        "key" => KEY,
        "client_ca" | "ca" => CLIENT_CA,
        _ => CERTIFICATE,
    }
}

fn at_of(check: &str) -> &'static str {
    if check == CLIENT_CA { "control.client_ca" } else { "control.certificate" }
}

/// The commands in a sentence: what stands in backquotes and has a blank.
fn quoted(text: &str) -> Vec<String> {
    let inside = text.split('`').skip(1).step_by(2).filter(|one| one.contains(' '));
    inside.map(str::to_owned).collect()
}

/// What a controller objects to, now or soon.
pub(in crate::oncall) fn of_material(material: &Material, now: WallTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = material.not_now(now) {
        findings.push(
            Finding::failure(CERTIFICATE, format!("{why}: no controller can connect"))
                .at("control.certificate")
                .fix(ANEW),
        );
    }
    let known = findings.len();
    for doubt in material.doubts(now) {
        let text = doubt.strip_prefix("[control] ").unwrap_or(&doubt);
        let check = if text.starts_with("client_ca") { CLIENT_CA } else { CERTIFICATE };
        // That it has ended is said already.
        if check == CLIENT_CA || known == 0 {
            let (seen, fix) = text.rsplit_once("; ").unwrap_or((text, ANEW));
            findings.push(Finding::warning(check, seen).at(at_of(check)).fix(fix));
        }
    }
    for (key, subject, end) in material.ends() {
        let Some(left) = end.since(now).filter(|left| *left < SOON) else { continue };
        let left = duration_text(left);
        let seen = format!("[control] {key}: {subject} ends in {left}, at {end}");
        findings.push(Finding::warning(check_of(key), seen).at(format!("control.{key}")).fix(ANEW));
    }
    let shown = material.certificates();
    for (check, begin, ok) in [
        (CERTIFICATE, "certificate", "a controller that trusts its authority accepts it"),
        (CLIENT_CA, "client_ca", "it can vouch for controllers"),
    ] {
        let line = shown.iter().find_map(|line| line.strip_prefix(begin));
        if findings.iter().all(|finding| finding.check != check) {
            let line = line.unwrap_or_default().trim();
            findings.push(Finding::ok(check, format!("{ok}: {line}")));
        }
    }
    findings.push(Finding::ok(KEY, "the key fits the certificate, and nobody else can read it"));
    findings
}

/// What a hub objects to, now or soon.
pub(in crate::oncall) fn of_uplink(material: &HubMaterial, now: WallTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = material.not_now(now) {
        let finding = Finding::failure(CERTIFICATE, format!("{why}: no hub accepts it"));
        findings.push(finding.at("uplink.certificate").fix(ANEW));
    }
    for (key, facts) in material.facts() {
        let CertificateEnd { at: end, soon } = facts.end();
        let subject = facts.subject;
        let Some(left) = end.since(now) else {
            if key == "ca" {
                let seen = format!("[uplink] ca: {subject} ended at {end}: it vouches for no hub");
                findings.push(Finding::warning(CLIENT_CA, seen).at("uplink.ca").fix(ANEW));
            }
            continue;
        };
        if left < soon {
            let left = duration_text(left);
            let seen = format!("[uplink] {key}: {subject} ends in {left}, at {end}");
            let finding = Finding::warning(check_of(key), seen);
            findings.push(finding.at(format!("uplink.{key}")).fix(ANEW));
        }
    }
    if findings.is_empty() {
        let seen = "a hub that trusts the authority of [uplink] certificate accepts it";
        findings.push(Finding::ok(CERTIFICATE, seen));
    }
    findings
}

/// Signers whose key cannot be used, does not count, or not as long as it says.
pub(in crate::oncall) fn signers(
    config: &Config,
    faults: &[KeyFault],
    now: WallTime,
) -> Vec<Finding> {
    let missing = faults.iter().map(unusable_key);
    let mut findings: Vec<_> = missing.collect();
    let keyring = &config.keyring;
    let window = "give the section another window (not_before, not_after), or a new key; then \
                  `systemctl reload jit-agent`";
    if keyring.most_approvals(|signer| signer.mandate.valid_at(now).is_ok()) == 0 {
        let none = "no [[signer]] may sign grants now: nothing can be opened";
        findings.push(Finding::failure(SIGNERS, none).fix(window));
    }
    for signer in keyring.signers() {
        let (section, id) = (signer.section(), &signer.id);
        let warning = |what: String, key| {
            Finding::warning(SIGNERS, what).about(id.clone()).at_signer(id, key)
        };
        if let Err(beyond) = signer.mandate.valid_at(now) {
            let key = match signer.mandate.not_after {
                Some(end) if end <= now => "not_after",
                _ => "not_before",
            };
            let what = format!("[[{section}]] {id:?} {}", beyond.detail);
            findings.push(warning(what, key).fix(window));
        }
        let longest = signer.mandate.max_duration;
        let key = format!("[[{section}]] {id:?} max_duration");
        let what = above(&key, longest, config.policy.max_duration());
        if let Some(what) = what.filter(|_| longest != DEFAULT_MAX_DURATION) {
            let fix = "set the shorter duration in both places";
            findings.push(warning(what, "max_duration").fix(fix));
        }
        if let Some(end) = signer.mandate.not_after
            && let Some(left) = end.since(now).filter(|left| *left < SOON)
        {
            let left = duration_text(left);
            let what = format!("[[{section}]] {id:?} counts for {left} more, until {end}");
            let fix =
                format!("add the next key as a [[{section}]] of its own, or set not_after later");
            findings.push(warning(what, "not_after").fix(fix));
        }
    }
    if findings.is_empty() {
        let seen = match keyring.signers().len() {
            1 => "the only signer counts now".to_owned(),
            number => format!("all {number} signers count now"),
        };
        return vec![Finding::ok(SIGNERS, seen)];
    }
    findings
}

/// A signer without a key.
pub(super) fn unusable_key(fault: &KeyFault) -> Finding {
    let KeyFault { section, id, path, why, .. } = fault;
    let seen = format!("[[{section}]] {id:?}: {why}: nothing that this key signs opens");
    Finding::failure(SIGNERS, seen)
        .about(id.clone())
        .at_signer(id, "public_key")
        .fix(format!("put the public key at {}, or remove the section", path.display()))
}

/// Whether the controllers can connect.
pub(in crate::oncall) fn controllers(config: &Config) -> Finding {
    if let (None, Some(uplink), number @ 1..) =
        (&config.control, &config.uplink, config.controllers.len())
    {
        let hubs: Vec<_> = uplink.hubs.iter().map(ToString::to_string).collect();
        let seen = format!("{number} may call, over the uplink to {}", hubs.join(" or "));
        return Finding::ok(CONTROLLERS, seen);
    }
    if config.uplink.is_some() && config.controllers.is_empty() {
        let seen = "[uplink] without a [[controller]]: no hub may call";
        return Finding::warning(CONTROLLERS, seen).at("uplink").fix(
            "add a [[controller]] with identity, a name in the hub's certificate, and what it may \
             do; then `systemctl reload jit-agent`",
        );
    }
    match (&config.control, config.controllers.as_slice()) {
        (Some(control), [_, ..]) => {
            let number = config.controllers.len();
            Finding::ok(CONTROLLERS, format!("{number} may connect, to {}", control.listen))
        }
        (None, []) => {
            let seen = "the agent does not listen: grants come by the local socket alone";
            Finding::ok(CONTROLLERS, seen)
        }
        (Some(_), []) => {
            let seen = "[control] without a [[controller]]: nobody may connect";
            Finding::warning(CONTROLLERS, seen).at("control").fix(
                "add a [[controller]] with identity, a name in its certificate, and what it may do; \
                 then `systemctl reload jit-agent`",
            )
        }
        (None, [_, ..]) => {
            let seen = "[[controller]] without [control]: the agent does not listen";
            Finding::warning(CONTROLLERS, seen).at("controller.0").fix(
                "add [control] with listen, certificate, key and client_ca, or remove the \
                 [[controller]] sections; then `systemctl restart jit-agent`",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};

    use super::*;
    use crate::oncall::finding::{At, Level};

    const NOW: WallTime = WallTime(1_800_000_000_000);
    const QUIET: &str = "[host]\nid = \"h\"\n[[port]]\nport = 22\nprotocol = \"tcp\"\n\
        sources = [\"10.0.0.0/8\"]\n[[signer]]\nid = \"prod\"\npublic_key = \"prod.pem\"\n";

    fn config(more: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(directory.path().join("prod.pem"), pem).unwrap();
        let text = format!("{QUIET}{more}");
        Config::parse(&text, &directory.path().join("config.toml")).unwrap()
    }

    #[test]
    fn what_a_sentence_says_to_run_is_what_to_do() {
        let text = "/a is a secret; then `chmod o= /a`; see `status`";
        assert_eq!(quoted(text), ["chmod o= /a"]);
    }

    #[test]
    fn a_signer_without_a_key_or_out_of_its_time_is_named() {
        let fault = KeyFault {
            section: "signer",
            id: "next".into(),
            path: "/etc/jit-agent/next.pem".into(),
            line: 3,
            why: "public_key: cannot read".into(),
            kept: false,
        };
        let [one] = &signers(&config(""), &[fault], NOW)[..] else { panic!("not one") };
        assert_eq!(
            (one.level, &one.at),
            (Level::Failure, &At::Signer("next".into(), "public_key"))
        );
        for (more, levels, key) in [
            ("", vec![Level::Ok], None),
            ("not_after = \"2027-01-28T00:00:00Z\"", vec![Level::Warning], Some("not_after")),
            ("not_after = \"2027-02-28T00:00:00Z\"", vec![Level::Ok], None),
            (
                "not_after = \"2026-01-01T00:00:00Z\"",
                vec![Level::Failure, Level::Warning],
                Some("not_after"),
            ),
            (
                "not_before = \"2028-01-01T00:00:00Z\"",
                vec![Level::Failure, Level::Warning],
                Some("not_before"),
            ),
            (
                "max_duration = \"2h\"\n[limits]\nmax_duration = \"1h\"",
                vec![Level::Warning],
                Some("max_duration"),
            ),
        ] {
            let found = signers(&config(more), &[], NOW);
            let seen: Vec<_> = found.iter().map(|one| one.level).collect();
            assert_eq!(seen, levels, "{more}: {found:?}");
            let at = key.map_or(At::Nowhere, |key| At::Signer("prod".into(), key));
            assert_eq!(found.last().map(|one| &one.at), Some(&at), "{more}");
        }
    }

    #[test]
    fn controllers_that_cannot_connect_are_named() {
        let of = |text: &str| controllers(&config(text));
        assert_eq!(of("").level, Level::Ok);
        let controller = "[[controller]]\nidentity = \"c\"\nmay = [\"grant\"]\n";
        assert!(of(controller).seen.contains("does not listen"));
        let control = "[control]\nlisten = \"0.0.0.0:7443\"\ncertificate = \"a\"\nkey = \"b\"\n\
                       client_ca = \"c\"\n";
        assert!(of(control).seen.contains("nobody may connect"));
        assert_eq!(of(&format!("{control}{controller}")).level, Level::Ok);
        let uplink = "[uplink]\nhubs = [\"hub.example.org:443\"]\ncertificate = \"a\"\n\
                      key = \"b\"\nca = \"c\"\n";
        assert!(of(uplink).seen.contains("no hub may call"));
        let both = of(&format!("{uplink}{controller}"));
        assert!(both.level == Level::Ok && both.seen.contains("uplink to hub.example.org:443"));
    }
}

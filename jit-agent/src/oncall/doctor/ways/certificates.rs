//! Certificates and keys from the other side: whether a controller accepts this host, and whether a
//! signer's key counts. The files are read as the service reads them; what they say is judged by
//! `control`, and by the same functions as in `check`.

use std::{fs, io, time::Duration};

use jit_proto::{SourcePrefix, WallTime, prefix::ip, words::duration_text};

use super::as_service;
use crate::{
    config::{Config, Control, KeyFault, Loaded},
    control::tls::{Material, TlsError},
    oncall::{
        check::doubts,
        doctor::{finding::Finding, host::Host},
    },
    system::{
        owner::{KEY_GROUP, STATUS_GROUP},
        sys::{self, FileError},
    },
};

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private-key";
const CLIENT_CA: &str = "client-ca";
const SIGNERS: &str = "signers";
const CONTROLLERS: &str = "controllers";
/// What ends within this time has to be renewed.
const SOON: Duration = Duration::from_secs(14 * 86_400);
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
const ANEW: &str =
    "issue it anew, put it in place, then `jit-agent check` and `systemctl reload jit-agent`";

/// The findings; none without a configuration.
pub(super) fn findings(host: &Host, loaded: Option<&Loaded>, own: &[SourcePrefix]) -> Vec<Finding> {
    let Some(Loaded { config, faults, .. }) = loaded else { return Vec::new() };
    let now = sys::now().wall;
    let mut findings = Vec::new();
    if let Some(control) = &config.control {
        match as_service(host, || Material::read(control)) {
            Err(error) => findings.push(Finding::unseen(CERTIFICATE, error.to_string())),
            Ok(Err(error)) => findings.push(unusable(&error, host.is_root)),
            Ok(Ok(material)) => {
                findings.extend(of_material(&material, now));
                // The id of a cloud's resource says nothing of names.
                if is_name(&config.host) {
                    findings.extend(names(&material.hosts(), &names_of(config, control, own)));
                }
            }
        }
    }
    findings.extend(signers(config, faults, now));
    findings.push(controllers(config));
    findings
}

/// A file that cannot be used.
fn unusable(error: &TlsError, is_root: bool) -> Finding {
    let (key, cause, denied) = match error {
        TlsError::File { key, error } => (*key, error.to_string(), is_denied(error)),
        TlsError::NotNow(why) => ("certificate", why.clone(), false),
        TlsError::Content { key, path, cause } => (*key, format!("{path}: {cause}"), false),
    };
    let check = check_of(key);
    if denied && !is_root {
        return Finding::unseen(check, cause).fix("sudo jit-agent doctor");
    }
    let commands = quoted(&cause);
    let finding = Finding::failure(check, format!("[control] {key}: {cause}"));
    let finding = match error {
        TlsError::File { error: FileError::Io { path, .. }, .. } if denied => finding.fix(format!(
            "chgrp {group} {path} && chmod g+r {path}; its directories need g+x",
            group = if key == "key" { KEY_GROUP } else { STATUS_GROUP },
            path = path.display()
        )),
        TlsError::File { error: FileError::Io { path, .. }, .. } => finding.fix(format!(
            "put the file there, or name another in [control] {key}: {}",
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
        "client_ca" => CLIENT_CA,
        _ => CERTIFICATE,
    }
}

/// The commands in a sentence: what stands in backquotes and has a blank.
fn quoted(text: &str) -> Vec<String> {
    let inside = text.split('`').skip(1).step_by(2).filter(|one| one.contains(' '));
    inside.map(str::to_owned).collect()
}

/// What a controller objects to, now or soon.
fn of_material(material: &Material, now: WallTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = material.not_now(now) {
        findings.push(
            Finding::failure(CERTIFICATE, format!("{why}: no controller can connect")).fix(ANEW),
        );
    }
    let known = findings.len();
    for doubt in material.doubts(now) {
        let text = doubt.strip_prefix("[control] ").unwrap_or(&doubt);
        let check = if text.starts_with("client_ca") { CLIENT_CA } else { CERTIFICATE };
        // That it has ended is said already.
        if check == CLIENT_CA || known == 0 {
            let (seen, fix) = text.rsplit_once("; ").unwrap_or((text, ANEW));
            findings.push(Finding::warning(check, seen).fix(fix));
        }
    }
    for (key, subject, end) in material.ends() {
        let Some(left) = end.since(now).filter(|left| *left < SOON) else { continue };
        let left = duration_text(left);
        let seen = format!("[control] {key}: {subject} ends in {left}, at {end}");
        findings.push(Finding::warning(check_of(key), seen).fix(ANEW));
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

/// The names and addresses by which this host may be reached.
fn names_of(config: &Config, control: &Control, own: &[SourcePrefix]) -> Vec<String> {
    let listen = control.listen.ip();
    let addresses: Vec<_> = if listen.is_unspecified() {
        own.iter().map(|own| ip(own.address())).filter(|ip| !ip.is_loopback()).collect()
    } else {
        vec![listen]
    };
    let host_name = fs::read_to_string(HOST_NAME).unwrap_or_default();
    let names = [config.host.clone(), host_name.trim().to_owned()].into_iter();
    let names = names.filter(|name| !name.is_empty() && name != "(none)" && name != "localhost");
    let mut names: Vec<_> = names.collect();
    names.dedup();
    names.extend(addresses.iter().map(ToString::to_string));
    names
}

fn is_name(id: &str) -> bool {
    id.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
}

/// `hosts`: those of the certificate. `names`: those of this host.
fn names(hosts: &[String], names: &[String]) -> Option<Finding> {
    let fits = hosts.iter().any(|host| names.iter().any(|name| stands_for(host, name)));
    if fits || names.is_empty() {
        return None;
    }
    let (hosts, names) = (hosts.join(", "), names.join(", "));
    Some(
        Finding::warning(
            CERTIFICATE,
            format!(
                "the certificate is for {hosts}, and this host is {names}: a controller that dials \
                 one of these refuses it"
            ),
        )
        .about("names")
        .fix("issue it with the name or address by which controllers dial this host")
        .fix("if they dial it by one of the certificate's names, leave it"),
    )
}

/// Whether a name of a certificate may stand for this host: `web-1.example.org` for `web-1`, too.
fn stands_for(host: &str, name: &str) -> bool {
    let (host, name) = (host.to_ascii_lowercase(), name.to_ascii_lowercase());
    let longer = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'))
    };
    match host.strip_prefix("*.") {
        Some(domain) => {
            let below = name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
            below || !name.contains(['.', ':'])
        }
        None => host == name || longer(&host, &name) && !name.contains('.'),
    }
}

fn signers(config: &Config, faults: &[KeyFault], now: WallTime) -> Vec<Finding> {
    let missing = faults.iter().map(|fault| {
        let KeyFault { id, path, why, .. } = fault;
        let seen = format!("[[signer]] {id:?}: {why}: nothing that this key signs opens");
        let finding = Finding::failure(SIGNERS, seen).about(id.clone());
        finding.fix(format!("put the public key at {}, or remove the section", path.display()))
    });
    let doubts = doubts::signers(config, now).into_iter().map(signer_doubt);
    let soon = config.keyring.signers().iter().filter_map(|signer| {
        let end = signer.mandate.not_after?;
        let left = end.since(now).filter(|left| *left < SOON)?;
        let (id, left) = (&signer.id, duration_text(left));
        let seen = format!("[[signer]] {id:?} counts for {left} more, until {end}");
        let fix = "add the next key as a [[signer]] of its own, or set not_after later";
        Some(Finding::warning(SIGNERS, seen).about(id.clone()).fix(fix))
    });
    let findings: Vec<_> = missing.chain(doubts).chain(soon).collect();
    if findings.is_empty() {
        let seen = match config.keyring.signers().len() {
            1 => "the only signer counts now".to_owned(),
            number => format!("all {number} signers count now"),
        };
        return vec![Finding::ok(SIGNERS, seen)];
    }
    findings
}

fn signer_doubt(doubt: String) -> Finding {
    let none = doubt.ends_with("nothing can be opened");
    let fix = if none || doubt.contains(" counts ") {
        "give the section another window (not_before, not_after), or a new key; then `systemctl reload \
         jit-agent`"
    } else {
        "set the shorter duration in both places"
    };
    let finding = if none { Finding::failure } else { Finding::warning };
    finding(SIGNERS, doubt).fix(fix)
}

fn controllers(config: &Config) -> Finding {
    let number = config.controllers.len();
    let (seen, fix) = match (doubts::controllers(config), &config.control) {
        (None, Some(control)) => {
            return Finding::ok(
                CONTROLLERS,
                format!("{number} may connect, to {}", control.listen),
            );
        }
        (None, None) => {
            let seen = "the agent does not listen: grants come by the local socket alone";
            return Finding::ok(CONTROLLERS, seen);
        }
        (Some(doubt), Some(_)) => (
            doubt,
            "add a [[controller]] with identity, a name in its certificate, and what it may do; then \
             `systemctl reload jit-agent`",
        ),
        (Some(doubt), None) => (
            doubt,
            "add [control] with listen, certificate, key and client_ca, or remove the [[controller]] \
             sections; then `systemctl restart jit-agent`",
        ),
    };
    let seen = seen.rsplit_once("; ").map_or(seen.as_str(), |(seen, _)| seen);
    Finding::warning(CONTROLLERS, seen).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{config, port},
        *,
    };
    use crate::oncall::doctor::finding::Level;

    const NOW: WallTime = WallTime(1_800_000_000_000);

    #[test]
    fn a_certificate_fits_by_the_id_the_host_name_or_an_address() {
        let hosts = ["web-1", "198.51.100.1", "2001:db8::1"].map(str::to_owned);
        for (name, fits) in [
            ("web-1", true),
            ("WEB-1.example.org", true),
            ("*.example.org", true),
            ("198.51.100.1", true),
            ("2001:db8::1", true),
            ("web-10.example.org", false),
            ("web-2", false),
            ("198.51.100.2", false),
        ] {
            assert_eq!(names(&[name.to_owned()], &hosts).is_none(), fits, "{name}");
        }
        let whole = ["db.example.org".to_owned()];
        for (name, fits) in [
            ("db.example.org", true),
            ("*.example.org", true),
            ("*.example.com", false),
            ("db.example.org.example.com", false),
        ] {
            assert_eq!(names(&[name.to_owned()], &whole).is_none(), fits, "{name}");
        }
        let found = names(&["web-2".to_owned()], &hosts).unwrap();
        assert!(found.seen.contains("is for web-2, and this host is web-1, 198.51.100.1"));
        assert!(names(&["web-2".to_owned()], &[]).is_none(), "nobody knows");
        assert!(is_name("web-1.example.org"));
        assert!(!is_name("arn:aws:ec2:eu-west-1:111122223333:instance/i-0abc"));
    }

    #[test]
    fn what_a_sentence_says_to_run_is_what_to_do() {
        let text = "/a is a secret; then `chmod o= /a`; see `status`";
        assert_eq!(quoted(text), ["chmod o= /a"]);
    }

    #[test]
    fn a_signer_that_ends_soon_or_has_no_key_is_named() {
        let config = config(&port("22", ""));
        let levels = |config: &Config, faults: &[KeyFault]| -> Vec<_> {
            signers(config, faults, NOW).into_iter().map(|one| one.level).collect()
        };
        assert_eq!(levels(&config, &[]), [Level::Ok]);
        let fault = KeyFault {
            id: "next".into(),
            path: "/etc/jit-agent/next.pem".into(),
            line: 3,
            why: "public_key: cannot read".into(),
            kept: false,
        };
        assert_eq!(levels(&config, &[fault]), [Level::Failure]);
        let mut ends = config;
        for (days, expected) in [(13, Level::Warning), (15, Level::Ok)] {
            let end = WallTime(NOW.0 + days * 86_400_000);
            ends.keyring = ends.keyring.signers().iter().cloned().fold(
                crate::rules::keyring::Keyring::default(),
                |mut keyring, signer| {
                    let mut mandate = signer.mandate.clone();
                    mandate.not_after = Some(end);
                    keyring.add(signer.with_mandate(mandate)).unwrap();
                    keyring
                },
            );
            assert_eq!(levels(&ends, &[]), [expected], "{days}");
        }
    }

    #[test]
    fn controllers_that_cannot_connect_are_named() {
        let level = |text: &str| controllers(&config(text)).level;
        assert_eq!(level(""), Level::Ok);
        let controller = "[[controller]]\nidentity = \"c\"\nmay = [\"grant\"]\n";
        assert_eq!(level(controller), Level::Warning);
    }
}

//! Certificates and keys from the other side: whether a controller accepts this host, and whether a
//! signer's key counts. The files are read as the service reads them; what they say is judged by
//! `control`, and by the same functions as in `check`.

use std::fs;

use jit_proto::{SourcePrefix, prefix::ip};

use super::as_service;
use crate::{
    config::{Config, Control, Loaded},
    control::tls::{HubMaterial, Material},
    disk::renewed,
    oncall::{
        check::certificates::{
            CERTIFICATE, controllers, of_material, of_uplink, signers, unusable,
        },
        doctor::host::Host,
        finding::Finding,
    },
    system::{image::Files, sys},
};

const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The findings; none without a configuration.
pub(super) fn findings(host: &Host, loaded: Option<&Loaded>, own: &[SourcePrefix]) -> Vec<Finding> {
    let Some(Loaded { config, faults, .. }) = loaded else { return Vec::new() };
    let now = sys::now().wall;
    let mut findings = Vec::new();
    if let Some(control) = &config.control {
        match as_service(host, || Material::examine(control, &Files::Host)) {
            Err(error) => findings.push(Finding::unseen(CERTIFICATE, error.to_string())),
            Ok(Err(errors)) => {
                findings.extend(errors.iter().map(|error| unusable(error, host.is_root)));
            }
            Ok(Ok(material)) => {
                findings.extend(of_material(&material, now));
                // The id of a cloud's resource says nothing of names.
                if !config.auto_host && is_name(&config.host) {
                    findings.extend(names(&material.hosts(), &names_of(config, control, own)));
                }
            }
        }
    }
    if let Some(uplink) = &config.uplink {
        let kept = renewed::path(&config.paths.state);
        match as_service(host, || HubMaterial::examine_in_use(uplink, &kept, &Files::Host)) {
            Err(error) => findings.push(Finding::unseen(CERTIFICATE, error.to_string())),
            Ok(Err(errors)) => {
                findings.extend(errors.iter().map(|error| unusable(error, host.is_root)));
            }
            Ok(Ok(material)) => findings.extend(of_uplink(&material, now)),
        }
    }
    findings.extend(signers(config, faults, now));
    findings.push(controllers(config));
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

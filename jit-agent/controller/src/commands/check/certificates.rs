//! Certificates: that they belong to their keys, are valid now, and bear the names that they need.

use std::path::Path;

use jit_client::{
    files::read_text,
    pem::{Holds, certificates, private_key},
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::super::output::moment;
use crate::{config::Config, fleet::HubSettings, health::Findings};

/// A certificate that ends within this time is worth a warning, milliseconds.
const SOON_MS: i64 = 14 * 86_400_000;
/// Files that the controller opens for other things than agents.
const OTHER_FILES: usize = 512;

pub(super) fn check(config: &Config, now_ms: i64, findings: &mut Findings) {
    pair(&config.api.certificate, &config.api.key, Names::Server, now_ms, findings);
    pair(&config.agents.certificate, &config.agents.key, Names::Uri, now_ms, findings);
    authority(&config.agents.ca, now_ms, findings);
    if let Some(hub) = &config.agents.hub {
        let own = hub.certificate != config.agents.certificate;
        port(hub, own, hub.client_ca != config.agents.ca, now_ms, findings);
    }
    for one in &config.syslog {
        match one.receiver() {
            Ok(_) => findings.good("syslog", format!("{}: its files are good", one.server)),
            Err(error) => findings.error("syslog", error.to_string()),
        }
        if let Some((certificate, key)) = &one.own {
            pair(certificate, key, Names::Any, now_ms, findings);
        }
    }
}

/// The files of a hub that has no `[agents]` beside it.
pub(super) fn of_hub(hub: &HubSettings, now_ms: i64, findings: &mut Findings) {
    port(hub, true, true, now_ms, findings);
}

/// Where agents connect. `certificate`, `ca`: they were not looked at before.
fn port(hub: &HubSettings, certificate: bool, ca: bool, now_ms: i64, findings: &mut Findings) {
    if certificate {
        pair(&hub.certificate, &hub.key, Names::Uri, now_ms, findings);
    }
    // Agents check the name under which they connect.
    pair(&hub.certificate, &hub.key, Names::Server, now_ms, findings);
    if ca {
        authority(&hub.client_ca, now_ms, findings);
    }
    files(hub.connections, findings);
}

/// Whether each connection to a hub can have its file.
fn files(connections: usize, findings: &mut Findings) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let room = limit.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let room = room.saturating_sub(OTHER_FILES);
    if room < connections {
        let text = format!(
            "[hub] connections = {connections}, and this shell may open files for {room} agents: raise \
             LimitNOFILE of the service"
        );
        findings.warn("hub", text);
    } else {
        findings.good("hub", format!("room for {connections} agents"));
    }
}

/// Which names a certificate must bear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Any,
    /// A DNS name or an address.
    Server,
    /// The identity in agents' `[[controller]]`.
    Uri,
}

fn pair(certificate: &Path, key: &Path, names: Names, now_ms: i64, findings: &mut Findings) {
    let about = certificate.display().to_string();
    match read_pair(certificate, key) {
        Err(why) => findings.error(about, why),
        Ok(leaf) => look(&about, &leaf, names, now_ms, findings),
    }
}

/// The leaf of a chain whose key is in this file.
fn read_pair(certificate: &Path, key: &Path) -> Result<CertificateDer<'static>, String> {
    let text = read_text(certificate, "the certificate").map_err(|error| error.to_string())?;
    let chain = certificates(&text, Holds::Both).map_err(|error| error.to_string())?;
    let text = read_text(key, "its private key").map_err(|error| error.to_string())?;
    let private = private_key(&text, Holds::Both)
        .map_err(|error| format!("cannot use {}: {error}", key.display()))?;
    let leaf = chain.first().cloned().ok_or("it is empty")?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&private)
        .map_err(|error| format!("cannot use {}: {error}", key.display()))?;
    match CertifiedKey::new(chain, signing).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(leaf)
        }
        Err(_) => Err(format!(
            "the private key {} does not belong to it; name the two files of one pair",
            key.display()
        )),
    }
}

fn look(
    about: &str,
    leaf: &CertificateDer<'_>,
    names: Names,
    now_ms: i64,
    findings: &mut Findings,
) {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return findings.error(about, "it is no certificate (X.509)");
    };
    if !in_time(about, &certificate, now_ms, findings) {
        return;
    }
    let borne = certificate.subject_alternative_name().ok().flatten();
    let borne = borne.map(|names| names.value.general_names.clone()).unwrap_or_default();
    let shown: Vec<_> = borne
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) if names != Names::Uri => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) if names != Names::Uri => address(bytes),
            GeneralName::URI(uri) if names != Names::Server => Some((*uri).to_owned()),
            _ => None,
        })
        .collect();
    match (names, shown.is_empty()) {
        (Names::Server, true) => findings.error(
            about,
            "it bears no DNS name and no address: nobody can connect; issue one with the names of \
             the controller",
        ),
        (Names::Uri, true) => findings.warn(
            about,
            "it bears no URI: agents know it only by a DNS name in their [[controller]]; one with a \
             URI such as spiffe://example.org/jit-controller is clearer",
        ),
        _ => findings.good(
            about,
            format!(
                "for {}; until {}",
                if shown.is_empty() { "any".to_owned() } else { shown.join(", ") },
                moment(end(&certificate))
            ),
        ),
    }
}

fn authority(file: &Path, now_ms: i64, findings: &mut Findings) {
    let about = file.display().to_string();
    let read = read_text(file, "the agents' CA").map_err(|error| error.to_string());
    let read =
        read.and_then(|text| certificates(&text, Holds::One).map_err(|error| error.to_string()));
    let all = match read {
        Ok(all) => all,
        Err(why) => return findings.error(about, why),
    };
    for one in &all {
        match X509Certificate::from_der(one) {
            Ok((_, certificate)) if !certificate.is_ca() => findings.error(
                about.as_str(),
                "a certificate in it is no authority; name the CA that issued the agents' \
                 certificates",
            ),
            Ok((_, certificate)) => {
                if in_time(&about, &certificate, now_ms, findings) {
                    let until = moment(end(&certificate));
                    findings
                        .good(about.as_str(), format!("an authority for agents; until {until}"));
                }
            }
            Err(_) => findings.error(about.as_str(), "a certificate in it is none (X.509)"),
        }
    }
}

fn in_time(
    about: &str,
    certificate: &X509Certificate<'_>,
    now_ms: i64,
    findings: &mut Findings,
) -> bool {
    let begin = certificate.validity().not_before.timestamp().saturating_mul(1000);
    let end = end(certificate);
    if now_ms < begin {
        let text = format!("it is not valid before {}; look at the clock", moment(begin));
        findings.error(about, text);
        return false;
    }
    if now_ms >= end {
        findings.error(about, format!("it has ended at {}; renew it", moment(end)));
        return false;
    }
    if end - now_ms < SOON_MS {
        findings.warn(about, format!("it ends at {}; renew it", moment(end)));
    }
    true
}

fn end(certificate: &X509Certificate<'_>) -> i64 {
    certificate.validity().not_after.timestamp().saturating_mul(1000)
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => {
            <[u8; 4]>::try_from(bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string())
        }
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        _ => None,
    }
}

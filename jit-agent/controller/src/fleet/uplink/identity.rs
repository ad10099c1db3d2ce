//! Which host has dialled: what its certificate says. Pure.
//!
//! A host URI names it exactly. A certificate without one is known by its DNS names, if exactly one host of
//! the inventory has one of them as its id or `server_name`. Whoever bears a URI of the hub's own
//! certificate is a controller: no host, whatever other names it has.

use std::collections::BTreeSet;

use jit_client::HostUri;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::super::roster::Roster;

/// The names in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Names {
    pub(super) dns: BTreeSet<String>,
    pub(super) uri: BTreeSet<String>,
}

/// Who the hub is, and whose hosts it takes.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Own {
    /// The names in its certificate.
    pub(super) names: Names,
    /// The trust domain of its hosts; `None`: that of whoever its CA vouches for.
    pub(super) trust_domain: Option<String>,
}

impl Names {
    /// Of a certificate; none of what is no certificate.
    pub(super) fn of(certificate: &[u8]) -> Self {
        let mut names = Self::default();
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return names };
        let Ok(Some(extension)) = parsed.subject_alternative_name() else { return names };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => drop(names.dns.insert((*name).to_owned())),
                GeneralName::URI(uri) => drop(names.uri.insert((*uri).to_owned())),
                _ => {}
            }
        }
        names
    }
}

/// The id of the host with these names.
///
/// # Errors
/// A sentence that says why it is no host, or not one of the inventory.
pub(in super::super) fn host(names: &Names, own: &Own, roster: &Roster) -> Result<String, String> {
    match by_uri(names, own)? {
        None => by_dns(names, roster),
        Some(host) if roster.find(&host).is_some() => Ok(host),
        Some(host) => Err(format!(
            "its certificate names the host {host:?}, which the inventory has not: add it with `jitctl \
             hosts add`"
        )),
    }
}

/// The id of the host with these names, where there is no inventory: only a host URI says it.
///
/// # Errors
/// A sentence that says why it is no host.
#[cfg(feature = "nats")]
pub(in super::super) fn host_by_uri(names: &Names, own: &Own) -> Result<String, String> {
    by_uri(names, own)?.ok_or_else(|| {
        "its certificate bears no host URI, and this hub has no inventory: issue it with `jitctl pki \
         issue --host-id`"
            .to_owned()
    })
}

/// The host that a URI names; `None`: none does.
fn by_uri(names: &Names, own: &Own) -> Result<Option<String>, String> {
    if let Some(uri) = names.uri.intersection(&own.names.uri).next() {
        return Err(format!(
            "its certificate bears {uri}, the name of this controller: it is no host's"
        ));
    }
    let uris: Vec<HostUri> = names.uri.iter().filter_map(|uri| uri.parse().ok()).collect();
    match &uris[..] {
        // A DNS name is of no trust domain: without this, leaving the URI out would do.
        [] => match &own.trust_domain {
            Some(domain) => Err(format!(
                "its certificate bears no host URI, and [hub] trust_domain is {domain:?}: issue it with \
                 `jitctl pki issue --host-id`"
            )),
            None => Ok(None),
        },
        [uri] => match &own.trust_domain {
            Some(domain) if domain != uri.trust_domain() => Err(format!(
                "its certificate names a host of {:?}, and [hub] trust_domain is {domain:?}",
                uri.trust_domain()
            )),
            _ => Ok(Some(uri.host().to_owned())),
        },
        several => Err(format!("its certificate names {} hosts", several.len())),
    }
}

fn by_dns(names: &Names, roster: &Roster) -> Result<String, String> {
    let found: BTreeSet<String> = names.dns.iter().flat_map(|name| roster.named(name)).collect();
    let mut found = found.into_iter();
    let listed = || names.dns.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match (found.next(), found.next()) {
        (Some(host), None) => Ok(host),
        (Some(one), Some(other)) => Err(format!(
            "the names of its certificate ({}) are those of several hosts, such as {one:?} and \
             {other:?}: issue it with a host URI (`jitctl pki issue --host-id`)",
            listed()
        )),
        (None, _) if names.dns.is_empty() => Err(
            "its certificate bears neither a host URI nor a DNS name: issue it with `jitctl pki \
             issue --host-id`"
                .to_owned(),
        ),
        (None, _) => Err(format!(
            "no host of the inventory has a name of its certificate ({}) as its id or server name",
            listed()
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Host;

    fn roster() -> Roster {
        let roster = Roster::default();
        for (id, server_name) in
            [("web-1", "web.example.org"), ("db-1", "db.example.org"), ("db-2", "db.example.org")]
        {
            let (id, server_name) = (id.to_owned(), server_name.to_owned());
            roster.add(Arc::new(Host { id, server_name, ..Host::default() }));
        }
        roster
    }

    #[test]
    #[cfg(feature = "nats")]
    fn without_an_inventory_only_a_host_uri_counts() {
        let own = Own::default();
        let uri = ["spiffe://example.org/host/x".to_owned()].into();
        let uri = Names { uri, ..Names::default() };
        assert_eq!(host_by_uri(&uri, &own), Ok("x".to_owned()));
        let same = Own { names: uri.clone(), ..Own::default() };
        assert!(host_by_uri(&uri, &same).unwrap_err().contains("this controller"));
        let dns = Names { dns: ["web-1".to_owned()].into(), ..Names::default() };
        assert!(host_by_uri(&dns, &own).unwrap_err().contains("no host URI"));
    }

    #[test]
    fn a_host_of_another_trust_domain_is_none_whatever_its_ca_says() {
        let of = |domain: &str| Own { trust_domain: Some(domain.to_owned()), ..Own::default() };
        let uri = ["spiffe://example.org/host/web-1".to_owned()].into();
        let names = Names { uri, dns: ["web-1".to_owned()].into() };
        assert_eq!(host(&names, &of("example.org"), &roster()), Ok("web-1".to_owned()));
        let why = host(&names, &of("example.com"), &roster()).unwrap_err();
        assert!(why.contains("\"example.org\"") && why.contains("\"example.com\""), "{why}");
        // Its name alone, or beside a URI of something else there, says no trust domain.
        for uri in ["spiffe://example.com/ns/web-1", "spiffe://Example.org/host/web-1"] {
            let names = Names { uri: [uri.to_owned()].into(), ..names.clone() };
            let why = host(&names, &of("example.org"), &roster()).unwrap_err();
            assert!(why.contains("no host URI"), "{uri}: {why}");
        }
        let names = Names { uri: BTreeSet::new(), ..names };
        assert!(host(&names, &of("example.org"), &roster()).unwrap_err().contains("no host URI"));
        assert_eq!(host(&names, &Own::default(), &roster()), Ok("web-1".to_owned()));
    }

    fn found(dns: &[&str], uri: &[&str]) -> Result<String, String> {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names = Names { uri: set(&["spiffe://example.org/controller"]), ..Names::default() };
        let own = Own { names, trust_domain: None };
        host(&Names { dns: set(dns), uri: set(uri) }, &own, &roster())
    }

    #[test]
    fn a_host_uri_decides_and_otherwise_exactly_one_name() {
        for (dns, uri, expected) in [
            (&["db.example.org"][..], &["spiffe://example.org/host/web-1"][..], "web-1"),
            (&["web.example.org"], &[], "web-1"),
            (&["WEB.example.org"], &["spiffe://example.org/ns/a"], "web-1"),
            (&["web-1", "web.example.org", "x.example.org"], &[], "web-1"),
            (&["db-2"], &[], "db-2"),
        ] {
            assert_eq!(found(dns, uri), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn who_is_no_host_or_several_is_refused_with_a_sentence() {
        for (dns, uri, expected) in [
            (&["db.example.org"][..], &[][..], "several hosts"),
            (&["web-1", "db-1"], &[], "several hosts"),
            (&["x.example.org"], &[], "no host of the inventory"),
            (&[], &[], "neither"),
            (&["web-1"], &["spiffe://example.org/host/other"], "the inventory has not"),
            (&["web-1"], &["spiffe://example.org/controller"], "this controller"),
            (
                &[],
                &["spiffe://example.org/host/web-1", "spiffe://example.org/host/db-1"],
                "names 2 hosts",
            ),
        ] {
            let why = found(dns, uri).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
        assert_eq!(Names::of(b"no certificate"), Names::default());
    }
}

//! Ports that lead to another port, a container or another machine: past the packet gate's list of
//! ports, or with the wrong `terminates`. Pure.

use std::{collections::BTreeMap, ops::RangeInclusive};

use jit_common::{PortKey, Protocol};

use super::{
    Seen,
    listeners::known_for,
    nat::{ALL, Translation},
    port_text, section,
};
use crate::oncall::finding::Finding;

const REDIRECTS: &str = "redirects";
const TERMINATES: &str = "terminates";
const PUBLISHED: &str = "published-ports";
/// Most translations that are named for one check.
const NAMED: usize = 32;
/// What else to do with a published port.
const OR_PUBLISH: &str = "or publish it on loopback alone (-p 127.0.0.1:PORT:PORT), or leave it if it \
                          is for everybody";
/// Programs that take a container's port on the host in its place.
const PROXIES: [&str; 4] = ["docker-proxy", "rootlessport", "pasta", "slirp4netns"];

/// The findings.
pub(super) fn findings(seen: &Seen<'_>) -> Vec<Finding> {
    let mut all: BTreeMap<&str, Vec<Finding>> = BTreeMap::new();
    let proxied = proxies(seen);
    let translated = seen.nat.translations.iter().flat_map(|one| judge(one, seen));
    let of_sections = ends_here(seen);
    for finding in translated.chain(proxied).chain(of_sections) {
        let same = all.entry(finding.check).or_default();
        if same.iter().all(|known| known.about != finding.about) {
            same.push(finding);
        }
    }
    let mut findings = Vec::new();
    for (check, ok) in [
        (REDIRECTS, "no unprotected port leads to a protected one"),
        (TERMINATES, "the protected ports end where the configuration says"),
        (PUBLISHED, "no container publishes an unprotected port"),
    ] {
        let found = all.remove(check).unwrap_or_default();
        let more = found.len().saturating_sub(NAMED);
        if found.is_empty() && seen.nat.unseen.is_empty() {
            findings.push(Finding::ok(check, ok));
        }
        findings.extend(found.into_iter().take(NAMED));
        if more > 0 {
            let seen = format!("and {more} more of the same kind");
            let list = "list them: nft list ruleset; iptables-save -t nat; ip6tables-save -t nat";
            findings.push(Finding::warning(check, seen).fix(list));
        }
    }
    let fix = if seen.is_root { "install nft and iptables-save" } else { "sudo jit-agent doctor" };
    findings.extend(seen.nat.unseen.iter().map(|why| {
        let seen = format!("what this host translates (NAT) is not known: {why}");
        Finding::unseen(REDIRECTS, seen).fix(fix)
    }));
    findings
}

/// What is wrong with a translation: for the ports on the wire that are protected, and for the others.
fn judge(one: &Translation, seen: &Seen<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let key = |port| PortKey { protocol: one.protocol, port };
    let on_wire = seen
        .protected
        .iter()
        .filter(|(port, _)| port.protocol == one.protocol && one.ports.contains(&port.port));
    for (port, rule) in on_wire {
        match (one.address, rule.forwarded != 0) {
            (Some(to), false) => findings.push(wrong(*port, "forwarded", &to.to_string(), one)),
            (None, true) => findings.push(wrong(*port, "host", "this host itself", one)),
            (None, false) => findings.extend(bare(*port, one, seen)),
            (Some(_), true) => {}
        }
    }
    let open = |port: &u16| !seen.protected.contains_key(&key(*port));
    // Of a range the first that is open stands for all.
    let Some(first) = one.ports.clone().find(open) else { return findings };
    let ends: Vec<_> = one.to.clone().unwrap_or_else(|| one.ports.clone()).collect();
    let protected = ends.iter().find(|port| !open(port)).copied();
    // Without a number of its own, an open port leads to itself.
    let protected = protected.filter(|_| one.to.is_some());
    // What takes every port, as a proxy does, is not made for one service.
    let chosen = one.protocol == Protocol::Tcp && one.ports != ALL;
    let known = ends.iter().filter(|_| chosen).find_map(|port| known_for(*port));
    // An engine's redirect to this host itself is for its own containers: their name service.
    if one.published && one.address.is_some() {
        findings.push(published(one, first));
    } else if let Some(port) = protected {
        findings.push(past(one, &port_text(key(port)), seen));
    } else if let (Some(_), Some(what)) = (one.address, known) {
        findings.push(past(one, what, seen));
    }
    findings
}

/// A protected port with the wrong `terminates`.
fn wrong(port: PortKey, right: &str, to: &str, one: &Translation) -> Finding {
    let what = if right == "forwarded" {
        "its sessions are looked for on this host and not found: they stop when their grant ends, \
         and the socket guard does not see them"
    } else {
        "its sessions are not looked for on this host, and end with their grant"
    };
    let text = port_text(port);
    Finding::warning(
        TERMINATES,
        format!("{text} leads to {to}, and the section says otherwise: {what}"),
    )
    .about(text.clone())
    .fix(format!("in [[port]] {text}: terminates = \"{right}\"; then `systemctl reload jit-agent`"))
    .fix(format!("the rule: {}", one.list))
}

/// A protected port whose service has another port, which is open.
fn bare(port: PortKey, one: &Translation, seen: &Seen<'_>) -> Option<Finding> {
    let to = *one.to.as_ref()?.start();
    let service = PortKey { port: to, ..port };
    let reachable =
        |listener: &super::Listener| listener.port == service && !listener.address.is_loopback();
    if seen.protected.contains_key(&service) || !seen.listeners.iter().any(reachable) {
        return None;
    }
    let (text, service) = (port_text(port), port_text(service));
    Some(
        Finding::warning(
            REDIRECTS,
            format!(
                "{text} is protected and leads to {service}, which is not: whoever connects to \
                 {service} needs no grant"
            ),
        )
        .about(service)
        .fix(section(&to.to_string(), port.protocol, false))
        .fix(format!("the rule: {}", one.list)),
    )
}

/// An unprotected port that leads to a service that is protected, or should be.
fn past(one: &Translation, service: &str, seen: &Seen<'_>) -> Finding {
    let from = ports_text(one.protocol, &one.ports);
    let to = one.address.map_or_else(|| "this host's".to_owned(), |to| format!("{to},"));
    let guard = seen.config.is_some_and(|config| config.gate.socket_guard);
    let seen = match (one.address, guard) {
        (None, true) => "the packet gate lets it pass: the socket guard alone closes it",
        (None, false) => {
            "nothing closes it: the packet gate lets it pass, and there is no socket guard"
        }
        (Some(_), _) => "no grant is needed: the gate knows the port on the wire alone",
    };
    let text = format!("{from} is not protected and leads to {to} {service}: {seen}");
    let open = one.address.is_none() && !guard;
    let finding =
        if open { Finding::failure(REDIRECTS, text) } else { Finding::warning(REDIRECTS, text) };
    finding
        .about(from)
        .fix(section(&number(&one.ports), one.protocol, one.address.is_some()))
        .fix(format!("or remove the rule: {}", one.list))
}

/// A port that a container engine opens.
fn published(one: &Translation, first: u16) -> Finding {
    let from = ports_text(one.protocol, &one.ports);
    let port = one.to.as_ref().map_or(first, |to| *to.start());
    let to = one.address.map(|to| to.to_string()).unwrap_or_default();
    let known = known_for(port).filter(|_| one.protocol == Protocol::Tcp);
    let known = known.map(|what| format!(" ({what})")).unwrap_or_default();
    Finding::warning(
        PUBLISHED,
        format!("{from} is published to {to}, port {port}{known}, and is not protected"),
    )
    .about(from)
    .fix(section(&number(&one.ports), one.protocol, true))
    .fix(OR_PUBLISH)
    .fix(format!("the rule: {}", one.list))
}

/// Containers' ports that a program on the host takes in their place, without a translation.
fn proxies(seen: &Seen<'_>) -> Vec<Finding> {
    let proxied = seen.listeners.iter().filter(|listener| {
        let process = listener.process.as_ref();
        let by_rule = |one: &Translation| {
            one.protocol == listener.port.protocol && one.ports.contains(&listener.port.port)
        };
        process.is_some_and(|process| PROXIES.iter().any(|name| process.is(name)))
            && !listener.address.is_loopback()
            && !seen.protected.contains_key(&listener.port)
            && !seen.nat.translations.iter().any(by_rule)
    });
    let finding = |listener: &super::Listener| {
        let (text, process) = (port_text(listener.port), listener.process.as_ref());
        let name = process.map(|process| process.name.clone()).unwrap_or_default();
        let seen = format!("{text} is published to a container by {name}, and is not protected");
        Finding::warning(PUBLISHED, seen)
            .about(text)
            .fix(section(&listener.port.port.to_string(), listener.port.protocol, false))
            .fix(OR_PUBLISH)
    };
    proxied.map(finding).collect()
}

/// Ports that are said to end elsewhere, and have a listener here and no translation.
fn ends_here(seen: &Seen<'_>) -> Vec<Finding> {
    if !seen.nat.unseen.is_empty() {
        return Vec::new();
    }
    let forwarded = seen.protected.iter().filter(|(_, rule)| rule.forwarded != 0);
    let here = forwarded.filter_map(|(port, _)| {
        let listener = seen
            .listeners
            .iter()
            .find(|listener| listener.port == *port && !listener.address.is_loopback())?;
        let translated = seen
            .nat
            .translations
            .iter()
            .any(|one| one.protocol == port.protocol && one.ports.contains(&port.port));
        (!translated).then_some((*port, listener))
    });
    let finding = |(port, listener): (PortKey, &super::Listener)| {
        let text = port_text(port);
        let process = listener.process.as_ref();
        let who = process.map_or_else(|| "a process".to_owned(), |process| process.name.clone());
        Finding::warning(
            TERMINATES,
            format!(
                "{text} is said to be forwarded, and {who} listens on it here: the socket guard does \
                 not judge it, and its sessions end with their grant"
            ),
        )
        .about(text.clone())
        .fix(format!("in [[port]] {text}: terminates = \"host\"; then `systemctl reload jit-agent`"))
    };
    here.map(finding).collect()
}

/// "2222/tcp", "8000-8010/tcp".
fn ports_text(protocol: Protocol, ports: &RangeInclusive<u16>) -> String {
    format!("{}/{}", number(ports), protocol.word())
}

fn number(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{config, listener, port, seen},
        *,
    };
    use crate::oncall::finding::Level;

    fn to(ports: RangeInclusive<u16>, address: Option<&str>, to: Option<u16>) -> Translation {
        Translation {
            protocol: Protocol::Tcp,
            ports,
            address: address.map(|address| address.parse().unwrap()),
            to: to.map(|port| port..=port),
            published: false,
            list: "nft list chain inet t p".into(),
        }
    }

    /// All but what is well, as "check about: seen".
    fn of(
        sections: &str,
        translations: &[Translation],
        listeners: &[super::super::Listener],
    ) -> Vec<String> {
        let config = config(sections);
        let mut seen = seen(Some(&config));
        seen.nat.translations = translations.to_vec();
        seen.listeners = listeners.to_vec();
        let found = findings(&seen);
        assert!(found.iter().all(|one| one.level == Level::Ok || !one.fix.is_empty()), "{found:?}");
        let bad = found.into_iter().filter(|one| one.level != Level::Ok);
        bad.map(|Finding { check, about, seen, .. }| format!("{check} {about}: {seen}")).collect()
    }

    #[test]
    fn an_unprotected_port_that_leads_to_a_protected_one_is_named() {
        for (translation, begin, says) in [
            (to(2222..=2222, None, Some(22)), "redirects 2222/tcp: ", "the socket guard alone"),
            (to(1..=65535, None, Some(22)), "redirects 1-65535/tcp: ", "this host's 22/tcp"),
            (
                to(2223..=2223, Some("172.17.0.2"), Some(22)),
                "redirects 2223/tcp: ",
                "leads to 172.17.0.2, 22/tcp: no grant is needed",
            ),
            (
                to(13389..=13389, Some("10.0.0.2"), Some(3389)),
                "redirects 13389/tcp: ",
                "leads to 10.0.0.2, RDP",
            ),
        ] {
            let found = of(&port("22", ""), &[translation], &[]);
            let [one] = found.as_slice() else { panic!("{found:?}") };
            assert!(one.starts_with(begin) && one.contains(says), "{one}");
        }
        let sections = "[gate]\nsocket_guard = false\n".to_owned() + &port("22", "");
        let config = config(&sections);
        let mut seen = seen(Some(&config));
        seen.nat.translations.push(to(2222..=2222, None, Some(22)));
        let found = findings(&seen);
        assert_eq!((found[0].level, found[0].check), (Level::Failure, REDIRECTS), "{found:?}");
    }

    #[test]
    fn a_service_behind_a_protected_port_must_be_protected_too() {
        let sections = port("22", "");
        let redirect = to(22..=22, None, Some(2022));
        let open = of(&sections, std::slice::from_ref(&redirect), &[listener(2022, "::", None)]);
        assert!(
            open[0].starts_with("redirects 2022/tcp: 22/tcp is protected and leads to 2022/tcp")
        );
        let local = [listener(2022, "127.0.0.1", None)];
        assert_eq!(of(&sections, std::slice::from_ref(&redirect), &local), [""; 0]);
        let both = sections + &port("2022", "");
        assert_eq!(of(&both, &[redirect], &[listener(2022, "::", None)]), [""; 0]);
    }

    #[test]
    fn where_a_protected_port_ends_must_be_as_the_section_says() {
        let forwarded = port("22", "terminates = \"forwarded\"");
        let away = to(22..=22, Some("172.17.0.2"), None);
        let here = to(22..=22, None, Some(22));
        for (sections, translation, wrong) in [
            (port("22", ""), &away, Some("terminates 22/tcp: 22/tcp leads to 172.17.0.2")),
            (forwarded.clone(), &here, Some("terminates 22/tcp: 22/tcp leads to this host itself")),
            (forwarded.clone(), &away, None),
            (port("22", ""), &here, None),
        ] {
            let found = of(&sections, std::slice::from_ref(translation), &[]);
            assert_eq!(found.len(), usize::from(wrong.is_some()), "{found:?}");
            assert!(wrong.is_none_or(|wrong| found[0].starts_with(wrong)), "{found:?}");
        }
        let found = of(&forwarded, &[], &[listener(22, "::", Some("sshd"))]);
        assert!(
            found[0].contains("said to be forwarded, and sshd listens on it here"),
            "{found:?}"
        );
        assert_eq!(of(&forwarded, &[away], &[listener(22, "::", Some("docker-proxy"))]), [""; 0]);
    }

    #[test]
    fn a_published_port_without_protection_is_named_once() {
        let rule = Translation { published: true, ..to(8080..=8080, Some("172.17.0.2"), Some(80)) };
        let proxy = [listener(8080, "0.0.0.0", Some("docker-proxy"))];
        for (rules, listeners) in [
            (vec![rule.clone()], vec![]),
            (vec![rule.clone()], proxy.to_vec()),
            (vec![], proxy.to_vec()),
        ] {
            let found = of(&port("22", ""), &rules, &listeners);
            let [one] = found.as_slice() else { panic!("{found:?}") };
            assert!(
                one.starts_with("published-ports 8080/tcp: 8080/tcp is published to "),
                "{one}"
            );
        }
        let protected = port("8080", "terminates = \"forwarded\"");
        assert_eq!(of(&protected, &[rule], &proxy), [""; 0]);
        let loopback = [listener(8080, "127.0.0.1", Some("docker-proxy"))];
        assert_eq!(of(&port("22", ""), &[], &loopback), [""; 0]);
    }

    #[test]
    fn translations_to_nothing_that_is_protected_are_well() {
        for translation in [
            to(80..=80, None, Some(8080)),
            to(443..=443, Some("10.0.0.2"), Some(8443)),
            to(1..=65535, Some("10.0.0.2"), None),
            Translation { published: true, ..to(53..=53, None, Some(1153)) },
        ] {
            assert_eq!(
                of(&port("3389", "terminates = \"forwarded\""), &[translation], &[]),
                [""; 0]
            );
        }
    }

    #[test]
    fn what_cannot_be_listed_is_said() {
        let mut seen = seen(None);
        seen.nat.unseen.push("there is no `nft` on this host".into());
        let found = findings(&seen);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert!(one.level == Level::Unseen && one.seen.contains("no `nft`"), "{one:?}");
    }
}

//! Protected ports that something is odd about: the host's own clients may send from them, nobody
//! listens there, or an exemption is odd. Pure but for the kernel's range of ports.

use jit_proto::{PortSection, WallTime};

use super::Seen;
use crate::{
    oncall::{
        check::settings::{EXEMPT, exemptions},
        finding::Finding,
    },
    system::local_ports::{ClientPort, LocalPorts},
};

const LOCAL: &str = "local-ports";
const SILENT: &str = "no-listener";

/// The findings; none without a configuration.
pub(super) fn findings(seen: &Seen<'_>, now: WallTime) -> Vec<Finding> {
    let Some(config) = seen.config else { return Vec::new() };
    let mut findings = of_host(seen);
    let good = "no exemption covers everybody, and none has ended";
    findings.extend(or_ok(exemptions(config.policy.sections(), now), EXEMPT, good));
    findings
}

/// Those that depend on the host.
pub(super) fn of_host(seen: &Seen<'_>) -> Vec<Finding> {
    let Some(config) = seen.config else { return Vec::new() };
    let sections = config.policy.sections();
    let mut findings = match LocalPorts::read() {
        Ok(ports) => local(ports.client_ports(sections), sections),
        Err(error) => vec![Finding::unseen(LOCAL, error.to_string())],
    };
    findings.extend(silent(sections, seen));
    findings
}

fn local(ports: Vec<ClientPort>, sections: &[PortSection]) -> Vec<Finding> {
    let findings: Vec<_> = ports
        .into_iter()
        .map(|ClientPort { range, what, reserved }| {
            let setting = format!("net.ipv4.ip_local_reserved_ports={reserved}");
            let file = "/etc/sysctl.d/60-jit-agent.conf";
            let index = sections.iter().position(|section| section.range == range);
            Finding::warning(LOCAL, what)
                .about(range.to_string())
                .at(format!("port.{}.port", index.unwrap_or_default()))
                .fix(format!("sysctl -w {setting}"))
                .fix(format!("echo '{setting}' > {file}"))
        })
        .collect();
    let ok = "the kernel gives no protected port to this host's own clients";
    or_ok(findings, LOCAL, ok)
}

/// Sections none of whose ports has a listener that can be reached. What leads elsewhere has none
/// here.
fn silent(sections: &[PortSection], seen: &Seen<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, section) in sections.iter().enumerate().filter(|(_, one)| !one.forwarded) {
        let range = section.range;
        let translated = seen.nat.translations.iter().any(|one| {
            let (first, last) = (*one.ports.start(), *one.ports.end());
            one.protocol == range.protocol && first <= range.last && range.first <= last
        });
        let at = || seen.listeners.iter().filter(|one| range.has(one.port));
        if translated || at().any(|one| !one.address.is_loopback()) {
            continue;
        }
        let local = at().next().is_some();
        let what = if local { "only loopback is listened on at" } else { "nothing listens on" };
        findings.push(
            Finding::warning(SILENT, format!("{what} {range}, which is protected"))
                .about(range.to_string())
                .at(format!("port.{index}.port"))
                .fix(
                    "start the service, or mend the number of the port; if the service is not meant \
                     to run on this host, remove the section",
                )
                .fix("if it is a container or another machine: terminates = \"forwarded\""),
        );
    }
    or_ok(findings, SILENT, "something listens on every protected port")
}

fn or_ok(findings: Vec<Finding>, check: &'static str, ok: &str) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(check, ok)] } else { findings }
}

#[cfg(test)]
mod tests {
    use jit_common::Protocol;

    use super::{
        super::{
            nat::Translation,
            tests::{config, listener, port, seen},
        },
        *,
    };
    use crate::oncall::finding::Level;

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|one| one.level).collect()
    }

    #[test]
    fn a_protected_port_of_clients_is_named_with_the_setting() {
        let ports = LocalPorts::of("32768 60999", "8080").unwrap();
        let sections = config(&(port("40000", "") + &port("22", "")));
        let all = local(ports.client_ports(sections.policy.sections()), sections.policy.sections());
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.level, one.about.as_str()), (Level::Warning, "40000/tcp"));
        assert_eq!(one.fix[0], "sysctl -w net.ipv4.ip_local_reserved_ports=8080,40000");
        assert!(!one.seen.contains("sysctl"), "{}", one.seen);
        assert_eq!(levels(&local(Vec::new(), &[])), [Level::Ok]);
    }

    #[test]
    fn a_protected_port_without_a_listener_is_named() {
        let forwarded = port("8443", "terminates = \"forwarded\"");
        let config = config(&(port("22", "") + &port("5985-5986", "") + &forwarded));
        let of = |listeners: Vec<_>| {
            let seen = Seen { listeners, ..seen(Some(&config)) };
            silent(config.policy.sections(), &seen)
        };
        let served = of(vec![listener(22, "::", None), listener(5986, "0.0.0.0", None)]);
        assert_eq!(levels(&served), [Level::Ok]);
        let local = of(vec![listener(22, "127.0.0.1", None), listener(5986, "::", None)]);
        assert!(local[0].seen.starts_with("only loopback is listened on at 22/tcp"), "{local:?}");
        let none = of(Vec::new());
        assert_eq!(
            none.iter().map(|one| &one.about[..]).collect::<Vec<_>>(),
            ["22/tcp", "5985-5986/tcp"]
        );
    }

    #[test]
    fn a_port_that_leads_elsewhere_needs_no_listener() {
        let config = config(&port("22", ""));
        let mut seen = seen(Some(&config));
        seen.nat.translations.push(Translation {
            protocol: Protocol::Tcp,
            ports: 22..=22,
            address: None,
            to: Some(2022..=2022),
            published: false,
            list: String::new(),
        });
        assert_eq!(levels(&silent(config.policy.sections(), &seen)), [Level::Ok]);
    }
}

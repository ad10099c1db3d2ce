//! What a host protects after a policy of Defender came to it: its own sections, with Defender's
//! ports taken out of them and put beside. Pure.
//!
//! Defender has words for sources and the longest time only. All else that a section says
//! (approvals, exemptions, sessions) stays as it was: a policy from there takes no second approver
//! away. A port that is Defender's no more is again what it was before. What somebody has changed
//! there since is the host's own: nothing older returns over it.

use std::time::Duration;

use jit_client::controller::defender::{Port, Protocol};
use jit_common::Protocol as Transport;
use jit_proto::{
    PortRange, PortSection, Sessions,
    port_section::{DEFAULT_APPROVALS, DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6, to_toml},
    v1,
};

/// Sections of a host.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Merged {
    /// What it should protect.
    pub(super) sections: Vec<PortSection>,
    /// Defender's among them.
    pub(super) brought: Vec<PortSection>,
    /// Defender's that are there now. They stay if the host refuses the new ones.
    pub(super) had: Vec<PortSection>,
    /// What stood at the ports of both before Defender came.
    pub(super) replaced: Vec<PortSection>,
}

/// What a host should protect that protects `now`. `known`: what Defender brought to it, or tried
/// to, in the place of `replaced`.
pub(super) fn merged(
    now: &[PortSection],
    known: &[PortSection],
    replaced: &[PortSection],
    wanted: &[Port],
) -> Merged {
    let is_there = |ours: &&PortSection| {
        within(now, ours.range).is_some_and(|there| in_order(&there) == in_order(ours))
    };
    let mut had: Vec<PortSection> = Vec::new();
    for section in known.iter().filter(is_there) {
        if had.iter().all(|other| other.range != section.range) {
            had.push(section.clone());
        }
    }
    let ours: Vec<_> = had.iter().map(|section| section.range).collect();
    let mut own = without(now, &ours);
    own.extend(replaced.iter().filter(|section| ours.contains(&section.range)).cloned());
    let ports: Vec<(PortRange, &Port)> = wanted
        .iter()
        .flat_map(|port| ranges(port).into_iter().map(move |range| (range, port)))
        .collect();
    let mut taken: Vec<_> = ports.iter().map(|(range, _)| *range).collect();
    let mut sections = without(&own, &taken);
    let mut brought = Vec::new();
    for (range, port) in ports {
        let before = now.iter().chain(&own).find(|section| holds(section.range, range));
        brought.push(section(range, port, before));
    }
    sections.extend(brought.iter().cloned());
    taken.extend(ours.into_iter().filter(|range| brought.iter().all(|new| new.range != *range)));
    let replaced = taken.iter().flat_map(|range| within(&own, *range)).collect();
    let key = |section: &PortSection| (section.range.protocol.word(), section.range.first);
    sections.sort_by_key(key);
    Merged { sections, brought, had, replaced }
}

/// A section whose sources are in the order of their texts: a host may list them in another.
fn in_order(section: &PortSection) -> PortSection {
    let mut sources = section.sources.clone();
    sources.sort_by_cached_key(ToString::to_string);
    sources.dedup();
    PortSection { sources, ..section.clone() }
}

/// The sections as TOML, as a policy is kept.
pub(super) fn text(sections: &[PortSection]) -> String {
    let each = sections.iter().map(|section| to_toml(&v1::PolicyPort::from(section)));
    each.collect::<Vec<_>>().join("\n")
}

/// The ports that a port of Defender means.
pub(super) fn ranges(port: &Port) -> Vec<PortRange> {
    let of = |protocol| PortRange { protocol, first: port.number, last: port.number };
    match port.protocol {
        Protocol::All => vec![of(Transport::Tcp), of(Transport::Udp)],
        Protocol::Tcp => vec![of(Transport::Tcp)],
        Protocol::Udp => vec![of(Transport::Udp)],
    }
}

fn section(range: PortRange, port: &Port, before: Option<&PortSection>) -> PortSection {
    let fresh = PortSection {
        range,
        observe: false,
        sources: Vec::new(),
        widest_v4: DEFAULT_WIDEST_V4,
        widest_v6: DEFAULT_WIDEST_V6,
        max_duration: Duration::ZERO,
        approvals: DEFAULT_APPROVALS,
        sessions: Sessions::Drain,
        forwarded: false,
        exemptions: Vec::new(),
    };
    let millis = u64::try_from(port.longest.millis()).unwrap_or(0);
    PortSection {
        range,
        observe: false,
        sources: port.sources(),
        max_duration: Duration::from_millis(millis),
        ..before.cloned().unwrap_or(fresh)
    }
}

/// Whether a range has this one in it.
pub(super) fn holds(range: PortRange, other: PortRange) -> bool {
    range.protocol == other.protocol && range.first <= other.first && range.last >= other.last
}

/// The sections without these ports, each of which is a single one.
fn without(sections: &[PortSection], ports: &[PortRange]) -> Vec<PortSection> {
    let mut left = sections.to_vec();
    for port in ports {
        left = left.iter().flat_map(|section| split(section, *port)).collect();
    }
    left
}

/// What is left and right of a port.
fn split(section: &PortSection, port: PortRange) -> Vec<PortSection> {
    if !holds(section.range, port) {
        return vec![section.clone()];
    }
    let PortRange { protocol, first, last } = section.range;
    let part =
        |first, last| PortSection { range: PortRange { protocol, first, last }, ..section.clone() };
    let before = port.first.checked_sub(1).filter(|end| *end >= first).map(|end| part(first, end));
    let after =
        port.last.checked_add(1).filter(|begin| *begin <= last).map(|begin| part(begin, last));
    before.into_iter().chain(after).collect()
}

/// What sections say of one port.
fn within(sections: &[PortSection], port: PortRange) -> Option<PortSection> {
    let section = sections.iter().find(|section| holds(section.range, port))?;
    Some(PortSection { range: port, ..section.clone() })
}

#[cfg(test)]
mod tests {
    use jit_client::controller::defender::Policy;
    use jit_proto::PolicyFile;
    use serde_json::{Value, json};

    use super::*;

    fn sections(text: &str) -> Vec<PortSection> {
        text.parse::<PolicyFile>().unwrap().sections
    }

    fn ports(value: Value) -> Vec<Port> {
        Policy::kept_ports(&value).unwrap()
    }

    fn names(sections: &[PortSection]) -> Vec<String> {
        sections.iter().map(|section| section.range.to_string()).collect()
    }

    /// SSH for an hour, DNS in both protocols.
    fn wanted() -> Vec<Port> {
        ports(json!([
            {"number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "198.51.100.0/24",
                "maxRequestAccessDuration": "PT1H"},
            {"number": 53, "protocol": "*", "maxRequestAccessDuration": "P1D"},
        ]))
    }

    const OWN: &str = "
[[port]]
port = \"20-25\"
protocol = \"tcp\"
sources = [\"203.0.113.0/24\"]
approvals = 2
sessions = \"cut\"
max_duration = \"2h\"

[[port]]
port = 5432
protocol = \"tcp\"
sources = [\"203.0.113.0/24\"]
";

    #[test]
    fn a_host_keeps_what_defender_does_not_name() {
        let own = sections(OWN);
        let merged = merged(&own, &[], &[], &wanted());
        assert_eq!(
            names(&merged.sections),
            ["20-21/tcp", "22/tcp", "23-25/tcp", "53/tcp", "5432/tcp", "53/udp"]
        );
        let ssh = &merged.sections[1];
        assert_eq!(ssh.sources, ["198.51.100.0/24".parse().unwrap()]);
        assert_eq!(ssh.max_duration, Duration::from_secs(3600));
        // No approver and no cut was taken away.
        assert_eq!((ssh.approvals, ssh.sessions), (2, Sessions::Cut));
        assert_eq!(merged.sections[3].sources.len(), 2);
        assert_eq!(names(&merged.replaced), ["22/tcp"]);
        // What is written can be read again.
        assert_eq!(sections(&text(&merged.sections)), merged.sections);
    }

    #[test]
    fn a_port_that_is_defenders_no_more_is_what_it_was() {
        let own = sections(OWN);
        let first = merged(&own, &[], &[], &wanted());
        let gone = merged(&first.sections, &first.brought, &first.replaced, &[]);
        assert_eq!(names(&gone.sections), ["20-21/tcp", "22/tcp", "23-25/tcp", "5432/tcp"]);
        let all_as_before = gone.sections.iter().all(|section| {
            own.iter().any(|before| {
                PortSection { range: before.range, ..section.clone() } == *before
                    && holds(before.range, section.range)
            })
        });
        assert!(all_as_before, "{gone:#?}");
        assert!(gone.brought.is_empty());
        // It is known until it has come to the host.
        let done = merged(&gone.sections, &gone.had, &gone.replaced, &[]);
        assert!(done.had.is_empty() && done.replaced.is_empty() && done.sections == gone.sections);
    }

    /// What somebody makes of a port that Defender has.
    fn changed(of: &Merged, change: impl Fn(&mut PortSection)) -> Vec<PortSection> {
        let mut now = of.sections.clone();
        let ssh = now.iter_mut().find(|section| section.range.to_string() == "22/tcp");
        change(ssh.unwrap());
        now
    }

    #[test]
    fn what_somebody_changed_since_is_not_replaced_by_what_was_before() {
        let first =
            merged(&sections(&OWN.replace("approvals = 2", "approvals = 1")), &[], &[], &wanted());
        let stricter = changed(&first, |ssh| ssh.approvals = 3);
        // Defender's policy goes, or is put without the port.
        let gone = merged(&stricter, &first.brought, &first.replaced, &[]);
        assert_eq!(names(&gone.sections), ["20-21/tcp", "22/tcp", "23-25/tcp", "5432/tcp"]);
        assert_eq!(gone.sections[1].approvals, 3);
        // It is put again: the stricter one stays, also after the end.
        let again = merged(&stricter, &first.brought, &first.replaced, &wanted());
        assert_eq!((again.sections[1].approvals, again.replaced[0].approvals), (3, 3));
        let gone = merged(&again.sections, &again.brought, &again.replaced, &[]);
        assert_eq!(gone.sections[1].approvals, 3);
        // A port that somebody took from the host does not return.
        let mut without = first.sections.clone();
        without.retain(|section| section.range.to_string() != "22/tcp");
        let gone = merged(&without, &first.brought, &first.replaced, &[]);
        assert_eq!(names(&gone.sections), ["20-21/tcp", "23-25/tcp", "5432/tcp"]);
        // Somebody wrote the whole range again.
        let own = sections(OWN);
        assert_eq!(merged(&own, &first.brought, &first.replaced, &[]).sections, own);
    }

    #[test]
    fn another_order_of_sources_is_no_change() {
        let own = sections(OWN);
        let two =
            ports(json!([{"number": 22, "protocol": "TCP", "maxRequestAccessDuration": "PT1H",
            "allowedSourceAddressPrefixes": ["203.0.113.0/24", "198.51.100.0/24"]}]));
        let first = merged(&own, &[], &[], &two);
        let turned = changed(&first, |ssh| ssh.sources.reverse());
        let gone = merged(&turned, &first.brought, &first.replaced, &[]);
        assert_eq!(gone.sections[1].sources, ["203.0.113.0/24".parse().unwrap()]);
        assert_eq!(gone.sections[1].approvals, 2);
    }

    #[test]
    fn the_same_twice_and_a_host_that_refused_change_nothing() {
        let own = sections(OWN);
        let first = merged(&own, &[], &[], &wanted());
        let again = merged(&first.sections, &first.brought, &first.replaced, &wanted());
        assert_eq!(again, Merged { had: first.brought.clone(), ..first.clone() });
        // It was noted and did not come to the host.
        let refused = merged(&own, &first.brought, &first.replaced, &wanted());
        assert_eq!(refused, first);
    }

    #[test]
    fn what_a_host_kept_when_it_refused_the_next_is_still_defenders() {
        let own = sections(OWN);
        let first = merged(&own, &[], &[], &wanted());
        let other = ports(json!([
            {"number": 5432, "protocol": "TCP", "maxRequestAccessDuration": "PT2H"},
        ]));
        let second = merged(&first.sections, &first.brought, &first.replaced, &other);
        assert_eq!(names(&second.had), ["22/tcp", "53/tcp", "53/udp"]);
        // The host refused the second one: it has the first.
        let known = [second.brought, second.had].concat();
        let gone = merged(&first.sections, &known, &second.replaced, &[]);
        assert_eq!(names(&gone.sections), ["20-21/tcp", "22/tcp", "23-25/tcp", "5432/tcp"]);
        assert_eq!(gone.sections[1].sources, own[0].sources);
        assert_eq!(gone.sections[3], own[1]);
    }
}

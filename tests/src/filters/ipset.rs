//! iptables with an ipset whose elements have timeouts.

use std::fmt::Write as _;

use super::{Filter, Granted, LASTS, filter::output_of};
use crate::{live::Lane, netns::Namespace};

/// Drops in the chain INPUT.
pub fn ipset(granted: Granted) -> Filter {
    let lane = Lane::new();
    let host = &lane.host;
    load(host, "granted4", "inet", granted.v4());
    load(host, "granted6", "inet6", granted.v6());
    for (program, set) in [("iptables", "granted4"), ("ip6tables", "granted6")] {
        let rule = format!("-A INPUT -p tcp --dport 22 -m set ! --match-set {set} src -j DROP");
        output_of(host, program, &rule.split(' ').collect::<Vec<_>>(), "");
    }
    Filter::new("iptables, ipset", lane, (), |lane| {
        ["iptables", "ip6tables"].into_iter().map(|program| dropped(&lane.host, program)).sum()
    })
}

fn load<T: std::fmt::Display>(
    host: &Namespace,
    set: &str,
    family: &str,
    granted: impl Iterator<Item = T>,
) {
    let mut text =
        format!("create {set} hash:ip family {family} timeout {LASTS} maxelem 1048576\n");
    for address in granted {
        writeln!(text, "add {set} {address}").expect("a string grows");
    }
    output_of(host, "ipset", &["restore"], &text);
}

/// Packets that the only rule of INPUT dropped.
fn dropped(host: &Namespace, program: &str) -> u64 {
    let text = output_of(host, program, &["-nvxL", "INPUT"], "");
    let rule = text.lines().find(|line| line.contains("match-set"));
    let packets = rule.and_then(|line| line.split_whitespace().next());
    packets.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no rule: {text}"))
}

//! nftables with sets whose elements have timeouts.

use super::{
    Filter, Granted, LASTS,
    filter::{listed, output_of},
};
use crate::{
    live::{INTERFACE, Lane},
    netns::Namespace,
};

/// Drops at the device: the ingress hook of the family `netdev`.
pub fn ingress(granted: Granted) -> Filter {
    let lane = Lane::new();
    let (v4, v6) = (listed(granted.v4(), ""), listed(granted.v6(), ""));
    gate_at_ingress(&lane.host, &[INTERFACE], [&v4, &v6]);
    Filter::new("nftables ingress", lane, (), |lane| dropped(&lane.host, "netdev"))
}

/// Drops where packets for the host itself arrive: the input hook of the family `inet`.
pub fn input(granted: Granted) -> Filter {
    let lane = Lane::new();
    let hook = "type filter hook input priority filter;";
    let (v4, v6) = (listed(granted.v4(), ""), listed(granted.v6(), ""));
    load(&lane.host, "inet", hook, [&v4, &v6]);
    Filter::new("nftables input", lane, (), |lane| dropped(&lane.host, "inet"))
}

/// Closes port 22 at these devices to all but these sources, IPv4 and IPv6, each separated by
/// commas.
pub fn gate_at_ingress(host: &Namespace, devices: &[&str], granted: [&str; 2]) {
    let devices = devices.join(", ");
    let hook = format!("type filter hook ingress devices = {{ {devices} }} priority 0;");
    load(host, "netdev", &hook, granted);
}

/// Packets that the table of this family dropped.
pub fn dropped(host: &Namespace, family: &str) -> u64 {
    let text = output_of(host, "nft", &["-j", "list", "counter", family, "gate", "denied"], "");
    let answer: serde_json::Value = serde_json::from_str(&text).expect("nft answers with JSON");
    let counters = answer.get("nftables").and_then(serde_json::Value::as_array);
    let packets = counters.into_iter().flatten().find_map(|one| one.pointer("/counter/packets"));
    packets.and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no counter: {text}"))
}

fn load(host: &Namespace, family: &str, hook: &str, [v4, v6]: [&str; 2]) {
    let rules = format!(
        r#"
table {family} gate {{
    set granted4 {{ type ipv4_addr; flags timeout; timeout {LASTS}s; elements = {{ {v4} }}; }}
    set granted6 {{ type ipv6_addr; flags timeout; timeout {LASTS}s; elements = {{ {v6} }}; }}
    counter denied {{ }}
    chain in {{
        {hook}
        tcp dport 22 ip saddr != @granted4 counter name denied drop
        tcp dport 22 ip6 saddr != @granted6 counter name denied drop
    }}
}}
"#
    );
    output_of(host, "nft", &["-f", "-"], &rules);
}

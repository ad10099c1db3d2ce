//! What this host translates on the way in (NAT): which port on the wire leads where. From the rules
//! of nftables and of both kinds of iptables, as their own programs list them.
//!
//! A rule's other conditions (source, time, sets of another program) are taken as if they held: what
//! may lead to a port is worth a look. Not followed are rules for packets from loopback, and for
//! destinations that are none of this host's addresses. Only [`Nat::read`] asks the host.

mod iptables;
mod nftables;

use std::{collections::BTreeMap, fs, net::IpAddr, ops::RangeInclusive};

use jit_common::Protocol;
use jit_proto::SourcePrefix;

use crate::{
    kernel::netlink::netfilter,
    system::tool::{ToolError, output},
};

/// The most chains that one packet is followed through, and the most rules that are looked at.
const DEEPEST: usize = 16;
const MOST_STEPS: usize = 200_000;
/// Begins of the names of tables and chains in which container engines publish ports: Docker by
/// iptables and by nftables, CNI (Podman before 4), Netavark (Podman), kube-proxy, LXD, Incus.
const PUBLISHERS: [&str; 9] =
    ["DOCKER", "docker", "CNI-", "NETAVARK", "netavark", "nv_", "KUBE-", "lxd", "incus"];
/// Legacy tables of this network namespace that are in use. Listing another would make it.
const LEGACY: [(&str, &str); 2] = [
    ("/proc/net/ip_tables_names", "iptables-legacy-save"),
    ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
];

/// All ports of a protocol.
pub(super) const ALL: RangeInclusive<u16> = 1..=u16::MAX;

/// Translations of destinations.
#[derive(Debug, Default)]
pub(super) struct Nat {
    /// Each way to another port or address.
    pub(super) translations: Vec<Translation>,
    /// Why there may be more.
    pub(super) unseen: Vec<String>,
}

/// Ports on the wire that lead to another port or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    /// TCP or UDP.
    pub(super) protocol: Protocol,
    /// On the wire.
    pub(super) ports: RangeInclusive<u16>,
    /// Where to; `None`: to this host itself.
    pub(super) address: Option<IpAddr>,
    /// To which ports; `None`: to the same.
    pub(super) to: Option<RangeInclusive<u16>>,
    /// A container engine made it.
    pub(super) published: bool,
    /// How to list the rule: "nft list chain inet t p".
    pub(super) list: String,
}

/// A table of rules.
#[derive(Debug, Default)]
struct Table {
    /// How to list a chain of it, but for the chain's name.
    list: String,
    /// A container engine made it.
    published: bool,
    chains: BTreeMap<String, Vec<Rule>>,
    /// The chains where packets that come in begin.
    begins: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug)]
struct Rule {
    only: Only,
    action: Action,
}

/// What a rule does.
#[derive(Clone, Debug)]
enum Action {
    /// The packet goes on in this chain.
    Jump(String),
    /// The packet goes to another place.
    Translate { address: Option<IpAddr>, to: Option<RangeInclusive<u16>> },
}

/// Which packets a rule, or the way to it, is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Only {
    /// `None`: both.
    protocol: Option<Protocol>,
    /// `None`: all.
    ports: Option<Vec<RangeInclusive<u16>>>,
    /// `None`: all.
    destinations: Option<Vec<SourcePrefix>>,
    /// None that comes from outside.
    nothing: bool,
}

impl Nat {
    /// Reads the rules of this network namespace. Only root may.
    pub(super) fn read(own: &[SourcePrefix]) -> Self {
        let mut nat = Self::default();
        // Nothing is translated without. And listing the rules would load the modules.
        if netfilter::tracked().is_none() {
            return nat;
        }
        match output(&["nft"], &["-j", "list", "ruleset"]) {
            Ok(text) => nat.add_nftables(&text, own),
            Err(error) => nat.miss_nftables(&error),
        }
        for (names, program) in LEGACY {
            let used = fs::read_to_string(names).unwrap_or_default();
            if used.lines().any(|name| name == "nat") {
                nat.add_iptables(program, own);
            }
        }
        nat
    }

    /// Nobody but root may list rules.
    pub(super) fn hidden() -> Self {
        let mut nat = Self::default();
        if netfilter::tracked().is_some() {
            nat.unseen.push("rules are shown to root alone".to_owned());
        }
        nat
    }

    fn add_nftables(&mut self, text: &str, own: &[SourcePrefix]) {
        match nftables::read(text) {
            Ok(read) => {
                self.add(&read.tables, own);
                if read.compat {
                    self.add_iptables("iptables-nft-save", own);
                    self.add_iptables("ip6tables-nft-save", own);
                }
            }
            Err(why) => self.unseen.push(format!("the rules of nftables cannot be read: {why}")),
        }
    }

    /// It matters only where nftables has rules.
    fn miss_nftables(&mut self, error: &ToolError) {
        match netfilter::translates_destinations() {
            Ok(false) => {}
            Ok(true) => self.unseen.push(format!("nftables translates destinations, and {error}")),
            Err(why) => self.unseen.push(format!("{error}; and nftables cannot be asked: {why}")),
        }
    }

    fn add_iptables(&mut self, program: &str, own: &[SourcePrefix]) {
        let plain = if program.starts_with("ip6") { "ip6tables-save" } else { "iptables-save" };
        match output(&[program, plain], &["-t", "nat"]) {
            Ok(text) => self.add(&[iptables::read(&text, &program.replace("-save", ""))], own),
            Err(error) => self.unseen.push(error.to_string()),
        }
    }

    fn add(&mut self, tables: &[Table], own: &[SourcePrefix]) {
        for translation in tables.iter().flat_map(|table| table.translations(own)) {
            if !self.translations.contains(&translation) {
                self.translations.push(translation);
            }
        }
    }
}

impl Table {
    fn translations(&self, own: &[SourcePrefix]) -> Vec<Translation> {
        let mut found = Vec::new();
        let mut steps = 0;
        let begin = |chain: &String| (chain.clone(), Only::default(), self.published, 0);
        let mut left: Vec<_> = self.begins.iter().map(begin).collect();
        while let Some((chain, way, published, depth)) = left.pop() {
            let published = published || is_publisher(&chain);
            for rule in self.chains.get(&chain).into_iter().flatten() {
                steps += 1;
                let only = way.and(&rule.only);
                if steps > MOST_STEPS || !only.is_for(own) {
                    continue;
                }
                match &rule.action {
                    Action::Jump(next) if depth < DEEPEST => {
                        left.push((next.clone(), only, published, depth + 1));
                    }
                    Action::Jump(_) => {}
                    Action::Translate { address, to } => {
                        let here = address.is_some_and(|one| is_own(one, own));
                        let address = address.filter(|_| !here);
                        let list = format!("{} {chain}", self.list);
                        found.extend(only.each().map(|(protocol, ports)| Translation {
                            protocol,
                            ports,
                            address,
                            to: to.clone(),
                            published,
                            list: list.clone(),
                        }));
                    }
                }
            }
        }
        found
    }
}

/// Whether a container engine gives its tables and chains such a name.
fn is_publisher(name: &str) -> bool {
    PUBLISHERS.iter().any(|begin| name.starts_with(begin))
}

fn is_own(address: IpAddr, own: &[SourcePrefix]) -> bool {
    address.is_loopback() || own.contains(&address.into())
}

impl Only {
    /// The packets that both are for.
    fn and(&self, other: &Self) -> Self {
        let (protocol, contradicts) = match (self.protocol, other.protocol) {
            (Some(one), Some(other)) => (Some(one), one != other),
            (one, other) => (one.or(other), false),
        };
        let ports = match (&self.ports, &other.ports) {
            (Some(one), Some(other)) => Some(common(one, other)),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let nothing = self.nothing || other.nothing || contradicts;
        let destinations = other.destinations.clone().or_else(|| self.destinations.clone());
        Self { protocol, ports, destinations, nothing }
    }

    /// Whether packets from outside to one of these own addresses are among them.
    fn is_for(&self, own: &[SourcePrefix]) -> bool {
        let reachable = |prefix: &SourcePrefix| {
            own.iter().any(|own| !own.address().is_loopback() && prefix.contains(own))
        };
        let here = self.destinations.as_ref().is_none_or(|all| all.iter().any(reachable));
        here && !self.nothing && self.ports.as_ref().is_none_or(|ports| !ports.is_empty())
    }

    /// Each protocol with each range of ports.
    fn each(&self) -> impl Iterator<Item = (Protocol, RangeInclusive<u16>)> {
        let protocols = self.protocol.map_or(vec![Protocol::Tcp, Protocol::Udp], |one| vec![one]);
        let ports = self.ports.clone().unwrap_or_else(|| vec![ALL]);
        protocols
            .into_iter()
            .flat_map(move |one| ports.clone().into_iter().map(move |ports| (one, ports)))
    }
}

fn common(one: &[RangeInclusive<u16>], other: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    let both = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    let both =
        both.map(|(one, other)| *one.start().max(other.start())..=*one.end().min(other.end()));
    both.filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn own() -> Vec<SourcePrefix> {
        ["198.51.100.1", "2001:db8::1", "127.0.0.1", "::1"].map(|one| one.parse().unwrap()).into()
    }

    /// "tcp 2222 -> here 22", "udp 53 -> 172.17.0.2 5353 (published)".
    pub(super) fn text(translations: &[Translation]) -> Vec<String> {
        let range = |range: &RangeInclusive<u16>| {
            let (first, last) = (range.start(), range.end());
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        let text = |one: &Translation| {
            let address = one.address.map_or("here".into(), |address| address.to_string());
            let to = one.to.as_ref().map_or("same".into(), range);
            let published = if one.published { " (published)" } else { "" };
            let (protocol, ports) = (one.protocol.word(), range(&one.ports));
            format!("{protocol} {ports} -> {address} {to}{published}")
        };
        let mut all: Vec<_> = translations.iter().map(text).collect();
        all.sort();
        all
    }

    #[test]
    fn a_rule_is_for_what_the_way_to_it_and_itself_are_for() {
        let only = |protocol, ports: &[RangeInclusive<u16>]| Only {
            protocol,
            ports: Some(ports.to_vec()),
            ..Only::default()
        };
        let way = only(Some(Protocol::Tcp), &[20..=30, 80..=80]);
        assert_eq!(way.and(&Only::default()), way);
        let both = way.and(&only(None, &[25..=90]));
        assert_eq!(both, only(Some(Protocol::Tcp), &[25..=30, 80..=80]));
        assert!(both.is_for(&own()));
        assert!(!way.and(&only(Some(Protocol::Udp), &[25..=90])).is_for(&own()));
        assert!(!way.and(&only(None, &[1..=2])).is_for(&own()));
    }

    #[test]
    fn what_is_not_for_this_host_is_not_followed() {
        let to = |destination: &str| Only {
            destinations: Some(vec![destination.parse().unwrap()]),
            ..Only::default()
        };
        assert!(to("198.51.100.0/24").is_for(&own()) && to("2001:db8::1").is_for(&own()));
        assert!(!to("127.0.0.1").is_for(&own()) && !to("10.96.0.1").is_for(&own()));
    }

    /// A circle of chains ends, and so does a table that is much too long.
    #[test]
    fn every_table_ends() {
        let jump = Rule { only: Only::default(), action: Action::Jump("a".into()) };
        let chains = [("a".to_owned(), vec![jump.clone(), jump])].into();
        let table = Table { chains, begins: vec!["a".into()], ..Table::default() };
        assert_eq!(table.translations(&own()), []);
    }
}

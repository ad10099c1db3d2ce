//! Reads what `nft -j list ruleset` prints (libnftables-json(5)). Pure. What is not understood is
//! taken as a condition that holds.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use jit_common::Protocol;
use jit_proto::SourcePrefix;
use serde_json::Value;

use super::{Action, Only, Rule, Table, is_publisher};

/// The tables, and what is not in them.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) tables: Vec<Table>,
    /// There are rules of iptables, which only its own program can show.
    pub(super) compat: bool,
}

/// Named sets and maps: the elements of each, by table and name.
type Sets<'a> = BTreeMap<(String, &'a str), &'a Vec<Value>>;

/// Reads all tables.
pub(super) fn read(text: &str) -> Result<Read, serde_json::Error> {
    let whole: Value = serde_json::from_str(text)?;
    let objects: Vec<_> = list(whole.get("nftables")).iter().filter_map(Value::as_object).collect();
    let all = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
    let mut sets = Sets::new();
    for set in all("set").chain(all("map")) {
        if let Some(elements) = set.get("elem").and_then(Value::as_array) {
            sets.insert((table_of(set), word(set, "name")), elements);
        }
    }
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for chain in all("chain") {
        let incoming = word(chain, "type") == "nat" && word(chain, "hook") == "prerouting";
        if incoming {
            let begin = word(chain, "name").to_owned();
            table(&mut tables, chain).begins.push(begin);
        }
    }
    let mut compat = false;
    for rule in all("rule") {
        let of_table = table_of(rule);
        let (rules, foreign) = rules(list(rule.get("expr")), &of_table, &sets);
        // Elsewhere iptables translates nothing.
        compat |= foreign && tables.get(&of_table).is_some_and(|table| !table.begins.is_empty());
        let chain = word(rule, "chain").to_owned();
        table(&mut tables, rule).chains.entry(chain).or_default().extend(rules);
    }
    Ok(Read { tables: tables.into_values().collect(), compat })
}

fn table<'a>(tables: &'a mut BTreeMap<String, Table>, of: &Value) -> &'a mut Table {
    let name = table_of(of);
    tables.entry(name.clone()).or_insert_with(|| Table {
        list: format!("nft list chain {name}"),
        published: is_publisher(word(of, "table")),
        ..Table::default()
    })
}

/// "inet t".
fn table_of(of: &Value) -> String {
    format!("{} {}", word(of, "family"), word(of, "table"))
}

/// What a rule's expressions do; and whether some are of iptables. A map stands for many rules.
fn rules(expressions: &[Value], table: &str, sets: &Sets<'_>) -> (Vec<Rule>, bool) {
    let elements = Elements { table, sets };
    let (mut only, mut rules, mut foreign) = (Only::default(), Vec::new(), false);
    for expression in expressions.iter().filter_map(Value::as_object) {
        for (kind, value) in expression {
            match kind.as_str() {
                "match" if word(value, "op") != "!=" => {
                    let (left, right) = (&value["left"], &value["right"]);
                    only = only.and(&elements.only(left, &elements.of(right)));
                }
                "jump" | "goto" => rules.extend(jump(&only, expression)),
                "vmap" => {
                    let pairs = elements.pairs(value);
                    rules.extend(pairs.filter_map(|(narrow, verdict)| {
                        jump(&only.and(&narrow), verdict.as_object()?)
                    }));
                }
                "redirect" => rules.extend(elements.translate(&only, None, value.get("port"))),
                "dnat" => {
                    let address = value.get("addr").or(Some(&Value::Null));
                    rules.extend(elements.translate(&only, address, value.get("port")));
                }
                "xt" => foreign = true,
                _ => {}
            }
        }
    }
    (rules, foreign)
}

fn jump(only: &Only, verdict: &serde_json::Map<String, Value>) -> Option<Rule> {
    let goes = verdict.get("jump").or_else(|| verdict.get("goto"))?;
    Some(Rule { only: only.clone(), action: Action::Jump(word(goes, "target").to_owned()) })
}

/// The elements of a table's sets.
struct Elements<'a> {
    table: &'a str,
    sets: &'a Sets<'a>,
}

impl Elements<'_> {
    /// The values that stand on the right: one, a set, or a named set.
    fn of(&self, right: &Value) -> Vec<Value> {
        if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
            let named = self.sets.get(&(self.table.to_owned(), name));
            return named.map_or_else(Vec::new, |all| all.iter().map(plain).collect());
        }
        match right.get("set").and_then(Value::as_array) {
            Some(all) => all.iter().map(plain).collect(),
            None => vec![right.clone()],
        }
    }

    /// The packets with one of these values at `left`.
    fn only(&self, left: &Value, values: &[Value]) -> Only {
        let mut only = Only::default();
        if let Some(parts) = left.get("concat").and_then(Value::as_array) {
            for (index, part) in parts.iter().enumerate() {
                let at = |value: &Value| value.get("concat")?.get(index).cloned();
                let values: Vec<_> = values.iter().filter_map(at).collect();
                only = only.and(&self.only(part, &values));
            }
            return only;
        }
        let (payload, meta) = (&left["payload"], &left["meta"]);
        match (word(payload, "protocol"), word(payload, "field"), word(meta, "key")) {
            (protocol, "dport", _) => {
                only.protocol = transport(protocol);
                only.ports = values.iter().map(ports).collect();
            }
            ("ip" | "ip6", "daddr", _) => {
                only.destinations = values.iter().map(prefix).collect();
            }
            ("ip" | "ip6", "protocol" | "nexthdr", _) | (_, _, "l4proto") => {
                let known: Vec<_> = values.iter().filter_map(Value::as_str).collect();
                let transports: Vec<_> = known.iter().filter_map(|one| transport(one)).collect();
                only.nothing = transports.is_empty() && !known.is_empty();
                if let [one] = transports[..] {
                    only.protocol = Some(one);
                }
            }
            (_, _, "iif" | "iifname") => {
                only.nothing = values.iter().all(|value| value == "lo") && !values.is_empty();
            }
            _ => {}
        }
        only
    }

    /// The pairs of a map: for which packets, and what.
    fn pairs(&self, map: &Value) -> impl Iterator<Item = (Only, Value)> {
        let pairs = self.of(&map["data"]).into_iter().filter_map(|pair| {
            let (key, value) = (pair.get(0)?, pair.get(1)?);
            Some((self.only(&map["key"], &[plain(key)]), value.clone()))
        });
        pairs.collect::<Vec<_>>().into_iter()
    }

    /// The rules of a translation. `address`: `None` is this host itself.
    fn translate(&self, only: &Only, address: Option<&Value>, port: Option<&Value>) -> Vec<Rule> {
        let rule = |only: Only, address: Option<&Value>, port: Option<&Value>| {
            // A map's value may have both.
            let parts = address.and_then(|one| one.get("concat")).map(|both| (&both[0], &both[1]));
            let (address, port) = match parts {
                Some((address, port)) => (Some(address), Some(port)),
                None => (address, port),
            };
            let address = address.and_then(first_address);
            Rule { only, action: Action::Translate { address, to: port.and_then(ports) } }
        };
        let map_of = |value: Option<&Value>| value.and_then(|value| value.get("map")).cloned();
        match (map_of(address), map_of(port)) {
            (Some(map), _) => self
                .pairs(&map)
                .map(|(narrow, value)| rule(only.and(&narrow), Some(&value), port))
                .collect(),
            (None, Some(map)) => self
                .pairs(&map)
                .map(|(narrow, value)| rule(only.and(&narrow), address, Some(&value)))
                .collect(),
            (None, None) => vec![rule(only.clone(), address, port)],
        }
    }
}

/// An element without its comment, counter or time-out.
fn plain(element: &Value) -> Value {
    let inner = element.get("elem").and_then(|inner| inner.get("val"));
    inner.unwrap_or(element).clone()
}

fn transport(word: &str) -> Option<Protocol> {
    match word {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// `80` or `{"range": [80, 89]}`.
fn ports(value: &Value) -> Option<RangeInclusive<u16>> {
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    match value.get("range") {
        Some(range) => Some(port(range.get(0)?)?..=port(range.get(1)?)?),
        None => port(value).map(|one| one..=one),
    }
}

/// An address, or the first of a range.
fn first_address(value: &Value) -> Option<IpAddr> {
    let value = value.get("range").and_then(|range| range.get(0)).unwrap_or(value);
    value.as_str()?.parse().ok()
}

/// `"10.0.0.1"` or `{"prefix": {"addr": "10.0.0.0", "len": 8}}`.
fn prefix(value: &Value) -> Option<SourcePrefix> {
    match value.get("prefix") {
        Some(prefix) => format!("{}/{}", word(prefix, "addr"), prefix.get("len")?).parse().ok(),
        None => value.as_str()?.parse().ok(),
    }
}

fn word<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{own, text},
        *,
    };

    /// As nft 1.0.6 lists them.
    const RULESET: &str = include_str!("nftables/ruleset.json");

    #[test]
    fn the_rules_of_nftables_are_followed() {
        let read = read(RULESET).unwrap();
        assert!(!read.compat);
        let found: Vec<_> = read.tables.iter().flat_map(|one| one.translations(&own())).collect();
        assert_eq!(text(&found), EXPECTED);
        assert!(found.iter().all(|one| one.list.starts_with("nft list chain inet ")));
    }

    const EXPECTED: &[&str] = &[
        "tcp 1 -> here same",
        "tcp 2222 -> here 22",
        "tcp 3 -> here same",
        "tcp 5-9 -> here same",
        "tcp 56 -> here 56-57",
        "tcp 70 -> here 22",
        "tcp 8000-8010 -> 172.17.0.2 80",
        "tcp 8080 -> 172.17.0.2 80",
        "tcp 8081 -> 172.17.0.3 81",
        "tcp 8443 -> 172.17.0.4 443",
        "tcp 8444 -> 172.17.0.4 443",
        "tcp 90 -> 172.17.0.9 99",
        "tcp 9000 -> 172.17.0.2 80",
        "tcp 9090 -> 10.88.0.2 9090 (published)",
        "tcp 91-92 -> 172.17.0.9 99",
        "tcp 93 -> 172.17.0.9 99",
        "tcp 94 -> here 22",
        "tcp 95 -> 10.0.0.1 100-109",
        "udp 56 -> here 56-57",
        "udp 96 -> 2001:db8::5 22",
    ];

    #[test]
    fn rules_of_iptables_are_left_to_its_own_program() {
        let text = r#"{"nftables": [{"chain": {"family": "ip", "table": "nat", "name": "PREROUTING",
            "type": "nat", "hook": "prerouting"}}, {"rule": {"family": "ip", "table": "TABLE", "chain":
            "PREROUTING", "expr": [{"xt": {"type": "target", "name": "REDIRECT"}}]}}]}"#;
        assert!(read(&text.replace("TABLE", "nat")).unwrap().compat);
        assert!(!read(&text.replace("TABLE", "filter")).unwrap().compat);
    }

    #[test]
    fn what_is_no_ruleset_is_an_error_or_empty() {
        assert!(read("").is_err());
        for text in ["{}", "[]", "{\"nftables\": [1, {\"rule\": 2}, {\"chain\": {}}]}"] {
            assert!(read(text).unwrap().tables.iter().all(|one| one.translations(&[]).is_empty()));
        }
    }
}

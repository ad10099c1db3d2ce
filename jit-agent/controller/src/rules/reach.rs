//! What rules look at: which labels, groups, hosts, and with which ports and addresses they compare.
//!
//! A request may ask for 10,000 hosts, ranges of ports and prefixes. Hosts that no rule distinguishes
//! are judged once, and so are ports and addresses ([`super::region`]). For that, rules may compare
//! `context.port` and `context.source` with literals only.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Policy;
use jit_proto::SourcePrefix;
use serde_json::Value;

use crate::model::Host;

/// What all rules together look at.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Labels by name; `None`: any, a name is computed.
    labels: BTreeSet<String>,
    any_label: bool,
    /// Groups of hosts and hosts that are named.
    groups: BTreeSet<String>,
    hosts: BTreeSet<String>,
    /// The id of hosts as a text.
    any_host: bool,
    /// Numbers that ports are compared with.
    pub(super) ports: BTreeSet<i64>,
    /// Prefixes that sources are compared with.
    pub(super) prefixes: BTreeSet<SourcePrefix>,
}

/// What the rules can see of a host: hosts with equal ones are judged alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Look {
    pub(super) id: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) groups: BTreeSet<String>,
}

impl Reach {
    /// Adds what a rule looks at. Returns what it may not do.
    pub(super) fn add(&mut self, policy: &Policy) -> BTreeSet<String> {
        let mut wrong = BTreeSet::new();
        for literal in policy.entity_literals() {
            let id: &str = literal.id().as_ref();
            match literal.type_name().to_string().as_str() {
                "HostGroup" => self.groups.insert(id.to_owned()),
                "Host" => self.hosts.insert(id.to_owned()),
                _ => false,
            };
        }
        let Ok(json) = policy.to_json() else {
            return ["this rule cannot be taken apart".to_owned()].into();
        };
        let conditions = json.get("conditions").and_then(Value::as_array);
        for condition in conditions.into_iter().flatten() {
            self.walk(condition.get("body").unwrap_or(&Value::Null), &mut wrong);
        }
        wrong
    }

    /// [`super::Rules::named_hosts`]
    pub(super) fn named_hosts(&self) -> Option<&BTreeSet<String>> {
        (!self.any_host).then_some(&self.hosts)
    }

    /// What the rules can see of a host.
    pub(super) fn look(&self, host: &Host) -> Look {
        let labels = host.labels.iter();
        let seen = labels.filter(|(name, _)| self.any_label || self.labels.contains(*name));
        let named = self.any_host || self.hosts.contains(&host.id);
        Look {
            id: named.then(|| host.id.clone()),
            labels: seen.map(|(name, value)| (name.clone(), value.clone())).collect(),
            groups: host.groups.intersection(&self.groups).cloned().collect(),
        }
    }

    /// One expression in Cedar's JSON: an object with the operator as its key.
    fn walk(&mut self, expression: &Value, wrong: &mut BTreeSet<String>) {
        let Some((operator, inner)) =
            expression.as_object().and_then(|object| object.iter().next())
        else {
            return;
        };
        let side = |name: &str| inner.get(name).unwrap_or(&Value::Null);
        let argument = |at: usize| inner.get(at).unwrap_or(&Value::Null);
        match operator.as_str() {
            "Value" => {}
            "Var" if inner == "context" => {
                wrong.insert("`context` can only be used with a field, as `context.port`".into());
            }
            "Var" => {}
            "." | "has" if is_context(side("left")) => {
                let name = side("attr").as_str().unwrap_or("");
                if operator == "." && matches!(name, "port" | "source") {
                    wrong.insert(compared(name));
                }
            }
            "." => {
                self.any_host |= side("attr") == "id";
                self.walk(side("left"), wrong);
            }
            "==" | "!=" | "<" | "<=" | ">" | ">=" => {
                let (left, right) = (side("left"), side("right"));
                if !self.comparison(left, right, wrong) && !self.comparison(right, left, wrong) {
                    self.walk(left, wrong);
                    self.walk(right, wrong);
                }
            }
            "contains" => {
                let members = side("left").get("Set").and_then(Value::as_array);
                let mut known = members.is_some_and(|members| !members.is_empty());
                for member in members.into_iter().flatten() {
                    known &= self.comparison(side("right"), member, wrong);
                }
                if !known {
                    self.walk(side("left"), wrong);
                    self.walk(side("right"), wrong);
                }
            }
            "isInRange" if self.comparison(argument(0), argument(1), wrong) => {}
            "isIpv4" | "isIpv6" | "isLoopback" | "isMulticast"
                if field(argument(0)) == Some("source") => {}
            "hasTag" | "getTag" => {
                match side("right").get("Value").and_then(Value::as_str) {
                    Some(name) => _ = self.labels.insert(name.to_owned()),
                    None => self.any_label = true,
                }
                self.walk(side("left"), wrong);
                self.walk(side("right"), wrong);
            }
            "Record" | "Set" => self.walk_all(inner, wrong),
            // `like` and `is` hold other things than expressions beside `left`.
            "like" => self.walk(side("left"), wrong),
            "is" => {
                self.walk(side("left"), wrong);
                self.walk(side("in"), wrong);
            }
            _ => self.walk_all(inner, wrong),
        }
    }

    fn walk_all(&mut self, inner: &Value, wrong: &mut BTreeSet<String>) {
        match inner {
            Value::Array(all) => all.iter().for_each(|one| self.walk(one, wrong)),
            Value::Object(all) => all.values().for_each(|one| self.walk(one, wrong)),
            _ => {}
        }
    }

    /// A field of the context and a literal. `false`: it is something else.
    fn comparison(&mut self, one: &Value, other: &Value, wrong: &mut BTreeSet<String>) -> bool {
        let Some(name) = field(one) else { return false };
        let word = other.get("Value").and_then(Value::as_str);
        let allowed: &[&str] = match name {
            "port" => {
                let number = other.get("Value").and_then(Value::as_i64);
                return number.map(|number| self.ports.insert(number)).is_some();
            }
            "source" => {
                let literal =
                    other.get("ip").and_then(|inner| inner.get(0)?.get("Value")?.as_str());
                return literal.and_then(prefix).map(|one| self.prefixes.insert(one)).is_some();
            }
            "protocol" => &["tcp", "udp"],
            "sessions" => &["", "cut", "drain"],
            _ => return false,
        };
        if let Some(word) = word.filter(|word| !allowed.contains(word)) {
            let all = allowed.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>();
            wrong.insert(format!("context.{name} is never {word:?}: it is {}", all.join(" or ")));
        }
        word.is_some()
    }
}

fn compared(name: &str) -> String {
    let with = match name {
        "port" => "a number, as `context.port == 22` or `[80, 443].contains(context.port)`",
        _ => "an address, as `context.source.isInRange(ip(\"10.0.0.0/8\"))`",
    };
    format!("context.{name} can only be compared with {with}")
}

fn is_context(expression: &Value) -> bool {
    expression.get("Var").is_some_and(|name| name == "context")
}

/// `context.NAME`
fn field(expression: &Value) -> Option<&str> {
    let inner = expression.get(".")?;
    if is_context(inner.get("left")?) { inner.get("attr")?.as_str() } else { None }
}

/// An address of Cedar, which may have bits behind its length.
fn prefix(text: &str) -> Option<SourcePrefix> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse().ok()?),
        None => (text, u8::MAX),
    };
    let address: std::net::IpAddr = address.parse().ok()?;
    Some(SourcePrefix::from(address).widened(length))
}

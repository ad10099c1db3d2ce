//! Why something is denied, in sentences that name hosts, ports and sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use super::{
    Action, Inner,
    annotation::duration_text,
    evaluate::Class,
    region::{Ports, Sources},
};

/// The most sentences of one verdict.
const MAX_SENTENCES: usize = 20;
/// The most names in a list.
const MAX_LISTED: usize = 5;

/// Why one host, port and source is denied. Numbers are those of rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A rule forbids it.
    Forbidden(usize),
    /// A rule could not be judged.
    Broken(usize, String),
    /// A rule permits less time.
    TooLong(Action, usize),
    /// No rule permits it.
    Unpermitted,
}

/// Numbers of classes of hosts, or of sources.
type Numbers = BTreeSet<usize>;

/// All that is denied: cause, port, source; and the hosts.
#[derive(Debug, Default)]
pub(super) struct Denials(BTreeMap<(Cause, usize, usize), Numbers>);

impl Denials {
    pub(super) fn add(&mut self, cause: Cause, port: usize, source: usize, class: usize) {
        self.0.entry((cause, port, source)).or_default().insert(class);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One for each cause, and for each set of hosts, ports and sources.
    pub(super) fn sentences(
        &self,
        rules: &Inner,
        classes: &[Class],
        ports: &[Ports],
        sources: &[Sources],
    ) -> Vec<String> {
        let mut by_port: BTreeMap<(&Cause, usize, &Numbers), Numbers> = BTreeMap::new();
        for ((cause, port, source), hosts) in &self.0 {
            by_port.entry((cause, *port, hosts)).or_default().insert(*source);
        }
        let mut whole: BTreeMap<(&Cause, &Numbers, Numbers), Vec<usize>> = BTreeMap::new();
        for ((cause, port, hosts), from) in by_port {
            whole.entry((cause, hosts, from)).or_default().push(port);
        }
        let total = whole.len();
        let mut sentences = Vec::new();
        for ((cause, hosts, from), at) in whole.into_iter().take(MAX_SENTENCES) {
            let mut hosts: Vec<_> = hosts
                .iter()
                .filter_map(|class| classes.get(*class))
                .flat_map(|class| &class.hosts)
                .collect();
            hosts.sort();
            let at = at.iter().filter_map(|port| ports.get(*port)).flat_map(|port| &port.ranges);
            let mut at: Vec<_> = at.collect();
            at.sort();
            let mut what = format!("{} on {}", listed(&at, "ports"), listed(&hosts, "hosts"));
            if from.len() < sources.len() {
                let from = from.iter().filter_map(|source| sources.get(*source));
                let from: Vec<_> = from.flat_map(|source| &source.all).collect();
                what = format!("{what} from {}", listed(&from, "sources"));
            }
            sentences.push(cause.sentence(rules, &what));
        }
        if total > MAX_SENTENCES {
            sentences.push(format!("and {} more", total - MAX_SENTENCES));
        }
        sentences
    }
}

impl Cause {
    fn sentence(&self, rules: &Inner, what: &str) -> String {
        let rule = |number: usize| {
            let rule = rules.written.get(number);
            rule.map_or(("", "", None), |rule| {
                (rule.id.as_str(), rule.reason.as_str(), rule.max_ms)
            })
        };
        let because = |reason: &str| match reason {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        match self {
            Self::Forbidden(number) => {
                let (id, reason, _) = rule(*number);
                format!("{what}: the rule {id:?} forbids it{}", because(reason))
            }
            Self::Broken(number, why) => {
                format!("{what}: the rule {:?} cannot be judged: {why}", rule(*number).0)
            }
            Self::TooLong(action, number) => {
                let (id, _, max) = rule(*number);
                let max = duration_text(max.unwrap_or(0));
                let nobody = match action {
                    Action::AutoApprove => ", and no rule lets people agree to more",
                    _ => "",
                };
                format!("{what}: at most {max}, by the rule {id:?}{nobody}")
            }
            Self::Unpermitted => format!("{what}: no rule permits it"),
        }
    }
}

/// `a, b and 3 more hosts`
pub(super) fn listed(all: &[impl Display], noun: &str) -> String {
    let shown = all.iter().take(MAX_LISTED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more {noun}"),
    }
}

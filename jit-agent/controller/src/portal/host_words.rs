//! What is known of a host, in plain words.

use jit_proto::words::counted;

use crate::model::host::{Condition, Observed};

/// All conditions, the worst first.
pub(super) const ALL: [Condition; 5] = [
    Condition::NotEnforcing,
    Condition::Unreachable,
    Condition::Degraded,
    Condition::Unknown,
    Condition::Enforcing,
];

/// The class of its colour.
pub(super) fn tone(observed: &Observed) -> &'static str {
    match observed.condition {
        _ if !observed.alarms.is_empty() => "bad",
        Condition::Enforcing => "good",
        Condition::Degraded | Condition::Unknown => "warn",
        Condition::NotEnforcing | Condition::Unreachable => "bad",
    }
}

/// What is wrong, a sentence each: alarms first.
pub(super) fn wrong(observed: &Observed) -> Vec<String> {
    let mut wrong = Vec::new();
    if !observed.alarms.is_empty() {
        let alarms = counted(observed.alarms.len() as u64, "alarm");
        wrong.push(format!("{alarms} that nobody has looked at"));
    }
    if !observed.trouble.is_empty() {
        wrong.push(observed.trouble.clone());
    }
    wrong.extend(observed.problems.iter().cloned());
    wrong
}

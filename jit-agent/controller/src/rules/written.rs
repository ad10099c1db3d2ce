//! From the text of rules to checked rules: syntax, schema, annotations, and what they look at.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    ActionConstraint, Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode,
    ValidationWarning, Validator,
};

use super::{
    Action, MAX_BYTES, Mistake,
    annotation::{NAMES, duration_ms, duration_text, escalation, needs},
    mistake::place,
    reach::Reach,
};
use crate::model::{Escalation, Needs};

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// Its key in the set of policies.
    pub(super) policy: PolicyId,
    /// `@id`, or its line.
    pub(super) id: String,
    /// Whether it has an `@id`.
    pub(super) named: bool,
    pub(super) effect: Effect,
    /// Actions that its head names.
    pub(super) actions: BTreeSet<Action>,
    pub(super) reason: String,
    pub(super) needs: Needs,
    pub(super) max_ms: Option<i64>,
    pub(super) escalate: Option<Escalation>,
    /// As it is written, with its annotations.
    pub(super) text: String,
}

/// What was read.
pub(super) struct Read {
    pub(super) policies: PolicySet,
    /// Without what forbids.
    pub(super) permits: PolicySet,
    pub(super) written: Vec<Written>,
    pub(super) reach: Reach,
}

impl Written {
    /// What it asks for, a text each: `1 of sre`, `at most 1h`.
    pub(super) fn asks(&self) -> Vec<String> {
        let mut asks = Vec::new();
        if !self.needs.is_empty() {
            asks.push(self.needs.text());
        }
        asks.extend(self.max_ms.map(|max| format!("at most {}", duration_text(max))));
        asks.extend(self.escalate.as_ref().map(|escalation| {
            let Escalation { after_ms, group } = escalation;
            format!("after {} also {group}", duration_text(*after_ms))
        }));
        asks
    }

    /// `permit` or `forbid`
    pub(super) const fn effect_word(&self) -> &'static str {
        match self.effect {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        }
    }
}

/// Reads and checks a text.
pub(super) fn read(text: &str, schema: &Schema) -> Result<Read, Vec<Mistake>> {
    if text.len() > MAX_BYTES {
        let why = format!("the rules have {} bytes; {MAX_BYTES} are possible", text.len());
        return Err(vec![Mistake::at(text, 0, why)]);
    }
    let policies: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        sorted(errors.iter().map(|error| Mistake::of_cedar(text, error, 0)).collect())
    })?;
    let mut mistakes: Vec<_> = policies
        .templates()
        .map(|template| {
            let at = template.as_ref().loc().map_or(0, |loc| loc.start());
            Mistake::at(text, at, "templates (?principal, ?resource) are not possible here")
        })
        .collect();
    let mut in_order: Vec<_> = policies.policies().map(|policy| (start(policy), policy)).collect();
    in_order.sort_by_key(|(start, _)| *start);
    let starts: BTreeMap<_, _> =
        in_order.iter().map(|(start, policy)| (policy.id().clone(), *start)).collect();
    let start_of = |id: &PolicyId| starts.get(id).copied().unwrap_or(0);

    let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
    for error in result.validation_errors() {
        mistakes.push(Mistake::of_cedar(text, error, start_of(error.policy_id())));
    }
    // A rule that never matches is no harmless one: it may be meant to forbid something. Only strings
    // in several scripts are left alone: labels may have them.
    for warning in result.validation_warnings() {
        if !matches!(warning, ValidationWarning::MixedScriptString(_)) {
            mistakes.push(Mistake::of_cedar(text, warning, start_of(warning.policy_id())));
        }
    }
    let mut ids = BTreeMap::new();
    let mut written = Vec::new();
    let mut reach = Reach::default();
    for (start, policy) in in_order {
        let rule = one(text, start, policy, &mut mistakes);
        let first = ids.entry(rule.id.clone()).or_insert(start);
        if *first != start {
            let (line, _) = place(text, *first);
            let why = format!("@id(\"{}\") is also that of the rule in line {line}", rule.id);
            mistakes.push(Mistake::at(text, annotation_start(policy, "id", start), why));
        }
        for why in reach.add(policy) {
            mistakes.push(Mistake::at(text, start_of_body(text, start, policy), why));
        }
        written.push(rule);
    }
    let permits = policies.policies().filter(|policy| policy.effect() == Effect::Permit);
    match PolicySet::from_policies(permits.cloned()) {
        Ok(permits) if mistakes.is_empty() => Ok(Read { policies, permits, written, reach }),
        Ok(_) => Err(sorted(mistakes)),
        Err(error) => Err(vec![Mistake::at(text, 0, error.to_string())]),
    }
}

fn sorted(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    mistakes.sort();
    mistakes.dedup();
    mistakes
}

/// Where a rule begins, bytes.
fn start(policy: &Policy) -> usize {
    policy.as_ref().loc().map_or(0, |loc| loc.start())
}

/// Where its annotation stands.
fn annotation_start(policy: &Policy, name: &str, otherwise: usize) -> usize {
    let of_name = |(key, _): &(&_, &_)| AsRef::<str>::as_ref(*key) == name;
    let found = policy.as_ref().annotations().find(of_name);
    found.and_then(|(_, value)| value.loc.as_ref()).map_or(otherwise, |loc| loc.start())
}

/// Where its conditions begin: the first `context` of it.
fn start_of_body(text: &str, start: usize, policy: &Policy) -> usize {
    let end = policy.as_ref().loc().map_or(start, |loc| loc.end());
    let within = text.get(start..end).unwrap_or("");
    start + within.find("context").unwrap_or(0)
}

/// One rule with its annotations.
fn one(text: &str, start: usize, policy: &Policy, mistakes: &mut Vec<Mistake>) -> Written {
    let actions = actions(policy);
    let permit = policy.effect() == Effect::Permit;
    let initiates = permit && actions.contains(&Action::Initiate);
    let automatic = permit && actions.contains(&Action::AutoApprove);
    let mut wrong = |name: &str, why: String| {
        mistakes.push(Mistake::at(text, annotation_start(policy, name, start), why));
    };
    for (name, _) in policy.annotations() {
        if !NAMES.contains(&name) {
            let names = NAMES.map(|name| format!("@{name}")).join(", ");
            wrong(name, format!("@{name} is not known; there are {names}"));
        }
    }
    let id = policy.annotation("id").map(str::trim);
    if id.is_some_and(|id| id.is_empty() || id.len() > 64 || id.contains(char::is_control)) {
        wrong("id", "@id is a short name, 1 to 64 bytes".into());
    }
    if id.is_some_and(|id| id.starts_with("line ")) {
        wrong("id", "@id cannot begin with \"line \": rules without an @id are named so".into());
    }
    if automatic && actions.len() > 1 {
        let why = "this rule would also approve automatically: name its actions, and permit \
                   `auto_approve` in a rule of its own";
        wrong("", why.into());
    }
    if initiates && policy.annotation("require").is_none() {
        let why = "who must agree? Add @require(\"1 of GROUP\"); what needs nobody is \
                   `auto_approve`";
        wrong("", why.into());
    }
    for (name, possible, on) in [
        ("require", initiates, "a permit of `initiate`"),
        ("escalate", initiates, "a permit of `initiate`"),
        ("max", initiates || automatic, "a permit of `initiate` or `auto_approve`"),
    ] {
        if policy.annotation(name).is_some() && !possible {
            wrong(name, format!("@{name} has a meaning on {on} only"));
        }
    }
    let mut value = Values { policy, wrong: &mut wrong };
    let (needs, max_ms) = (value.of("require", needs), value.of("max", duration_ms));
    let escalate = value.of("escalate", escalation);
    Written {
        policy: policy.id().clone(),
        id: id.map_or_else(|| format!("line {}", place(text, start).0), str::to_owned),
        named: id.is_some(),
        effect: policy.effect(),
        actions,
        reason: policy.annotation("reason").unwrap_or("").to_owned(),
        needs: needs.unwrap_or_default(),
        max_ms,
        escalate,
        text: policy.as_ref().loc().and_then(|loc| loc.snippet()).unwrap_or("").to_owned(),
    }
}

/// The values of annotations.
struct Values<'a, W: FnMut(&str, String)> {
    policy: &'a Policy,
    wrong: &'a mut W,
}

impl<W: FnMut(&str, String)> Values<'_, W> {
    fn of<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.policy.annotation(name)?) {
            Ok(value) => Some(value),
            Err(why) => {
                (self.wrong)(name, format!("@{name}: {why}"));
                None
            }
        }
    }
}

/// The actions of a rule's head; without a condition on it: all.
fn actions(policy: &Policy) -> BTreeSet<Action> {
    let named = |uid: &cedar_policy::EntityUid| {
        let word: &str = uid.id().as_ref();
        Action::ALL.iter().copied().find(|action| action.word() == word)
    };
    match policy.action_constraint() {
        ActionConstraint::Any => Action::ALL.iter().copied().collect(),
        ActionConstraint::In(uids) => uids.iter().filter_map(named).collect(),
        ActionConstraint::Eq(uid) => named(&uid).into_iter().collect(),
    }
}

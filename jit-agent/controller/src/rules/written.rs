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
    let mut faulty = BTreeSet::new();
    for error in result.validation_errors() {
        faulty.insert(error.policy_id().clone());
        mistakes.push(Mistake::of_cedar(text, error, start_of(error.policy_id())));
    }
    // A rule that never matches is no harmless one: it may be meant to forbid something. Only strings
    // in several scripts are left alone: labels may have them.
    for warning in result.validation_warnings() {
        let is_fault = !matches!(warning, ValidationWarning::MixedScriptString(_));
        if is_fault && !faulty.contains(warning.policy_id()) {
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
        // What the schema refuses needs no second sentence.
        let limits = reach.add(policy);
        for why in limits.into_iter().filter(|_| !faulty.contains(policy.id())) {
            mistakes.push(Mistake::at(text, first_use(text, start, policy, &why), why));
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

/// Where a rule first uses what a sentence begins with: `context.port`, `context`.
fn first_use(text: &str, start: usize, policy: &Policy, why: &str) -> usize {
    let end = policy.as_ref().loc().map_or(start, |loc| loc.end());
    let within = text.get(start..end).unwrap_or("");
    let word = why.trim_start_matches('`').split([' ', '`']).next().unwrap_or("");
    let word = if word.starts_with("context") { word } else { "\u{0}" };
    let bracketed = word.replacen('.', "[\"", 1);
    start + within.find(word).or_else(|| within.find(&bracketed)).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::{super::tests::mistakes, *};

    /// A rule with this condition, in the second line.
    fn when(effect: &str, action: &str, condition: &str) -> String {
        format!(
            "{effect} (principal, action == Action::\"{action}\", resource)\nwhen {{ {condition} }};"
        )
    }

    #[test]
    fn every_mistake_has_its_line_and_column() {
        let forbid = |condition| when("forbid", "initiate", condition);
        let read = |head: &str| head.to_owned();
        for (text, line, column, says) in [
            (read("permt (principal, action, resource);"), 1, 1, "must be either `permit` or"),
            (read("forbid (principal, action, resource"), 1, 36, "unexpected end of input"),
            (
                read("forbid (principal, action == Action::\"raed\", resource);"),
                1,
                30,
                "unrecognized action `Action::\"raed\"`; did you mean `Action::\"read\"`?",
            ),
            (
                read("forbid (principal in Grup::\"sre\", action, resource);"),
                1,
                22,
                "unrecognized entity type `Grup`; did you mean `Group`?",
            ),
            (
                forbid("principal.acount == \"x\""),
                2,
                8,
                "attribute `acount` on entity type `User` not found; did you mean `account`?",
            ),
            (when("permit", "read", "context.port == 22"), 2, 8, "attribute `port` in context for"),
            (forbid("resource.getTag(\"env\") == \"x\""), 2, 8, "resence with `.hasTag(\"env\")"),
            (forbid("context.port == \"22\""), 2, 8, "the types Long and String are not"),
            (forbid("context.source == ip(\"10.0.0/8\")"), 2, 26, "failed to parse as IP address"),
            (forbid("false"), 1, 1, "policy is impossible"),
            (forbid("context.port + 1 == 23"), 2, 8, "context.port can only be compared with"),
            (forbid("[22, context.port].contains(7)"), 2, 13, "context.port can only be compared"),
            (forbid("context[\"port\"] < context.hosts"), 2, 8, "context.port can only be"),
            (
                forbid("ip(\"10.0.0.1\").isInRange(context.source)"),
                2,
                33,
                "context.source can only",
            ),
            (
                forbid("[context].contains(context)"),
                2,
                9,
                "`context` can only be used with a field",
            ),
            (forbid("context.protocol == \"TCP\""), 2, 8, "context.protocol is never \"TCP\""),
            (
                forbid("[\"cut\", \"x\"].contains(context.sessions)"),
                2,
                30,
                "sessions is never \"x\"",
            ),
            (
                read("forbid (principal == ?principal, action, resource);"),
                1,
                1,
                "templates (?principal, ?resource) are not possible",
            ),
            (forbid("resource == Host::\"a\\n\""), 2, 20, "is not a printable ASCII"),
        ] {
            let found = mistakes(&text);
            let [(at_line, at_column, why)] = &found[..] else { panic!("{text}\n{found:#?}") };
            assert!(why.contains(says), "{text}\n{why}");
            assert_eq!((*at_line, *at_column), (line, column), "{text}\n{why}");
        }
        // All of them, in the order of the text.
        let both = format!("{}\n{}", forbid("principal.x"), forbid("context.port + 1 == 23"));
        let places: Vec<_> = mistakes(&both).iter().map(|(line, ..)| *line).collect();
        assert_eq!(places, [2, 4]);
        assert!(mistakes(&" ".repeat(MAX_BYTES + 1))[0].2.contains("262144 are possible"));
    }

    #[test]
    fn annotations_are_checked() {
        let permit = |annotations: &str, action: &str| {
            format!(
                "\n{annotations}\npermit (principal, action == Action::\"{action}\", resource);"
            )
        };
        for (annotations, action, line, says) in [
            ("@require(\"sre\")", "initiate", 2, "@require: \"sre\" is not such as \"1 of sre\""),
            ("@require(\"1 of a\") @max(\"soon\")", "initiate", 2, "@max: \"soon\" is not a dura"),
            ("@require(\"1 of a\") @escalate(\"15m\")", "initiate", 2, "@escalate: \"15m\" is"),
            ("@max(\"1h\")", "initiate", 2, "who must agree? Add @require"),
            ("", "initiate", 3, "who must agree? Add @require"),
            ("@require(\"1 of a\")", "auto_approve", 2, "a permit of `initiate` only"),
            ("@escalate(\"1m to a\")", "auto_approve", 2, "@escalate has a meaning on"),
            ("@max(\"1h\")", "read", 2, "@max has a meaning on"),
            ("@requires(\"1 of a\")", "read", 2, "@requires is not known; there are @escalate"),
            ("@id", "read", 2, "@id is a short name"),
            ("@id(\"line 7\")", "read", 2, "rules without an @id are named so"),
        ] {
            let found = mistakes(&permit(annotations, action));
            let [(at, _, why)] = &found[..] else { panic!("{annotations}\n{found:#?}") };
            assert!(why.contains(says), "{annotations}: {why}");
            assert_eq!(*at, line, "{annotations}");
        }
        let all = "@require(\"1 of a\")\npermit (principal, action, resource);";
        assert!(mistakes(all)[0].2.contains("would also approve automatically"));
        let twice = format!("@id(\"a\"){0}\n  @id(\"a\"){0}", permit("", "read"));
        let says = "@id(\"a\") is also that of the rule in line 1";
        assert_eq!(mistakes(&twice), [(4, 3, says.to_owned())]);
    }
}

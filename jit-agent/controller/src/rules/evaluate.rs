//! One question to Cedar: entities, the context, and which rules matched.

use std::collections::BTreeMap;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, RestrictedExpression,
};
use jit_common::Address;
use jit_proto::SourcePrefix;

use super::{
    Action, Inner, PARSED_SCHEMA,
    reach::Look,
    region::{Ports, Sources},
};
use crate::model::{Account, Host, Proposal, proposal::SessionsWord};

/// What the rules say to one question; numbers of rules in the order of the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) allowed: bool,
    /// The permits that matched if it is allowed, the forbids if not.
    pub(super) deciding: Vec<usize>,
    /// Rules that could not be judged, and why.
    pub(super) broken: Vec<(usize, String)>,
}

/// Hosts that no rule distinguishes.
#[derive(Debug)]
pub(super) struct Class {
    /// The entity that stands for all of them.
    pub(super) uid: EntityUid,
    pub(super) look: Look,
    /// Their ids, in order.
    pub(super) hosts: Vec<String>,
}

impl Inner {
    /// Puts hosts together that no rule distinguishes.
    pub(super) fn classes<'h>(&self, hosts: impl IntoIterator<Item = &'h Host>) -> Vec<Class> {
        let mut classes: BTreeMap<Look, Vec<String>> = BTreeMap::new();
        for host in hosts {
            classes.entry(self.reach.look(host)).or_default().push(host.id.clone());
        }
        let class = |(number, (look, mut hosts)): (usize, (Look, Vec<String>))| {
            hosts.sort();
            hosts.dedup();
            // A host that no rule names needs no name, and none that a rule could name.
            let name = look.id.clone().unwrap_or_else(|| format!("\u{1}{number}"));
            Class { uid: uid("Host", &name), look, hosts }
        };
        classes.into_iter().enumerate().map(class).collect()
    }

    /// Asks one question. What cannot be judged is not allowed.
    pub(super) fn ask(&self, request: &Request, entities: &Entities) -> Said {
        self.ask_of(&self.policies, request, entities)
    }

    /// Asks what would be, if nothing were forbidden.
    pub(super) fn ask_permits(&self, request: &Request, entities: &Entities) -> Said {
        self.ask_of(&self.permits, request, entities)
    }

    fn ask_of(&self, policies: &PolicySet, request: &Request, entities: &Entities) -> Said {
        let response = Authorizer::new().is_authorized(request, policies, entities);
        let number = |id: &cedar_policy::PolicyId| self.index.get(id).copied();
        let mut deciding: Vec<_> = response.diagnostics().reason().filter_map(number).collect();
        deciding.sort_unstable();
        let broken = response.diagnostics().errors().filter_map(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            Some((number(error.policy_id())?, error.inner().to_string()))
        });
        let mut broken: Vec<_> = broken.collect();
        broken.sort();
        let allowed = response.decision() == Decision::Allow && broken.is_empty();
        Said { allowed, deciding, broken }
    }
}

/// The entity of an account.
pub(super) fn user(account: &Account) -> EntityUid {
    uid("User", &account.name)
}

/// The entities that rules can look at.
///
/// # Errors
/// A text that Cedar does not take.
pub(super) fn entities<'a>(
    accounts: impl IntoIterator<Item = &'a Account>,
    classes: &[Class],
) -> Result<Entities, String> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut all: BTreeMap<EntityUid, Entity> = BTreeMap::new();
    for account in accounts {
        let groups = account.groups.iter().map(|group| text(group));
        let attributes = [
            ("account".to_owned(), text(&account.name)),
            ("subject".to_owned(), text(&account.subject)),
            ("groups".to_owned(), RestrictedExpression::new_set(groups)),
        ];
        let parents = account.groups.iter().map(|group| uid("Group", group));
        let entity = Entity::new(user(account), attributes.into(), parents.collect());
        all.insert(user(account), entity.map_err(|error| error.to_string())?);
    }
    for class in classes {
        let id = class.look.id.clone().unwrap_or_default();
        let labels = class.look.labels.iter();
        let entity = Entity::new_with_tags(
            class.uid.clone(),
            [("id".to_owned(), text(&id))],
            class.look.groups.iter().map(|group| uid("HostGroup", group)),
            labels.map(|(name, value)| (name.clone(), text(value))),
        );
        all.insert(class.uid.clone(), entity.map_err(|error| error.to_string())?);
    }
    // They fit the schema as they are made, which a test checks; to check 5,000 takes most of a second.
    Entities::from_entities(all.into_values(), None).map_err(|error| error.to_string())
}

/// A question with its context; the schema is checked.
///
/// # Errors
/// A context that does not fit the schema.
pub(super) fn question(
    principal: &EntityUid,
    action: Action,
    host: &EntityUid,
    context: &Context,
) -> Result<Request, String> {
    let action = uid("Action", action.word());
    Request::new(principal.clone(), action, host.clone(), context.clone(), Some(&PARSED_SCHEMA))
        .map_err(|error| error.to_string())
}

/// A question without a context, which the schema would refuse: a rule that looks at the context has
/// an error, and is so known.
pub(super) fn bare_question(
    principal: &EntityUid,
    action: Action,
    host: &EntityUid,
) -> Result<Request, String> {
    let action = uid("Action", action.word());
    Request::new(principal.clone(), action, host.clone(), Context::empty(), None)
        .map_err(|error| error.to_string())
}

/// `Moment` of the schema.
///
/// # Errors
/// A value that Cedar does not take.
pub(super) fn moment(at_ms: i64) -> Result<Context, String> {
    context(moment_fields(at_ms))
}

fn context(fields: Vec<(String, RestrictedExpression)>) -> Result<Context, String> {
    Context::from_pairs(fields).map_err(|error| error.to_string())
}

fn moment_fields(at_ms: i64) -> Vec<(String, RestrictedExpression)> {
    let (days, within) = (at_ms.div_euclid(86_400_000), at_ms.rem_euclid(86_400_000));
    // The first day of 1970 was a Thursday, the fourth day of its week (ISO 8601).
    let weekday = (days + 3).rem_euclid(7) + 1;
    [("hour", within / 3_600_000), ("minute", within / 60_000 % 60), ("weekday", weekday)]
        .map(|(name, value)| (name.to_owned(), RestrictedExpression::new_long(value)))
        .into()
}

/// `Asked` of the schema.
///
/// # Errors
/// A value that Cedar does not take.
pub(super) fn asked(
    proposal: &Proposal,
    ports: &Ports,
    sources: &Sources,
    now_ms: i64,
) -> Result<Context, String> {
    let begin = proposal.start_ms.unwrap_or(now_ms).max(now_ms);
    let mut fields = moment_fields(begin);
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let all_ports = proposal.ports.iter().map(|range| range.count()).sum();
    for (name, value) in [
        ("port", i64::from(ports.port)),
        ("ports", count(all_ports)),
        ("source_prefix", i64::from(sources.length)),
        ("hosts", count(proposal.hosts.len())),
        ("duration_s", seconds(proposal.duration_ms)),
        ("start_delay_s", seconds(begin.saturating_sub(now_ms))),
        ("max_connections", i64::from(proposal.max_connections)),
    ] {
        fields.push((name.to_owned(), RestrictedExpression::new_long(value)));
    }
    let sessions = match proposal.sessions {
        None => "",
        Some(SessionsWord::Cut) => "cut",
        Some(SessionsWord::Drain) => "drain",
    };
    for (name, value) in [
        ("protocol", ports.protocol.word()),
        ("reason", &proposal.reason),
        ("ticket", &proposal.ticket),
        ("sessions", sessions),
    ] {
        fields.push((name.to_owned(), RestrictedExpression::new_string(value.to_owned())));
    }
    fields.push(("source".to_owned(), RestrictedExpression::new_ip(address(sources.source))));
    context(fields)
}

/// Begun seconds.
const fn seconds(milliseconds: i64) -> i64 {
    milliseconds.saturating_add(999).div_euclid(1000)
}

/// As Cedar reads it: without a dotted tail in IPv6.
fn address(prefix: SourcePrefix) -> String {
    let Address { family, .. } = prefix.address();
    let length = prefix.length();
    match family {
        jit_common::Family::V4 => prefix.to_string(),
        jit_common::Family::V6 => {
            let bytes = prefix.address().bytes();
            let groups = bytes.chunks(2).map(hex::encode).collect::<Vec<_>>();
            format!("{}/{length}", groups.join(":"))
        }
    }
}

fn uid(kind: &str, id: &str) -> EntityUid {
    let kind: EntityTypeName = kind.parse().expect("names of the schema are names");
    EntityUid::from_type_name_and_id(kind, EntityId::new(id))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::rules, *};
    use crate::rules::DEFAULT;

    #[test]
    fn accounts_and_hosts_fit_the_schema_whatever_they_are_called() {
        let account = Account {
            name: "ana \"x\" \u{1f600}".into(),
            subject: String::new(),
            groups: ["sre".to_owned(), "a \\ b".to_owned(), String::new()].into(),
            disabled: false,
            created_ms: 0,
        };
        let host = Host {
            id: "web \" 1".into(),
            labels: [("env".to_owned(), "pr\"od".to_owned()), (String::new(), String::new())]
                .into(),
            groups: ["web".to_owned(), "a::b".to_owned()].into(),
            ..Host::default()
        };
        // Rules that look at all of it.
        let all = rules(&format!(
            "{DEFAULT}permit (principal, action == Action::\"read\", resource in HostGroup::\"a::b\") \
             when {{ resource.hasTag(resource.id) && resource in HostGroup::\"web\" }};"
        ));
        let classes = all.0.classes([&host]);
        let look = &classes[0].look;
        assert_eq!((look.id.is_some(), look.labels.len(), look.groups.len()), (true, 2, 2));
        let entities = entities([&account], &classes).unwrap();
        assert_eq!(entities.len(), 2);
        let checked = Entities::from_entities(entities, Some(&PARSED_SCHEMA));
        assert!(checked.is_ok(), "{checked:?}");
    }
}

//! What an account may do, and who can agree.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Action, Inner, evaluate};
use crate::model::{Account, Host, Proposal, Verdict};

/// A person who can agree to a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Eligible {
    /// The person.
    pub subject: String,
    /// Accounts that can be used for it, in order.
    pub accounts: Vec<String>,
    /// The needed groups for which it counts: what a [`crate::model::Decision`] records. Somebody to
    /// whom it was escalated counts for any of them.
    pub groups: BTreeSet<String>,
}

/// [`super::Rules::may`]
pub(super) fn may(
    rules: &Inner,
    account: &Account,
    action: Action,
    host: &Host,
    now_ms: i64,
) -> bool {
    if account.disabled {
        return false;
    }
    let classes = rules.classes(std::slice::from_ref(host));
    let (Some(class), Ok(entities)) = (classes.first(), evaluate::entities([account], &classes))
    else {
        return false;
    };
    let principal = evaluate::user(account);
    let ask = |request: Result<_, String>| {
        request.map(|request| rules.ask(&request, &entities)).unwrap_or_default()
    };
    match action {
        Action::Approve | Action::Configure | Action::Read | Action::Revoke => {
            let moment = evaluate::moment(now_ms);
            ask(evaluate::question(&principal, action, &class.uid, moment)).allowed
        }
        Action::Initiate | Action::AutoApprove => {
            let depends = |said: &evaluate::Said| {
                let permits = |rule: usize| {
                    let rule = rules.written.get(rule);
                    rule.is_some_and(|rule| rule.effect_word() == "permit")
                };
                // One that has matched, or one whose context decides.
                let matched = said.deciding.iter().any(|rule| permits(*rule));
                let forbidden = said.deciding.iter().any(|rule| !permits(*rule));
                let open = said.broken.iter().any(|(rule, _)| permits(*rule));
                (matched || open, forbidden)
            };
            let bare =
                |action| depends(&ask(evaluate::bare_question(&principal, action, &class.uid)));
            let (initiate, forbidden) = bare(Action::Initiate);
            let (automatic, not_automatic) = bare(Action::AutoApprove);
            let automatic = automatic && !not_automatic;
            !forbidden && (automatic || (action == Action::Initiate && initiate))
        }
    }
}

/// [`super::Rules::eligible`]
pub(super) fn eligible(
    rules: &Inner,
    accounts: &[Account],
    hosts: &[Host],
    proposal: &Proposal,
    verdict: &Verdict,
    now_ms: i64,
) -> Vec<Eligible> {
    let needed: BTreeSet<&String> =
        verdict.needs.0.iter().filter(|(_, count)| **count > 0).map(|(group, _)| group).collect();
    let due = |one: &&crate::model::Escalation| one.is_due(proposal.created_ms, now_ms);
    let escalated = verdict.escalate.as_ref().filter(due).map(|one| &one.group);
    let groups = |account: &Account| -> BTreeSet<String> {
        match escalated {
            Some(group) if account.groups.contains(group) => {
                needed.iter().map(|group| (*group).clone()).collect()
            }
            _ => account.groups.iter().filter(|group| needed.contains(group)).cloned().collect(),
        }
    };
    let candidate = |account: &&Account| {
        !account.disabled && account.subject != proposal.requester && !groups(account).is_empty()
    };
    let candidates: Vec<&Account> = accounts.iter().filter(candidate).collect();
    let classes = rules.classes(hosts);
    let Ok(entities) = evaluate::entities(candidates.iter().copied(), &classes) else {
        return Vec::new();
    };
    // Nobody is asked about nothing.
    let may_everywhere = |account: &Account| {
        let (principal, moment) = (evaluate::user(account), evaluate::moment(now_ms));
        let may = |class: &evaluate::Class| {
            let moment = moment.clone();
            evaluate::question(&principal, Action::Approve, &class.uid, moment)
                .is_ok_and(|request| rules.ask(&request, &entities).allowed)
        };
        !classes.is_empty() && classes.iter().all(may)
    };
    let mut people: BTreeMap<&str, Eligible> = BTreeMap::new();
    for account in candidates {
        if !may_everywhere(account) {
            continue;
        }
        let person = people.entry(&account.subject).or_insert_with(|| Eligible {
            subject: account.subject.clone(),
            accounts: Vec::new(),
            groups: BTreeSet::new(),
        });
        person.accounts.push(account.name.clone());
        person.groups.extend(groups(account));
    }
    let mut people: Vec<_> = people.into_values().collect();
    for person in &mut people {
        person.accounts.sort();
    }
    people
}

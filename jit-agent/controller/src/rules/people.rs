//! What an account may do, and who can agree.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::Entities;
use serde::Serialize;

use super::{
    Action, Inner,
    evaluate::{self, Class},
};
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

/// [`super::Rules::barred`]
pub(super) fn barred<'h>(
    rules: &Inner,
    account: &Account,
    action: Action,
    hosts: impl IntoIterator<Item = &'h Host>,
    now_ms: i64,
) -> Option<String> {
    let classes = rules.classes(hosts);
    let entities = evaluate::entities([account], &classes).ok().filter(|_| !account.disabled);
    let may = |class: &&Class| {
        entities.as_ref().is_some_and(|all| may(rules, account, action, class, all, now_ms))
    };
    let barred = classes.iter().find(|class| !may(class))?;
    barred.hosts.first().cloned()
}

fn may(
    rules: &Inner,
    account: &Account,
    action: Action,
    class: &Class,
    entities: &Entities,
    now_ms: i64,
) -> bool {
    let principal = evaluate::user(account);
    let ask = |request: Result<_, String>| {
        request.map(|request| rules.ask(&request, entities)).unwrap_or_default()
    };
    match action {
        Action::Approve | Action::Configure | Action::Read | Action::Revoke => {
            let question = |moment| evaluate::question(&principal, action, &class.uid, &moment);
            ask(evaluate::moment(now_ms).and_then(question)).allowed
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
    let (Ok(entities), Ok(moment)) =
        (evaluate::entities(candidates.iter().copied(), &classes), evaluate::moment(now_ms))
    else {
        return Vec::new();
    };
    // Nobody is asked about nothing.
    let may_everywhere = |account: &Account| {
        let principal = evaluate::user(account);
        let may = |class: &Class| {
            evaluate::question(&principal, Action::Approve, &class.uid, &moment)
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

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{NOW, PERMIT_SRE, account, host, rules},
        *,
    };
    use crate::{
        model::{Decision, Escalation, Outcome, Ruling, proposal::tests::ssh},
        rules::DEFAULT,
    };

    fn verdict(needs: &str) -> Verdict {
        Verdict {
            rules_version: 1,
            outcome: Outcome::Manual,
            needs: super::super::annotation::needs(needs).unwrap(),
            max_duration_ms: None,
            rules: Vec::new(),
            denied: Vec::new(),
            escalate: Some(Escalation { after_ms: 900_000, group: "oncall".into() }),
        }
    }

    /// Subjects, accounts and groups of those who can agree, at this time after it was submitted.
    fn who(text: &str, accounts: &[Account], needs: &str, after_ms: i64) -> Vec<String> {
        let hosts = [host("web-1", &[]), host("web-2", &[("env", "prod")])];
        let now_ms = ssh().created_ms + after_ms;
        let found = rules(text).eligible(accounts, &hosts, &ssh(), &verdict(needs), now_ms);
        let shown = |Eligible { subject, accounts, groups }: Eligible| {
            let groups = groups.into_iter().collect::<Vec<_>>().join(" ");
            format!("{subject}: {} for {groups}", accounts.join(" "))
        };
        found.into_iter().map(shown).collect()
    }

    #[test]
    fn several_accounts_of_one_person_are_one_and_the_requester_has_none() {
        let accounts = [
            account("ana", &["sre"]),
            account("ana-admin", &["sre", "approvers"]),
            account("li-admin", &["approvers"]),
            account("li", &["sre", "developers"]),
            Account { disabled: true, ..account("bo", &["sre"]) },
            account("cy", &["developers"]),
        ];
        let both = "1 of sre and 1 of approvers";
        let li = ["li@example.org: li li-admin for approvers sre"];
        assert_eq!(who(DEFAULT, &accounts, both, 0), li);
        // He is one person, and two must agree.
        let found = rules(DEFAULT).eligible(
            &accounts,
            &[host("web-1", &[])],
            &ssh(),
            &verdict(both),
            ssh().created_ms,
        );
        let decision = |account: &String| Decision {
            request: ssh().id,
            subject: found[0].subject.clone(),
            account: account.clone(),
            ruling: Ruling::Approve,
            groups: found[0].groups.clone(),
            reason: String::new(),
            hash: ssh().hash(),
            at_ms: 0,
        };
        let decisions: Vec<_> = found[0].accounts.iter().map(decision).collect();
        assert_eq!(decisions.len(), 2);
        let missing = verdict(both).needs.missing(&ssh().requester, &ssh().hash(), &decisions);
        assert_eq!(missing.count(), 1);
    }

    #[test]
    fn who_may_not_approve_on_every_host_is_not_asked() {
        let text = format!(
            "{PERMIT_SRE}{}",
            r#"permit (principal, action == Action::"approve", resource);
               forbid (principal, action == Action::"approve", resource)
               when { resource.hasTag("env") && resource.getTag("env") == "prod" }
               unless { principal.groups.contains("seniors") };"#
        );
        let accounts = [account("bo", &["sre"]), account("li", &["sre", "seniors"])];
        assert_eq!(who(&text, &accounts, "1 of sre", 0), ["li@example.org: li for sre"]);
        assert_eq!(who(PERMIT_SRE, &accounts, "1 of sre", 0), [""; 0]);
        let nowhere = rules(&text).eligible(&accounts, &[], &ssh(), &verdict("1 of sre"), NOW);
        assert_eq!(nowhere, []);
    }

    #[test]
    fn after_the_time_of_the_escalation_its_group_counts_for_all() {
        let accounts = [account("bo", &["oncall"]), account("li", &["sre"])];
        let needs = "1 of sre and 1 of approvers";
        let before = ["li@example.org: li for sre"];
        assert_eq!(who(DEFAULT, &accounts, needs, 899_999), before);
        let after = ["bo@example.org: bo for approvers sre", "li@example.org: li for sre"];
        assert_eq!(who(DEFAULT, &accounts, needs, 900_000), after);
        let asks_itself = [account("ana-oncall", &["oncall"])];
        assert_eq!(who(DEFAULT, &asks_itself, needs, 900_000), [""; 0]);
    }

    #[test]
    fn what_an_account_may_do_follows_from_the_rules() {
        let rules = rules(&format!(
            "{DEFAULT}{}",
            r#"@id("vault") forbid (principal, action, resource) when { resource.id == "vault" };
               @id("night") forbid (principal, action == Action::"approve", resource)
               when { context.hour < 6 };"#
        ));
        let (dev, prod) = (host("dev-1", &[("env", "dev")]), host("web-1", &[("env", "prod")]));
        let may = |groups: &[&str], action, host: &Host| {
            rules.may(&account("li", groups), action, host, NOW)
        };
        let (li, vault) = (account("li", &["sre"]), host("vault", &[]));
        let barred =
            |hosts: &[&Host]| rules.barred(&li, Action::Revoke, hosts.iter().copied(), NOW);
        assert_eq!(barred(&[&dev, &vault, &prod]), Some("vault".to_owned()));
        assert_eq!((barred(&[&dev, &prod]), barred(&[])), (None, None));
        for (groups, action, host, answer) in [
            (&["admins"][..], Action::Configure, &prod, true),
            (&["sre"], Action::Configure, &prod, false),
            (&["sre"], Action::Revoke, &prod, true),
            (&[], Action::Read, &prod, true),
            (&[], Action::Revoke, &prod, false),
            (&["oncall"], Action::Approve, &prod, true),
            (&["developers"], Action::Approve, &prod, false),
            (&["sre"], Action::Initiate, &prod, true),
            (&["developers"], Action::Initiate, &prod, false),
            (&["developers"], Action::Initiate, &dev, true),
            (&["developers"], Action::AutoApprove, &dev, true),
            (&["sre"], Action::AutoApprove, &dev, false),
        ] {
            assert_eq!(may(groups, action, host), answer, "{groups:?} {action:?} {}", host.id);
        }
        let night = NOW - 12 * 3_600_000;
        assert!(!rules.may(&account("li", &["sre"]), Action::Approve, &prod, night));
        for action in Action::ALL {
            assert!(!may(&["admins", "sre", "developers"], *action, &host("vault", &[])));
        }
    }
}

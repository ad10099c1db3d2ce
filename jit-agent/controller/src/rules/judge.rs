//! What becomes of a proposal: every host, port and source of it, and all rules together.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, Inner,
    evaluate::{self, Class, Said},
    region::{self, Ports, Sources},
    sentence::{self, Cause, Denials},
};
use crate::model::{Account, Escalation, Host, Needs, Outcome, Proposal, Rule, Verdict};

/// The most questions to Cedar for one proposal, some seconds of work. Hosts, ports and sources that
/// no rule distinguishes count once, so that it takes hundreds of hosts that rules name to get there.
const MAX_QUESTIONS: usize = 400_000;
/// The most hosts that the trace names for a rule.
const MAX_NAMED: usize = 20;

/// What becomes of one host, port and source.
enum Fate {
    Automatic(Vec<usize>),
    Denied(Vec<Cause>),
    Manual(Vec<usize>),
}

/// What all of them add up to.
#[derive(Default)]
struct Sum {
    /// Rules that matched, with the hosts.
    matched: BTreeMap<(Action, usize), BTreeSet<usize>>,
    denials: Denials,
    needs: Needs,
    max_ms: Option<i64>,
    automatic: bool,
    manual: bool,
    /// The permits that people decide by: each must name the same group.
    escalations: BTreeSet<Option<String>>,
    escalate_ms: i64,
}

/// What becomes of a proposal.
pub(super) fn judge(
    rules: &Inner,
    requester: &Account,
    hosts: &[Host],
    proposal: &Proposal,
    now_ms: i64,
) -> Verdict {
    let refused = |why: String| Verdict {
        rules_version: rules.version,
        outcome: Outcome::Denied,
        needs: Needs::default(),
        max_duration_ms: None,
        rules: Vec::new(),
        denied: vec![why],
        escalate: None,
    };
    if requester.disabled {
        return refused(format!("the account {} is disabled", requester.name));
    }
    if requester.subject != proposal.requester {
        let (account, subject) = (&requester.name, &proposal.requester);
        return refused(format!("the account {account} does not belong to {subject}, who asks"));
    }
    let wanted: BTreeSet<&str> = proposal.hosts.iter().map(String::as_str).collect();
    let known: BTreeSet<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
    let unknown: Vec<&str> = wanted.difference(&known).copied().collect();
    if !unknown.is_empty() {
        return refused(format!("{}: no such host is known", sentence::listed(&unknown, "hosts")));
    }
    let hosts: Vec<Host> =
        hosts.iter().filter(|host| wanted.contains(host.id.as_str())).cloned().collect();
    let classes = rules.classes(&hosts);
    let ports = region::ports(&proposal.ports, &rules.reach);
    let sources = region::sources(&proposal.sources, &rules.reach);
    let questions = classes.len().saturating_mul(ports.len()).saturating_mul(sources.len());
    match questions.saturating_mul(2) {
        // Nothing asked is nothing agreed to: no vacuous yes.
        0 => return refused("it names no host, no port or no source".into()),
        1..=MAX_QUESTIONS => {}
        many => {
            let why = "ask for fewer hosts, ports or sources at once";
            return refused(format!("it takes {many} questions to the rules; {why}"));
        }
    }
    match sum(rules, requester, &classes, &ports, &sources, proposal, now_ms) {
        Ok(sum) => verdict(rules, &classes, &ports, &sources, sum),
        Err(why) => refused(format!("the rules cannot judge it: {why}")),
    }
}

/// Asks for each host, port and source.
fn sum(
    rules: &Inner,
    requester: &Account,
    classes: &[Class],
    ports: &[Ports],
    sources: &[Sources],
    proposal: &Proposal,
    now_ms: i64,
) -> Result<Sum, String> {
    let entities = evaluate::entities([requester], classes)?;
    let principal = evaluate::user(requester);
    let mut sum = Sum::default();
    for (port_number, port) in ports.iter().enumerate() {
        for (source_number, source) in sources.iter().enumerate() {
            let context = evaluate::asked(proposal, port, source, now_ms)?;
            for (class_number, class) in classes.iter().enumerate() {
                let question =
                    |action| evaluate::question(&principal, action, &class.uid, &context);
                let by_itself = question(Action::AutoApprove)?;
                let initiate = rules.ask(&question(Action::Initiate)?, &entities);
                let automatic = rules.ask(&by_itself, &entities);
                let fate = fate(rules, &initiate, &automatic, proposal.duration_ms);
                // A rule that forbids what nothing would permit decides nothing.
                if !automatic.allowed
                    && !automatic.deciding.is_empty()
                    && rules.ask_permits(&by_itself, &entities).allowed
                {
                    sum.matched(Action::AutoApprove, &automatic.deciding, class_number);
                }
                match fate {
                    Fate::Automatic(permits) => {
                        sum.automatic = true;
                        sum.permit(rules, Action::AutoApprove, &permits, class_number);
                    }
                    Fate::Manual(permits) => {
                        sum.manual = true;
                        sum.permit(rules, Action::Initiate, &permits, class_number);
                    }
                    Fate::Denied(causes) => {
                        for cause in causes {
                            if let Cause::Forbidden(rule) | Cause::TooLong(_, rule) = cause {
                                let action = match cause {
                                    Cause::TooLong(action, _) => action,
                                    _ => Action::Initiate,
                                };
                                sum.matched(action, &[rule], class_number);
                                sum.shorten(rules, &[rule]);
                            }
                            sum.denials.add(cause, port_number, source_number, class_number);
                        }
                    }
                }
            }
        }
    }
    Ok(sum)
}

/// First what forbids, then what needs nobody, then what people must agree to.
fn fate(rules: &Inner, initiate: &Said, automatic: &Said, duration_ms: i64) -> Fate {
    let broken = initiate.broken.iter().chain(&automatic.broken);
    let broken: BTreeSet<_> = broken.map(|(rule, why)| Cause::Broken(*rule, why.clone())).collect();
    if !broken.is_empty() {
        return Fate::Denied(broken.into_iter().collect());
    }
    if !initiate.allowed && !initiate.deciding.is_empty() {
        return Fate::Denied(initiate.deciding.iter().copied().map(Cause::Forbidden).collect());
    }
    let too_long = |said: &Said| -> Vec<usize> {
        let max = |rule: usize| rules.written.get(rule).and_then(|rule| rule.max_ms);
        let longer = |rule: &usize| max(*rule).is_some_and(|max| duration_ms > max);
        let longer: Vec<usize> = said.deciding.iter().copied().filter(longer).collect();
        let shortest = longer.iter().filter_map(|rule| max(*rule)).min();
        longer.into_iter().filter(|rule| max(*rule) == shortest).collect()
    };
    if automatic.allowed && too_long(automatic).is_empty() {
        return Fate::Automatic(automatic.deciding.clone());
    }
    // Too long to go by itself: people may still agree.
    for (said, action) in [(initiate, Action::Initiate), (automatic, Action::AutoApprove)] {
        if !said.allowed {
            continue;
        }
        let too_long = too_long(said);
        if too_long.is_empty() {
            return Fate::Manual(said.deciding.clone());
        }
        let cause = |rule| Cause::TooLong(action, rule);
        return Fate::Denied(too_long.into_iter().map(cause).collect());
    }
    Fate::Denied(vec![Cause::Unpermitted])
}

impl Sum {
    fn matched(&mut self, action: Action, rules: &[usize], class: usize) {
        for rule in rules {
            self.matched.entry((action, *rule)).or_default().insert(class);
        }
    }

    /// All matching permits add up.
    fn permit(&mut self, rules: &Inner, action: Action, permits: &[usize], class: usize) {
        self.matched(action, permits, class);
        self.shorten(rules, permits);
        if action != Action::Initiate {
            return;
        }
        for rule in permits.iter().filter_map(|rule| rules.written.get(*rule)) {
            self.needs.join(&rule.needs);
            let escalate = rule.escalate.as_ref();
            self.escalations.insert(escalate.map(|one| one.group.clone()));
            self.escalate_ms = self.escalate_ms.max(escalate.map_or(0, |one| one.after_ms));
        }
    }

    fn shorten(&mut self, rules: &Inner, permits: &[usize]) {
        let max = |rule: &usize| rules.written.get(*rule)?.max_ms;
        let shortest = permits.iter().filter_map(max).min();
        self.max_ms = self.max_ms.into_iter().chain(shortest).min();
    }

    /// It stands only if every rule that people decide by has it, to the same group; after the longest
    /// time.
    fn escalation(&self) -> Option<Escalation> {
        let mut groups = self.escalations.iter();
        match (groups.next(), groups.next()) {
            (Some(Some(group)), None) => {
                Some(Escalation { after_ms: self.escalate_ms, group: group.clone() })
            }
            _ => None,
        }
    }
}

fn verdict(
    rules: &Inner,
    classes: &[Class],
    ports: &[Ports],
    sources: &[Sources],
    sum: Sum,
) -> Verdict {
    let outcome = match (sum.denials.is_empty(), sum.manual, sum.automatic) {
        (true, true, _) => Outcome::Manual,
        (true, false, true) => Outcome::Automatic,
        (false, ..) | (true, false, false) => Outcome::Denied,
    };
    let manual = outcome == Outcome::Manual;
    let mut trace: Vec<_> = sum.matched.iter().collect();
    // What forbids first; then in the order of the judgement, and of the text.
    let rank = |action: Action, rule: usize| {
        let permit = rules.written.get(rule).is_some_and(|rule| rule.effect_word() == "permit");
        (permit, action != Action::AutoApprove, rule)
    };
    trace.sort_by_key(|((action, rule), _)| rank(*action, *rule));
    let shown = trace.into_iter().filter_map(|((action, rule), matched)| {
        let rule = rules.written.get(*rule)?;
        let hosts: BTreeSet<&String> = matched
            .iter()
            .filter_map(|class| classes.get(*class))
            .flat_map(|class| &class.hosts)
            .collect();
        Some(Rule {
            id: rule.id.clone(),
            effect: rule.effect_word().to_owned(),
            action: action.word().to_owned(),
            reason: rule.reason.clone(),
            asks: rule.asks(),
            hosts_total: hosts.len(),
            hosts: hosts.into_iter().take(MAX_NAMED).cloned().collect(),
        })
    });
    Verdict {
        rules_version: rules.version,
        outcome,
        max_duration_ms: sum.max_ms,
        rules: shown.collect(),
        denied: sum.denials.sentences(rules, classes, ports, sources),
        escalate: sum.escalation().filter(|_| manual),
        needs: if manual { sum.needs } else { Needs::default() },
    }
}

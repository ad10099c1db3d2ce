//! What must hold for all rules and proposals, whatever they are.

use std::time::Instant;

use proptest::prelude::*;

use super::{
    tests::{AUTO, NOW, PERMIT_SRE, account, host, rules},
    *,
};
use crate::model::{Outcome, proposal::tests::ssh};

/// Conditions on what is asked for.
const CONDITIONS: [&str; 12] = [
    "true",
    "context.port == 22",
    "context.port < 24 && context.protocol == \"tcp\"",
    "[23, 25].contains(context.port)",
    "if context.port >= 25 then context.hosts < 2 else context.source.isIpv4()",
    "context.source.isInRange(ip(\"198.51.100.8/29\"))",
    "context.source != ip(\"198.51.100.3\")",
    "context.source_prefix >= 30",
    "resource.hasTag(\"env\") && resource.getTag(\"env\") like \"p*d\"",
    "resource in HostGroup::\"web\" || resource == Host::\"h2\"",
    "context.duration_s <= 1800",
    "principal in Group::\"sre\"",
];

fn a_rule(number: usize) -> impl Strategy<Value = String> {
    let head = prop::sample::select(vec![
        ("forbid", "initiate", ""),
        ("forbid", "auto_approve", ""),
        ("permit", "auto_approve", ""),
        ("permit", "auto_approve", "@max(\"20m\")"),
        ("permit", "initiate", "@require(\"1 of sre\") @escalate(\"15m to oncall\")"),
        ("permit", "initiate", "@require(\"2 of sre and 1 of dba\") @max(\"40m\")"),
        ("permit", "initiate", "@require(\"1 of dba\") @max(\"3h\") @escalate(\"1h to oncall\")"),
    ]);
    (head, prop::sample::select(&CONDITIONS[..]), prop::sample::select(&CONDITIONS[..])).prop_map(
        move |((effect, action, annotations), when, unless)| {
            // `unless { true }` would never match, and is refused.
            let unless = match unless {
                "true" => String::new(),
                _ if when == unless => String::new(),
                _ => format!("unless {{ !({unless}) }}"),
            };
            format!(
                "@id(\"r{number}\") {annotations} {effect} (principal, action == \
                 Action::\"{action}\", resource) when {{ {when} }} {unless};\n"
            )
        },
    )
}

fn some_rules() -> impl Strategy<Value = String> {
    (1..5_usize)
        .prop_flat_map(|count| (0..count).map(a_rule).collect::<Vec<_>>())
        .prop_map(|all| all.concat())
}

fn some_hosts() -> impl Strategy<Value = Vec<Host>> {
    let labels = prop::sample::select(vec!["prod", "pad", "dev", ""]);
    prop::collection::vec((labels, any::<bool>()), 1..4).prop_map(|all| {
        let one = |(number, (env, web)): (usize, (&str, bool))| {
            let labels = [("env", env), ("rack", "7")];
            let labels = if env.is_empty() { &labels[1..] } else { &labels[..] };
            let groups = if web { ["web".to_owned()].into() } else { Default::default() };
            Host { groups, ..host(&format!("h{number}"), labels) }
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

#[derive(Clone, Debug)]
struct Asked {
    hosts: Vec<Host>,
    ports: (u16, u16),
    /// Last byte and length.
    source: (u8, u8),
    minutes: i64,
}

fn asked() -> impl Strategy<Value = Asked> {
    (some_hosts(), 21..26_u16, 0..4_u16, 0..16_u8, 29..33_u8, 1..60_i64).prop_map(
        |(hosts, first, more, byte, length, minutes)| Asked {
            hosts,
            ports: (first, first + more),
            source: (byte, length),
            minutes,
        },
    )
}

impl Asked {
    fn verdict(&self, rules: &Rules) -> Verdict {
        let (first, last) = self.ports;
        let (byte, length) = self.source;
        let address: std::net::IpAddr = [198, 51, 100, byte].into();
        let proposal = Proposal {
            hosts: self.hosts.iter().map(|host| host.id.clone()).collect(),
            ports: vec![format!("{first}-{last}").parse().unwrap()],
            sources: vec![jit_proto::SourcePrefix::from(address).widened(length)],
            duration_ms: self.minutes * 60_000,
            ..ssh()
        };
        rules.judge(&account("ana", &["sre"]), &self.hosts, &proposal, NOW)
    }
}

/// The more, the more is possible.
const fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Denied => 0,
        Outcome::Manual => 1,
        Outcome::Automatic => 2,
    }
}

/// Whether `after` asks for at least what `before` asks for.
fn is_as_strict(before: &Verdict, after: &Verdict) -> bool {
    let needs = before.needs.0.iter();
    let more = needs
        .clone()
        .all(|(group, count)| after.needs.0.get(group).is_some_and(|new| new >= count));
    let max = |verdict: &Verdict| verdict.max_duration_ms.unwrap_or(i64::MAX);
    let escalate = match (&before.escalate, &after.escalate) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(old), Some(new)) => old.group == new.group && old.after_ms <= new.after_ms,
    };
    more && max(after) <= max(before) && escalate
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_forbid_more_makes_nothing_more_possible(
        text in some_rules(), asked in asked(), when in prop::sample::select(&CONDITIONS[..]),
        action in prop::sample::select(vec!["initiate", "auto_approve"]),
    ) {
        let more = format!(
            "{text}@id(\"more\") forbid (principal, action == Action::\"{action}\", resource) \
             when {{ {when} }};"
        );
        let (before, after) = (asked.verdict(&rules(&text)), asked.verdict(&rules(&more)));
        prop_assert!(rank(after.outcome) <= rank(before.outcome), "{before:#?}\n{after:#?}");
        if before.outcome == Outcome::Manual && after.outcome == Outcome::Manual {
            // The @max of what was automatic no longer counts where people must agree now.
            let before = Verdict { max_duration_ms: None, ..before };
            prop_assert!(is_as_strict(&before, &after), "{before:#?}\n{after:#?}");
        }
    }

    #[test]
    fn a_permit_of_initiate_more_takes_no_need_away(text in some_rules(), asked in asked()) {
        let more = format!(
            "{text}@id(\"more\") @require(\"1 of boss\") @max(\"30m\") @escalate(\"5m to oncall\") \
             permit (principal, action == Action::\"initiate\", resource);"
        );
        let (before, after) = (asked.verdict(&rules(&text)), asked.verdict(&rules(&more)));
        match before.outcome {
            Outcome::Manual if after.outcome == Outcome::Manual => {
                prop_assert!(is_as_strict(&before, &after), "{before:#?}\n{after:#?}");
                prop_assert_eq!(after.needs.0.get("boss"), Some(&1));
            }
            Outcome::Manual => prop_assert_eq!(after.outcome, Outcome::Denied),
            Outcome::Automatic => prop_assert_eq!(after.outcome, Outcome::Automatic),
            // What was too long to go by itself, or permitted by nothing, people may agree to now.
            Outcome::Denied => prop_assert_ne!(after.outcome, Outcome::Automatic),
        }
    }

    /// Hosts, ports and sources are judged in groups; the answer is that of each one by itself.
    #[test]
    fn what_is_judged_together_is_judged_as_if_one_by_one(text in some_rules(), asked in asked()) {
        // The number of hosts, and the length of the source, stay as they are: rules see them.
        let text = text.replace("context.hosts < 2", "context.duration_s < 1200");
        let text = text.replace("context.source_prefix >= 30", "context.duration_s > 1200");
        let rules = rules(&text);
        let whole = asked.verdict(&rules);
        let (first, last) = asked.ports;
        let (byte, length) = asked.source;
        let size = 1_u16 << (32 - length);
        let base = u16::from(byte) / size * size;
        let mut least = Outcome::Automatic;
        for host in &asked.hosts {
            for port in first..=last {
                for address in base..base + size {
                    let one = Asked {
                        hosts: vec![host.clone()],
                        ports: (port, port),
                        source: (u8::try_from(address).unwrap(), 32),
                        minutes: asked.minutes,
                    };
                    let outcome = one.verdict(&rules).outcome;
                    least = if rank(outcome) < rank(least) { outcome } else { least };
                }
            }
        }
        // A prefix is permitted only if a rule permits it as a whole: the groups may say less, not more.
        prop_assert!(rank(whole.outcome) <= rank(least), "{text}{whole:#?} {least:?}");
        if !text.contains("context.source") {
            prop_assert_eq!(whole.outcome, least, "{}{:#?}", text, whole);
        }
    }

    #[test]
    fn the_same_question_has_the_same_answer(text in some_rules(), asked in asked()) {
        let mut turned = asked.clone();
        turned.hosts.reverse();
        prop_assert_eq!(asked.verdict(&rules(&text)), turned.verdict(&rules(&text)));
        prop_assert_eq!(asked.verdict(&rules(&text)), asked.verdict(&rules(&text)));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z@(){}\"=&|;.,?:0-9\n ]{0,80}") {
        let _read = Rules::parse(1, &text);
        let _read = Rules::parse(1, &format!("{PERMIT_SRE}{text}"));
        let _read = cases::run(&rules(AUTO), &text);
    }
}

/// Prints what it takes: `cargo test ... five_thousand -- --nocapture`. Without optimisation on a busy
/// machine a time says little: what is counted is the questions to Cedar.
#[test]
fn five_thousand_hosts_are_judged_in_a_few_questions() {
    let env = ["prod", "stage", "dev"];
    let labelled = |number: usize| {
        let rack = format!("r{}", number % 97);
        host(&format!("h{number}"), &[("env", env[number % 3]), ("rack", &rack)])
    };
    let hosts: Vec<_> = (0..5000).map(labelled).collect();
    let ids: Vec<_> = hosts.iter().map(|host| host.id.clone()).collect();
    let default = rules(DEFAULT);
    // No two hosts can be put together.
    let by_id = rules(&format!(
        "{DEFAULT}@id(\"id\") forbid (principal, action == Action::\"initiate\", resource) when {{ \
         resource.id like \"x*\" }};"
    ));
    let proposal = Proposal { hosts: ids, ..ssh() };
    for (name, rules, classes) in [("default", default, 3), ("by id", by_id, 5000)] {
        let start = Instant::now();
        let verdict = rules.judge(&account("ana", &["sre"]), &hosts, &proposal, NOW);
        println!("5000 hosts, {name}: {:?}", start.elapsed());
        assert_eq!(rules.0.classes(&hosts).len(), classes, "{name}");
        assert_eq!(verdict.outcome, Outcome::Manual);
        assert_eq!(verdict.needs.text(), "1 of approvers and 1 of sre");
        let totals = verdict.rules.iter().map(|rule| (rule.hosts_total, rule.hosts.len()));
        assert_eq!(totals.collect::<Vec<_>>(), [(5000, 20), (1667, 20)]);
    }
}

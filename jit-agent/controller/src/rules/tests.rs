//! The rules as a whole: what is said of a proposal.

use super::*;
use crate::model::{Outcome, proposal::tests::ssh};

/// Saturday, 2027-02-27 14:41:00 UTC.
pub(super) const NOW: i64 = 1_803_739_260_000;
const HOUR: i64 = 3_600_000;

pub(super) const PERMIT_SRE: &str = r#"@id("sre") @require("1 of sre") @max("3h")
permit (principal in Group::"sre", action == Action::"initiate", resource);
"#;

pub(super) fn account(name: &str, groups: &[&str]) -> Account {
    Account {
        name: name.into(),
        subject: format!("{}@example.org", name.split('-').next().unwrap()),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        disabled: false,
        created_ms: 0,
    }
}

pub(super) fn host(id: &str, labels: &[(&str, &str)]) -> Host {
    Host {
        id: id.into(),
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Host::default()
    }
}

pub(super) fn rules(text: &str) -> Rules {
    Rules::parse(7, text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:#?}"))
}

pub(super) fn mistakes(text: &str) -> Vec<(usize, usize, String)> {
    let mistakes = Rules::parse(1, text).expect_err(text);
    mistakes.into_iter().map(|one| (one.line, one.column, one.text)).collect()
}

/// Ana, of these groups, asks.
pub(super) fn judge(
    text: &str,
    groups: &[&str],
    hosts: &[Host],
    change: impl Fn(&mut Proposal),
) -> Verdict {
    let mut proposal = ssh();
    proposal.hosts = hosts.iter().map(|host| host.id.clone()).collect();
    change(&mut proposal);
    rules(text).judge(&account("ana", groups), hosts, &proposal, NOW)
}

fn ids(verdict: &Verdict) -> Vec<&str> {
    verdict.rules.iter().map(|rule| rule.id.as_str()).collect()
}

pub(super) const AUTO: &str = r#"@id("auto") @max("1h")
permit (principal, action == Action::"auto_approve", resource);
"#;

#[test]
fn what_forbids_goes_first_then_what_needs_nobody_then_people() {
    let web = [host("web-1", &[])];
    let forbid = r#"@id("no") @reason("closed for the night")
        forbid (principal, action == Action::"initiate", resource);"#;
    let asked = |text: &str| judge(text, &["sre"], &web, |_| {});
    let all = asked(&format!("{PERMIT_SRE}{AUTO}{forbid}"));
    assert_eq!((all.outcome, ids(&all)), (Outcome::Denied, vec!["no"]));
    assert_eq!(all.denied, ["22/tcp on web-1: the rule \"no\" forbids it: closed for the night"]);
    let automatic = asked(&format!("{PERMIT_SRE}{AUTO}"));
    assert_eq!((automatic.outcome, ids(&automatic)), (Outcome::Automatic, vec!["auto"]));
    assert!(automatic.needs.is_empty());
    let people = asked(PERMIT_SRE);
    assert_eq!((people.outcome, people.needs.text()), (Outcome::Manual, "1 of sre".into()));
    assert_eq!(people.rules[0].asks, ["1 of sre", "at most 3h"]);
    let nobody = judge(PERMIT_SRE, &["dba"], &web, |_| {});
    assert_eq!(nobody.denied, ["22/tcp on web-1: no rule permits it"]);
    // What is never automatic can still be agreed to.
    let not_automatic = r#"@id("not-automatic")
        forbid (principal, action == Action::"auto_approve", resource);"#;
    let manual = asked(&format!("{PERMIT_SRE}{AUTO}{not_automatic}"));
    assert_eq!((manual.outcome, ids(&manual)), (Outcome::Manual, vec!["not-automatic", "sre"]));
    // Without anything that would be automatic, that rule decides nothing.
    assert_eq!(ids(&asked(&format!("{PERMIT_SRE}{not_automatic}"))), ["sre"]);
}

#[test]
fn all_matching_rules_add_up_to_the_strictest() {
    let text = r#"
        @id("a") @require("1 of sre and 2 of dba") @max("2h") @escalate("15m to oncall")
        permit (principal, action == Action::"initiate", resource);
        @id("b") @require("2 of sre") @max("30m") @escalate("1h to oncall")
        permit (principal, action == Action::"initiate", resource);
        @id("c") @require("9 of nobody") @max("1s")
        permit (principal in Group::"others", action == Action::"initiate", resource);
    "#;
    let half = |proposal: &mut Proposal| proposal.duration_ms = HOUR / 2;
    let verdict = judge(text, &[], &[host("web-1", &[])], half);
    assert_eq!(verdict.needs.text(), "2 of dba and 2 of sre");
    assert_eq!((verdict.max_duration_ms, ids(&verdict)), (Some(HOUR / 2), vec!["a", "b"]));
    let escalate = verdict.escalate.unwrap();
    assert_eq!((escalate.after_ms, escalate.group.as_str()), (HOUR, "oncall"));
    // One rule without an escalation, or to another group: none.
    for other in ["", "@escalate(\"1m to boss\")"] {
        let other = format!(
            "@id(\"d\") @require(\"1 of sre\") {other} permit (principal, action == \
             Action::\"initiate\", resource);"
        );
        let verdict = judge(&format!("{text}{other}"), &[], &[host("web-1", &[])], half);
        assert_eq!(verdict.escalate, None);
    }
}

#[test]
fn a_longer_time_is_denied_and_the_longest_is_named() {
    let web = [host("web-1", &[])];
    let long = |proposal: &mut Proposal| proposal.duration_ms = 4 * HOUR;
    let verdict = judge(PERMIT_SRE, &["sre"], &web, long);
    assert_eq!(verdict.denied, ["22/tcp on web-1: at most 3h, by the rule \"sre\""]);
    assert_eq!((verdict.outcome, verdict.max_duration_ms), (Outcome::Denied, Some(3 * HOUR)));
    let automatic = judge(AUTO, &[], &web, long);
    let says = "22/tcp on web-1: at most 1h, by the rule \"auto\", and no rule lets people agree \
                to more";
    assert_eq!(automatic.denied, [says]);
    // Too long to go by itself, not too long for people.
    let two = |proposal: &mut Proposal| proposal.duration_ms = 2 * HOUR;
    let people = judge(&format!("{AUTO}{PERMIT_SRE}"), &["sre"], &web, two);
    assert_eq!((people.outcome, ids(&people)), (Outcome::Manual, vec!["sre"]));
}

#[test]
fn it_goes_by_itself_only_if_every_host_does() {
    let text = format!(
        "{PERMIT_SRE}{}",
        r#"@id("dev") permit (principal, action == Action::"auto_approve", resource)
           when { resource.hasTag("env") && resource.getTag("env") like "dev*" };"#
    );
    let hosts = [host("d-1", &[("env", "dev-a")]), host("d-2", &[("env", "dev-b")])];
    let verdict = judge(&text, &["sre"], &hosts, |_| {});
    assert_eq!((verdict.outcome, verdict.rules[0].hosts_total), (Outcome::Automatic, 2));
    assert_eq!(verdict.rules[0].hosts, ["d-1", "d-2"]);
    let [d1, d2] = hosts;
    let mixed = [d1, d2, host("web-1", &[("env", "prod")])];
    let verdict = judge(&text, &["sre"], &mixed, |_| {});
    assert_eq!((verdict.outcome, verdict.needs.text()), (Outcome::Manual, "1 of sre".into()));
    assert_eq!(ids(&verdict), ["dev", "sre"]);
    let denied = judge(&text, &[], &mixed, |_| {});
    assert_eq!(denied.denied, ["22/tcp on web-1: no rule permits it"]);
}

#[test]
fn a_range_of_ports_meets_the_rule_on_one_of_them() {
    let text = format!(
        "{PERMIT_SRE}{}",
        r#"@id("rdp") forbid (principal, action == Action::"initiate", resource)
           when { context.protocol == "tcp" && [3389, 65535].contains(context.port) };"#
    );
    let asked = |ports: &'static [&'static str]| {
        judge(&text, &["sre"], &[host("web-1", &[])], move |proposal| {
            proposal.ports = ports.iter().map(|port| port.parse().unwrap()).collect();
        })
    };
    assert_eq!(asked(&["1-3388", "3390-65534", "1-65535/udp"]).outcome, Outcome::Manual);
    let verdict = asked(&["1-65535"]);
    assert_eq!(verdict.denied, ["3389/tcp, 65535/tcp on web-1: the rule \"rdp\" forbids it"]);
    assert_eq!(asked(&["3389"]).outcome, Outcome::Denied);
}

#[test]
fn a_prefix_meets_the_rule_on_a_part_of_it() {
    let text = r#"
        @id("in") @require("1 of sre")
        permit (principal, action == Action::"initiate", resource)
        when { context.source.isInRange(ip("10.0.0.0/8")) ||
               context.source.isInRange(ip("2001:db8::/32")) };
        @id("guests")
        forbid (principal, action == Action::"initiate", resource)
        when { context.source.isInRange(ip("10.9.0.0/16")) ||
               context.source == ip("2001:db8::bad") };
    "#;
    let asked = |source: &str| {
        let source = source.parse().unwrap();
        judge(text, &[], &[host("web-1", &[])], move |proposal| proposal.sources = vec![source])
    };
    for source in ["10.1.2.3", "10.8.0.0/16", "2001:db8:1::/48", "2001:db8::bae"] {
        assert_eq!(asked(source).outcome, Outcome::Manual, "{source}");
    }
    for source in ["10.9.1.1", "10.8.0.0/15", "10.0.0.0/8", "2001:db8::/32", "2001:db8::bad"] {
        let verdict = asked(source);
        assert_eq!(verdict.outcome, Outcome::Denied, "{source}");
        assert!(verdict.denied[0].contains("\"guests\" forbids it"), "{:?}", verdict.denied);
    }
    for source in ["0.0.0.0/0", "::/0", "192.0.2.1", "2001:db7::1"] {
        assert_eq!(asked(source).outcome, Outcome::Denied, "{source}");
    }
    // Every source counts, and the one that is denied is named.
    let two = judge(text, &[], &[host("web-1", &[])], |proposal| {
        proposal.sources = vec!["10.1.2.3".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    });
    assert_eq!(two.denied, ["22/tcp on web-1 from 192.0.2.1: no rule permits it"]);
}

#[test]
fn the_time_is_that_of_the_beginning_in_utc() {
    let text = r#"@id("office") @require("1 of sre")
        permit (principal, action == Action::"initiate", resource)
        when { context.weekday <= 5 && context.hour >= 8 && context.hour < 18 };"#;
    let at = |start_ms| {
        judge(text, &[], &[host("web-1", &[])], |proposal| proposal.start_ms = Some(start_ms))
    };
    assert_eq!(at(NOW).outcome, Outcome::Denied);
    // Monday 08:00 and 17:59, 18:00.
    let monday = NOW - (14 * 60 + 41) * 60_000 + 48 * HOUR;
    assert_eq!(at(monday + 8 * HOUR - 1).outcome, Outcome::Denied);
    assert_eq!(at(monday + 8 * HOUR).outcome, Outcome::Manual);
    assert_eq!(at(monday + 18 * HOUR - 1).outcome, Outcome::Manual);
    assert_eq!(at(monday + 18 * HOUR).outcome, Outcome::Denied);
    // A beginning in the past is now.
    assert_eq!(at(monday - 7 * 24 * HOUR + 9 * HOUR).outcome, Outcome::Denied);
}

#[test]
fn what_cannot_be_judged_is_denied() {
    // An overflow, which no schema finds.
    let text = format!(
        "{PERMIT_SRE}{}",
        r#"@id("sum") forbid (principal, action == Action::"initiate", resource)
           when { context.duration_s * 9223372036854775807 > 0 };"#
    );
    let web = [host("web-1", &[])];
    let verdict = judge(&text, &["sre"], &web, |_| {});
    assert_eq!(verdict.outcome, Outcome::Denied);
    assert!(verdict.denied[0].contains("\"sum\" cannot be judged: "), "{:?}", verdict.denied);
    for (change, says) in [
        ((|p| p.hosts.push("web-2".into())) as fn(&mut Proposal), "web-2: no such host is known"),
        (|p| p.hosts.clear(), "it names no host"),
        (|p| p.ports.clear(), "it names no host"),
        (|p| p.sources.clear(), "it names no host"),
        (|p| p.requester = "li@example.org".into(), "does not belong to li@example.org"),
    ] {
        let verdict = judge(&format!("{PERMIT_SRE}{AUTO}"), &["sre"], &web, change);
        assert_eq!(verdict.outcome, Outcome::Denied);
        assert!(verdict.denied[0].contains(says), "{:?}", verdict.denied);
    }
    let disabled = Account { disabled: true, ..account("ana", &["sre"]) };
    let verdict = rules(AUTO).judge(&disabled, &web, &ssh(), NOW);
    assert_eq!(verdict.denied, ["the account ana is disabled"]);
    for action in Action::ALL {
        assert!(!rules(DEFAULT).may(&disabled, *action, &web[0], NOW), "{action:?}");
    }
}

#[test]
fn hosts_that_rules_name_are_judged_by_themselves() {
    let text = format!(
        "{PERMIT_SRE}{}",
        r#"@id("named") forbid (principal, action == Action::"initiate", resource)
           when { resource == Host::"web-2" || resource in HostGroup::"vault" ||
                  resource.id like "db-*" };"#
    );
    let vault = Host { groups: ["vault".to_owned()].into(), ..host("x-1", &[]) };
    let hosts = [host("web-1", &[]), host("web-2", &[]), host("db-7", &[]), vault];
    let verdict = judge(&text, &["sre"], &hosts, |_| {});
    assert_eq!(verdict.denied, ["22/tcp on db-7, web-2, x-1: the rule \"named\" forbids it"]);
    assert_eq!(ids(&verdict), ["named", "sre"]);
}

#[test]
fn the_default_rules_can_be_read_and_name_their_rules() {
    let rules = rules(DEFAULT);
    assert_eq!((rules.version(), rules.text()), (7, DEFAULT));
    assert!(rules.0.written.iter().all(|rule| rule.named));
}

#[test]
fn production_is_not_automatic_whatever_else_is_permitted() {
    let text = format!("{DEFAULT}{AUTO}");
    for (labels, outcome) in [
        (&[("env", "stage")][..], Outcome::Automatic),
        (&[("env", "prod")], Outcome::Manual),
        (&[("environment", "stage")], Outcome::Manual),
    ] {
        let verdict = judge(&text, &["sre"], &[host("web-1", labels)], |_| {});
        assert_eq!(verdict.outcome, outcome, "{labels:?}");
        assert_eq!(ids(&verdict)[0] == "prod-is-never-automatic", outcome == Outcome::Manual);
    }
}

/// The blocks of this language in the page of documentation.
fn blocks(language: &str) -> Vec<&'static str> {
    let page = include_str!("../../../docs/controller-rules.md");
    let begin = format!("\n```{language}\n");
    page.split(begin.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_examples_of_the_documentation_hold() {
    let [text] = blocks("cedar")[..] else { panic!("one set of rules") };
    let [cases] = blocks("toml")[..] else { panic!("one file of cases") };
    for result in cases::run(&rules(text), cases).unwrap() {
        assert!(result.passed(), "line {}: {:?}", result.line, result.wrong);
    }
    assert_eq!(blocks("cedarschema"), [SCHEMA]);
}

//! A request as text: what is asked, what rules and people say, what each host answered.

use std::time::Duration;

use jit_client::{
    controller::types::{
        AnswerView, DecisionView, EligibleView, RequestView, RuleTrace, VerdictView,
    },
    status::Page,
    text,
};
use jit_proto::words::counted;

use crate::table::{Cell, Table, line, word_line};

/// The most hosts of a list in one line.
const MOST: usize = 8;

/// All of it.
pub(super) fn request(view: &RequestView, page: Page) -> String {
    let mut out = head(view, page);
    out += &verdict(&view.verdict, page);
    for decision in &view.decisions {
        out += &decided(decision, page);
    }
    out += &line(page, "missing", &view.missing_text);
    if !view.missing_text.is_empty() {
        out += &line(page, "may agree", &eligible(&view.eligible));
    }
    for grant in &view.grants {
        let signed = grant.signed_by.len();
        let text = format!(
            "{} for {}: {signed} of {}, payload {}",
            grant.id,
            some(&grant.hosts),
            counted(grant.signatures_needed.max(1), "signature"),
            grant.payload_hash
        );
        out += &line(page, "grant", &text);
    }
    out += &line(page, "you may", &view.may.join(", "));
    if !view.answers.is_empty() {
        out += "\n";
        out += &answers(view.answers.iter(), page);
    }
    out
}

/// What is asked: what a person agrees to.
pub(super) fn head(view: &RequestView, page: Page) -> String {
    let until = match (&view.ends, view.state.as_str()) {
        (Some(ends), _) => format!("{}, ends {ends}", view.duration),
        (None, "pending") => {
            format!("{}, to be approved until {}", view.duration, view.approve_until)
        }
        (None, _) => view.duration.clone(),
    };
    let start = view.start.as_ref().map(|start| format!("{start} (planned)")).unwrap_or_default();
    let account = if view.account == view.requester || view.account.is_empty() {
        String::new()
    } else {
        format!(", account {}", view.account)
    };
    let ticket = if view.ticket.is_empty() { String::new() } else { format!(" ({})", view.ticket) };
    let most = match view.max_connections {
        0 => String::new(),
        most => counted(most, "connection"),
    };
    [
        line(page, "request", &view.id),
        word_line(page.style, "state", &view.state, &view.why),
        line(page, "asks", &format!("{}{account}", view.requester)),
        line(page, "hosts", &view.hosts.join(", ")),
        line(page, "ports", &view.ports.join(", ")),
        line(page, "lets in", &view.sources.join(", ")),
        line(page, "for", &until),
        line(page, "begins", &start),
        line(page, "why", &format!("{}{ticket}", view.reason)),
        line(page, "sessions", view.sessions.as_deref().unwrap_or_default()),
        line(page, "at most", &most),
        line(page, "replaces", view.replaces.as_deref().unwrap_or_default()),
        line(page, "replaced by", view.replaced_by.as_deref().unwrap_or_default()),
        line(page, "hash", &view.hash),
    ]
    .concat()
}

/// What the rules say, and which of them.
pub(super) fn verdict(verdict: &VerdictView, page: Page) -> String {
    let says = match verdict.outcome.as_str() {
        "automatic" => "approved without a person".to_owned(),
        "manual" => format!("must agree: {}", verdict.needs_text),
        outcome => outcome.to_owned(),
    };
    let most = verdict.max_duration.as_ref().map(|most| format!("; at most {most}"));
    let says = format!("{says}{} (version {})", most.unwrap_or_default(), verdict.rules_version);
    let mut out = line(page, "rules", &says);
    if let Some(group) = &verdict.escalates_to {
        let after = verdict.escalates_after_ms.and_then(|after| u64::try_from(after).ok());
        let after = text::duration(Duration::from_millis(after.unwrap_or(0)));
        out += &line(page, "escalation", &format!("after {after} {group} may agree, too"));
    }
    for why in &verdict.denied {
        out += &line(page, "denied", why);
    }
    for rule in &verdict.rules {
        out += &line(page, "  rule", &traced(rule));
    }
    out
}

fn traced(rule: &RuleTrace) -> String {
    let asks =
        if rule.asks.is_empty() { String::new() } else { format!(" ({})", rule.asks.join(", ")) };
    let reason = if rule.reason.is_empty() { String::new() } else { format!(": {}", rule.reason) };
    let more = usize::try_from(rule.hosts_total).unwrap_or(usize::MAX);
    format!(
        "{} {} {}{asks} on {}{reason}",
        rule.id,
        rule.effect,
        rule.action,
        first(&rule.hosts, more)
    )
}

fn decided(decision: &DecisionView, page: Page) -> String {
    let groups = if decision.groups.is_empty() {
        String::new()
    } else {
        format!(" for {}", decision.groups.join(", "))
    };
    let reason =
        if decision.reason.is_empty() { String::new() } else { format!(": {}", decision.reason) };
    let label = if decision.ruling == "deny" { "denied by" } else { "agreed" };
    line(page, label, &format!("{}{groups} at {}{reason}", decision.subject, decision.at))
}

/// Who may approve.
pub(super) fn eligible(people: &[EligibleView]) -> String {
    if people.is_empty() {
        return "nobody: no member of the groups is left who has not asked for it".into();
    }
    let person = |one: &EligibleView| format!("{} ({})", one.subject, one.groups.join(", "));
    let all: Vec<_> = people.iter().map(person).collect();
    first(&all, all.len())
}

/// What hosts answered, those that say no first.
pub(super) fn answers<'a>(answers: impl Iterator<Item = &'a AnswerView>, page: Page) -> String {
    let mut all: Vec<_> = answers.collect();
    all.sort_by_key(|answer| (rank(answer), answer.host.as_str()));
    let mut table = Table::new(&["HOST", "ANSWER", "WHY"]);
    for answer in all {
        let (word, why) = answered(answer);
        table.row([answer.host.as_str().into(), Cell::word(word), why.into()]);
    }
    table.text(page)
}

fn rank(answer: &AnswerView) -> u8 {
    match answer.answer.as_str() {
        "refused" => 0,
        "waiting" => 1,
        "open" | "scheduled" => 3,
        _ => 2,
    }
}

/// The word and the sentence of an answer.
pub(super) fn answered(answer: &AnswerView) -> (&str, String) {
    let AnswerView { answer: word, word: reason, detail, trouble, since, .. } = answer;
    if answer.pending && !trouble.is_empty() {
        let since = since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
        return (
            "unreachable",
            format!("{trouble}{since}, tried {}", counted(answer.attempts, "time")),
        );
    }
    if answer.pending && answer.wanted == "revoke" {
        return ("waiting", format!("to be revoked; it says {word}"));
    }
    let why = match (reason.as_str(), detail.as_str()) {
        ("" | "ok", detail) => detail.to_owned(),
        (word, "") => word.to_owned(),
        (word, detail) => format!("{word}: {detail}"),
    };
    (word, why)
}

fn some(names: &[String]) -> String {
    first(names, names.len())
}

/// The first names, and how many there are besides.
pub(super) fn first(names: &[String], total: usize) -> String {
    let shown = names.len().min(MOST);
    let text = names.iter().take(shown).map(String::as_str).collect::<Vec<_>>().join(", ");
    match total.saturating_sub(shown) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use jit_client::status::Style;

    use super::*;

    const PAGE: Page = Page::endless(Style::Plain);

    #[test]
    fn a_request_shows_who_asked_who_agreed_who_is_missing_and_what_hosts_say() {
        let view = RequestView {
            id: "01KPEXAMP1E000000000000001".into(),
            state: "partly".into(),
            requester: "ana@example.org".into(),
            account: "ana".into(),
            hosts: vec!["web-1".into(), "web-2".into(), "web-3".into()],
            ports: vec!["22/tcp".into()],
            sources: vec!["203.0.113.7".into()],
            duration: "1h".into(),
            reason: "disk full".into(),
            ticket: "INC-4211".into(),
            hash: "abcd".into(),
            verdict: VerdictView {
                outcome: "manual".into(),
                needs_text: "1 of sre".into(),
                rules_version: 3,
                rules: vec![RuleTrace {
                    id: "prod-ssh".into(),
                    effect: "permit".into(),
                    action: "initiate".into(),
                    asks: vec!["1 of sre".into()],
                    hosts: vec!["web-1".into()],
                    hosts_total: 3,
                    ..RuleTrace::default()
                }],
                ..VerdictView::default()
            },
            decisions: vec![DecisionView {
                subject: "li@example.org".into(),
                ruling: "approve".into(),
                groups: vec!["sre".into()],
                at: "2027-03-01T10:00:00Z".into(),
                ..DecisionView::default()
            }],
            answers: vec![
                AnswerView { host: "web-1".into(), answer: "open".into(), ..Default::default() },
                AnswerView {
                    host: "web-2".into(),
                    answer: "refused".into(),
                    word: "too_long".into(),
                    detail: "the port allows 30m".into(),
                    ..Default::default()
                },
                AnswerView {
                    host: "web-3".into(),
                    answer: "waiting".into(),
                    pending: true,
                    trouble: "no route".into(),
                    since: Some("2027-03-01T10:00:01Z".into()),
                    attempts: 4,
                    ..Default::default()
                },
            ],
            ..RequestView::default()
        };
        let shown = request(&view, PAGE);
        for part in [
            "request    01KPEXAMP1E000000000000001\n",
            "asks       ana@example.org, account ana\n",
            "why        disk full (INC-4211)\n",
            "hash       abcd\n",
            "rules      must agree: 1 of sre (version 3)\n",
            "  rule     prod-ssh permit initiate (1 of sre) on web-1 and 2 more\n",
            "agreed     li@example.org for sre at 2027-03-01T10:00:00Z\n",
            "web-2  refused      too_long: the port allows 30m\n",
            "web-3  unreachable  no route since 2027-03-01T10:00:01Z, tried 4 times\n",
            "web-1  open\n",
        ] {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
        assert!(shown.find("web-2  ").unwrap() < shown.find("web-1  ").unwrap());
    }

    #[test]
    fn nobody_left_to_approve_is_said() {
        assert!(eligible(&[]).starts_with("nobody"));
        let many: Vec<_> = (0..30).map(|n| format!("web-{n}")).collect();
        assert!(first(&many, 5000).ends_with("web-7 and 4992 more"));
    }
}

//! What a message says of a request or of a host, without the form of any service. Pure.
//!
//! Its texts are cleaned: no newline, no invisible letter, and none longer than a service shows.

use jit_client::text::duration;
use jit_proto::{WallTime, printable::clean};
use serde_json::Value;

use crate::{
    audit::{Code, Line},
    model::{Answer, Needs, Ruling, State},
    rules::Eligible,
    store::{Delivery, Whole},
};

/// The most hosts, people or answers that are named; of the others only the number.
const NAMED: usize = 10;
/// Longest name, letters.
const NAME: usize = 80;
/// Longest text, letters.
const TEXT: usize = 600;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// One line.
    pub title: String,
    /// Name and text of each fact, in their order.
    pub facts: Vec<(&'static str, String)>,
    /// The page that it leads to; `None`: the configuration names none.
    pub link: Option<String>,
    /// What has happened, in a few letters: a message with another text is news. Answers of single
    /// hosts are not.
    pub news: String,
}

/// Whether people want to hear of such a record.
pub fn hears(code: &str) -> bool {
    Code::of_id(code).is_some_and(|code| {
        matches!(
            code,
            Code::Answered
                | Code::Approved
                | Code::Denied
                | Code::Ended
                | Code::Escalated
                | Code::Expired
                | Code::Granted
                | Code::HostAlarm
                | Code::HostCondition
                | Code::Replaced
                | Code::Revoked
                | Code::Signed
                | Code::SigningRefused
                | Code::Submitted
                | Code::Withdrawn
        )
    })
}

impl Card {
    /// What there is to say of a request. `missing` must still agree, of `eligible`; `site` is
    /// where the pages are.
    pub fn of_request(
        whole: &Whole,
        missing: &Needs,
        eligible: &[Eligible],
        site: Option<&str>,
    ) -> Self {
        let Whole { request, decisions, deliveries, grants: _ } = whole;
        let asked = &request.proposal;
        let names = |texts: &[String]| named(texts.iter().map(|text| clean(text, NAME)));
        let texts = |texts: Vec<String>| named(texts.into_iter());
        let requester = clean(&asked.requester, NAME);
        let hosts = names(&asked.hosts);
        let on = match asked.hosts.as_slice() {
            [one] => clean(one, NAME),
            all => format!("{} hosts", all.len()),
        };
        let mut facts = vec![
            ("Who", requester.clone()),
            ("Hosts", hosts),
            ("Ports", texts(asked.ports.iter().map(ToString::to_string).collect())),
            ("From", texts(asked.sources.iter().map(ToString::to_string).collect())),
            ("Why", clean(&asked.reason, TEXT)),
        ];
        if !asked.ticket.is_empty() {
            facts.push(("Ticket", clean(&asked.ticket, NAME)));
        }
        let mut how_long = span(asked.duration_ms);
        if let Some(start) = asked.start_ms {
            how_long = format!("{how_long}, from {}", WallTime(start));
        }
        facts.push(("How long", how_long));
        if request.state == State::Pending {
            facts.push(("Must agree", clean(&missing.text(), TEXT)));
            let people = named(eligible.iter().map(|one| clean(&one.subject, NAME)));
            let people = if people.is_empty() { "nobody".to_owned() } else { people };
            facts.push(("May agree", people));
            facts.push(("Until", WallTime(asked.approve_until_ms).to_string()));
        }
        let said = |decision: &crate::model::Decision| {
            let who = clean(&decision.subject, NAME);
            let word = match decision.ruling {
                Ruling::Approve => "agreed",
                Ruling::Deny => "said no",
            };
            match decision.reason.trim() {
                "" => format!("{who} {word}"),
                why => format!("{who} {word}: {}", clean(why, TEXT / 2)),
            }
        };
        if !decisions.is_empty() {
            facts.push(("Decided", named(decisions.iter().map(said))));
        }
        if !deliveries.is_empty() {
            facts.push(("Answers", answers(deliveries)));
        }
        if request.ends_ms > 0 && !request.state.is_final() {
            facts.push(("Ends", WallTime(request.ends_ms).to_string()));
        }
        if !request.why.is_empty() {
            facts.push(("Now", clean(&request.why, TEXT)));
        }
        facts.push(("Request", asked.id.clone()));
        Self {
            title: title(request.state, &requester, &on),
            facts,
            link: site.map(|site| format!("{}/requests/{}", site.trim_end_matches('/'), asked.id)),
            news: format!(
                "{} {} {}",
                request.state.word(),
                decisions.len(),
                if request.state == State::Pending { request.escalate_ms } else { 0 }
            ),
        }
    }

    /// What there is to say of a record that is about no request.
    pub fn of_record(line: &Line) -> Self {
        let record: Value = serde_json::from_str(&line.line).unwrap_or_default();
        let text = |field: &str| {
            let text = record.get(field).and_then(Value::as_str).unwrap_or_default();
            clean(text, TEXT)
        };
        let host = text("host");
        let title = match Code::of_id(&line.code) {
            Some(Code::HostAlarm) => format!("Alarm: {}, host {host}", text("alarm")),
            Some(Code::HostCondition) => {
                format!(
                    "Host {host} is {}, and was {}",
                    spaced(&text("condition")),
                    spaced(&text("before"))
                )
            }
            _ => format!("{} {host}", spaced(&text("event"))),
        };
        let mut facts = vec![("When", WallTime(line.time_ms).to_string())];
        let problems = record.get("problems").and_then(Value::as_array);
        let problems = problems.into_iter().flatten().filter_map(Value::as_str);
        let problems = named(problems.map(|text| clean(text, TEXT / 4)));
        let all = [("What", text("text")), ("Trouble", text("trouble")), ("Problems", problems)];
        facts.extend(all.into_iter().filter(|(_, text)| !text.is_empty()));
        Self { title, facts, link: None, news: String::new() }
    }

    /// The facts as lines of text.
    pub fn lines(&self) -> String {
        let width = self.facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let line = |(name, text): &(&str, String)| {
            format!("{:width$}  {text}\n", format!("{name}:"), width = width + 1)
        };
        self.facts.iter().map(line).collect()
    }
}

fn title(state: State, requester: &str, on: &str) -> String {
    match state {
        State::Pending => format!("{requester} asks for access to {on}"),
        State::Approved | State::Delivering => {
            format!("Approved, on its way: {requester} to {on}")
        }
        State::AwaitingSignatures => format!("Approved, more must sign: {requester} to {on}"),
        State::Denied => format!("Denied: {requester} to {on}"),
        State::Ended => format!("Ended: {requester} to {on}"),
        State::ExpiredUnapproved => format!("Nobody agreed in time: {requester} to {on}"),
        State::Open => format!("Open: {requester} to {on}"),
        State::Partly => format!("Open on some hosts: {requester} to {on}"),
        State::Refused => format!("Every host refused: {requester} to {on}"),
        State::Revoked => format!("Revoked: {requester} to {on}"),
        State::Scheduled => format!("Ready for its time: {requester} to {on}"),
        State::Withdrawn => format!("Withdrawn: {requester} to {on}"),
    }
}

/// What hosts answered: those that need a look first.
fn answers(deliveries: &[Delivery]) -> String {
    let mut all: Vec<_> = deliveries.iter().collect();
    let rank = |one: &Delivery| match one.answer {
        Answer::Refused => 0,
        Answer::Waiting => 1,
        Answer::Scheduled => 2,
        Answer::Open => 3,
        Answer::Closed => 4,
    };
    all.sort_by(|one, other| rank(one).cmp(&rank(other)).then_with(|| one.host.cmp(&other.host)));
    named(all.into_iter().map(|one| {
        let host = clean(&one.host, NAME);
        let answer = one.answer.word();
        let why = if one.trouble.is_empty() { &one.detail } else { &one.trouble };
        match (one.word.is_empty(), why.is_empty()) {
            (true, true) => format!("{host} {answer}"),
            (false, true) => format!("{host} {answer} ({})", clean(&one.word, NAME)),
            (true, false) => format!("{host} {answer}: {}", clean(why, NAME)),
            (false, false) => {
                format!("{host} {answer} ({}): {}", clean(&one.word, NAME), clean(why, NAME))
            }
        }
    }))
}

/// The first of them, and how many more there are.
fn named(texts: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = texts.collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    match more {
        0 => all.join(", "),
        more => format!("{} and {more} more", all.join(", ")),
    }
}

fn span(ms: i64) -> String {
    duration(std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// A word with spaces: `not enforcing`.
fn spaced(word: &str) -> String {
    word.replace('_', " ")
}

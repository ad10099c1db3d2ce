//! A case: what would become of what somebody asks for, and by which rules.

use jit_proto::{PortRange, SourcePrefix, words};

use super::{guard::Fields, text::moment_ms};
use crate::{
    api::{self, ApiState, Failure, duration_ms},
    clock,
    model::{Account, Outcome, Proposal, Verdict},
    people::session::SignedIn,
    rules::Rules,
};

/// People that are named who could agree.
const NAMED: usize = 10;

/// What was typed.
#[derive(Default)]
pub(super) struct Case {
    pub(super) who: String,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) source: String,
    pub(super) duration: String,
    pub(super) at: String,
    /// A field that is wrong, and why; empty: none is.
    pub(super) wrong: (String, String),
}

impl Case {
    /// What is in the fields at first.
    pub(super) fn first(signed_in: &SignedIn) -> Self {
        Self {
            who: signed_in.account().name.clone(),
            port: "22".into(),
            source: "203.0.113.7".into(),
            duration: "1h".into(),
            ..Self::default()
        }
    }

    pub(super) fn of(fields: &Fields) -> Self {
        let text = |name| fields.text(name).to_owned();
        Self {
            who: text("case.who"),
            host: text("case.host"),
            port: text("case.port"),
            source: text("case.source"),
            duration: text("case.duration"),
            at: text("case.at"),
            wrong: Default::default(),
        }
    }

    /// Why this field is wrong; empty: it is not.
    pub(super) fn why(&self, field: &str) -> &str {
        let is_it = self.wrong.0.strip_prefix("case.").is_some_and(|wrong| wrong == field);
        if is_it { &self.wrong.1 } else { "" }
    }

    /// What is asked for, by this account.
    fn proposal(&self, requester: &str, now_ms: i64) -> Result<Proposal, Failure> {
        let port = |text: &str| {
            let why = |why| Failure::field("case.port", format!("{text:?}: {why}"));
            text.parse::<PortRange>().map_err(|error| why(error.to_string()))
        };
        let source = |text: &str| {
            let why = |why| Failure::field("case.source", format!("{text:?}: {why}"));
            text.parse::<SourcePrefix>().map_err(|error| why(error.to_string()))
        };
        let millis = duration_ms("case.duration", Some(&self.duration), None)?;
        let proposal = Proposal {
            id: ulid::Ulid::generate().to_string(),
            requester: requester.to_owned(),
            hosts: vec![self.host.clone()],
            sources: parts(&self.source).map(source).collect::<Result<_, _>>()?,
            ports: parts(&self.port).map(port).collect::<Result<_, _>>()?,
            duration_ms: millis.unwrap_or(0),
            start_ms: None,
            reason: "a case".into(),
            ticket: String::new(),
            sessions: None,
            max_connections: 0,
            replaces: None,
            created_ms: now_ms,
            approve_until_ms: now_ms,
        };
        proposal.checked().map_err(|error| {
            let field = match error.field {
                "hosts" => "case.host",
                "ports" => "case.port",
                "sources" => "case.source",
                _ => "case.duration",
            };
            Failure::field(field, error.why)
        })
    }
}

/// What became of it.
pub(super) struct Tried {
    pub(super) tone: &'static str,
    pub(super) outcome: String,
    /// The longest time; empty: the rules name none.
    pub(super) longest: String,
    pub(super) denied: Vec<String>,
    pub(super) rules: Vec<Matched>,
    /// Who could agree, and how many more.
    pub(super) people: Vec<String>,
    pub(super) people_more: usize,
}

/// A rule that matched.
pub(super) struct Matched {
    pub(super) id: String,
    pub(super) effect: String,
    pub(super) action: String,
    pub(super) reason: String,
    pub(super) asks: String,
}

/// Tries a case. Only administrators try it for others.
pub(super) async fn judge(
    state: &ApiState,
    account: &Account,
    rules: &Rules,
    case: &Case,
) -> Result<Tried, Failure> {
    let unknown = |field: &str, what: &str, name: &str| {
        Failure::field(field, format!("there is no {what} {name:?} that you may see"))
    };
    let who = match case.who.as_str() {
        name if name.is_empty() || name == account.name => account.clone(),
        name if !account.is_admin() => {
            let why =
                format!("only administrators try a case for others; {name:?} is not your account");
            return Err(Failure::field("case.who", why));
        }
        name => state
            .store()
            .account(name)
            .await?
            .ok_or_else(|| unknown("case.who", "account", name))?,
    };
    let known = api::hosts::find_to_ask(state, account, &case.host).await;
    let known = known.map_err(|failure| match failure.parts().status.as_u16() {
        404 => unknown("case.host", "host", &case.host),
        _ => failure,
    })?;
    let now_ms = moment_ms("case.at", &case.at)?.unwrap_or_else(clock::now_ms);
    let proposal = case.proposal(&who.subject, now_ms)?;
    let hosts = [known.host];
    let verdict = rules.judge(&who, &hosts, &proposal, now_ms);
    let people = match verdict.outcome {
        Outcome::Manual => {
            let accounts = state.store().accounts().await?;
            rules.eligible(&accounts, &hosts, &proposal, &verdict, now_ms)
        }
        Outcome::Automatic | Outcome::Denied => Vec::new(),
    };
    let people_more = people.len().saturating_sub(NAMED);
    let people = people.into_iter().take(NAMED).map(|one| one.subject).collect();
    Ok(Tried { people, people_more, ..described(verdict) })
}

fn described(verdict: Verdict) -> Tried {
    let Verdict { rules_version: _, outcome, needs, max_duration_ms, rules, denied, escalate } =
        verdict;
    let (tone, outcome) = match outcome {
        Outcome::Automatic => ("good", "Allowed, and nobody must agree.".to_owned()),
        Outcome::Denied => ("bad", "Denied.".to_owned()),
        Outcome::Manual => {
            let later = escalate.map_or_else(String::new, |escalate| {
                let after = words::duration(escalate.after_ms);
                format!(" After {after} somebody of {} may agree too.", escalate.group)
            });
            ("warn", format!("Allowed, if {} agree.{later}", needs.text()))
        }
    };
    let matched = |rule: crate::model::Rule| Matched {
        id: rule.id,
        effect: rule.effect,
        action: rule.action,
        reason: rule.reason,
        asks: rule.asks.join(", "),
    };
    Tried {
        tone,
        outcome,
        longest: max_duration_ms.map(words::duration).unwrap_or_default(),
        denied,
        rules: rules.into_iter().map(matched).collect(),
        people: Vec::new(),
        people_more: 0,
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty())
}

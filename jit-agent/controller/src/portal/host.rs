//! One host: what is wrong, what it protects, and who has access now.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use jit_proto::words::duration;

use super::{
    guard::Fields,
    host_words,
    page::{Shell, page},
    text::{Moment, When, segment},
    words,
};
use crate::{
    api::{ApiState, Failure, Sight, hosts},
    clock,
    model::{
        Answer,
        host::{Alarm, ObservedExemption, ObservedPort},
    },
    people::session::SignedIn,
    rules::Action,
    store::{Delivery, Request, StoredHost},
};

/// Grants that are looked at.
const GRANTS: u32 = 100;
/// Exemptions of a port that are shown.
const EXEMPTIONS: usize = 20;

#[derive(Template)]
#[template(path = "host.html")]
struct One {
    shell: Shell,
    known: StoredHost,
    tone: &'static str,
    state: &'static str,
    since: Option<Moment>,
    seen: Option<Moment>,
    /// Since when there is a connection.
    connected: Option<Moment>,
    /// Without alarms: they have a section of their own.
    wrong: Vec<String>,
    alarms: Vec<ShownAlarm>,
    /// When the last of these alarms came.
    alarms_until_ms: i64,
    /// It may say that it has looked at the alarms.
    may_clear: bool,
    ports: Vec<ShownPort>,
    grants: Vec<Held>,
    /// Where its alarms are acknowledged.
    clear: String,
}

struct ShownAlarm {
    word: String,
    text: String,
    at: When,
}

struct ShownPort {
    port: String,
    /// Whether the host refuses what has no grant there.
    enforces: bool,
    longest: String,
    approvals: u32,
    exemptions: Vec<Exemption>,
    exemptions_more: usize,
}

struct Exemption {
    source: String,
    owner: String,
    reason: String,
    until: String,
}

/// What somebody has on the host, or will have.
struct Held {
    request: String,
    who: String,
    ports: String,
    sources: String,
    reason: String,
    until: When,
    left: String,
    tone: &'static str,
    answer: String,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    let known = hosts::find(&state, account, &id).await?;
    let mut sight = Sight::new(&state, account, now_ms).await?;
    let grants = held(&state, &mut sight, &id, now_ms).await?;
    let observed = &known.observed;
    let mut wrong = host_words::wrong(observed);
    if !observed.alarms.is_empty() {
        wrong.remove(0);
    }
    let one = One {
        shell: Shell::of(&signed_in, "hosts"),
        tone: host_words::tone(observed),
        state: words::condition(observed.condition),
        since: Moment::of(observed.since_ms, now_ms),
        seen: Moment::of(observed.seen_ms, now_ms),
        connected: Moment::of(observed.connected_ms, now_ms),
        wrong,
        alarms: observed.alarms.iter().map(alarm).collect(),
        alarms_until_ms: observed.alarms.iter().map(|alarm| alarm.at_ms).max().unwrap_or(0),
        may_clear: sight.may(Action::Configure, &known.host),
        ports: observed.ports.iter().map(port).collect(),
        grants,
        clear: format!("/host/{}/alarms", segment(&id)),
        known,
    };
    page(StatusCode::OK, &one)
}

/// Somebody has looked at the alarms that were shown.
pub(super) async fn clear(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let until = fields.text("until");
    let until_ms = until.parse().map_err(|_| {
        Failure::field("until", format!("{until:?} is no moment; open the page of the host again"))
    })?;
    hosts::acknowledge(&state, signed_in.account(), &id, until_ms).await?;
    Ok(Redirect::to(&format!("/host/{}", segment(&id))).into_response())
}

/// Grants of requests that the account sees.
async fn held(
    state: &ApiState,
    sight: &mut Sight<'_>,
    host: &str,
    now_ms: i64,
) -> Result<Vec<Held>, Failure> {
    let mut requests: BTreeMap<String, Option<Request>> = BTreeMap::new();
    let mut held = Vec::new();
    for delivery in state.store().deliveries_at(host, now_ms, GRANTS).await? {
        if !requests.contains_key(&delivery.request) {
            let found = state.store().request(&delivery.request).await?;
            let seen = match found {
                Some(request) if sight.request(&request).await? => Some(request),
                _ => None,
            };
            requests.insert(delivery.request.clone(), seen);
        }
        if let Some(Some(request)) = requests.get(&delivery.request) {
            held.push(grant(request, &delivery, now_ms));
        }
    }
    Ok(held)
}

fn grant(request: &Request, delivery: &Delivery, now_ms: i64) -> Held {
    let asked = &request.proposal;
    let detail = match (delivery.detail.as_str(), delivery.word.as_str()) {
        ("", "") => String::new(),
        ("", word) => format!(": {word}"),
        (detail, "") => format!(": {detail}"),
        (detail, word) => format!(": {detail} ({word})"),
    };
    let (tone, answer) = match delivery.answer {
        _ if !delivery.trouble.is_empty() => {
            ("bad", format!("does not answer: {}", delivery.trouble))
        }
        Answer::Refused => ("bad", format!("refused{detail}")),
        Answer::Waiting => ("warn", "has not answered yet".to_owned()),
        Answer::Open if delivery.pending => ("warn", "open, has to close".to_owned()),
        Answer::Open => ("good", "open".to_owned()),
        Answer::Scheduled => ("good", "accepted, begins later".to_owned()),
        Answer::Closed => ("", format!("closed{detail}")),
    };
    let list = |texts: Vec<String>| texts.join(", ");
    Held {
        request: asked.id.clone(),
        who: asked.requester.clone(),
        ports: list(asked.ports.iter().map(ToString::to_string).collect()),
        sources: list(asked.sources.iter().map(ToString::to_string).collect()),
        reason: asked.reason.clone(),
        until: When(request.ends_ms),
        left: duration(request.ends_ms.saturating_sub(now_ms)),
        tone,
        answer,
    }
}

fn alarm(of: &Alarm) -> ShownAlarm {
    let Alarm { word, text, at_ms, holds: _ } = of;
    ShownAlarm { word: word.clone(), text: text.clone(), at: When(*at_ms) }
}

fn port(of: &ObservedPort) -> ShownPort {
    let ObservedPort { port, mode, max_duration_ms, approvals, exemptions } = of;
    ShownPort {
        port: port.clone(),
        enforces: mode == "enforce",
        longest: match max_duration_ms {
            ..=0 => String::new(),
            longest => duration(*longest),
        },
        approvals: *approvals,
        exemptions: exemptions.iter().take(EXEMPTIONS).map(exemption).collect(),
        exemptions_more: exemptions.len().saturating_sub(EXEMPTIONS),
    }
}

fn exemption(of: &ObservedExemption) -> Exemption {
    let ObservedExemption { source, owner, reason, until_ms } = of;
    Exemption {
        source: source.clone(),
        owner: owner.clone(),
        reason: reason.clone(),
        until: match until_ms {
            0 => "without an end".to_owned(),
            until => format!("until {}", When(*until)),
        },
    }
}

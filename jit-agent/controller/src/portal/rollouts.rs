//! Rollouts: which hosts get a policy when, who would be shut out, and how far it is.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use futures_util::future::join_all;
use jit_proto::words;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{
    files,
    guard::{Fields, LIVE},
    page::{Shell, page},
    policies::{find as find_policy, refusal as refusal_of},
    rollout_words,
    text::{When, address, segment},
};
use crate::{
    api::{self, ApiState, Failure, Sight, duration_ms, policies, rollouts},
    clock,
    model::{
        Account,
        rollout::{HostState, RolloutState},
    },
    people::session::SignedIn,
    store::{Rollout, RolloutHost},
};

/// Hosts of one page.
const ROWS: usize = 100;
/// Hosts because of which it has halted that are shown.
const BAD: u32 = 20;
/// Hosts of a wave that are named before it begins.
const NAMED: usize = 8;
/// Hosts that are asked what would change there.
const ASKED: usize = 8;
/// Longest wait for a host's answer to that.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Template)]
#[template(path = "rollout_plan.html")]
struct Plan {
    shell: Shell,
    policy: String,
    why: String,
    waves: String,
    confirm: String,
    pause: String,
    /// A field that is wrong, and why; empty: none is.
    wrong: (String, String),
    planned: Vec<PlannedWave>,
    asked: Vec<Asked>,
    can_begin: bool,
}

struct PlannedWave {
    name: String,
    hosts: usize,
    named: String,
}

/// What a host says that the policy would change there.
struct Asked {
    host: String,
    /// Somebody would be shut out.
    shuts_out: bool,
    lines: Vec<String>,
    trouble: String,
}

#[derive(Template)]
#[template(path = "rollout.html")]
struct One {
    shell: Shell,
    may_change: bool,
    rollout: Rollout,
    state: &'static str,
    tone: &'static str,
    began: When,
    pause: String,
    confirm: String,
    waves: Vec<WaveRow>,
    bad: Vec<HostRow>,
    hosts: Vec<HostRow>,
    next: String,
    /// The stream that says when this page is old; empty: nothing changes by itself.
    live: String,
    script: &'static str,
}

struct WaveRow {
    number: usize,
    name: String,
    /// It is this one's turn.
    is_now: bool,
    hosts: i64,
    done: i64,
    states: String,
}

struct HostRow {
    link: String,
    host: String,
    wave: i64,
    tone: &'static str,
    state: &'static str,
    detail: String,
    changes: Vec<String>,
    since: When,
}

/// What was typed.
struct Typed {
    waves: String,
    confirm: String,
    pause: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        let or = |name: &str, usual: &str| match fields.text(name) {
            "" => usual.to_owned(),
            text => text.replace("\r\n", "\n"),
        };
        Self {
            waves: or("waves", "10%\nall"),
            confirm: or("confirm", "2m"),
            pause: or("pause", "5m"),
        }
    }

    /// One a line.
    fn waves(&self) -> Vec<String> {
        let lines = self.waves.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    }
}

/// Which hosts each wave would have, and what hosts of the first one say. Administrators see it.
pub(super) async fn plan(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    planned(&state, &signed_in, &id, Typed::of(&fields), None).await
}

/// Begins a rollout.
pub(super) async fn begin(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let typed = Typed::of(&fields);
    match started(&state, account, &id, &typed).await {
        Ok(begun) => Ok(Redirect::to(&format!("/rollouts/{}", begun.id)).into_response()),
        Err(failure) if failure.parts().status == StatusCode::UNPROCESSABLE_ENTITY => {
            planned(&state, &signed_in, &id, typed, Some(failure)).await
        }
        Err(failure) => Err(failure),
    }
}

async fn started(
    state: &ApiState,
    account: &Account,
    policy: &str,
    typed: &Typed,
) -> Result<Rollout, Failure> {
    let waves = rollouts::waves(&typed.waves())?;
    let confirm_ms = duration_ms("confirm", Some(&typed.confirm), None)?;
    let pause_ms = duration_ms("pause", Some(&typed.pause), None)?;
    let course = rollouts::course(policy.to_owned(), waves, confirm_ms, pause_ms)?;
    let fleet = policies::fleet(state)?;
    Ok(fleet.begin_rollout(&account.subject, course, clock::now_ms()).await?)
}

async fn planned(
    state: &ApiState,
    signed_in: &SignedIn,
    id: &str,
    typed: Typed,
    failure: Option<Failure>,
) -> Result<Response, Failure> {
    let policy = find_policy(state, id).await?;
    let texts = typed.waves();
    let (mut plan, mut failure) = (Vec::new(), failure);
    match rollouts::waves(&texts) {
        Ok(waves) => plan = policies::fleet(state)?.plan_rollout(&waves).await?,
        Err(wrong) => failure = failure.or(Some(wrong)),
    }
    let first = plan.iter().find(|hosts| !hosts.is_empty());
    let asked = first.into_iter().flatten().take(ASKED).cloned();
    let account = signed_in.account();
    let asked = join_all(asked.map(|host| ask(state, account, id, host))).await;
    let (status, wrong) = match &failure {
        None => (StatusCode::OK, Default::default()),
        Some(failure) => {
            let parts = failure.parts();
            (parts.status, (parts.field.clone(), parts.detail.clone()))
        }
    };
    let wave = |(name, hosts): (String, Vec<String>)| {
        let mut named: Vec<_> = hosts.iter().take(NAMED).map(String::as_str).collect();
        if hosts.len() > NAMED {
            named.push("...");
        }
        PlannedWave { name, hosts: hosts.len(), named: named.join(", ") }
    };
    let Typed { waves, confirm, pause } = typed;
    let plan = Plan {
        shell: Shell::of(signed_in, "policies"),
        policy: policy.id,
        why: policy.justification,
        waves,
        confirm,
        pause,
        wrong,
        can_begin: plan.iter().any(|hosts| !hosts.is_empty()),
        planned: texts.into_iter().zip(plan).map(wave).collect(),
        asked,
    };
    page(status, &plan)
}

/// What a host says that the policy would change there.
async fn ask(state: &ApiState, account: &Account, policy: &str, host: String) -> Asked {
    let asked = policies::previewed(state, account, policy, host.clone());
    match timeout(PATIENCE, asked).await {
        Ok(Ok(preview)) => {
            let refusal = refusal_of(&preview);
            let shuts_out = preview.changes.iter().any(|line| {
                ["closed", "shut out", "grant"].iter().any(|head| line.starts_with(head))
            });
            let refusal = Some(refusal).filter(|why| !why.is_empty());
            let refusal = refusal.map(|why| format!("it {why}"));
            let lines = refusal.into_iter().chain(preview.changes).collect();
            Asked { host, shuts_out, lines, trouble: String::new() }
        }
        Ok(Err(failure)) => Asked {
            host,
            shuts_out: false,
            lines: Vec::new(),
            trouble: failure.parts().detail.clone(),
        },
        Err(_) => {
            let trouble = "it does not answer".to_owned();
            Asked { host, shuts_out: false, lines: Vec::new(), trouble }
        }
    }
}

/// One rollout: its waves, and its hosts for administrators.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    let mut sight = Sight::new(&state, account, clock::now_ms()).await?;
    let rollout = sight.find_rollout(&id).await?;
    let counts = state.store().rollout_counts(&id).await?;
    let may_change = account.is_admin();
    let (mut bad, mut hosts, mut next) = (Vec::new(), Vec::new(), String::new());
    let here = format!("/rollouts/{}", segment(&id));
    if may_change {
        bad = state.store().rollout_hosts_bad(&id, BAD).await?;
        let most = u32::try_from(ROWS).unwrap_or(u32::MAX).saturating_add(1);
        hosts = state.store().rollout_hosts(&id, fields.text("after"), most).await?;
        let has_more = hosts.len() > ROWS;
        hosts.truncate(ROWS);
        if let Some(last) = hosts.last().filter(|_| has_more) {
            next = address(&here, &[("after", &last.host)]);
        }
    }
    let stamp = stamp_of(&rollout, &counts);
    let waves = rollout.waves.iter().enumerate();
    let waves = waves.map(|(at, wave)| {
        let of = |(number, _, _): &&(i64, HostState, i64)| usize::try_from(*number) == Ok(at);
        let counts: Vec<_> = counts.iter().filter(of).collect();
        let states = counts
            .iter()
            .map(|(_, state, count)| format!("{count} {}", rollout_words::host(*state).0));
        let count = |wanted: fn(HostState) -> bool| -> i64 {
            counts.iter().filter(|(_, state, _)| wanted(*state)).map(|(_, _, count)| count).sum()
        };
        WaveRow {
            number: at.saturating_add(1),
            name: wave.brief(),
            is_now: usize::try_from(rollout.wave) == Ok(at),
            hosts: count(|_| true),
            done: count(|state| state == HostState::Applied),
            states: states.collect::<Vec<_>>().join(", "),
        }
    });
    let waves = waves.collect();
    let (shown, tone) = rollout_words::state(rollout.state);
    let one = One {
        shell: Shell::of(&signed_in, "policies"),
        may_change,
        state: shown,
        tone,
        began: When(rollout.created_ms),
        pause: words::duration(rollout.pause_ms),
        confirm: words::duration(rollout.confirm_s.saturating_mul(1000)),
        waves,
        bad: bad.into_iter().map(row).collect(),
        hosts: hosts.into_iter().map(row).collect(),
        next,
        live: match rollout.state {
            RolloutState::Running => address(LIVE, &[("rollout", &id), ("stamp", &stamp)]),
            RolloutState::Aborted | RolloutState::Done | RolloutState::Halted => String::new(),
        },
        script: files::live(),
        rollout,
    };
    page(StatusCode::OK, &one)
}

/// How far a rollout is, in a few letters: other letters are news.
pub(super) async fn stamp(state: &ApiState, id: &str) -> Result<String, Failure> {
    let Some(rollout) = state.store().rollout(id).await? else { return Ok(String::new()) };
    Ok(stamp_of(&rollout, &state.store().rollout_counts(id).await?))
}

fn stamp_of(rollout: &Rollout, counts: &[(i64, HostState, i64)]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {}", rollout.state.word(), rollout.wave, rollout.why));
    for (wave, state, count) in counts {
        hash.update(format!(" {wave} {} {count}", state.word()));
    }
    hex::encode(hash.finalize()).chars().take(16).collect()
}

/// Halts a rollout, goes on with it, or ends it.
pub(super) async fn act(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path((id, what)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    api::admin(account)?;
    let (fleet, now_ms) = (policies::fleet(&state)?, clock::now_ms());
    let changed = match what.as_str() {
        "abort" => fleet.abort_rollout(&account.subject, &id, now_ms).await?,
        "halt" => fleet.halt_rollout(&account.subject, &id, now_ms).await?,
        "resume" => fleet.resume_rollout(&account.subject, &id, now_ms).await?,
        _ => return Err(Failure::not_found("action", &what)),
    };
    Ok(Redirect::to(&format!("/rollouts/{}", changed.id)).into_response())
}

fn row(of: RolloutHost) -> HostRow {
    let (state, tone) = rollout_words::host(of.state);
    let detail = match (of.word.as_str(), of.detail.as_str()) {
        (word, "") => word.to_owned(),
        ("", detail) => detail.to_owned(),
        (word, detail) => format!("{detail} ({word})"),
    };
    HostRow {
        link: format!("/host/{}", segment(&of.host)),
        host: of.host,
        wave: of.wave.saturating_add(1),
        tone,
        state,
        detail,
        changes: of.changes.lines().take(10).map(str::to_owned).collect(),
        since: When(of.changed_ms),
    }
}

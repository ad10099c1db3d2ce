//! *Health*: what does not work, and what to do.

use std::time::Instant;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    page::{Shell, page},
    text::When,
};
use crate::{
    api::{self, ApiState, Failure},
    clock,
    health::{self, Findings, Level},
    people::session::SignedIn,
    store::{Kind, StoreError},
};

#[derive(Template)]
#[template(path = "health.html")]
struct Health {
    shell: Shell,
    verdict: &'static str,
    verdict_tone: &'static str,
    lines: Vec<Line>,
    at: When,
    took_ms: u128,
}

struct Line {
    tone: &'static str,
    level: &'static str,
    about: String,
    text: String,
    /// A page that says more; empty: none.
    link: &'static str,
}

/// The page. Administrators see it.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    api::admin(signed_in.account())?;
    let (now_ms, began) = (clock::now_ms(), Instant::now());
    let mut findings = Findings::default();
    if let Err(error) = look(&state, now_ms, &mut findings).await {
        findings.error("database", format!("it does not answer: {error}"));
    }
    match state.fleet() {
        None => findings.good("this process", "answers calls; another one talks to hosts"),
        Some(fleet) => {
            if let Some(report) = fleet.hub_report() {
                health::hub(&report, now_ms, &mut findings);
            }
        }
    }
    let (verdict, verdict_tone) = match findings.worst() {
        Level::Error => ("Something does not work.", "bad"),
        Level::Warning => ("It works; something needs a look.", "warn"),
        Level::Good => ("Everything is in order.", "good"),
    };
    let mut found: Vec<_> = findings.all().iter().collect();
    found.sort_by_key(|finding| finding.level);
    let line = |finding: &health::Finding| {
        let (tone, level) = match finding.level {
            Level::Error => ("bad", "does not work"),
            Level::Warning => ("warn", "needs a look"),
            Level::Good => ("good", "good"),
        };
        let link = match finding.about.as_str() {
            "hosts" => "/hosts",
            "rules" => "/rules",
            _ => "",
        };
        Line { tone, level, about: finding.about.clone(), text: finding.text.clone(), link }
    };
    let health = Health {
        shell: Shell::of(&signed_in, "health"),
        verdict,
        verdict_tone,
        lines: found.into_iter().map(line).collect(),
        at: When(now_ms),
        took_ms: began.elapsed().as_millis(),
    };
    page(StatusCode::OK, &health)
}

async fn look(state: &ApiState, now_ms: i64, findings: &mut Findings) -> Result<(), StoreError> {
    let about = match state.store().kind() {
        Kind::Postgres => "database (Postgres)",
        Kind::Sqlite => "database (SQLite)",
    };
    health::database(state.store(), about, now_ms, findings).await?;
    health::running(state.desk(), now_ms, findings).await
}

//! One command for many agents at once: in parallel, bounded, with a line for each, and the exit code of
//! the worst outcome.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jit_client::{
    Agent,
    exit::Exit,
    revocation,
    status::{GrantsJson, Page, StatusJson},
};
use jit_proto::{
    GrantId,
    v1::{self, revoke_request::What},
    words::{ranges_text, source_text},
};
use serde_json::{Map, Value, json};

use crate::{
    agents::Listed,
    colours::Colours,
    connect,
    failure::Failure,
    table::{Cell, Table},
    text,
};

/// The most agents that are spoken to at the same time.
const WIDE: usize = 64;

/// What one agent came to.
pub(crate) struct Said {
    exit: Exit,
    /// Rows of the table, without the agent's column.
    rows: Vec<Vec<Cell>>,
    /// The same for programs.
    json: Map<String, Value>,
}

/// Asks every agent, and prints what came of it. `titles`: of the columns after the agent's.
fn each(
    agents: &[Listed],
    titles: &[&'static str],
    json: bool,
    colours: Colours,
    work: impl AsyncFn(&mut Agent) -> Result<Said, Failure>,
) -> Result<Exit, Failure> {
    let said = connect::block_on(async { Ok(ask(agents, &work).await) })?;
    report(agents, titles, &said, json, colours)?;
    Ok(worst(said.iter().map(|said| said.as_ref().map_or_else(|failure| failure.exit, |s| s.exit))))
}

/// The answers of all agents, in their order.
async fn ask(
    agents: &[Listed],
    work: &impl AsyncFn(&mut Agent) -> Result<Said, Failure>,
) -> Vec<Result<Said, Failure>> {
    let bar = ProgressBar::with_draw_target(
        u64::try_from(agents.len()).ok(),
        ProgressDrawTarget::stderr(),
    );
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos} of {len} agents");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let one = |(index, agent): (usize, &Listed)| {
        let target = agent.target.clone();
        async move {
            let said = async { work(&mut Agent::connect(&target).await?).await };
            (index, said.await)
        }
    };
    let mut answers: BTreeMap<usize, Result<Said, Failure>> = BTreeMap::new();
    let mut asked = stream::iter(agents.iter().enumerate().map(one)).buffer_unordered(WIDE);
    while let Some((index, said)) = asked.next().await {
        answers.insert(index, said);
        bar.inc(1);
    }
    bar.finish_and_clear();
    answers.into_values().collect()
}

fn report(
    agents: &[Listed],
    titles: &[&'static str],
    said: &[Result<Said, Failure>],
    json: bool,
    colours: Colours,
) -> Result<(), Failure> {
    if json {
        for (agent, said) in agents.iter().zip(said) {
            text::print_json(&value(agent, said))?;
        }
        return Ok(());
    }
    let mut all = vec!["AGENT"];
    all.extend(titles);
    let mut table = Table::new(&all);
    for (agent, said) in agents.iter().zip(said) {
        let rows = match said {
            Ok(said) => said.rows.clone(),
            Err(failure) => {
                let word = if failure.exit == Exit::Permission { "refused" } else { "failed" };
                let mut row = vec![Cell::default(); titles.len()];
                if let Some(first) = row.first_mut() {
                    *first = Cell::word(word);
                }
                if let Some(last) = row.last_mut() {
                    let text = failure.to_string();
                    *last = text.strip_prefix("refused: ").unwrap_or(&text).into();
                }
                vec![row]
            }
        };
        for row in rows {
            let first = Cell::from(&agent.address);
            table.push(std::iter::once(first).chain(row).collect());
        }
    }
    text::print(&table.text(Page::of_stdout(colours.style())))
}

/// The line of one agent: its own fields, or why there are none.
fn value(agent: &Listed, said: &Result<Said, Failure>) -> Value {
    let mut map = Map::new();
    map.insert("agent".into(), json!(agent.address));
    map.insert("labels".into(), json!(agent.labels));
    let (exit, error) = match said {
        Ok(said) => (said.exit, Value::Null),
        Err(failure) => (failure.exit, json!(failure.to_string())),
    };
    map.insert("exit".into(), json!(exit.code()));
    map.insert("error".into(), error);
    if let Ok(said) = said {
        map.extend(said.json.clone());
    }
    Value::Object(map)
}

/// The worst of these: nothing answers is worse than a refusal, a wrong file here worse than both.
pub(crate) fn worst(exits: impl Iterator<Item = Exit>) -> Exit {
    exits.max_by_key(|exit| rank(*exit)).unwrap_or(Exit::Success)
}

const fn rank(exit: Exit) -> u8 {
    match exit {
        Exit::Success => 0,
        Exit::Degraded => 1,
        Exit::NotEnforcing => 2,
        Exit::Permission => 3,
        Exit::Unavailable => 4,
        Exit::Configuration => 5,
        Exit::Usage => 6,
    }
}

/// Pushes envelopes to every agent. `files`: their names.
pub(crate) fn push(
    agents: &[Listed],
    envelopes: &[v1::Envelope],
    files: &[String],
    json: bool,
    colours: Colours,
) -> Result<Exit, Failure> {
    each(agents, &["RESULT", "DETAIL"], json, colours, async |agent| {
        let outcomes = agent.push_batch(envelopes.to_vec()).await?;
        if outcomes.len() != envelopes.len() {
            return Err(Failure::unavailable(format!(
                "it answered for {} of {} grants; check with `jitctl list`",
                outcomes.len(),
                envelopes.len()
            )));
        }
        Ok(pushed(&outcomes, files))
    })
}

/// The end of an accepted grant.
pub(crate) fn end_of(outcome: &v1::Outcome) -> Option<i64> {
    Some(outcome.not_after_ms).filter(|end| outcome.accepted && *end != 0)
}

fn pushed(outcomes: &[v1::Outcome], files: &[String]) -> Said {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (outcome, file) in outcomes.iter().zip(files) {
        let id = GrantId::from_bytes(&outcome.grant_id).map(|id| id.to_string());
        let until = end_of(outcome).map(text::moment);
        let word = if outcome.accepted { "ok" } else { "refused" };
        let detail = match &until {
            Some(until) if outcome.warning.is_empty() => {
                format!("{}: {} until {until}", id.as_deref().unwrap_or("-"), outcome.reason)
            }
            Some(until) => format!("{} until {until}; {}", outcome.reason, outcome.warning),
            None => format!("{}: {}", outcome.reason, outcome.detail),
        };
        let detail = if files.len() > 1 { format!("{file}: {detail}") } else { detail };
        rows.push(vec![Cell::word(word), detail.into()]);
        values.push(json!({
            "file": file,
            "grant_id": id,
            "accepted": outcome.accepted,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "not_after": until,
            "not_after_ms": end_of(outcome),
            "warning": outcome.warning,
        }));
    }
    let refused = outcomes.iter().any(|outcome| !outcome.accepted);
    let exit = if refused { Exit::Permission } else { Exit::Success };
    Said { exit, rows, json: [("outcomes".to_owned(), Value::from(values))].into_iter().collect() }
}

/// Ends grants on every agent. 1: no agent found anything to end.
pub(crate) fn revoke(
    agents: &[Listed],
    what: &What,
    reason: &str,
    cut: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let found = std::cell::Cell::new(false);
    let colours = Colours::default();
    let exit =
        each(agents, &["RESULT", "REVOKED", "SESSIONS", "DETAIL"], json, colours, async |agent| {
            let request =
                v1::RevokeRequest { what: Some(what.clone()), reason: reason.to_owned(), cut };
            let answer = agent.revoke(request).await?;
            let some = revocation::found_something(&answer);
            found.set(found.get() || some);
            Ok(revoked(&answer, some))
        })?;
    Ok(if exit == Exit::Success && !found.get() { Exit::Degraded } else { exit })
}

fn revoked(answer: &v1::RevokeResponse, some: bool) -> Said {
    let sessions = match (answer.sessions_ended, answer.sessions_open) {
        (0, 0) => String::new(),
        (ended, open) => format!("{ended} ended, {open} open"),
    };
    let detail = match answer.warning.as_str() {
        "" if some => "",
        "" => "nothing matched",
        warning => warning,
    };
    let row =
        vec![Cell::word("ok"), answer.revoked.to_string().into(), sessions.into(), detail.into()];
    Said { exit: Exit::Success, rows: vec![row], json: revocation::json(answer) }
}

/// The grants of every agent.
pub(crate) fn list(
    agents: &[Listed],
    ended: bool,
    json: bool,
    colours: Colours,
) -> Result<Exit, Failure> {
    let titles = ["STATE", "ID", "PORTS", "FROM", "UNTIL", "WHO", "WHY"];
    each(agents, &titles, json, colours, async |agent| {
        let grants = agent.list(ended).await?;
        let rows = if grants.is_empty() {
            vec![vec!["none".into()]]
        } else {
            grants.iter().map(grant_row).collect()
        };
        let value = serde_json::to_value(GrantsJson(&grants)).unwrap_or_default();
        let json = [("grants".to_owned(), value)].into_iter().collect();
        Ok(Said { exit: Exit::Success, rows, json })
    })
}

fn grant_row(state: &v1::GrantState) -> Vec<Cell> {
    let grant = state.signed().unwrap_or_default();
    let word = match state.state() {
        v1::State::Active => "open",
        v1::State::Exhausted => "exhausted",
        v1::State::Expired => "expired",
        v1::State::Replaced => "replaced",
        v1::State::Revoked => "revoked",
        v1::State::Scheduled => "scheduled",
        v1::State::Unspecified => "?",
    };
    let sources: Vec<_> = grant.sources.iter().map(source_text).collect();
    let why = [grant.ticket.as_str(), grant.justification.as_str()].join(" ");
    vec![
        Cell::word(word),
        jit_proto::words::id_text(&grant.id).into(),
        ranges_text(&grant.ports).into(),
        sources.join(", ").into(),
        text::moment(grant.not_after_ms).into(),
        grant.requester.into(),
        why.trim().into(),
    ]
}

/// What every agent enforces; 0: all enforce.
pub(crate) fn status(agents: &[Listed], json: bool, colours: Colours) -> Result<Exit, Failure> {
    let titles = ["STATE", "HOST", "MODE", "GRANTS", "VERSION", "PROBLEM"];
    each(agents, &titles, json, colours, async |agent| {
        let status = agent.status().await?;
        let row = vec![
            Cell::word(&status.state),
            status.host.as_str().into(),
            status.mode.as_str().into(),
            status.grants.len().to_string().into(),
            status.version.as_str().into(),
            status.problems.first().map(String::as_str).unwrap_or_default().into(),
        ];
        let value = serde_json::to_value(StatusJson(&status)).unwrap_or_default();
        let json = [("status".to_owned(), value)].into_iter().collect();
        Ok(Said { exit: Exit::of_status(&status), rows: vec![row], json })
    })
}

/// What a revocation of many agents is about. A short id is of one agent.
pub(crate) fn revoke_what(what: &crate::agent_args::RevokeWhat) -> Result<What, Failure> {
    if let Some(id) = &what.id {
        let id = id.whole().ok_or_else(|| {
            Failure::usage("--agents needs the whole id of a grant: jitctl list --json")
        })?;
        return Ok(What::GrantId(id.0.to_vec().into()));
    }
    what.but_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_is_the_exit_code() {
        use Exit::{Configuration, Degraded, NotEnforcing, Permission, Success, Unavailable};
        let of = |exits: &[Exit]| worst(exits.iter().copied());
        assert_eq!(of(&[]), Success);
        assert_eq!(of(&[Success, Degraded, Success]), Degraded);
        assert_eq!(of(&[NotEnforcing, Degraded]), NotEnforcing);
        assert_eq!(of(&[Permission, NotEnforcing]), Permission);
        assert_eq!(of(&[Unavailable, Permission]), Unavailable);
        assert_eq!(of(&[Configuration, Unavailable, Success]), Configuration);
    }

    #[test]
    fn a_push_of_several_files_has_a_row_for_each() {
        let good = v1::Outcome { accepted: true, reason: "ok".into(), ..Default::default() };
        let bad = v1::Outcome {
            reason: "wrong_host".into(),
            detail: "for db-1".into(),
            ..v1::Outcome::default()
        };
        let files = ["a".to_owned(), "b".to_owned()];
        let said = pushed(&[good, bad], &files);
        assert_eq!((said.exit, said.rows.len()), (Exit::Permission, 2));
        assert_eq!(said.json["outcomes"][1]["reason"], "wrong_host");
    }
}

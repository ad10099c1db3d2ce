//! Rules: read, saved, compared and tried.

use axum::{extract::State, http::header::IF_MATCH, response::Response};
use jit_client::controller::types::{
    self, RulesCaseView, RulesDiff, RulesInput, RulesTestInput, RulesTestResult, RulesView,
    TextMistake,
};
use jit_proto::text::MAX_TEXT_BYTES;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{self, Caller, Scope},
    input::{Body, Call, Params, words},
    problem::{Failure, Word},
    state::ApiState,
    view,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    model::Account,
    rules::{MAX_BYTES, Mistake, Rules, cases, diff},
    store::{RulesVersion, rules},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Number of the version; without it the one in force.
    version: Option<i64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Items of a page, 1 to 500; 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Between {
    /// The older version.
    from: i64,
    /// The newer version; without it the one in force.
    to: Option<i64>,
}

/// A version of the rules. Its `ETag` is the number in quotes.
#[utoipa::path(get, path = "/api/v1/rules", tag = "rules", params(Which),
    responses((status = 200, body = RulesView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(which): Params<Which>,
) -> Result<Response, Failure> {
    caller.with(Scope::Read)?;
    let found = version(&state, which.version).await?;
    Ok(answer::versioned(&call, found.version, &view::rules(found)))
}

/// Saves a version. `If-Match` names the version that was changed.
#[utoipa::path(put, path = "/api/v1/rules", tag = "rules", params(
    ("If-Match" = String, Header, description = "`ETag` of the version that was changed.")),
    request_body = RulesInput, responses((status = 200, body = RulesView)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Body(new): Body<RulesInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Rules)?;
    let before = state.store().rules_in_force().await?;
    let number = before.as_ref().map_or(0, |rules| rules.version);
    match_version(&call, number)?;
    let saved = save(&state, by, number, new).await?;
    Ok(answer::versioned(&call, saved.version, &view::rules(saved)))
}

/// Saves a version that was made of this one; 0: there was none.
pub(crate) async fn save(
    state: &ApiState,
    by: &Account,
    number: i64,
    new: RulesInput,
) -> Result<RulesVersion, Failure> {
    auth::admin(by)?;
    words("note", &new.note, MAX_TEXT_BYTES)?;
    let before = state.store().rules_in_force().await?.map_or(0, |rules| rules.version);
    if before != number {
        return Err(overtaken(before));
    }
    parsed(number.saturating_add(1), &new.text)?;
    let now_ms = clock::now_ms();
    let saved = RulesVersion {
        version: number.saturating_add(1),
        text: new.text,
        author: by.subject.clone(),
        note: new.note,
        saved_ms: now_ms,
    };
    let mut tx = state.store().begin().await?;
    if let Err(error) = rules::save(&mut tx, &saved).await {
        // Somebody else was first, between the look and the change.
        return Err(if error.is_duplicate() { overtaken(number) } else { error.into() });
    }
    let fields = json!({
        "account": by.name, "version": saved.version, "note": saved.note,
        "sha256": hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&saved.text)),
    });
    audit::append(&mut tx, now_ms, &Record::new(Code::RulesSaved, "", &by.subject, fields)).await?;
    state.commit(tx).await?;
    Ok(saved)
}

/// Versions of the rules, the newest first.
#[utoipa::path(get, path = "/api/v1/rules/history", tag = "rules", params(List),
    responses((status = 200, body = types::Page<RulesView>), (status = 304)))]
pub(super) async fn history(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    caller.with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let before = match answer::cursor(list.cursor.as_deref())?.as_str() {
        "" => i64::MAX,
        text => text.parse().map_err(|_| {
            Failure::field("cursor", "it is not the `next` of a page; begin again without it")
        })?,
    };
    let found = state.store().rules_history(before, most).await?;
    let next = found.last().map(|rules| rules.version).filter(|version| *version > 1);
    let is_full = found.len() == usize::try_from(most).unwrap_or(usize::MAX);
    let next = next.filter(|_| is_full).map(|version| version.to_string());
    Ok(answer::page(&call, found.into_iter().map(view::rules).collect(), next))
}

/// What differs between two versions.
#[utoipa::path(get, path = "/api/v1/rules/diff", tag = "rules", params(Between),
    responses((status = 200, body = RulesDiff)))]
pub(super) async fn diff(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(between): Params<Between>,
) -> Result<Response, Failure> {
    caller.with(Scope::Read)?;
    let old = version(&state, Some(between.from)).await?;
    let new = version(&state, between.to).await?;
    let (from, to) = (old.version, Some(new.version));
    let (old, new) = (stored(&old)?, stored(&new)?);
    Ok(answer::one(&call, &difference(from, to, &old, &new)))
}

/// What differs between the rules in force and a text that is not saved.
#[utoipa::path(post, path = "/api/v1/rules/diff", tag = "rules", request_body = RulesInput,
    responses((status = 200, body = RulesDiff)))]
pub(super) async fn diff_text(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Body(new): Body<RulesInput>,
) -> Result<Response, Failure> {
    caller.with(Scope::Read)?;
    let old = version(&state, None).await?;
    let new = parsed(old.version.saturating_add(1), &new.text)?;
    Ok(answer::one(&call, &difference(old.version, None, &stored(&old)?, &new)))
}

/// Tries cases with a text, or with the rules in force. Without cases it only checks the text.
#[utoipa::path(post, path = "/api/v1/rules/test", tag = "rules", request_body = RulesTestInput,
    responses((status = 200, body = RulesTestResult)))]
pub(super) async fn test(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Body(input): Body<RulesTestInput>,
) -> Result<Response, Failure> {
    caller.with(Scope::Read)?;
    let rules = match &input.text {
        None => stored(&version(&state, None).await?),
        Some(text) => parsed(0, text),
    };
    let results = match rules {
        Ok(rules) if input.cases.trim().is_empty() => {
            drop(rules);
            Vec::new()
        }
        Ok(rules) => {
            // Thousands of cases take a while: not on the threads that answer others.
            let run = tokio::task::spawn_blocking(move || cases::run(&rules, &input.cases));
            let done = run.await.map_err(|error| Failure::hidden(Word::Internal, error))?;
            done.map_err(|mistakes| wrong("cases", &mistakes))?
        }
        Err(failure) if !failure.parts().mistakes.is_empty() => {
            let mistakes = failure.parts().mistakes.clone();
            let result = RulesTestResult { passed: false, cases: Vec::new(), mistakes };
            return Ok(answer::one(&call, &result));
        }
        Err(failure) => return Err(failure),
    };
    let passed = results.iter().all(cases::CaseResult::passed);
    let case = |result: cases::CaseResult| RulesCaseView {
        passed: result.passed(),
        verdict: view::verdict(&result.verdict),
        name: result.name,
        line: view::count(result.line),
        wrong: result.wrong,
    };
    let cases = results.into_iter().map(case).collect();
    Ok(answer::one(&call, &RulesTestResult { passed, cases, mistakes: Vec::new() }))
}

fn difference(from: i64, to: Option<i64>, old: &Rules, new: &Rules) -> RulesDiff {
    let diff::Diff { added, removed, changed, unified } = diff::diff(old, new);
    RulesDiff { from, to, added, removed, changed, text: unified }
}

/// A version; `None`: the one in force.
pub(crate) async fn version(
    state: &ApiState,
    number: Option<i64>,
) -> Result<RulesVersion, Failure> {
    let (found, what) = match number {
        None => (state.store().rules_in_force().await?, "in force".to_owned()),
        Some(number) => (state.store().rules_version(number).await?, number.to_string()),
    };
    found.ok_or_else(|| Failure::not_found("version of the rules", &what))
}

/// Rules that were checked when they were saved.
pub(crate) fn stored(saved: &RulesVersion) -> Result<Rules, Failure> {
    Rules::parse(saved.version, &saved.text).map_err(|mistakes| {
        let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
        let detail = format!("version {} is no longer valid: {first}", saved.version);
        Failure::new(Word::Conflict, detail).next("save rules that this version can read")
    })
}

/// Rules that are not saved.
pub(crate) fn parsed(version: i64, text: &str) -> Result<Rules, Failure> {
    if text.len() > MAX_BYTES {
        return Err(Failure::field("text", format!("it is longer than {MAX_BYTES} bytes")));
    }
    Rules::parse(version, text).map_err(|mistakes| wrong("text", &mistakes))
}

fn wrong(field: &str, mistakes: &[Mistake]) -> Failure {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let all = mistakes.iter().map(|mistake| TextMistake {
        line: number(mistake.line),
        column: number(mistake.column),
        text: mistake.text.clone(),
    });
    let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
    Failure::field(field, first).mistakes(all.collect())
}

/// `If-Match` must name the version in force; `"0"` where there is none.
fn match_version(call: &Call, version: i64) -> Result<(), Failure> {
    let tag = format!("\"{version}\"");
    let sent = call.header(IF_MATCH.as_str());
    if sent.is_empty() {
        let detail = format!("the version in force is {tag}");
        return Err(Failure::new(Word::PreconditionRequired, detail));
    }
    if sent == "*" || sent.split(',').any(|one| one.trim() == tag) {
        return Ok(());
    }
    Err(overtaken(version))
}

fn overtaken(version: i64) -> Failure {
    let detail =
        format!("the version in force is not the one in If-Match; {version} was seen last");
    Failure::new(Word::PreconditionFailed, detail)
}

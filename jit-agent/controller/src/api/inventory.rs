//! The import of hosts out of a text.

use axum::{
    extract::{DefaultBodyLimit, Request, State},
    http::header::CONTENT_TYPE,
    response::Response,
};
use jit_client::controller::types::{ImportResult, TextMistake};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    hosts::configures,
    input::{Call, Params, bytes},
    problem::{Failure, Word},
    state::ApiState,
    view::count,
};
use crate::{
    clock,
    fleet::import::{self, Mistake, Plan},
    model::Host,
};

/// Hosts of one page of the store.
const PAGE: u32 = 1000;
/// Largest inventory, bytes: 100,000 hosts fit.
const MAX_BODY: usize = 16 * 1024 * 1024;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say what would change.
    dry_run: Option<bool>,
    /// Remove hosts that the text does not name.
    remove: Option<bool>,
}

/// How large an inventory may be.
pub(super) fn limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MAX_BODY)
}

/// Adds and changes hosts as a text says: CSV (`text/csv`) or TOML (`application/toml`). With one mistake
/// nothing is changed.
#[utoipa::path(post, path = "/api/v1/hosts/import", tag = "hosts", params(How),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, body = ImportResult)))]
pub(super) async fn import(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(how): Params<How>,
    request: Request,
) -> Result<Response, Failure> {
    let by = caller.with(Scope::Hosts)?;
    let bytes = bytes(request, &state).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|why| Failure::new(Word::InvalidBody, format!("it is not UTF-8: {why}")))?;
    let kind = call.header(CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default().trim();
    let wanted = match kind {
        "text/csv" => import::from_csv(text),
        "application/toml" | "text/toml" | "text/x-toml" => import::from_toml(text),
        other => {
            let detail = format!("{other:?} is neither text/csv nor application/toml");
            return Err(Failure::new(Word::MediaType, detail));
        }
    };
    let wanted = wanted.map_err(wrong)?;
    let known = known(&state).await?;
    let plan = import::plan(&known, wanted, how.remove == Some(true));
    let now_ms = clock::now_ms();
    let touched: Vec<_> = plan
        .changed
        .iter()
        .flat_map(|(before, after)| [before, after])
        .chain(&plan.added)
        .chain(&plan.removed)
        .collect();
    configures(&state, by, &touched, now_ms).await?;
    let dry_run = how.dry_run == Some(true);
    if !dry_run {
        let mut tx = state.store().begin().await?;
        import::apply(&mut tx, &plan, &by.subject, now_ms).await?;
        state.commit(tx).await?;
    }
    Ok(answer::one(&call, &result(plan, dry_run)))
}

async fn known(state: &ApiState) -> Result<Vec<Host>, Failure> {
    let mut known: Vec<Host> = Vec::new();
    loop {
        let after = known.last().map(|host| host.id.clone()).unwrap_or_default();
        let page = state.store().hosts(&after, PAGE, None).await?;
        if page.is_empty() {
            return Ok(known);
        }
        known.extend(page.into_iter().map(|stored| stored.host));
    }
}

fn result(plan: Plan, dry_run: bool) -> ImportResult {
    let Plan { added, changed, removed, same } = plan;
    let ids = |hosts: Vec<Host>| hosts.into_iter().map(|host| host.id).collect();
    ImportResult {
        added: ids(added),
        changed: changed.into_iter().map(|(_, after)| after.id).collect(),
        removed: ids(removed),
        unchanged: count(same),
        dry_run,
    }
}

fn wrong(mistakes: Vec<Mistake>) -> Failure {
    let detail = match mistakes.as_slice() {
        [one] => one.to_string(),
        [first, ..] => format!("{} mistakes; the first: {first}", mistakes.len()),
        [] => "it cannot be read".to_owned(),
    };
    let each = |mistake: Mistake| TextMistake {
        line: u32::try_from(mistake.line).unwrap_or(u32::MAX),
        column: 0,
        text: mistake.text,
    };
    Failure::new(Word::InvalidInventory, detail).mistakes(mistakes.into_iter().map(each).collect())
}

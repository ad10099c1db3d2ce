//! *Who could get in at a moment*: the auditor's question.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    guard::Fields,
    page::{Shell, page},
    text::{When, moment_ms},
};
use crate::{
    api::{self, ApiState, Failure},
    audit::access::{Access, access},
    clock,
    people::session::SignedIn,
};

/// The most entries of an answer.
const MOST: usize = 80;

#[derive(Template)]
#[template(path = "access.html")]
struct Page<'f> {
    shell: Shell,
    at: &'f str,
    host: &'f str,
    port: &'f str,
    source: &'f str,
    who: &'f str,
    /// The moment of the answer.
    moment: When,
    rows: Vec<Row>,
    /// There are more.
    cut: bool,
}

struct Row {
    host: String,
    ports: String,
    who: String,
    sources: String,
    since: When,
    until: When,
    certain: bool,
    approvers: String,
    reason: String,
    request: String,
}

/// The page. Auditors see it.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::auditor(signed_in.account())?;
    let (at, host, who) = (fields.text("at"), fields.text("host"), fields.text("who"));
    let (port, source) = (fields.text("port"), fields.text("source"));
    let at_ms = moment_ms("at", at)?.unwrap_or_else(clock::now_ms);
    let given = |text: &'_ str| !text.is_empty();
    let filter = api::access::filter(
        host,
        Some(port).filter(|text| given(text)),
        Some(source).filter(|text| given(text)),
        who,
    )?;
    let mut found = access(state.store(), at_ms, &filter, MOST + 1).await?;
    let cut = found.len() > MOST;
    found.truncate(MOST);
    let found = Page {
        shell: Shell::of(&signed_in, "audit"),
        at,
        host,
        port,
        source,
        who,
        moment: When(at_ms),
        rows: found.into_iter().map(row).collect(),
        cut,
    };
    page(StatusCode::OK, &found)
}

fn row(of: Access) -> Row {
    let Access {
        requester,
        approvers,
        sources,
        host,
        ports,
        from_ms,
        until_ms,
        grant: _,
        request,
        reason,
        answer: _,
        word: _,
        certain,
    } = of;
    Row {
        host,
        ports: ports.join(", "),
        who: requester,
        sources: sources.join(", "),
        since: When(from_ms),
        until: When(until_ms),
        certain,
        approvers: match approvers.is_empty() {
            true => "nobody: by a rule".to_owned(),
            false => approvers.join(", "),
        },
        reason,
        request,
    }
}

//! Who could get in where at a moment.

use axum::{extract::State, response::Response};
use jit_client::controller::types::{AccessEntry, AccessView};
use jit_proto::PortRange;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::Caller,
    input::{Call, Params, moment_ms},
    problem::Failure,
    state::ApiState,
    view::time,
};
use crate::{
    audit::access::{Access, Filter, access},
    clock,
};

/// The most entries of an answer.
const MOST: usize = 5000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// The moment, RFC 3339; without it now.
    at: Option<String>,
    /// The moment, milliseconds since the Unix epoch.
    at_ms: Option<i64>,
    /// Only on this host.
    host: Option<String>,
    /// Only at these ports: `22`.
    port: Option<String>,
    /// Only where this address is let in.
    source: Option<String>,
    /// Only of this person.
    requester: Option<String>,
}

/// Who could get in where at a moment: the auditor's question.
#[utoipa::path(get, path = "/api/v1/access", tag = "audit", params(Question),
    responses((status = 200, body = AccessView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(asked): Params<Question>,
) -> Result<Response, Failure> {
    caller.auditor()?;
    let at_ms = moment_ms("at", asked.at.as_deref(), asked.at_ms)?.unwrap_or_else(clock::now_ms);
    let text = |of: &Option<String>| of.clone().unwrap_or_default();
    let (port, source) = (asked.port.as_deref(), asked.source.as_deref());
    let filter = filter(&text(&asked.host), port, source, &text(&asked.requester))?;
    let mut found = access(state.store(), at_ms, &filter, MOST + 1).await?;
    let cut = found.len() > MOST;
    found.truncate(MOST);
    let seen = AccessView {
        at: time(at_ms),
        at_ms,
        host: asked.host,
        port: asked.port,
        entries: found.into_iter().map(entry).collect(),
        cut,
    };
    Ok(answer::one(&call, &seen))
}

/// Which accesses, as somebody wrote it.
pub(crate) fn filter(
    host: &str,
    port: Option<&str>,
    source: Option<&str>,
    requester: &str,
) -> Result<Filter, Failure> {
    let port = port.map(|text| {
        let wrong = |why| Failure::field("port", format!("{text:?}: {why}"));
        text.parse::<PortRange>().map_err(|why| wrong(why.to_string()))
    });
    let source = source.map(|text| {
        text.parse().map_err(|_| Failure::field("source", format!("{text:?} is no address")))
    });
    Ok(Filter {
        host: host.to_owned(),
        port: port.transpose()?,
        source: source.transpose()?,
        requester: requester.to_owned(),
    })
}

fn entry(of: Access) -> AccessEntry {
    let Access {
        requester,
        approvers,
        sources,
        host,
        ports,
        from_ms,
        until_ms,
        grant,
        request,
        reason,
        answer,
        word: _,
        certain,
    } = of;
    AccessEntry {
        host,
        ports,
        sources,
        requester,
        approvers,
        reason,
        request,
        grant,
        since: time(from_ms),
        since_ms: from_ms,
        until: time(until_ms),
        until_ms,
        answer,
        certain,
    }
}

//! Signed revocations: make one, list them, and see which hosts have carried one out.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jit_client::{
    controller::types::{
        self, RevocationHostView, RevocationInput, RevocationPreview, RevocationView, RevokedWhat,
    },
    revocation_order::Whose,
};
use jit_proto::GrantId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, Params},
    policies::List,
    problem::Failure,
    state::ApiState,
    view,
};
use crate::{
    clock,
    desk::{Close, Closes},
    model::Account,
    store::{Closing, closings::Heard},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say what it would end.
    preview: Option<bool>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Hosts {
    /// Only with this answer: `delivered`, `refused` or `waiting`.
    answer: Option<String>,
    /// Items of a page, 1 to 500; 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Ends what was granted until now, on some hosts or on every host. It needs what ending a request of others
/// needs on each of them: the action `revoke`, and of a token the scope `request` or `approve`.
#[utoipa::path(post, path = "/api/v1/revocations", tag = "revocations", params(How),
    request_body = RevocationInput,
    responses((status = 201, body = RevocationView), (status = 200, body = RevocationPreview)))]
pub(super) async fn make(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(how): Params<How>,
    Body(new): Body<RevocationInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request).or_else(|_| caller.with(Scope::Approve))?;
    let (close, now_ms) = (close(new)?, clock::now_ms());
    if how.preview == Some(true) {
        let Closes { hosts, requests } = state.desk().would_close(account, &close, now_ms).await?;
        let hosts = u64::try_from(hosts).unwrap_or(u64::MAX);
        return Ok(answer::one(&call, &RevocationPreview { hosts, requests }));
    }
    let closing = state.desk().close(account, &close, now_ms).await?;
    let path = format!("/api/v1/revocations/{}", closing.id);
    let view = shown(&state, &closing).await?;
    Ok(answer::made(StatusCode::CREATED, &path, &view))
}

/// Revocations, the newest first: all of them for administrators and auditors, for others their own.
#[utoipa::path(get, path = "/api/v1/revocations", tag = "revocations", params(List),
    responses((status = 200, body = types::Page<RevocationView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let before = answer::cursor(list.cursor.as_deref())?;
    let mut found = seen(&state, account, &before, most.saturating_add(1)).await?;
    let next = answer::cut(&mut found, most, |closing| closing.id.clone());
    let mut views = Vec::with_capacity(found.len());
    for closing in &found {
        views.push(shown(&state, closing).await?);
    }
    Ok(answer::page(&call, views, next))
}

/// One revocation.
#[utoipa::path(get, path = "/api/v1/revocations/{id}", tag = "revocations",
    params(("id" = String, Path, description = "Id of the revocation.")),
    responses((status = 200, body = RevocationView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let closing = find(&state, account, &id).await?;
    Ok(answer::one(&call, &shown(&state, &closing).await?))
}

/// What its hosts have answered, by host.
#[utoipa::path(get, path = "/api/v1/revocations/{id}/hosts", tag = "revocations", params(Hosts,
    ("id" = String, Path, description = "Id of the revocation.")),
    responses((status = 200, body = types::Page<RevocationHostView>), (status = 304)))]
pub(super) async fn hosts(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Params(list): Params<Hosts>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let after = answer::cursor(list.cursor.as_deref())?;
    let only = list.answer.as_deref().map(|word| {
        let why = || format!("{word:?} is neither `delivered` nor `refused` nor `waiting`");
        Heard::of_word(word).ok_or_else(|| Failure::field("answer", why()))
    });
    let only = only.transpose()?;
    find(&state, account, &id).await?;
    let mut found = state.store().closing_hosts(&id, only, &after, most.saturating_add(1)).await?;
    let next = answer::cut(&mut found, most, |one| one.host.clone());
    Ok(answer::page(&call, found.into_iter().map(view::revocation_host).collect(), next))
}

/// Revocations that an account sees, before this id, the newest first.
///
/// # Errors
/// Those of the database.
pub(crate) async fn seen(
    state: &ApiState,
    account: &Account,
    before: &str,
    most: u32,
) -> Result<Vec<Closing>, Failure> {
    let author = if account.is_auditor() { "" } else { account.subject.as_str() };
    Ok(state.store().closings(before, author, most).await?)
}

/// One that an account sees.
///
/// # Errors
/// There is none, or the database does not answer.
pub(crate) async fn find(
    state: &ApiState,
    account: &Account,
    id: &str,
) -> Result<Closing, Failure> {
    let found = state.store().closing(id).await?;
    let sees = |of: &Closing| account.is_auditor() || of.message.author == account.subject;
    found.filter(sees).ok_or_else(|| Failure::not_found("revocation", id))
}

/// A revocation as people and programs see it.
///
/// # Errors
/// Those of the database.
pub(crate) async fn shown(state: &ApiState, of: &Closing) -> Result<RevocationView, Failure> {
    let counts = state.store().closing_counts(&of.id).await?;
    Ok(view::revocation(of, &counts, clock::now_ms()))
}

/// What is to be ended, from what was sent.
///
/// # Errors
/// The field that is wrong.
pub(crate) fn close(new: RevocationInput) -> Result<Close, Failure> {
    let RevocationInput { hosts, groups, every_host, what, cut, reason } = new;
    let id = |text: &String| {
        let why = || Failure::field("what", format!("{text:?} is no id of a grant"));
        text.parse::<GrantId>().ok().filter(|id| id.0 != [0; 16]).ok_or_else(why)
    };
    let whose = match what {
        RevokedWhat { all: true, requester: None, grants } if grants.is_empty() => Whose::All,
        RevokedWhat { all: false, requester: Some(requester), grants } if grants.is_empty() => {
            Whose::Requester(requester)
        }
        RevokedWhat { all: false, requester: None, grants } if !grants.is_empty() => {
            Whose::Ids(grants.iter().map(id).collect::<Result<_, _>>()?)
        }
        RevokedWhat { .. } => {
            let why = "say one of `all`, `requester` and `grants`";
            return Err(Failure::field("what", why));
        }
    };
    Ok(Close { hosts, groups, every_host, whose, cut, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_kind_of_grants_is_named() {
        let input = |what| RevocationInput { what, every_host: true, ..Default::default() };
        let all = RevokedWhat { all: true, ..RevokedWhat::default() };
        assert_eq!(close(input(all.clone())).unwrap().whose, Whose::All);
        let id = "01J00000000000000000000001".to_owned();
        let one = RevokedWhat { grants: vec![id.clone()], ..RevokedWhat::default() };
        assert!(matches!(close(input(one)).unwrap().whose, Whose::Ids(ids) if ids.len() == 1));
        for wrong in [
            RevokedWhat::default(),
            RevokedWhat { grants: vec![id], ..all.clone() },
            RevokedWhat { requester: Some("ana".into()), ..all },
            RevokedWhat { grants: vec!["x".into()], ..RevokedWhat::default() },
            RevokedWhat { grants: vec!["0".repeat(26)], ..RevokedWhat::default() },
        ] {
            assert_eq!(close(input(wrong)).unwrap_err().parts().field, "what");
        }
    }
}

//! Where accounts get mail.

use axum::{
    extract::{Path, State},
    response::Response,
};
use jit_client::controller::types::{MailInput, MailView};
use serde_json::json;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call},
    problem::Failure,
    state::ApiState,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    messages::mail,
    store::messages,
};

/// Where an account gets mail: an administrator sees all, everybody his own.
#[utoipa::path(get, path = "/api/v1/accounts/{name}/mail", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    responses((status = 200, body = MailView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    if !caller.with(Scope::Read).is_ok_and(|account| account.name == name) {
        caller.admin_with(Scope::Admin)?;
    }
    known(&state, &name).await?;
    let mail = state.store().address_of_mail(&name).await?;
    Ok(answer::one(&call, &MailView { account: name, mail }))
}

/// Says where an account gets mail.
#[utoipa::path(put, path = "/api/v1/accounts/{name}/mail", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    request_body = MailInput, responses((status = 200, body = MailView)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(name): Path<String>,
    Body(new): Body<MailInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    known(&state, &name).await?;
    let MailInput { mail } = new;
    if !mail.is_empty() {
        mail::address(&mail).map_err(|why| Failure::field("mail", why))?;
    }
    if state.store().address_of_mail(&name).await? != mail {
        let mut tx = state.store().begin().await?;
        messages::set_address(&mut tx, &name, &mail).await?;
        let fields = json!({ "by_account": by.name, "account": name, "mail": mail });
        let record = Record::new(Code::AccountChanged, "", &by.subject, fields);
        audit::append(&mut tx, clock::now_ms(), &record).await?;
        state.commit(tx).await?;
    }
    Ok(answer::one(&call, &MailView { account: name, mail }))
}

async fn known(state: &ApiState, name: &str) -> Result<(), Failure> {
    let account = state.store().account(name).await?;
    account.map(|_| ()).ok_or_else(|| Failure::not_found("account", name))
}

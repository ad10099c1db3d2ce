//! Accounts. None is deleted: what it did stays readable.

use axum::{
    extract::{Path, State},
    response::Response,
};
use jit_client::controller::types::{self, AccountInput, AccountView};
use jit_proto::text::{MAX_NAME_BYTES, check};
use serde_json::json;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call},
    problem::{Failure, Word},
    state::ApiState,
    view,
};
use crate::{
    audit::{self, Code, Record},
    clock, desk,
    model::Account,
    store::{accounts, people},
};

/// The most groups of an account.
const MAX_GROUPS: usize = 256;

/// All accounts, by name.
#[utoipa::path(get, path = "/api/v1/accounts", tag = "accounts",
    responses((status = 200, body = types::Page<AccountView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Admin)?;
    let accounts = state.store().accounts().await?;
    Ok(answer::page(&call, accounts.into_iter().map(view::account).collect(), None))
}

/// One account: an administrator sees all, everybody his own.
#[utoipa::path(get, path = "/api/v1/accounts/{name}", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    responses((status = 200, body = AccountView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    if caller.with(Scope::Read).is_ok_and(|account| account.name == name) {
        let own = caller.with(Scope::Read)?.clone();
        return Ok(answer::one(&call, &view::account(own)));
    }
    caller.admin_with(Scope::Admin)?;
    let account = state.store().account(&name).await?;
    let account = account.ok_or_else(|| Failure::not_found("account", &name))?;
    Ok(answer::one(&call, &view::account(account)))
}

/// Makes an account, or replaces what was said of it.
#[utoipa::path(put, path = "/api/v1/accounts/{name}", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    request_body = AccountInput, responses((status = 200, body = AccountView)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(name): Path<String>,
    Body(new): Body<AccountInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    let now_ms = clock::now_ms();
    let mut tx = state.store().begin().await?;
    let before = accounts::lock(&mut tx, &name).await?;
    let created_ms = before.as_ref().map_or(now_ms, |account| account.created_ms);
    let AccountInput { subject, groups, disabled } = new;
    let new = Account { name, subject, groups, disabled, created_ms };
    checked(&new)?;
    if new.name == by.name && !new.is_admin() {
        // The last administrator would be shut out, and no other could help.
        return Err(Failure::new(
            Word::Conflict,
            "you would no longer be an administrator yourself",
        )
        .next("let another administrator do it"));
    }
    if before.as_ref() != Some(&new) {
        accounts::put(&mut tx, &new).await?;
        if new.disabled {
            people::end_sessions(&mut tx, &new.name).await?;
        }
        if let Some(before) = before.as_ref().filter(|before| before.subject != new.subject) {
            desk::renamed(&mut tx, by, (&new, &before.subject), now_ms).await?;
        }
        let fields = json!({
            "by_account": by.name, "account": new.name, "subject": new.subject, "groups": new.groups,
            "disabled": new.disabled, "is_new": before.is_none(),
        });
        let record = Record::new(Code::AccountChanged, "", &by.subject, fields);
        audit::append(&mut tx, now_ms, &record).await?;
        state.commit(tx).await?;
    }
    Ok(answer::one(&call, &view::account(new)))
}

fn checked(account: &Account) -> Result<(), Failure> {
    let text = |field: &str, text: &str| match check("text", text, MAX_NAME_BYTES) {
        Ok(()) if text.trim().is_empty() => Err(Failure::field(field, "it is empty")),
        Ok(()) => Ok(()),
        Err(why) => Err(Failure::field(field, why)),
    };
    text("name", &account.name)?;
    text("subject", &account.subject)?;
    if account.groups.len() > MAX_GROUPS {
        return Err(Failure::field("groups", format!("at most {MAX_GROUPS} are possible")));
    }
    account.groups.iter().try_for_each(|group| text("groups", group))
}

//! Passwords of accounts, for the sign-in at the pages. None is ever shown.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::PasswordInput;
use zeroize::Zeroizing;

use super::{
    auth::{Caller, Scope},
    input::{Body, Call},
    problem::{Failure, Word},
    state::ApiState,
};
use crate::{
    clock,
    people::{Refused, password},
};

/// Gives an account a password, or another one; all of its sessions end. Administrators do it for
/// any account; everybody does it for his own with the password that he has now.
#[utoipa::path(put, path = "/api/v1/accounts/{name}/password", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    request_body = PasswordInput, responses((status = 204)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(name): Path<String>,
    Body(new): Body<PasswordInput>,
) -> Result<Response, Failure> {
    let now_ms = clock::now_ms();
    let (wanted, current) = (Zeroizing::new(new.password), new.current.map(Zeroizing::new));
    let account = match current {
        Some(current) if caller.name() == name => {
            let own = caller.with(Scope::Read)?;
            let from = call.origin.address;
            let confirmed = state.people().confirm(state.desk(), own, current, from, now_ms).await;
            confirmed.map_err(|refused| match refused {
                Refused::Wrong => {
                    let detail = "`current` is not the password that the account has";
                    Failure::refused("wrong_password", detail)
                        .next("an administrator can set another one")
                }
                other => other.into(),
            })?;
            own.clone()
        }
        _ => {
            caller.admin_with(Scope::Admin)?;
            let account = state.store().account(&name).await?;
            account.ok_or_else(|| Failure::not_found("account", &name))?
        }
    };
    password::check(&name, &wanted).map_err(|why| Failure::field("password", why))?;
    let set = state.people().set_password(state.desk(), &account, wanted, caller.subject(), now_ms);
    set.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let words = refused.to_string();
        match refused {
            Refused::Wrong => Self::refused("wrong_password", words),
            Refused::Passkey(error) => error.into(),
            Refused::TooMany(wait) => {
                Self::new(Word::TooMany, words).retry_after(wait.as_secs().saturating_add(1))
            }
            Refused::Busy(password::Unchecked::Busy) => {
                Self::new(Word::TooMany, words).retry_after(1)
            }
            Refused::Busy(password::Unchecked::Failed(why)) => Self::hidden(Word::Internal, why),
            Refused::Store(error) => error.into(),
        }
    }
}

//! Who is signed in.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    page::{Shell, page},
    passkeys::own::{self, Passkeys},
    text::When,
};
use crate::{
    api::{ApiState, Failure},
    clock,
    model::Account,
    people::session::SignedIn,
};

#[derive(Template)]
#[template(path = "me.html")]
struct Me<'f> {
    shell: Shell,
    account: &'f Account,
    ends: When,
    /// Until when groups of the provider count; empty: none follow it.
    lapse: String,
    has_password: bool,
    passkeys: Passkeys,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    let has_password = state.store().password(&account.name).await?.is_some();
    let passkeys = own::of(&state, account).await?;
    let lapse = lapse(&state, account).await?;
    let ends = When(signed_in.ends_ms());
    let shell = Shell::of(&signed_in, "me");
    page(StatusCode::OK, &Me { shell, account, ends, lapse, has_password, passkeys })
}

async fn lapse(state: &ApiState, account: &Account) -> Result<String, Failure> {
    let Some(oidc) = state.people().oidc() else { return Ok(String::new()) };
    let arrival = state.store().arrival(&account.name).await?;
    let Some(arrival) = arrival.filter(|arrival| !arrival.groups.is_empty()) else {
        return Ok(String::new());
    };
    let name = oidc.name();
    Ok(match arrival.until_ms <= clock::now_ms() {
        true => format!("count no more: sign out, and sign in with {name} again"),
        false => {
            let until = When(arrival.until_ms);
            format!("count until {until}, or until you sign in with {name} again")
        }
    })
}

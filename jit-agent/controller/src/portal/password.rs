//! Another password for oneself, with the one that one has.

use askama::Template;
use axum::{
    extract::State,
    http::{StatusCode, header::SET_COOKIE},
    response::{IntoResponse as _, Redirect, Response},
};
use zeroize::Zeroizing;

use super::{
    guard::Fields,
    page::{Shell, page},
};
use crate::{
    api::{ApiState, Call, Failure},
    clock,
    people::{
        Refused, password,
        session::{self, SignedIn},
    },
};

#[derive(Template)]
#[template(path = "password.html")]
struct Password {
    shell: Shell,
    shortest: usize,
    /// Why it was not done; empty: it was not tried.
    refused: String,
}

/// The page.
pub(super) async fn show(signed_in: SignedIn) -> Result<Response, Failure> {
    form(&signed_in, StatusCode::OK, String::new())
}

/// Sets it. All sessions end, this one too.
pub(super) async fn set(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    let of = |name| Zeroizing::new(fields.raw(name).to_owned());
    let (current, wanted) = (of("current"), of("wanted"));
    if wanted != of("again") {
        let why = "the two new ones are not the same";
        return form(&signed_in, StatusCode::UNPROCESSABLE_ENTITY, why.into());
    }
    if let Err(why) = password::check(&account.name, &wanted) {
        let why = format!("the new one is refused: {why}");
        return form(&signed_in, StatusCode::UNPROCESSABLE_ENTITY, why);
    }
    let from = call.origin.address;
    match state.people().confirm(state.desk(), account, current, from, now_ms).await {
        Ok(()) => {}
        Err(Refused::Wrong) => {
            let why = "the old one is wrong";
            return form(&signed_in, StatusCode::FORBIDDEN, why.into());
        }
        Err(other) => return Err(other.into()),
    }
    let by = &account.subject;
    state.people().set_password(state.desk(), account, wanted, by, now_ms).await?;
    Ok(([(SET_COOKIE, session::no_cookie())], Redirect::to("/sign-in")).into_response())
}

fn form(signed_in: &SignedIn, status: StatusCode, refused: String) -> Result<Response, Failure> {
    let shell = Shell::of(signed_in, "me");
    page(status, &Password { shell, shortest: password::SHORTEST, refused })
}

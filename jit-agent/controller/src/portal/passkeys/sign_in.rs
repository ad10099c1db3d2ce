//! Sign-in with a passkey: with any that the person chooses, or with those of a name that was
//! typed.

use axum::{extract::State, response::Response};

use super::{
    super::{guard::Fields, sign_in::answer, way_back::way_back},
    step::{self, Step},
};
use crate::{
    api::{ApiState, Call, Failure, passkeys::party},
    clock,
    people::passkey::{self, Purpose},
};

/// What the browser needs. Of a name that no account has it looks the same.
pub(super) async fn options(
    State(state): State<ApiState>,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let (party, now_ms) = (party(&state)?, clock::now_ms());
    state.people().anybody(state.desk(), call.origin.address, now_ms).await?;
    let challenge = passkey::challenge(state.store(), Purpose::SignIn, "", now_ms).await?;
    let options = match fields.text("name") {
        "" => passkey::request(&party, &challenge, &[]),
        name => passkey::request_of(state.store(), &party, &challenge, name).await?,
    };
    Ok(step::answer(&[Step::get("credential", options)]))
}

/// Signs in.
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let (party, from) = (party(&state)?, call.origin.address);
    let (sent, now_ms) = (fields.raw("credential"), clock::now_ms());
    let signed_in =
        state.people().sign_in_by_passkey(state.desk(), &party, sent, from, now_ms).await;
    answer(&state, signed_in, fields.text("name"), way_back(fields.text("next")))
}

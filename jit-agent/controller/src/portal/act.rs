//! What people do with a request: agree, say no, take back, end, ask for more time.

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Redirect, Response},
};

use super::guard::Fields;
use crate::{
    api::{ApiState, Failure, Sight, duration_ms},
    clock,
    model::Ruling,
    people::session::SignedIn,
};

/// Agrees, or says no, to what was shown: the form has its hash.
pub(super) async fn decide(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let ruling = match fields.text("ruling") {
        "approve" => Ruling::Approve,
        "deny" => Ruling::Deny,
        other => {
            let why = format!("{other:?} is neither `approve` nor `deny`");
            return Err(Failure::field("ruling", why));
        }
    };
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let (reason, hash) = (fields.text("reason"), fields.text("hash"));
    state.desk().decide(account, &id, ruling, reason, hash, now_ms).await?;
    Ok(to(&id))
}

/// Takes it back.
pub(super) async fn withdraw(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    state.desk().withdraw(account, &id, now_ms).await?;
    Ok(to(&id))
}

/// Ends what is on hosts.
pub(super) async fn end(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    state.desk().revoke(account, &id, fields.text("reason"), now_ms).await?;
    Ok(to(&id))
}

/// Asks for more time: a request of its own. The same form twice is one.
pub(super) async fn extend(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    let millis = duration_ms("duration", Some(fields.text("duration")), None)?;
    let millis = millis.ok_or_else(|| Failure::field("duration", "say how long"))?;
    let (reason, key) = (fields.text("reason"), fields.text("key"));
    if key.parse::<ulid::Ulid>().is_err() {
        return Err(Failure::field("key", "the form has no key of its own"));
    }
    let request = state.desk().extend(account, &id, millis, reason, key, now_ms).await?;
    Ok(to(&request.proposal.id))
}

fn to(id: &str) -> Response {
    Redirect::to(&format!("/requests/{id}")).into_response()
}

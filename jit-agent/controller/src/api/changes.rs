//! What changes a request: decisions, ends, extensions, signatures.

use axum::{
    extract::{Path, State},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jit_client::controller::types::{
    DecisionInput, ExtendInput, ReasonInput, RequestView, ShortenInput, SignatureInput,
};
use jit_proto::v1;

use super::{
    auth::{Caller, Scope},
    input::{Body, Call, duration_ms, moment_ms},
    passkeys,
    problem::Failure,
    requests::{answer_changed, key},
    sight::Sight,
    state::ApiState,
};
use crate::{clock, model::Ruling};

/// The caller agrees, or says no. The same decision twice is one.
#[utoipa::path(post, path = "/api/v1/requests/{id}/decision", tag = "requests",
    params(("id" = String, Path, description = "Id of the request.")),
    request_body = DecisionInput, responses((status = 200, body = RequestView)))]
pub(super) async fn decide(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Body(decision): Body<DecisionInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Approve)?;
    let ruling = match decision.ruling.as_str() {
        "approve" => Ruling::Approve,
        "deny" => Ruling::Deny,
        other => {
            let why = format!("{other:?} is neither `approve` nor `deny`");
            return Err(Failure::field("ruling", why));
        }
    };
    let now_ms = clock::now_ms();
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let DecisionInput { ruling: _, reason, hash } = decision;
    let request = state.desk().decide(account, &id, ruling, &reason, &hash, now_ms).await?;
    answer_changed(&state, &caller, account, request, None, now_ms).await
}

/// The requester takes a request back.
#[utoipa::path(post, path = "/api/v1/requests/{id}/withdraw", tag = "requests",
    params(("id" = String, Path, description = "Id of the request.")),
    request_body = ReasonInput, responses((status = 200, body = RequestView)))]
pub(super) async fn withdraw(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Body(why): Body<ReasonInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request)?;
    if !why.reason.is_empty() {
        // A field that would vanish is refused.
        return Err(Failure::field("reason", "nobody is asked why a request is taken back"));
    }
    let now_ms = clock::now_ms();
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let request = state.desk().withdraw(account, &id, now_ms).await?;
    answer_changed(&state, &caller, account, request, None, now_ms).await
}

/// Ends what is on hosts. A token needs the scope `request` or `approve`.
#[utoipa::path(post, path = "/api/v1/requests/{id}/revoke", tag = "requests",
    params(("id" = String, Path, description = "Id of the request.")),
    request_body = ReasonInput, responses((status = 200, body = RequestView)))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Body(why): Body<ReasonInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request).or_else(|_| caller.with(Scope::Approve))?;
    let now_ms = clock::now_ms();
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let request = state.desk().revoke(account, &id, &why.reason, now_ms).await?;
    answer_changed(&state, &caller, account, request, None, now_ms).await
}

/// Asks for more time: another request, which begins at the end of this one, or of its last extension.
#[utoipa::path(post, path = "/api/v1/requests/{id}/extend", tag = "requests",
    params(("id" = String, Path, description = "Id of the request."),
    ("Idempotency-Key" = Option<String>, Header, description = "The same key is the same request.")),
    request_body = ExtendInput, responses((status = 201, body = RequestView)))]
pub(super) async fn extend(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Body(more): Body<ExtendInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request)?;
    let millis = duration_ms("duration", more.duration.as_deref(), more.duration_ms)?;
    let missing = || Failure::field("duration", "say how long: `duration` or `duration_ms`");
    let millis = millis.ok_or_else(missing)?;
    let (key, now_ms) = (key(&call)?, clock::now_ms());
    let request = state.desk().extend(account, &id, millis, &more.reason, key, now_ms).await?;
    answer_changed(&state, &caller, account, request, None, now_ms).await
}

/// Ends a request earlier: another request replaces it, and nobody must agree.
#[utoipa::path(post, path = "/api/v1/requests/{id}/shorten", tag = "requests",
    params(("id" = String, Path, description = "Id of the request.")),
    request_body = ShortenInput, responses((status = 201, body = RequestView)))]
pub(super) async fn shorten(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Body(less): Body<ShortenInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request).or_else(|_| caller.with(Scope::Approve))?;
    let ends_ms = moment_ms("ends", less.ends.as_deref(), less.ends_ms)?;
    let ends_ms = ends_ms.ok_or_else(|| Failure::field("ends", "say when: `ends` or `ends_ms`"))?;
    let now_ms = clock::now_ms();
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let request = state.desk().shorten(account, &id, ends_ms, &less.reason, now_ms).await?;
    answer_changed(&state, &caller, account, request, None, now_ms).await
}

/// Adds a person's signature to a grant of the request, by a key or by a passkey.
#[utoipa::path(post, path = "/api/v1/requests/{id}/signatures", tag = "requests",
    params(("id" = String, Path, description = "Id of the request.")),
    request_body = SignatureInput, responses((status = 200, body = RequestView)))]
pub(super) async fn sign(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Body(new): Body<SignatureInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Signatures)?;
    let now_ms = clock::now_ms();
    Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let grants = state.store().grants_of(&id).await?;
    if !grants.iter().any(|grant| grant.part.id.to_string() == new.grant) {
        let why = format!("{:?} is no grant of the request {id}", new.grant);
        return Err(Failure::field("grant", why));
    }
    let SignatureInput { grant, key_id, signature, authenticator_data, client_data_json } = new;
    let signature = bytes("signature", &signature)?.into();
    let plain = v1::Signature { key_id, signature, assertion: None };
    let request = match (authenticator_data, client_data_json) {
        (None, None) => state.desk().add_signature(account, &grant, plain, now_ms).await?,
        (Some(data), Some(json)) => {
            let assertion = v1::Assertion {
                authenticator_data: bytes("authenticator_data", &data)?.into(),
                client_data_json: bytes("client_data_json", &json)?.into(),
            };
            let approval = v1::Signature { assertion: Some(Box::new(assertion)), ..plain };
            let party = passkeys::party(&state)?;
            state.desk().add_approval(account, &grant, approval, &party, now_ms).await?
        }
        _ => {
            let why = "an approval by passkey has both, and another signature neither";
            return Err(Failure::field("authenticator_data, client_data_json", why));
        }
    };
    answer_changed(&state, &caller, account, request, None, now_ms).await
}

fn bytes(field: &str, text: &str) -> Result<Vec<u8>, Failure> {
    STANDARD.decode(text.trim()).map_err(|why| {
        Failure::field(field, format!("it is no base64 (RFC 4648 section 4): {why}"))
    })
}

//! Webhooks: made, changed and removed by administrators. `deliver` calls them.

use axum::{
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{self, WebhookInput, WebhookMade, WebhookView};
use serde_json::json;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call},
    problem::{Failure, Word},
    state::ApiState,
    target, view,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    model::Form,
    store::{Webhook, webhooks},
};

/// The most webhooks.
const MOST: usize = 100;

/// All webhooks.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks",
    responses((status = 200, body = types::Page<WebhookView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Admin)?;
    let all = state.store().webhooks().await?;
    Ok(answer::page(&call, all.into_iter().map(view::webhook).collect(), None))
}

/// Makes a webhook. It gets what happens from now on.
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "webhooks", request_body = WebhookInput,
    responses((status = 201, body = WebhookMade)))]
pub(super) async fn make(
    State(state): State<ApiState>,
    caller: Caller,
    Body(new): Body<WebhookInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    if state.store().webhooks().await?.len() >= MOST {
        return Err(Failure::new(Word::Conflict, format!("there are {MOST} webhooks already"))
            .next("remove one"));
    }
    let key = state.webhook_key().ok_or_else(|| {
        Failure::hidden(Word::Unavailable, "the file of api.webhook_key cannot be read")
    })?;
    let form = checked(&state, &new)?.unwrap_or_default();
    let now_ms = clock::now_ms();
    let (cursor, _) = state.store().audit_tip().await?;
    let webhook = Webhook {
        id: ulid::Ulid::generate().to_string(),
        url: new.url,
        form,
        events: new.events,
        enabled: new.enabled,
        cursor,
        created_ms: now_ms,
        ..Webhook::default()
    };
    save(&state, &webhook, "made", by, now_ms).await?;
    let path = format!("/api/v1/webhooks/{}", webhook.id);
    let made = WebhookMade { secret: key.secret_of(&webhook.id), view: view::webhook(webhook) };
    let mut response = answer::made(StatusCode::CREATED, &path, &made);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One webhook.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "Id of the webhook.")),
    responses((status = 200, body = WebhookView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Admin)?;
    Ok(answer::one(&call, &view::webhook(find(&state, &id).await?)))
}

/// Changes a webhook. One that was disabled goes on where it was.
#[utoipa::path(put, path = "/api/v1/webhooks/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "Id of the webhook.")),
    request_body = WebhookInput, responses((status = 200, body = WebhookView)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Body(new): Body<WebhookInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    let form = checked(&state, &new)?;
    let now_ms = clock::now_ms();
    let before = find(&state, &id).await?;
    let WebhookInput { url, form: _, events, enabled } = new;
    let form = form.unwrap_or(before.form);
    let changed = Webhook { url, form, events, enabled, why: String::new(), ..before };
    save(&state, &changed, "changed", by, now_ms).await?;
    Ok(answer::one(&call, &view::webhook(find(&state, &id).await?)))
}

/// Removes a webhook.
#[utoipa::path(delete, path = "/api/v1/webhooks/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "Id of the webhook.")),
    responses((status = 204)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    let now_ms = clock::now_ms();
    let before = find(&state, &id).await?;
    let mut tx = state.store().begin().await?;
    if webhooks::remove(&mut tx, &id).await? {
        let record = record(&before, "removed", by);
        audit::append(&mut tx, now_ms, &record).await?;
        state.commit(tx).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn save(
    state: &ApiState,
    webhook: &Webhook,
    change: &str,
    by: &crate::model::Account,
    now_ms: i64,
) -> Result<(), Failure> {
    let mut tx = state.store().begin().await?;
    webhooks::put(&mut tx, webhook).await?;
    audit::append(&mut tx, now_ms, &record(webhook, change, by)).await?;
    Ok(state.commit(tx).await?)
}

fn record(webhook: &Webhook, change: &str, by: &crate::model::Account) -> Record {
    let fields = json!({
        "account": by.name, "webhook": webhook.id, "change": change, "url": webhook.url,
        "form": webhook.form.word(), "events": webhook.events, "enabled": webhook.enabled,
    });
    Record::new(Code::WebhookChanged, "", &by.subject, fields)
}

async fn find(state: &ApiState, id: &str) -> Result<Webhook, Failure> {
    let found = state.store().webhook(id).await?;
    found.ok_or_else(|| Failure::not_found("webhook", id))
}

/// Checks what an administrator says. Returns the form, if he names one.
fn checked(state: &ApiState, new: &WebhookInput) -> Result<Option<Form>, Failure> {
    target::check(&new.url, state.settings().allow_private)
        .map_err(|why| Failure::field("url", why))?;
    let known = |word: &str| Code::ALL.iter().any(|code| code.id() == word || code.name() == word);
    if let Some(word) = new.events.iter().find(|word| !known(word)) {
        let why = format!("{word:?} is neither an event's name nor a code of the audit");
        return Err(Failure::field("events", why));
    }
    let form = new.form.as_deref().map(|word| {
        Form::of_word(word).ok_or_else(|| {
            let words: Vec<_> = Form::ALL.iter().map(|form| form.word()).collect();
            let why = format!("{word:?} is no form; there are {}", words.join(", "));
            Failure::field("form", why)
        })
    });
    form.transpose()
}

//! Audit records, versions of rules, webhooks.

use jit_client::controller::types::{AuditView, RulesView, WebhookView};
use serde_json::Value;

use super::{moment, time};
use crate::{
    audit::Line,
    store::{RulesVersion, Webhook},
};

/// A record, with the line that is chained.
pub(in crate::api) fn audit(of: Line) -> AuditView {
    let Line { seq, time_ms, code, request, hash, line } = of;
    let record: Value = serde_json::from_str(&line).unwrap_or_default();
    let text =
        |field: &str| record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    AuditView {
        seq,
        time: time(time_ms),
        time_ms,
        code,
        event: text("event"),
        by: text("by"),
        request,
        record,
        line: Some(line),
        hash,
    }
}

/// A version of the rules.
pub(in crate::api) fn rules(of: RulesVersion) -> RulesView {
    let RulesVersion { version, text, author, note, saved_ms } = of;
    RulesView { version, text, author, note, saved: time(saved_ms), saved_ms }
}

/// A webhook, without what its secret follows from.
pub(in crate::api) fn webhook(of: Webhook) -> WebhookView {
    let Webhook {
        id,
        url,
        form,
        events,
        enabled,
        why,
        cursor,
        trouble,
        since_ms,
        attempts: _,
        next_ms,
        created_ms,
    } = of;
    let (since, since_ms) = moment(since_ms);
    let (next, next_ms) = moment(next_ms);
    WebhookView {
        id,
        url,
        form: form.word().to_owned(),
        events,
        enabled,
        why,
        cursor,
        trouble,
        since,
        since_ms,
        next,
        next_ms,
        created: time(created_ms),
        created_ms,
    }
}

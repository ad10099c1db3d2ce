//! What a form needs of passkeys: one step for each answer.

use axum::{
    Json,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use serde_json::Value;

/// One answer of a passkey.
#[derive(Serialize)]
pub(super) struct Step {
    /// The field of the form that gets it.
    field: String,
    /// Options to make a passkey.
    #[serde(skip_serializing_if = "Option::is_none")]
    create: Option<Value>,
    /// Options to let one sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    get: Option<Value>,
}

impl Step {
    /// A passkey is made.
    pub(super) fn create(field: impl Into<String>, options: Value) -> Self {
        Self { field: field.into(), create: Some(options), get: None }
    }

    /// A passkey signs.
    pub(super) fn get(field: impl Into<String>, options: Value) -> Self {
        Self { field: field.into(), create: None, get: Some(options) }
    }
}

/// All steps, in order.
pub(super) fn answer(steps: &[Step]) -> Response {
    Json(steps).into_response()
}

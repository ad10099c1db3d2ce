//! Calls to somebody who publishes something, such as keys: no redirects, a limit for their time,
//! and one for the size of what comes back.

use std::{fs, path::Path, time::Duration};

use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, redirect::Policy};
use serde::de::DeserializeOwned;

use crate::causes::causes;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time of a call.
const ANSWER: Duration = Duration::from_secs(10);
/// Largest answer, bytes: the largest sets of keys have some ten thousand.
const LARGEST: usize = 256 * 1024;

/// Why a call was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no answer, or none that can be read.
    #[error("{0}")]
    Unreadable(String),
    /// It refuses; with the body of its answer.
    #[error("it answered {0}")]
    Status(StatusCode, Vec<u8>),
}

/// A client. `section`: of the configuration, for errors. `ca`: authorities beside those of the
/// system. `is_here`: it calls this machine, and no proxy is asked.
///
/// # Errors
/// The file of authorities.
pub(crate) fn client(section: &str, ca: Option<&Path>, is_here: bool) -> Result<Client, String> {
    // Of several in one process the first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .user_agent(concat!("jit-controller/", env!("CARGO_PKG_VERSION")));
    if is_here {
        builder = builder.no_proxy();
    }
    if let Some(file) = ca {
        let failed = |why: String| format!("{section}, {}: {why}", file.display());
        let pem = fs::read(file).map_err(|error| failed(error.to_string()))?;
        let more = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
        builder = builder.tls_certs_merge(more);
    }
    builder.build().map_err(|error| format!("{section}: {error}"))
}

/// Calls, and reads the answer as JSON.
pub(crate) async fn json<T: DeserializeOwned>(call: RequestBuilder) -> Result<T, CallError> {
    let unreadable = |error: reqwest::Error| CallError::Unreadable(causes(&error.without_url()));
    let mut answer = call.header("accept", "application/json").send().await.map_err(unreadable)?;
    let mut body = Vec::new();
    while let Some(part) = Response::chunk(&mut answer).await.map_err(unreadable)? {
        if body.len().saturating_add(part.len()) > LARGEST {
            return Err(CallError::Unreadable(format!("it answers over {LARGEST} bytes")));
        }
        body.extend_from_slice(&part);
    }
    if !answer.status().is_success() {
        return Err(CallError::Status(answer.status(), body));
    }
    serde_json::from_slice(&body)
        .map_err(|why| CallError::Unreadable(format!("its answer cannot be read: {why}")))
}

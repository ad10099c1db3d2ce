//! What a hub shows of itself over plain HTTP, without a token: whether it lives, whether it can work, and
//! numbers. No host is named.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use jit_client::CallError;
use tokio::net::TcpListener;

use super::{super::uplink::Hub, Post};

/// What is shown.
#[derive(Clone)]
struct Shown {
    post: Arc<Post>,
    hub: Arc<Hub>,
}

/// Listens there.
///
/// # Errors
/// The address is taken.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, CallError> {
    let wrong = |why: std::io::Error| CallError::Files(format!("[hub] health, {address}: {why}"));
    let listener = std::net::TcpListener::bind(address).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    TcpListener::from_std(listener).map_err(wrong)
}

/// Answers until the task is ended.
pub(super) async fn serve(post: Arc<Post>, hub: Arc<Hub>, listener: TcpListener) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Shown { post, hub });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "nobody hears any more how the hub is");
    }
}

fn text(status: StatusCode, text: impl Into<String>) -> Response {
    let text: String = text.into();
    (status, [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The process answers.
async fn healthz() -> Response {
    text(StatusCode::OK, "ok\n")
}

/// It can work when the bus is there and it does not end.
async fn readyz(State(shown): State<Shown>) -> Response {
    if *shown.post.draining.borrow() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "this hub ends\n");
    }
    match shown.post.is_at_the_bus() {
        true => text(StatusCode::OK, "ready\n"),
        false => text(StatusCode::SERVICE_UNAVAILABLE, "no server of the bus is connected\n"),
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let report = shown.hub.uplinks.report();
    let mut all = String::new();
    for (name, help, value) in [
        ("hosts", "hosts that are connected", shown.post.hosts().len()),
        ("connections", "connections of agents", report.held),
        ("connections_max", "the most connections: [hub] connections", report.most),
        ("bus_connected", "1: a server of the bus is connected", shown.post.is_at_the_bus().into()),
        (
            "reports_waiting",
            "answers of hosts that the bus has not acknowledged",
            shown.post.reports.waiting(),
        ),
    ] {
        let written = write!(
            all,
            "# HELP jit_hub_{name} {help}\n# TYPE jit_hub_{name} gauge\njit_hub_{name} {value}\n"
        );
        debug_assert!(written.is_ok(), "a String takes all");
    }
    text(StatusCode::OK, all)
}

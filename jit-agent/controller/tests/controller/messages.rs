//! Messages to chats and people, at receivers that answer as the services document it.

mod bot;
mod mail;
mod smtp;
mod webhooks;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use jit_controller::store::Message;
use serde_json::{Value, json};

use crate::api::Site;

/// A call that a receiver got.
#[derive(Clone, Debug)]
struct Call {
    path: String,
    authorization: String,
    body: Value,
}

/// Plays the services: what it got, and what it answers next; without a word `{"ok": true}`.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<Call>>>,
    answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
}

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let this = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{path}", post(receive)).with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (this, address)
    }

    fn got(&self) -> Vec<Call> {
        self.got.lock().unwrap().clone()
    }

    fn answers(&self, status: u16, body: Value) {
        self.answers.lock().unwrap().push_back((status, body));
    }

    /// Waits until it got this many.
    async fn until(&self, count: usize) -> Vec<Call> {
        for _ in 0..400 {
            if self.got().len() >= count {
                return self.got();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{} of {count} came: {:#?}", self.got().len(), self.got());
    }
}

async fn receive(
    State(this): State<Receiver>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, Json<Value>) {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let authorization =
        headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let mut got = this.got.lock().unwrap();
    got.push(Call { path, authorization: authorization.unwrap_or_default(), body: body.clone() });
    // As Slack does: the place of the message.
    let channel = body["channel"].as_str().unwrap_or("C1").to_owned();
    let otherwise =
        (200, json!({ "ok": true, "channel": channel, "ts": format!("1.{}", got.len()) }));
    let (status, answer) = this.answers.lock().unwrap().pop_front().unwrap_or(otherwise);
    let mut headers = HeaderMap::new();
    if status == 429 {
        headers.insert("retry-after", "1".parse().unwrap());
    }
    (StatusCode::from_u16(status).unwrap(), headers, Json(answer))
}

/// Waits until it is kept that this was said of a request, or that it waits to be said again.
async fn said(site: &Site, outbox: &str, request: &str) {
    kept(site, outbox, request, |_| true).await;
}

/// Waits until it is kept that a mail about a request was taken.
async fn taken(site: &Site, outbox: &str, request: &str) {
    kept(site, outbox, request, |message| message.place != "waits").await;
}

async fn kept(site: &Site, outbox: &str, request: &str, is: impl Fn(&Message) -> bool) {
    for _ in 0..400 {
        if site.store().message(outbox, request).await.unwrap().is_some_and(|one| is(&one)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{outbox} has said nothing of {request}");
}

/// The texts of a message, in their order.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        Value::Object(all) => {
            let own = all.get("text").and_then(Value::as_str).map(str::to_owned);
            let below = all.iter().filter(|(_, one)| one.is_object() || one.is_array());
            own.into_iter().chain(below.flat_map(|(_, one)| texts(one))).collect()
        }
        _ => Vec::new(),
    }
}

//! Webhooks: each event at least once and in order, signed; who fails for too long is disabled.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use jit_controller::{
    api::{RawSettings, deliver},
    messages::Retry,
};
use serde_json::{Value, json};

use super::Site;
use crate::databases::Database;

on_each_database! {
    a_receiver_that_fails_gets_everything_later,
    one_that_fails_for_too_long_is_disabled_and_goes_on_where_it_was,
    no_receiver_sends_an_event_on,
    none_reaches_this_machine_without_permission,
}

/// What a receiver got, and what it answers next; without a word 204.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    always: Arc<Mutex<Option<StatusCode>>>,
}

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let this = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(receive)).with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (this, address)
    }

    fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until it got this many.
    async fn until(&self, count: usize) {
        for _ in 0..200 {
            if self.got().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {count} came", self.got().len());
    }
}

async fn receive(State(this): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    this.got.lock().unwrap().push((headers, body));
    let next = this.answers.lock().unwrap().pop_front();
    next.or(*this.always.lock().unwrap()).unwrap_or(StatusCode::NO_CONTENT)
}

async fn site(database: Database, give_up: Duration) -> Site {
    let raw = RawSettings { allow_private: true, ..RawSettings::default() };
    let first = Duration::from_millis(50);
    Site::with(database, raw, |settings| {
        settings.webhook_retry = Retry { first, longest: Duration::from_millis(200), give_up };
    })
    .await
}

async fn a_receiver_that_fails_gets_everything_later(database: Database) {
    let site = site(database, Duration::from_secs(3600)).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let (receiver, address) = Receiver::start().await;
    receiver.answers.lock().unwrap().extend([StatusCode::BAD_GATEWAY, StatusCode::FOUND]);
    let url = format!("http://{address}/hook");
    let new = json!({ "url": url, "events": ["request_submitted", "R003"], "enabled": true });
    let made = root.post("/api/v1/webhooks", new).await.ok(201);
    let secret = made["secret"].as_str().unwrap();
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(ana.ask("web-1").await["id"].as_str().unwrap().to_owned());
    }
    let withdrawn = asked.first().unwrap();
    ana.post(&format!("/api/v1/requests/{withdrawn}/withdraw"), json!({})).await.ok(200);
    receiver.until(7).await;
    let got = receiver.got();
    let mut requests = Vec::new();
    for (headers, body) in &got {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let signature = header("jit-signature");
        let seconds = signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0;
        let seconds: i64 = seconds.parse().unwrap();
        assert_eq!(deliver::signature(secret, seconds, body), signature);
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(header("jit-event"), "request_submitted");
        assert!(header("jit-delivery").ends_with(&format!("-{}", event["seq"])));
        requests.push(event["request"].as_str().unwrap().to_owned());
    }
    // The first came three times: it was refused, and led elsewhere.
    assert_eq!(requests[0..3], [asked[0].clone(), asked[0].clone(), asked[0].clone()]);
    assert_eq!(requests[2..7], asked[..]);
    let path = format!("/api/v1/webhooks/{}", made["view"]["id"].as_str().unwrap());
    let view = root.get(&path).await.ok(200);
    assert_eq!(
        (&view["trouble"], &view["since"], &view["enabled"]),
        (&json!(""), &Value::Null, &json!(true))
    );
    assert_eq!(view["secret"], Value::Null);
    root.delete(&path).await.ok(204);
    ana.ask("web-1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.got().len(), got.len());
}

async fn one_that_fails_for_too_long_is_disabled_and_goes_on_where_it_was(database: Database) {
    let site = site(database, Duration::from_millis(400)).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let (receiver, address) = Receiver::start().await;
    *receiver.always.lock().unwrap() = Some(StatusCode::INTERNAL_SERVER_ERROR);
    let url = format!("http://{address}/hook");
    let new = json!({ "url": url, "events": ["R001"], "enabled": true });
    let made = root.post("/api/v1/webhooks", new.clone()).await.ok(201);
    let path = format!("/api/v1/webhooks/{}", made["view"]["id"].as_str().unwrap());
    let first = ana.ask("web-1").await;
    let mut view = Value::Null;
    for _ in 0..100 {
        view = root.get(&path).await.ok(200);
        if view["enabled"] == false {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(view["enabled"], false, "{view}");
    assert!(view["why"].as_str().unwrap().contains("500"), "{view}");
    let lines = site.store().audit_after(0, 1000).await.unwrap();
    assert_eq!(lines.iter().filter(|line| line.code == "W002").count(), 1);
    *receiver.always.lock().unwrap() = None;
    let before = receiver.got().len();
    root.put(&path, new).await.ok(200);
    receiver.until(before + 1).await;
    let (_, body) = receiver.got().pop().unwrap();
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(event["request"], first["id"]);
}

/// A receiver could be allowed and lead to what is not.
async fn no_receiver_sends_an_event_on(database: Database) {
    let site = site(database, Duration::from_secs(3600)).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let (inner, address) = Receiver::start().await;
    let called = Arc::<Mutex<usize>>::default();
    let (count, target) = (Arc::clone(&called), format!("http://{address}/hook"));
    let answer = move || {
        *count.lock().unwrap() += 1;
        let target = target.clone();
        async move { (StatusCode::TEMPORARY_REDIRECT, [("location", target)]) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let made = root.post("/api/v1/webhooks", json!({ "url": url, "enabled": true })).await.ok(201);
    ana.ask("web-1").await;
    for _ in 0..200 {
        if *called.lock().unwrap() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(*called.lock().unwrap() >= 2, "it is tried again");
    assert!(inner.got().is_empty());
    let path = format!("/api/v1/webhooks/{}", made["view"]["id"].as_str().unwrap());
    let view = root.get(&path).await.ok(200);
    assert!(view["trouble"].as_str().unwrap().contains("307"), "{view}");
}

async fn none_reaches_this_machine_without_permission(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let (receiver, address) = Receiver::start().await;
    for url in [
        format!("http://{address}/hook"),
        format!("https://{address}/hook"),
        "https://[::1]/hook".into(),
        "https://169.254.169.254/latest/meta-data".into(),
        // Other spellings of the same.
        "https://0x7f.1/".into(),
        "https://2130706433/".into(),
        "https://0/".into(),
        "https://[::ffff:127.0.0.1]/".into(),
        "https://[::ffff:a9fe:a9fe]/".into(),
        "https://[64:ff9b::7f00:1]/".into(),
        "https://[fe80::1]/".into(),
        "https://[fd00:ec2::254]/".into(),
        "https://ana:secret@example.org/".into(),
        "file:///etc/passwd".into(),
    ] {
        let new = json!({ "url": url, "enabled": true });
        let problem = root.post("/api/v1/webhooks", new).await.problem(422, "invalid");
        assert_eq!(problem["field"], "url", "{url}");
    }
    let unknown = json!({ "url": "https://example.org/", "events": ["all"], "enabled": true });
    assert_eq!(
        root.post("/api/v1/webhooks", unknown).await.problem(422, "invalid")["field"],
        "events"
    );
    // A name that leads here is looked up only when it is called.
    let url = format!("https://localhost:{}/hook", address.port());
    let made = root.post("/api/v1/webhooks", json!({ "url": url, "enabled": true })).await.ok(201);
    let path = format!("/api/v1/webhooks/{}", made["view"]["id"].as_str().unwrap());
    let changed = json!({ "url": "https://169.254.169.254/", "enabled": true });
    assert_eq!(root.put(&path, changed).await.problem(422, "invalid")["field"], "url");
    for _ in 0..100 {
        let view = root.get(&path).await.ok(200);
        let trouble = view["trouble"].as_str().unwrap().to_owned();
        if !trouble.is_empty() {
            assert!(trouble.contains("allow_private"), "{trouble}");
            assert!(receiver.got().is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it was not tried");
}

//! Server-sent events: nothing is missed, nothing is shown that the account may not see.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use jit_controller::{
    api::RawSettings,
    audit::{self, Code, Record},
    clock::now_ms,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Answer, Caller, HOUR_MS, Site};
use crate::databases::Database;

on_each_database! {
    a_client_that_comes_back_misses_nothing,
    an_account_gets_events_of_what_it_sees,
    a_stream_ends_with_its_token,
    streams_are_bounded,
    one_account_takes_no_other_ones_streams,
    a_quiet_stream_shows_that_it_lives,
    a_client_that_does_not_read_holds_up_nobody,
}

/// A stream of events.
struct Stream {
    bytes: futures_util::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    text: String,
}

impl Stream {
    async fn open(who: &Caller<'_>, last: Option<i64>) -> Self {
        let mut call = who.request(Method::GET, "/api/v1/events");
        if let Some(last) = last {
            call = call.header("last-event-id", last);
        }
        let response = call.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let bytes = response.bytes_stream().map(|bytes| bytes.map(|bytes| bytes.to_vec())).boxed();
        Self { bytes, text: String::new() }
    }

    /// The next event: its id, name and data; `None`: the stream has ended.
    async fn next(&mut self) -> Option<(String, String, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = event.lines();
                    let line = lines.find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default().trim().to_owned()
                };
                let found = (field("id:"), field("event:"), field("data:"));
                let is_comment = event.starts_with(':');
                self.text = rest.to_owned();
                if !is_comment {
                    return Some(found);
                }
                continue;
            }
            let bytes = timeout(Duration::from_secs(20), self.bytes.next()).await.unwrap()?;
            self.text.push_str(&String::from_utf8(bytes.unwrap()).unwrap());
        }
    }
}

async fn a_client_that_comes_back_misses_nothing(database: Database) {
    let site = Site::new(database).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let mut stream = Stream::open(&root, Some(0)).await;
    let request = ana.ask("web-1").await;
    let (last, name, data) = stream.next().await.unwrap();
    assert_eq!(name, "request_submitted");
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((&data["request"], &data["by"]), (&request["id"], &json!("ana@example.org")));
    drop(stream);
    // While nobody listened.
    for _ in 0..150 {
        ana.ask("web-1").await;
    }
    let last: i64 = last.parse().unwrap();
    let mut stream = Stream::open(&root, Some(last)).await;
    for seq in last + 1..=last + 150 {
        assert_eq!(stream.next().await.unwrap().0, seq.to_string());
    }
    // A number of another database: it begins with what happens from now on.
    let mut stream = Stream::open(&root, Some(1_000_000)).await;
    ana.ask("db-1").await;
    assert_eq!(stream.next().await.unwrap().0, (last + 151).to_string());
    let call = root.request(Method::GET, "/api/v1/events").header("last-event-id", "x");
    Answer::of(call.send().await.unwrap()).await.problem(422, "invalid");
}

async fn an_account_gets_events_of_what_it_sees(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let text = jit_controller::rules::DEFAULT.replace(
        "permit (principal, action == Action::\"read\", resource);",
        "permit (principal in \
                 Group::\"approvers\", action == Action::\"read\", resource);",
    );
    let save = root.request(Method::PUT, "/api/v1/rules").header("if-match", "\"1\"");
    Answer::of(save.json(&json!({ "text": text })).send().await.unwrap()).await.ok(200);
    let (ana, eve) = (site.caller("ana").await, site.caller("eve").await);
    let mut seen = Stream::open(&eve, Some(0)).await;
    ana.ask("web-1").await;
    root.put("/api/v1/hosts/web-2", json!({ "address": "192.0.2.11:7443" })).await.ok(200);
    // What she asks for herself is denied, and it is the first thing that she sees.
    let own = eve.ask("web-1").await;
    assert_eq!(own["state"], "denied");
    let (_, name, data) = seen.next().await.unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((name.as_str(), &data["request"]), ("request_submitted", &own["id"]));
}

async fn a_stream_ends_with_its_token(database: Database) {
    let site = Site::new(database).await;
    let (text, id) = site.token_until("root", &["read", "audit"], now_ms() + HOUR_MS).await;
    let stolen = Caller { site: &site, token: text };
    let mut stream = Stream::open(&stolen, None).await;
    site.caller("root").await.delete(&format!("/api/v1/tokens/{id}")).await.ok(204);
    let (_, name, word) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), word.as_str()), ("end", "token_revoked"));
    assert_eq!(stream.next().await, None);
}

async fn streams_are_bounded(database: Database) {
    let raw = RawSettings { streams: Some(2), ..RawSettings::default() };
    let site = Site::with(database, raw, |_| {}).await;
    let root = site.caller("root").await;
    let first = Stream::open(&root, None).await;
    let _second = Stream::open(&root, None).await;
    root.get("/api/v1/events").await.problem(429, "too_many_requests");
    drop(first);
    for _ in 0..100 {
        let call = root.request(Method::GET, "/api/v1/events").send().await.unwrap();
        if call.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the place of a stream that has ended is not free");
}

async fn one_account_takes_no_other_ones_streams(database: Database) {
    let raw = RawSettings { account_streams: Some(2), ..RawSettings::default() };
    let site = Site::with(database, raw, |_| {}).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let _both = (Stream::open(&root, None).await, Stream::open(&root, None).await);
    let problem = root.get("/api/v1/events").await.problem(429, "too_many_requests");
    assert!(problem["detail"].as_str().unwrap().contains("account_streams"), "{problem}");
    let _other = Stream::open(&ana, None).await;
}

/// Proxies close connections on which nothing is said.
async fn a_quiet_stream_shows_that_it_lives(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let mut stream = Stream::open(&root, None).await;
    let bytes = timeout(Duration::from_secs(25), stream.bytes.next()).await.unwrap().unwrap();
    assert_eq!(bytes.unwrap(), b": heartbeat\n\n");
}

/// It gets no more than fits into its connection; the others go on.
async fn a_client_that_does_not_read_holds_up_nobody(database: Database) {
    let site = Site::new(database).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let _asleep = Stream::open(&root, Some(0)).await;
    let mut awake = Stream::open(&root, Some(0)).await;
    // The first of these is far more than a connection holds, and all of it is waiting.
    let reason = "x".repeat(900);
    for some in 0..15 {
        let mut tx = site.store().begin().await.unwrap();
        for number in 0..100 {
            let fields = json!({ "number": 100 * some + number, "text": reason });
            let record = Record::new(Code::HostCondition, "", "controller", fields);
            audit::append(&mut tx, now_ms(), &record).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    let asked = ana.ask("web-1").await;
    let began = Instant::now();
    loop {
        let (_, name, data) = awake.next().await.unwrap();
        if name == "request_submitted" {
            let data: Value = serde_json::from_str(&data).unwrap();
            assert_eq!(data["request"], asked["id"]);
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the other stream stands still");
    }
    root.get("/api/v1/requests").await.ok(200);
}

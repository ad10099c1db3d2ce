//! Nothing secret is in logs, errors or the database.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex},
};

use reqwest::Method;
use serde_json::json;
use sqlx::{AnyPool, Row as _};
use tracing_subscriber::fmt::MakeWriter;

use super::{Answer, Caller, Site, ssh};
use crate::databases::Database;

on_each_database! {
    no_secret_is_in_logs_errors_or_the_database,
}

/// Everything that any test of this program logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

static LOG: LazyLock<Log> = LazyLock::new(Log::default);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

async fn no_secret_is_in_logs_errors_or_the_database(database: Database) {
    let log = LOG.clone();
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log)
        .try_init();
    let url = database.url.clone();
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let made =
        root.post("/api/v1/tokens", json!({ "scopes": ["read"], "label": "x" })).await.ok(201);
    let token = made["token"].as_str().unwrap().to_owned();
    let hook = json!({ "url": "https://hooks.invalid/", "enabled": true });
    let hook = root.post("/api/v1/webhooks", hook).await.ok(201);
    let secret = hook["secret"].as_str().unwrap().to_owned();
    let reader = Caller { site: &site, token: token.clone() };
    let mut answers = Vec::new();
    // A token where it belongs, and where it does not.
    answers.push(reader.get("/api/v1/me").await);
    answers.push(reader.get("/api/v1/tokens").await);
    answers.push(reader.post("/api/v1/requests", ssh("web-1")).await);
    answers.push(reader.get(&format!("/api/v1/requests?cursor=x&token={token}")).await);
    let call = site.client.get(format!("{}/api/v1/me", site.base)).bearer_auth(format!("{token}x"));
    answers.push(Answer::of(call.send().await.unwrap()).await);
    let call = root.request(Method::GET, "/api/v1/me").header("x-request-id", format!("{token} "));
    let _ = call.send().await;
    answers.push(root.get("/api/v1/audit?limit=500").await);
    answers.push(root.get("/api/v1/webhooks").await);
    for answer in &answers[..3] {
        assert!(!answer.body.to_string().contains(&token), "{}", answer.body);
    }
    for answer in &answers {
        assert!(!answer.body.to_string().contains(&secret), "{}", answer.body);
    }
    let audit = &answers[5].body;
    assert!(audit.to_string().contains("token_made") && !audit.to_string().contains(&token));

    let logged = String::from_utf8_lossy(&LOG.0.lock().unwrap()).into_owned();
    assert!(logged.contains("/api/v1/me"), "calls are logged");
    for text in [&token, &secret, &root.token] {
        assert!(!logged.contains(text.as_str()), "in the log");
    }
    for text in [&token, &secret, &root.token] {
        assert!(!stored(&url, text).await, "in the database");
    }
    // The search finds what is there.
    assert!(stored(&url, "ana@example.org").await);
    let directory = site.directory.path().join("webhook.key");
    assert_eq!(std::fs::read(directory).unwrap().len(), 32);
}

/// Whether a text is anywhere in the database.
async fn stored(url: &str, text: &str) -> bool {
    if let Some(file) = url.strip_prefix("sqlite://") {
        let found = |file: String| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        return found(file.to_owned()) || found(format!("{file}-wal"));
    }
    let pool = AnyPool::connect(url).await.unwrap();
    let names = "SELECT table_name::text AS name FROM information_schema.tables \
                 WHERE table_schema = 'public'";
    for row in sqlx::query(names).fetch_all(&pool).await.unwrap() {
        let name: String = row.try_get("name").unwrap();
        // The name comes from the database's own catalog.
        let rows = format!(
            "SELECT COUNT(*) AS count FROM \"{name}\" AS t WHERE position($1 IN t::text) > 0"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(rows)).bind(text).fetch_one(&pool).await.unwrap();
        if row.try_get::<i64, _>("count").unwrap() > 0 {
            return true;
        }
    }
    false
}

//! What is refused before a handler decides, and how problems look.

use futures_util::future::join_all;
use jit_controller::api::RawSettings;
use reqwest::Method;
use serde_json::json;

use super::{Answer, Site, ssh};
use crate::databases::Database;

on_each_database! {
    what_cannot_be_read_is_refused_by_field,
    every_call_has_an_id,
    too_many_calls_of_one_account_hit_nobody_else,
    health_needs_no_token,
}

async fn what_cannot_be_read_is_refused_by_field(database: Database) {
    let site = Site::new(database).await;
    let ana = site.caller("ana").await;
    ana.get("/api/v1/nothing").await.problem(404, "not_found");
    ana.get("/api/nothing").await.problem(404, "not_found");
    ana.delete("/api/v1/requests").await.problem(405, "method_not_allowed");
    ana.get("/api/v1/requests?states=open").await.problem(400, "invalid_query");
    ana.get("/api/v1/hosts?labels=a=b").await.problem(400, "invalid_query");
    for (path, field) in [
        ("/api/v1/requests?state=opened", "state"),
        ("/api/v1/requests?limit=0", "limit"),
        ("/api/v1/requests?cursor=***", "cursor"),
        ("/api/v1/hosts?condition=fine", "condition"),
        ("/api/v1/hosts?label=web", "label"),
        ("/api/v1/requests/x?wait=closed", "wait"),
        ("/api/v1/requests/x?wait=open&timeout=2h", "timeout"),
        ("/api/v1/me/address?host=web-1&port=x", "port"),
    ] {
        assert_eq!(ana.get(path).await.problem(422, "invalid")["field"], field, "{path}");
    }
    for (field, value) in [
        ("hosts", json!([])),
        ("hosts", json!(["web-9"])),
        ("sources", json!(["everywhere"])),
        ("ports", json!(["ssh"])),
        ("duration", json!("soon")),
        ("start", json!("tomorrow")),
        ("sessions", json!("keep")),
        ("reason", json!("")),
        ("replaces", json!("01KPEXAMP1E000000000000001")),
    ] {
        let mut body = ssh("web-1");
        body[field] = value;
        let problem = ana.post("/api/v1/requests", body).await.problem(422, "invalid");
        assert_eq!(problem["field"], field);
    }
    // A name that nobody knows does not vanish.
    let mut body = ssh("web-1");
    body["justification"] = json!("x");
    let problem = ana.post("/api/v1/requests", body).await.problem(400, "invalid_body");
    assert!(problem["detail"].as_str().unwrap().contains("justification"), "{problem}");
    let send = async |kind: &str, body: String| {
        let call = ana.request(Method::POST, "/api/v1/requests").header("content-type", kind);
        Answer::of(call.body(body).send().await.unwrap()).await
    };
    send("text/plain", "{}".into()).await.problem(415, "media_type");
    send("application/json", "{".into()).await.problem(400, "invalid_body");
    send("application/json", String::new()).await.problem(400, "invalid_body");
    let large = format!("{{\"reason\":\"{}\"}}", "x".repeat(3 << 20));
    send("application/json", large).await.problem(413, "too_large");
    // PostgreSQL keeps no NUL in a text.
    ana.get("/api/v1/requests/a%00b").await.problem(400, "invalid_body");
    ana.get("/api/v1/requests?requester=a%00b").await.problem(400, "invalid_body");
    // "AA" is a NUL in base64url.
    for list in ["requests", "hosts", "policies", "rollouts"] {
        let list = format!("/api/v1/{list}?cursor=AA");
        site.caller("root").await.get(&list).await.problem(422, "invalid");
    }
    for field in ["reason", "ticket", "hosts"] {
        let mut body = ssh("web-1");
        body[field] = if field == "hosts" { json!(["a\0b"]) } else { json!("a\0b") };
        ana.post("/api/v1/requests", body).await.problem(400, "invalid_body");
    }
    let root = site.caller("root").await;
    let token = json!({ "account": "a\0b", "scopes": ["read"], "for": "1d" });
    root.post("/api/v1/tokens", token).await.problem(400, "invalid_body");
    // What one may not see looks as what is not there.
    ana.get("/api/v1/requests/01KPEXAMP1E000000000000001").await.problem(404, "not_found");
    ana.get("/api/v1/hosts/web-9").await.problem(404, "not_found");
    ana.get("/api/v1/grants/x").await.problem(404, "not_found");
}

async fn every_call_has_an_id(database: Database) {
    let site = Site::new(database).await;
    let ana = site.caller("ana").await;
    let call = async |id: &str| {
        let call = ana.request(Method::GET, "/api/v1/me").header("x-request-id", id);
        Answer::of(call.send().await.unwrap()).await
    };
    assert_eq!(call("build-17.4").await.header("x-request-id"), "build-17.4");
    assert_eq!(call("two words").await.header("x-request-id").len(), 26);
    let answer = ana.get("/api/v1/me").await;
    assert_eq!(answer.header("x-request-id").len(), 26);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert!(answer.header("strict-transport-security").starts_with("max-age="));
}

async fn too_many_calls_of_one_account_hit_nobody_else(database: Database) {
    let raw = RawSettings {
        account_rate: Some(1),
        account_burst: Some(5),
        address_rate: Some(1),
        address_burst: Some(60),
        ..RawSettings::default()
    };
    let site = Site::with(database, raw, |_| {}).await;
    let (ana, bo) = (site.caller("ana").await, site.caller("bo").await);
    // At once: a slow machine must not make room meanwhile.
    let all = join_all((0..40).map(|_| ana.get("/api/v1/me"))).await;
    let (good, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.status == 200);
    assert!(good.len() >= 5 && !refused.is_empty(), "{}", good.len());
    for refused in refused {
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=2).contains(&seconds), "{seconds}");
        assert_eq!(refused.problem(429, "too_many_requests")["retry_after_s"], seconds);
    }
    bo.get("/api/v1/me").await.ok(200);
    // One address has a limit too, whatever it sends.
    let anonymous = async || {
        let call = site.client.get(format!("{}/api/v1/me", site.base));
        Answer::of(call.send().await.unwrap()).await.body["word"].as_str().unwrap().to_owned()
    };
    let words = join_all((0..80).map(|_| anonymous())).await;
    assert!(words.iter().any(|word| word == "token_missing"));
    assert!(words.iter().any(|word| word == "too_many_requests"));
}

async fn health_needs_no_token(database: Database) {
    let site = Site::new(database).await;
    for path in ["/healthz", "/readyz", "/api/openapi.json"] {
        let answer = site.client.get(format!("{}{path}", site.base)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    // Old TLS is refused before anything else.
    let builder = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy();
    let old = builder.tls_version_max(reqwest::tls::Version::TLS_1_1).build();
    if let Ok(old) = old {
        assert!(old.get(format!("{}/healthz", site.base)).send().await.is_err());
    }
}

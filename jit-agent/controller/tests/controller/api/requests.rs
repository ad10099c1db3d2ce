//! Requests: the same wish with the same key is one request; who waits is answered when it comes to rest.

use std::time::{Duration, Instant};

use jit_controller::{api::RawSettings, clock::now_ms, store::grants};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Caller, Site, ssh};
use crate::databases::Database;

on_each_database! {
    the_same_key_is_the_same_request,
    a_preview_says_who_may_approve_and_stores_nothing,
    who_waits_is_answered_when_it_comes_to_rest,
    a_request_lives_through_the_api,
    me_is_the_address_of_the_call,
}

async fn submit(who: &Caller<'_>, key: &str, body: &Value) -> Answer {
    let call = who.request(Method::POST, "/api/v1/requests").header("idempotency-key", key);
    Answer::of(call.json(body).send().await.unwrap()).await
}

fn id(request: &Value) -> String {
    request["id"].as_str().unwrap().to_owned()
}

async fn the_same_key_is_the_same_request(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (site.caller("ana").await, site.caller("bo").await);
    let first = submit(&ana, "deploy-1", &ssh("web-1")).await;
    assert!(first.header("location").starts_with("/api/v1/requests/01"));
    let first = id(&first.ok(201));
    assert_eq!(id(&submit(&ana, "deploy-1", &ssh("web-1")).await.ok(200)), first);
    let other = submit(&ana, "deploy-1", &ssh("db-1")).await.problem(409, "conflict");
    assert!(other["detail"].as_str().unwrap().contains(&first), "{other}");
    // Another person's key is another key, and many at once are one.
    assert_ne!(id(&submit(&bo, "deploy-1", &ssh("web-1")).await.ok(201)), first);
    let wish = ssh("web-1");
    let all = futures_util::future::join_all((0..8).map(|_| submit(&ana, "deploy-2", &wish))).await;
    let ids: std::collections::BTreeSet<_> = all.iter().map(|answer| id(&answer.body)).collect();
    assert_eq!(ids.len(), 1);
    submit(&ana, &"k".repeat(201), &ssh("web-1")).await.problem(422, "invalid");
}

async fn a_preview_says_who_may_approve_and_stores_nothing(database: Database) {
    let site = Site::new(database).await;
    let ana = site.caller("ana").await;
    let preview = ana.post("/api/v1/requests?preview=true", ssh("db-1")).await.ok(200);
    assert_eq!(preview["verdict"]["outcome"], "manual");
    assert_eq!(preview["verdict"]["needs_text"], "1 of approvers and 1 of sre");
    let eligible: Vec<_> = preview["eligible"].as_array().unwrap().iter().collect();
    let names: Vec<_> = eligible.iter().map(|one| one["subject"].as_str().unwrap()).collect();
    // Not her own second account, which is of approvers.
    assert_eq!(names, ["bo@example.org", "li@example.org"]);
    assert!(
        preview["warnings"][0].as_str().unwrap().contains("db-1 has not answered yet"),
        "{preview}"
    );
    let mut wide = ssh("web-1");
    wide["sources"] = json!(["203.0.0.0/16"]);
    let preview = ana.post("/api/v1/requests?preview=true", wide).await.ok(200);
    assert_eq!(preview["verdict"]["outcome"], "denied");
    assert_eq!(preview["verdict"]["rules"][0]["id"], "no-wide-sources");
    assert_eq!(ana.get("/api/v1/requests").await.ok(200)["items"], json!([]));
}

async fn who_waits_is_answered_when_it_comes_to_rest(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (site.caller("ana").await, site.caller("bo").await);
    let began = Instant::now();
    let request = ana.post("/api/v1/requests?wait=open&timeout=300ms", ssh("web-1")).await.ok(201);
    assert_eq!(request["state"], "pending");
    assert!(began.elapsed() >= Duration::from_millis(300));
    let path = format!("/api/v1/requests/{}", id(&request));
    let waits = async {
        let began = Instant::now();
        let ended = ana.get(&format!("{path}?wait=open&timeout=20s")).await.ok(200);
        (ended["state"].as_str().unwrap().to_owned(), began.elapsed())
    };
    let denies = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let no = json!({ "ruling": "deny", "hash": request["hash"] });
        let problem =
            bo.post(&format!("{path}/decision"), no.clone()).await.problem(422, "invalid");
        assert_eq!(problem["field"], "reason");
        let mut no = no;
        no["reason"] = json!("use the other host");
        bo.post(&format!("{path}/decision"), no.clone()).await.ok(200);
        // The same decision again is the same.
        bo.post(&format!("{path}/decision"), no.clone()).await.ok(200);
        no["ruling"] = json!("approve");
        bo.post(&format!("{path}/decision"), no).await.problem(409, "already_decided");
    };
    let ((state, took), ()) = tokio::join!(waits, denies);
    assert_eq!(state, "denied");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

async fn a_request_lives_through_the_api(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (site.caller("ana").await, site.caller("bo").await);
    let request = ana.ask("web-1").await;
    let path = format!("/api/v1/requests/{}", id(&request));
    let yes = json!({ "ruling": "approve", "hash": request["hash"] });
    let approved = bo.post(&format!("{path}/decision"), yes).await.ok(200);
    let grant = &approved["grants"][0];
    assert_eq!((&approved["state"], &grant["state"]), (&json!("approved"), &json!("unsigned")));
    assert_eq!(grant["payload"], Value::Null);
    let grant_id = grant["id"].as_str().unwrap().to_owned();
    let whole = ana.get(&format!("/api/v1/grants/{grant_id}")).await.ok(200);
    assert_eq!(whole["signatures"], json!([]));
    assert!(whole["payload"].as_str().unwrap().len() > 40);
    let more = json!({ "duration": "30m" });
    let call = || {
        let call = ana.request(Method::POST, &format!("{path}/extend"));
        call.header("idempotency-key", "more").json(&more)
    };
    let longer = Answer::of(call().send().await.unwrap()).await.ok(201);
    assert_ne!(longer["id"], request["id"]);
    // Nobody else's business.
    bo.post(&format!("{path}/extend"), more.clone()).await.problem(404, "not_found");
    bo.post(&format!("{path}/withdraw"), json!({})).await.problem(403, "not_permitted");
    bo.post(&format!("{path}/signatures"), json!({ "grant": "x", "signature": "" }))
        .await
        .problem(422, "invalid");
    let ended = ana.post(&format!("{path}/revoke"), json!({ "reason": "done" })).await.ok(200);
    assert_eq!((&ended["state"], &ended["is_final"]), (&json!("revoked"), &json!(true)));
    ana.post(&format!("{path}/revoke"), json!({})).await.ok(200);
    ana.post(&format!("{path}/shorten"), json!({ "ends_ms": now_ms() + 1000 }))
        .await
        .problem(409, "not_open");
    let audit = ana.get(&format!("/api/v1/audit?request={}", id(&request))).await.ok(200);
    let codes: Vec<_> = audit["items"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
    for code in ["R001", "R002", "R004", "R011"] {
        assert!(codes.contains(&&json!(code)), "{code}: {codes:?}");
    }
    // What was never signed was never open.
    let root = site.caller("root").await;
    let open = root.get("/api/v1/access?host=web-1&port=22").await.ok(200);
    assert_eq!(open["entries"], json!([]));
    assert!(grants_unsigned(&site, &id(&request)).await);
}

async fn grants_unsigned(site: &Site, request: &str) -> bool {
    let mut tx = site.store().begin().await.unwrap();
    let all = grants::of_request(&mut tx, request).await.unwrap();
    all.iter().all(|grant| grant.signed_ms == 0 && grant.envelope.is_none())
}

async fn me_is_the_address_of_the_call(database: Database) {
    let raw = RawSettings { trusted_proxies: vec!["127.0.0.0/8".into()], ..RawSettings::default() };
    let site = Site::with(database, raw, |_| {}).await;
    let ana = site.caller("ana").await;
    let mut body = ssh("web-1");
    body["sources"] = json!(["me"]);
    let plain = ana.post("/api/v1/requests?preview=true", body.clone()).await.ok(200);
    assert_eq!(plain["sources"], json!(["127.0.0.1"]));
    let call = ana.request(Method::POST, "/api/v1/requests?preview=true");
    let call = call.header("x-forwarded-for", "198.51.100.1, 203.0.113.7").json(&body);
    let forwarded = Answer::of(call.send().await.unwrap()).await.ok(200);
    assert_eq!(forwarded["sources"], json!(["203.0.113.7"]));
}

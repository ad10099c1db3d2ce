//! Who may call, and what each refusal is called.

use jit_controller::{clock::now_ms, model::Account, store::accounts};
use reqwest::Method;
use serde_json::json;

use super::{Answer, Caller, HOUR_MS, SCOPES, Site};
use crate::databases::Database;

on_each_database! {
    a_call_without_a_good_token_is_refused_by_name,
    a_token_does_only_what_its_scopes_name,
    nobody_makes_a_token_that_can_more_than_his_own,
    what_was_refused_is_in_the_audit_once_a_minute,
    a_person_does_not_agree_with_himself_by_a_second_account,
    another_subject_withdraws_what_the_person_has_asked_for,
}

async fn a_call_without_a_good_token_is_refused_by_name(database: Database) {
    let site = Site::new(database).await;
    let call = async |header: Option<String>| {
        let mut call = site.client.request(Method::GET, format!("{}/api/v1/me", site.base));
        if let Some(header) = header {
            call = call.header("authorization", header);
        }
        Answer::of(call.send().await.unwrap()).await
    };
    let missing = call(None).await;
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    missing.problem(401, "token_missing");
    let good = site.token("ana", &SCOPES).await;
    for text in ["Bearer", "Bearer jit_short", "Basic YTpi", &format!("Basic {good}")] {
        call(Some(text.into())).await.problem(401, "token_unknown");
    }
    let unknown = jit_controller::api::token::Secret::generate();
    call(Some(format!("Bearer {}", unknown.expose()))).await.problem(401, "token_unknown");
    assert_eq!(call(Some(format!("bearer {good}"))).await.ok(200)["account"], "ana");

    let (ended, _) = site.token_until("ana", &SCOPES, now_ms() - 1).await;
    call(Some(format!("Bearer {ended}"))).await.problem(401, "token_ended");
    let (revoked, id) = site.token_until("ana", &SCOPES, now_ms() + HOUR_MS).await;
    let mut tx = site.store().begin().await.unwrap();
    assert!(accounts::revoke_token(&mut tx, &id, now_ms()).await.unwrap());
    tx.commit().await.unwrap();
    call(Some(format!("Bearer {revoked}"))).await.problem(401, "token_revoked");

    // A stolen token of an account that was disabled meanwhile.
    let bo = site.store().account("bo").await.unwrap().unwrap();
    let stolen = site.token("bo", &SCOPES).await;
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &Account { disabled: true, ..bo }).await.unwrap();
    tx.commit().await.unwrap();
    call(Some(format!("Bearer {stolen}"))).await.problem(401, "account_disabled");
}

async fn a_token_does_only_what_its_scopes_name(database: Database) {
    let site = Site::new(database).await;
    let reader = Caller { site: &site, token: site.token("root", &["read"]).await };
    reader.get("/api/v1/requests").await.ok(200);
    reader.get("/api/v1/hosts/web-1").await.ok(200);
    for (method, path) in [
        ("POST", "/api/v1/requests"),
        ("POST", "/api/v1/requests/x/decision"),
        ("POST", "/api/v1/requests/x/withdraw"),
        ("POST", "/api/v1/requests/x/revoke"),
        ("POST", "/api/v1/requests/x/extend"),
        ("POST", "/api/v1/requests/x/shorten"),
        ("POST", "/api/v1/requests/x/signatures"),
        ("PUT", "/api/v1/hosts/web-1"),
        ("DELETE", "/api/v1/hosts/web-1"),
        ("DELETE", "/api/v1/hosts/web-1/alarms"),
        ("POST", "/api/v1/hosts/import"),
        ("PUT", "/api/v1/rules"),
        ("GET", "/api/v1/accounts"),
        ("PUT", "/api/v1/accounts/x"),
        ("GET", "/api/v1/tokens?account=*"),
        ("GET", "/api/v1/audit"),
        ("GET", "/api/v1/access"),
        ("POST", "/api/v1/policies"),
        ("POST", "/api/v1/rollouts"),
        ("POST", "/api/v1/rollouts/x/resume"),
        ("GET", "/api/v1/webhooks"),
        ("POST", "/api/v1/webhooks"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let body = match path {
            path if path.ends_with("decision") => json!({ "ruling": "approve", "hash": "" }),
            path if path.ends_with("signatures") => json!({ "grant": "", "signature": "" }),
            path if path.ends_with("web-1") => json!({ "address": "192.0.2.1:7443" }),
            path if path.ends_with("rules") => json!({ "text": "" }),
            path if path.ends_with("accounts/x") => json!({ "subject": "x" }),
            path if path.ends_with("policies") => json!({ "text": "", "justification": "" }),
            path if path.ends_with("rollouts") => json!({ "policy": "", "waves": [] }),
            path if path.ends_with("webhooks") => json!({ "url": "", "enabled": true }),
            path if path.ends_with("requests") => super::ssh("web-1"),
            _ => json!({}),
        };
        let call = reader.request(method.clone(), path).json(&body);
        let answer = Answer::of(call.send().await.unwrap()).await;
        assert_eq!(answer.body["word"], "scope_missing", "{method} {path}: {}", answer.body);
    }
    // All scopes, and an account that may not.
    let ana = site.caller("ana").await;
    ana.get("/api/v1/accounts").await.problem(403, "not_admin");
    ana.get("/api/v1/audit").await.problem(403, "not_auditor");
    ana.put("/api/v1/hosts/web-1", json!({ "address": "192.0.2.1:7443" }))
        .await
        .problem(403, "forbidden");
    ana.delete("/api/v1/hosts/web-1").await.problem(403, "forbidden");
    assert_eq!(ana.get("/api/v1/accounts/ana").await.ok(200)["subject"], "ana@example.org");
}

async fn nobody_makes_a_token_that_can_more_than_his_own(database: Database) {
    let site = Site::new(database).await;
    let (text, _) = site.token_until("ana", &["read", "request"], now_ms() + HOUR_MS).await;
    let ana = Caller { site: &site, token: text };
    let make = async |who: &Caller<'_>, body| who.post("/api/v1/tokens", body).await;
    make(&ana, json!({ "scopes": ["approve"] })).await.problem(403, "scope_missing");
    make(&ana, json!({ "scopes": ["everything"] })).await.problem(422, "invalid");
    make(&ana, json!({ "scopes": [] })).await.problem(422, "invalid");
    make(&ana, json!({ "scopes": ["read"], "account": "bo" })).await.problem(403, "scope_missing");
    let made = make(&ana, json!({ "scopes": ["read"], "duration": "90d" })).await;
    assert_eq!(made.header("cache-control"), "no-store");
    let made = made.ok(201);
    // It does not live longer than the token that made it.
    assert!(made["view"]["ends_ms"].as_i64().unwrap() <= now_ms() + HOUR_MS);
    let other = Caller { site: &site, token: made["token"].as_str().unwrap().to_owned() };
    assert_eq!(other.get("/api/v1/me").await.ok(200)["scopes"], json!(["read"]));
    let tokens = ana.get("/api/v1/tokens").await.ok(200);
    assert_eq!(tokens["items"].as_array().unwrap().len(), 2);
    // Its holder ends it.
    other.delete("/api/v1/tokens/this").await.ok(204);
    other.get("/api/v1/me").await.problem(401, "token_revoked");
    // Another's token is an administrator's matter.
    let (_, id) = site.token_until("bo", &["read"], now_ms() + HOUR_MS).await;
    ana.delete(&format!("/api/v1/tokens/{id}")).await.problem(403, "scope_missing");
    site.caller("root").await.delete(&format!("/api/v1/tokens/{id}")).await.ok(204);
    let root = site.caller("root").await;
    let repeated = root
        .request(Method::POST, "/api/v1/tokens")
        .header("idempotency-key", "k")
        .json(&json!({ "scopes": ["read"] }));
    Answer::of(repeated.send().await.unwrap()).await.problem(422, "invalid");
}

async fn what_was_refused_is_in_the_audit_once_a_minute(database: Database) {
    let site = Site::new(database).await;
    let reader = Caller { site: &site, token: site.token("eve", &["read"]).await };
    for _ in 0..3 {
        reader.post("/api/v1/requests", super::ssh("web-1")).await.problem(403, "scope_missing");
    }
    let lines = site.store().audit_after(0, 100).await.unwrap();
    let refused: Vec<_> = lines.iter().filter(|line| line.code == "R014").collect();
    let [refused] = refused.as_slice() else { panic!("{lines:?}") };
    let record: serde_json::Value = serde_json::from_str(&refused.line).unwrap();
    assert_eq!(
        (&record["word"], &record["by"]),
        (&json!("scope_missing"), &json!("eve@example.org"))
    );
}

async fn a_person_does_not_agree_with_himself_by_a_second_account(database: Database) {
    let site = Site::new(database).await;
    let request = site.caller("ana").await.ask("web-1").await;
    assert_eq!(request["state"], "pending");
    let path = format!("/api/v1/requests/{}/decision", request["id"].as_str().unwrap());
    let decide = |hash: &str| json!({ "ruling": "approve", "hash": hash });
    let hash = request["hash"].as_str().unwrap();
    let second = site.caller("ana-admin").await;
    second.post(&path, decide(hash)).await.problem(403, "self_approval");
    let bo = site.caller("bo").await;
    bo.post(&path, decide("another")).await.problem(409, "changed");
    site.caller("eve").await.post(&path, decide(hash)).await.problem(403, "not_eligible");
    // The desk has recorded each, and nobody twice.
    let lines = site.store().audit_after(0, 100).await.unwrap();
    assert_eq!(lines.iter().filter(|line| line.code == "R014").count(), 3);
    let approved = bo.post(&path, decide(hash)).await.ok(200);
    assert_eq!(approved["state"], "approved");
    assert_eq!(approved["decisions"][0]["subject"], "bo@example.org");
}

async fn another_subject_withdraws_what_the_person_has_asked_for(database: Database) {
    let site = Site::new(database).await;
    let (ana, root) = (site.caller("ana").await, site.caller("root").await);
    let request = ana.ask("web-1").await;
    let of_bo = site.caller("bo").await.ask("web-1").await;
    let path = |request: &serde_json::Value| {
        format!("/api/v1/requests/{}", request["id"].as_str().unwrap())
    };
    // Her second account gets a subject of its own: it is no other person.
    for (name, subject) in
        [("ana-admin", "ana.married@example.org"), ("ana", "ana.two@example.org")]
    {
        let before = site.store().account(name).await.unwrap().unwrap();
        let new = json!({ "subject": subject, "groups": before.groups, "disabled": false });
        root.put(&format!("/api/v1/accounts/{name}"), new.clone()).await.ok(200);
        let read = root.get(&path(&request)).await.ok(200);
        assert_eq!(read["state"], "withdrawn", "{read}");
        assert!(read["why"].as_str().unwrap().contains("ask again"), "{read}");
        let agree = json!({ "ruling": "approve", "hash": request["hash"] });
        let decision = format!("{}/decision", path(&request));
        let caller = site.caller(name).await;
        let refused = caller.post(&decision, agree).await.status.as_u16();
        assert!([403, 409].contains(&refused), "{refused}");
        // The same once more changes nothing.
        root.put(&format!("/api/v1/accounts/{name}"), new).await.ok(200);
    }
    let lines = site.store().audit_of(request["id"].as_str().unwrap()).await.unwrap();
    assert_eq!(lines.iter().filter(|line| line.code == "R005").count(), 1, "{lines:?}");
    assert_eq!(root.get(&path(&of_bo)).await.ok(200)["state"], "pending", "of somebody else");
}

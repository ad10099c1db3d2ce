//! Signed revocations over the API: who makes one, who sees it, and what it says of hosts.

use jit_controller::{
    clock::now_ms,
    store::{ClosingAnswer, closings, closings::Heard},
};
use serde_json::{Value, json};

use super::Site;
use crate::databases::Database;

on_each_database! {
    a_revocation_is_made_listed_and_shows_what_each_host_has_answered,
    who_may_not_revoke_makes_none_and_sees_none,
}

const PATH: &str = "/api/v1/revocations";

fn everything() -> Value {
    json!({ "every_host": true, "what": { "all": true }, "reason": "stolen key" })
}

async fn a_revocation_is_made_listed_and_shows_what_each_host_has_answered(database: Database) {
    let site = Site::new(database).await;
    let ana = site.caller("ana").await;
    let preview = ana.post(&format!("{PATH}?preview=true"), everything()).await.ok(200);
    assert_eq!(preview, json!({ "hosts": 2, "requests": [] }));
    let made = ana.post(PATH, everything()).await.ok(201);
    // No process of this site signs.
    assert_eq!((made["state"].as_str(), made["waiting"].as_u64()), (Some("signing"), Some(2)));
    assert_eq!(made["author"], "ana@example.org");
    let id = made["id"].as_str().unwrap().to_owned();
    let mut tx = site.store().begin().await.unwrap();
    let envelope = jit_proto::v1::Envelope {
        payload_type: jit_proto::payload_type::REVOCATION_TYPE.into(),
        payload: site.store().closing(&id).await.unwrap().unwrap().payload.into(),
        signatures: Vec::new(),
    };
    closings::set_signed(&mut tx, &id, Ok(&envelope), now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    let answer = ClosingAnswer {
        closing: id.clone(),
        host: "db-1".into(),
        heard: Heard::Refused,
        word: "unknown_key".into(),
        detail: "no such key".into(),
        answered_ms: now_ms(),
    };
    site.desk.closed(std::slice::from_ref(&answer), now_ms()).await.unwrap();
    let read = ana.get(&format!("{PATH}/{id}")).await.ok(200);
    assert_eq!(read["state"], "delivering");
    assert_eq!([&read["delivered"], &read["refused"], &read["waiting"]], [0, 1, 1]);
    let hosts = ana.get(&format!("{PATH}/{id}/hosts")).await.ok(200);
    assert_eq!(hosts["items"][0]["host"], "db-1");
    assert_eq!(hosts["items"][0]["word"], "unknown_key");
    assert_eq!(hosts["items"][1]["answer"], "waiting");
    assert_eq!(hosts["items"][1]["answered_ms"], Value::Null);
    let waiting = ana.get(&format!("{PATH}/{id}/hosts?answer=waiting")).await.ok(200);
    assert_eq!(waiting["items"].as_array().unwrap().len(), 1);
    ana.get(&format!("{PATH}/{id}/hosts?answer=x")).await.problem(422, "invalid");
    for host in ["db-1", "web-1"] {
        let (host, heard) = (host.to_owned(), Heard::Delivered);
        let done = ClosingAnswer { host, heard, word: "ok".into(), ..answer.clone() };
        site.desk.closed(&[done], now_ms()).await.unwrap();
    }
    let read = ana.get(&format!("{PATH}/{id}")).await.ok(200);
    assert_eq!(read["state"], "delivered");
    assert!(read["completed_ms"].as_i64().unwrap() > 0);
    // Pages, the newest first.
    let second = ana.post(PATH, everything()).await.ok(201)["id"].clone();
    let first = ana.get(&format!("{PATH}?limit=1")).await.ok(200);
    assert_eq!(first["items"][0]["id"], second);
    let next = first["next"].as_str().unwrap();
    let rest = ana.get(&format!("{PATH}?limit=1&cursor={next}")).await.ok(200);
    assert_eq!((&rest["items"][0]["id"], &rest["next"]), (&Value::from(id), &Value::Null));
}

async fn who_may_not_revoke_makes_none_and_sees_none(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo, eve) =
        (site.caller("ana").await, site.caller("bo").await, site.caller("eve").await);
    eve.post(PATH, everything()).await.problem(403, "not_permitted");
    eve.post(&format!("{PATH}?preview=true"), everything()).await.problem(403, "not_permitted");
    let read_only = site.caller_with(site.token("ana", &["read"]).await);
    read_only.post(PATH, everything()).await.problem(403, "scope_missing");
    let id = ana.post(PATH, everything()).await.ok(201)["id"].as_str().unwrap().to_owned();
    for other in [&bo, &eve] {
        other.get(&format!("{PATH}/{id}")).await.problem(404, "not_found");
        other.get(&format!("{PATH}/{id}/hosts")).await.problem(404, "not_found");
        assert_eq!(other.get(PATH).await.ok(200)["items"], json!([]));
    }
    let root = site.caller("root").await;
    assert_eq!(root.get(PATH).await.ok(200)["items"][0]["id"], id);
    for (field, wrong) in [
        ("what", json!({ "every_host": true, "what": {}, "reason": "x" })),
        ("every_host", json!({ "what": { "all": true }, "reason": "x" })),
        ("hosts", json!({ "hosts": ["web-9"], "what": { "all": true }, "reason": "x" })),
        ("reason", json!({ "every_host": true, "what": { "all": true }, "reason": "" })),
    ] {
        let problem = ana.post(PATH, wrong).await.problem(422, "invalid");
        assert_eq!(problem["field"], field);
    }
    let unknown = json!({ "every_host": true, "what": { "all": true }, "reason": "x", "y": 1 });
    ana.post(PATH, unknown).await.problem(400, "invalid_body");
}

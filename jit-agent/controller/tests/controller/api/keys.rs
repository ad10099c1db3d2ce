//! Public keys of accounts: who may register them, and what becomes of a signature.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jit_client::signing::{Algorithm, SigningKey};
use reqwest::StatusCode;
use serde_json::json;

use super::{Caller, SCOPES, Site};
use crate::databases::Database;

on_each_database! {
    only_an_administrator_registers_a_key_also_his_own,
    a_signature_for_what_does_not_wait_is_refused,
}

fn key() -> SigningKey {
    let provider = rustls::crypto::ring::default_provider();
    SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap()
}

async fn only_an_administrator_registers_a_key_also_his_own(database: Database) {
    let site = Site::new(database).await;
    let (root, li) = (site.caller("root").await, site.caller("li").await);
    let key = key();
    let path = format!("/api/v1/accounts/li/keys/{}", key.key_id());
    let body = json!({ "public_key": key.public_pem() });
    li.put(&path, body.clone()).await.problem(403, "not_admin");
    let weak: Vec<_> = SCOPES.into_iter().filter(|scope| *scope != "admin").collect();
    let weak = Caller { site: &site, token: site.token("root", &weak).await };
    weak.put(&path, body.clone()).await.problem(403, "scope_missing");
    let added = root.put(&path, body.clone()).await.ok(200);
    assert_eq!(
        (&added["key_id"], &added["algorithm"], &added["state"], &added["added_by"]),
        (&json!(key.key_id()), &json!("Ed25519"), &json!("valid"), &json!("root@example.org"))
    );
    assert_eq!(root.put(&path, body.clone()).await.ok(200), added);
    // Everybody sees his own, and nobody else's.
    let own = li.get("/api/v1/accounts/li/keys").await.ok(200);
    assert_eq!(own["items"], json!([added]));
    let eve = site.caller("eve").await;
    eve.get("/api/v1/accounts/li/keys").await.problem(403, "not_admin");
    root.get("/api/v1/accounts/nobody/keys").await.problem(404, "not_found");
    // What is no public key, or not this one, or another's.
    for wrong in [json!(key.to_pem()), json!(""), json!(self::key().public_pem())] {
        let problem = root.put(&path, json!({ "public_key": wrong })).await;
        assert_eq!(problem.problem(422, "invalid")["field"], "public_key");
    }
    let of_eve = format!("/api/v1/accounts/eve/keys/{}", key.key_id());
    root.put(&of_eve, body.clone()).await.problem(409, "conflict");
    li.delete(&path).await.problem(403, "not_admin");
    root.delete(&of_eve).await.problem(404, "not_found");
    for _ in 0..2 {
        assert_eq!(root.delete(&path).await.status, StatusCode::NO_CONTENT);
    }
    let own = li.get("/api/v1/accounts/li/keys").await.ok(200);
    assert_eq!(own["items"][0]["state"], "revoked");
    assert_eq!(root.put(&path, body).await.ok(200)["state"], "valid");
    let audit = site.store().audit_after(0, 1000).await.unwrap();
    let codes: Vec<_> = audit.iter().map(|line| line.code.as_str()).collect();
    let codes: Vec<_> = codes.into_iter().filter(|code| ["A004", "A005"].contains(code)).collect();
    assert_eq!(codes, ["A004", "A005", "A004"]);
}

async fn a_signature_for_what_does_not_wait_is_refused(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (site.caller("ana").await, site.caller("bo").await);
    let request = ana.ask("web-1").await;
    let path = format!("/api/v1/requests/{}", request["id"].as_str().unwrap());
    let yes = json!({ "ruling": "approve", "hash": request["hash"] });
    let approved = bo.post(&format!("{path}/decision"), yes).await.ok(200);
    let signature = json!({
        "grant": approved["grants"][0]["id"], "key_id": key().key_id(),
        "signature": BASE64_STANDARD.encode([7; 64]),
    });
    bo.post(&format!("{path}/signatures"), signature).await.problem(409, "not_pending");
}

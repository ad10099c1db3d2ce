//! Hosts that enrol over the API: with a token, once, and after a person has decided.

use std::{sync::Arc, time::Duration};

use jit_controller::{
    clock::now_ms,
    enrol::{certify, opened::Opened},
};
use rcgen::{CertificateParams, KeyPair};
use reqwest::Method;
use serde_json::{Value, json};
use x509_parser::pem::parse_x509_pem;

use super::{Caller, Site};
use crate::{databases::Database, signers};

on_each_database! {
    a_host_enrols_with_a_token_once_and_the_same_request_gets_the_same_certificate,
    who_comes_second_waits_until_an_administrator_has_decided,
    what_proves_nothing_is_refused_and_only_administrators_make_tokens,
    without_its_section_nobody_enrols,
}

const HUB: &str = "hub.example.org:7444";

fn opened() -> Opened {
    Opened { hubs: vec![HUB.into()], hub_ca: "-- the CA --".into(), ..Opened::default() }
}

/// A site whose signer's process issues what is wanted.
async fn site(database: Database) -> Arc<Site> {
    let site = Arc::new(Site::enrolling(database, opened()).await);
    let signing = signers::with_authority().await;
    let weak = Arc::downgrade(&site);
    tokio::spawn(async move {
        while let Some(site) = weak.upgrade() {
            certify::issue_wanted(site.store(), &signing.signer, now_ms()).await.unwrap();
            drop(site);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    site
}

fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["evil.example.org".to_owned()]).unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

async fn token(root: &Caller<'_>, uses: u32) -> (String, String) {
    let wish = json!({ "labels": { "env": "test" }, "uses": uses, "duration": "10m" });
    let made = root.post("/api/v1/enrolments/tokens", wish).await.ok(201);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["token"]), text(&made["view"]["id"]))
}

fn input(csr: &str, token: &str, host: &str) -> Value {
    json!({ "csr": csr, "method": "token", "proof": token, "host": host })
}

async fn enrol(site: &Site, input: &Value) -> super::Answer {
    site.anybody(Method::POST, "/api/v1/enrolments", input).await
}

/// The names in a certificate.
fn names(pem: &Value) -> Vec<String> {
    let (_, pem) = parse_x509_pem(pem.as_str().unwrap().as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names.value.general_names.iter().map(ToString::to_string).collect()
}

async fn a_host_enrols_with_a_token_once_and_the_same_request_gets_the_same_certificate(
    database: Database,
) {
    let site = site(database).await;
    let root = site.caller("root").await;
    let (text, id) = token(&root, 1).await;
    let first = input(&csr(), &text, "new-1");
    let answer = enrol(&site, &first).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let answer = answer.ok(201);
    assert_eq!((&answer["state"], &answer["host"]), (&json!("issued"), &json!("new-1")));
    assert_eq!((&answer["hubs"], &answer["ca"]), (&json!([HUB]), &json!("-- the CA --")));
    assert_eq!(names(&answer["certificate"]), ["URI(spiffe://example.org/host/new-1)"]);
    // The answer was lost: the token has no use left, and the request is known.
    assert_eq!(enrol(&site, &first).await.ok(201), answer);
    // It is in the inventory, with the labels of the token.
    let host = root.get("/api/v1/hosts/new-1").await.ok(200);
    assert_eq!((&host["labels"], &host["address"]), (&json!({ "env": "test" }), &json!("")));
    // With another key, and for another host, the token is used up.
    for (csr, host) in [(csr(), "new-1"), (csr(), "new-2")] {
        let refused = enrol(&site, &input(&csr, &text, host)).await;
        refused.problem(403, "enrolment_refused");
    }
    let listed = root.get("/api/v1/enrolments/tokens").await.ok(200);
    assert_eq!(
        (&listed["items"][0]["id"], &listed["items"][0]["state"]),
        (&json!(id), &json!("used"))
    );
    assert!(!listed.to_string().contains("jit_enrol_"));
    let audit = site.store().audit_after(0, 100).await.unwrap();
    let codes: Vec<_> = audit.iter().map(|line| line.code.as_str()).collect();
    assert_eq!(codes, ["E001", "E003", "H001", "E006", "R014"], "one refusal a minute");
}

async fn who_comes_second_waits_until_an_administrator_has_decided(database: Database) {
    let site = site(database).await;
    let (root, eve) = (site.caller("root").await, site.caller("eve").await);
    let (text, _) = token(&root, 10).await;
    enrol(&site, &input(&csr(), &text, "new-1")).await.ok(201);
    let second = input(&csr(), &text, "new-1");
    let waits = enrol(&site, &second).await;
    assert_eq!(waits.header("retry-after"), "15");
    let waits = waits.ok(202);
    assert_eq!((&waits["state"], &waits["certificate"]), (&json!("waiting"), &json!("")));
    assert_eq!(enrol(&site, &second).await.ok(202), waits);
    let waiting = root.get("/api/v1/enrolments?state=waiting").await.ok(200);
    assert_eq!(waiting["items"].as_array().unwrap().len(), 1);
    assert_eq!(waiting["items"][0]["id"], waits["enrolment"]);
    assert!(waiting["items"][0]["why"].as_str().unwrap().contains("asked before"));
    let path = format!("/api/v1/enrolments/{}", waits["enrolment"].as_str().unwrap());
    let decision = format!("{path}/decision");
    eve.get(&path).await.problem(403, "not_admin");
    eve.post(&decision, json!({ "ruling": "accept" })).await.problem(403, "not_admin");
    root.post(&decision, json!({ "ruling": "yes" })).await.problem(422, "invalid");
    let accepted = root.post(&decision, json!({ "ruling": "accept" })).await.ok(200);
    assert_eq!(accepted["decided_by"], "root@example.org");
    root.post(&decision, json!({ "ruling": "refuse" })).await.problem(409, "conflict");
    let issued = enrol(&site, &second).await.ok(201);
    assert_eq!(issued["enrolment"], waits["enrolment"]);
    // A third one is refused, for good.
    let third = input(&csr(), &text, "new-1");
    let waits = enrol(&site, &third).await.ok(202);
    let decision = format!("/api/v1/enrolments/{}/decision", waits["enrolment"].as_str().unwrap());
    root.post(&decision, json!({ "ruling": "refuse" })).await.ok(200);
    enrol(&site, &third).await.problem(403, "enrolment_refused");
    root.post("/api/v1/enrolments/none/decision", json!({ "ruling": "refuse" }))
        .await
        .problem(404, "not_found");
    // The list goes on where a page ends.
    let page = root.get("/api/v1/enrolments?limit=2").await.ok(200);
    let next = page["next"].as_str().unwrap();
    let rest = root.get(&format!("/api/v1/enrolments?limit=2&cursor={next}")).await.ok(200);
    let count = |page: &Value| page["items"].as_array().unwrap().len();
    assert_eq!((count(&page), count(&rest), &rest["next"]), (2, 1, &Value::Null));
}

async fn what_proves_nothing_is_refused_and_only_administrators_make_tokens(database: Database) {
    let site = site(database).await;
    let (root, eve) = (site.caller("root").await, site.caller("eve").await);
    let (text, id) = token(&root, 10).await;
    let good = input(&csr(), &text, "new-1");
    let with = |field: &str, value: Value| {
        let mut input = good.clone();
        input[field] = value;
        input
    };
    for (bad, status, word) in [
        (with("csr", json!("x")), 422, "invalid"),
        (with("method", json!("x509")), 422, "invalid"),
        (with("host", json!("")), 422, "invalid"),
        (with("host", json!("a b")), 422, "invalid"),
        // It looks like web-1.
        (with("host", json!("w\u{435}b-1")), 422, "invalid"),
        (with("proof", json!("jit_enrol_x")), 403, "enrolment_refused"),
        (with("method", json!("ec2")), 403, "enrolment_refused"),
        (with("method", json!("azure")), 403, "enrolment_refused"),
        (with("method", json!("arc")), 403, "enrolment_refused"),
        (with("method", json!("gcp")), 403, "enrolment_refused"),
        (with("labels", json!({})), 400, "invalid_body"),
        (with("proof", json!("x".repeat(70_000))), 413, "too_large"),
    ] {
        enrol(&site, &bad).await.problem(status, word);
    }
    // A host of the inventory with other labels is none of this token's.
    let refused = enrol(&site, &with("host", json!("db-1"))).await;
    let refused = refused.problem(403, "enrolment_refused");
    assert!(refused["detail"].as_str().unwrap().contains("env = test"), "{refused}");
    // Nonces are for Azure alone: each is a row.
    let nonce = site.anybody(Method::GET, "/api/v1/enrolments/nonce", &json!({})).await;
    nonce.problem(403, "enrolment_refused");
    // Nobody sees or makes anything without a token of the API.
    let nobody = site.anybody(Method::GET, "/api/v1/enrolments", &json!({})).await;
    nobody.problem(401, "token_missing");
    let path = "/api/v1/enrolments/tokens";
    let wish = json!({ "labels": { "env": "test" } });
    eve.post(path, wish.clone()).await.problem(403, "not_admin");
    eve.get(path).await.problem(403, "not_admin");
    for (wish, field) in [
        (json!({ "labels": {} }), "labels"),
        (json!({ "labels": { "a": "b" }, "uses": 0 }), "uses"),
        (json!({ "labels": { "a": "b" }, "duration": "91d" }), "duration"),
    ] {
        assert_eq!(root.post(path, wish).await.problem(422, "invalid")["field"], field);
    }
    let token = format!("{path}/{id}");
    eve.delete(&token).await.problem(403, "not_admin");
    assert_eq!(root.delete(&token).await.status.as_u16(), 204);
    root.delete(&format!("{path}/none")).await.problem(404, "not_found");
    enrol(&site, &good).await.problem(403, "enrolment_refused");
}

async fn without_its_section_nobody_enrols(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    enrol(&site, &input(&csr(), "x", "new-1")).await.problem(409, "enrolment_off");
    let wish = json!({ "labels": { "env": "test" } });
    root.post("/api/v1/enrolments/tokens", wish).await.problem(409, "enrolment_off");
}

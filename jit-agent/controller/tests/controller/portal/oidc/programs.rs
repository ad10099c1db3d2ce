//! Programs that call the API with an access token of the provider.

use jit_controller::{
    clock::now_ms,
    model::Account,
    store::{accounts, oidc},
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    CREATE, audited,
    forged::{Liar, coded, header, mac, point, signed, with},
    node::{AUDIENCE, Provider, ROBOT},
    site,
};
use crate::{
    api::{
        Site,
        defender::{initiate_path, path, ssh_policy, wish},
    },
    databases::{self, Database},
    ports::free_port,
};

on_each_database! {
    a_program_calls_with_a_token_of_the_provider,
    a_token_of_the_provider_asks_over_defenders_api,
    what_is_no_access_token_for_this_controller_is_refused,
    tokens_of_a_provider_count_only_where_they_are_wanted,
    whom_a_token_names_is_found_as_at_the_sign_in,
    a_stream_of_a_program_ends_with_its_account,
    a_token_is_bound_to_its_person_as_a_sign_in_is,
}

const WANTED: &str = "audience = \"api://jit\"\n";

async fn started(database: Database, algorithm: &str, more: &str) -> (Site, Provider) {
    let port = free_port();
    let site = site(database, &format!("https://127.0.0.1:{port}"), more).await;
    let provider = Provider::start(&site, port, algorithm, &json!({}));
    (site, provider)
}

async fn put(site: &Site, name: &str, subject: &str, disabled: bool) {
    let account = Account {
        name: name.into(),
        subject: subject.into(),
        groups: ["sre".to_owned()].into(),
        disabled,
        created_ms: 1,
    };
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &account).await.unwrap();
    tx.commit().await.unwrap();
}

async fn a_program_calls_with_a_token_of_the_provider(database: Database) {
    let (site, provider) = started(database, "RS256", &format!("{CREATE}{WANTED}")).await;
    let robot = site.caller_with(provider.token(Some(AUDIENCE)).await);
    // A token makes no account, though a sign-in does.
    let refused = robot.get("/api/v1/me").await.problem(401, "account_missing");
    assert!(refused["detail"].as_str().unwrap().contains("no account for robot"), "{refused}");
    robot.get("/api/v1/me").await.problem(401, "account_missing");
    assert!(site.store().account(ROBOT).await.unwrap().is_none());
    let record = audited(&site, "attempt_refused").await;
    assert_eq!(record.len(), 1, "one a minute");
    let record = &record[0];
    assert_eq!((&record["by"], &record["account"]), (&json!(ROBOT), &json!("")));
    assert!(record["token"].as_str().unwrap().starts_with("oidc:"), "{record}");

    put(&site, "deploy", ROBOT, false).await;
    let me = robot.get("/api/v1/me").await.ok(200);
    assert_eq!((&me["account"], &me["subject"]), (&json!("deploy"), &json!(ROBOT)));
    assert_eq!(me["scopes"], json!(["read", "request"]));
    assert_eq!(me["token"], record["token"]);
    let ends_ms = me["token_ends_ms"].as_i64().unwrap();
    assert!(ends_ms > now_ms() && ends_ms <= now_ms() + 24 * 3_600_000, "{me}");
    let asked = robot.ask("web-1").await;
    assert_eq!(asked["requester"], ROBOT);
    assert_eq!(audited(&site, "request_submitted").await[0]["by"], ROBOT);

    // What its scopes do not have is refused by name, with the token's id in the audit.
    let decision = json!({ "ruling": "approve", "hash": "" });
    let answer = robot.post("/api/v1/requests/x/decision", decision).await;
    let refused = answer.problem(403, "scope_missing");
    assert!(refused["next"].as_str().unwrap().contains("token_scopes"), "{refused}");
    let last = &audited(&site, "attempt_refused").await[0];
    assert_eq!((&last["token"], &last["account"]), (&me["token"], &json!("deploy")));

    // A token that it makes ends with it, and it is not ended here.
    let made = robot.post("/api/v1/tokens", json!({ "scopes": ["read"], "duration": "90d" })).await;
    assert!(made.ok(201)["view"]["ends_ms"].as_i64().unwrap() <= ends_ms);
    robot.delete("/api/v1/tokens/this").await.problem(409, "conflict");
    robot.get("/api/v1/me").await.ok(200);

    provider.rotate().await;
    let newer = site.caller_with(provider.token(Some(AUDIENCE)).await);
    newer.get("/api/v1/me").await.ok(200);
    robot.get("/api/v1/me").await.problem(401, "token_refused");
    let other = site.caller_with(provider.token(Some("https://other.example.org")).await);
    let refused = other.get("/api/v1/me").await.problem(401, "token_refused");
    assert!(refused["detail"].as_str().unwrap().contains("api://jit"), "{refused}");
    // Without an audience the provider gives one that only itself can read.
    let opaque = site.caller_with(provider.token(None).await);
    opaque.get("/api/v1/me").await.problem(401, "token_unknown");

    put(&site, "deploy", ROBOT, true).await;
    newer.get("/api/v1/me").await.problem(401, "account_disabled");
    for algorithm in ["ES256", "PS256", "EdDSA"] {
        let (site, provider) = started(databases::sqlite().await, algorithm, WANTED).await;
        put(&site, "deploy", ROBOT, false).await;
        let robot = site.caller_with(provider.token(Some(AUDIENCE)).await);
        assert_eq!(robot.get("/api/v1/me").await.ok(200)["account"], "deploy", "{algorithm}");
    }
}

async fn a_token_of_the_provider_asks_over_defenders_api(database: Database) {
    let (site, provider) = started(database, "ES256", WANTED).await;
    put(&site, "deploy", ROBOT, false).await;
    let root = site.caller("root").await;
    root.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await.ok(200);
    let robot = site.caller_with(provider.token(Some(AUDIENCE)).await);
    let asked = wish("web-1", Some("203.0.113.9"), 30);
    let answer = robot.post(&initiate_path("rg1", "default"), asked.clone()).await.ok(202);
    assert_eq!(answer["requestor"], ROBOT);
    let submitted = &audited(&site, "request_submitted").await[0];
    assert_eq!(submitted["by"], ROBOT, "{submitted}");
    // It may ask, and not change what is protected.
    let put = robot.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await;
    put.azure(403, "AuthorizationFailed");
    let text = provider.token(Some("https://other.example.org")).await;
    let other = site.caller_with(text);
    let error = other.post(&initiate_path("rg1", "default"), asked).await;
    let error = error.azure(401, "AuthenticationFailed");
    assert_eq!(error["details"][0]["code"], "token_refused");
}

/// The claims of a good access token of bo.
pub(super) fn claims(liar: &Liar) -> Value {
    let now_s = now_ms() / 1000;
    json!({
        "iss": liar.issuer, "aud": AUDIENCE, "sub": "bo@example.org", "client_id": "a program",
        "iat": now_s, "exp": now_s + 300, "jti": "t-1", "scope": "any",
    })
}

fn typed(kind: &str) -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": kind })
}

async fn what_is_no_access_token_for_this_controller_is_refused(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, WANTED).await;
    let good = claims(&liar);
    let now_s = good["iat"].as_i64().unwrap();
    let mut counts = vec![
        signed(&typed("at+jwt"), &good, 1),
        signed(&typed("application/at+JWT"), &good, 1),
        signed(&json!({ "alg": "ES256" }), &good, 1),
    ];
    for (field, value) in [
        ("aud", json!(["https://other.example.org", AUDIENCE])),
        ("exp", json!(now_s - 30)),
        ("iat", json!(now_s + 30)),
        ("nbf", json!(now_s + 30)),
        ("exp", json!(now_s + 30 * 86_400)),
        ("jti", Value::Null),
        ("typ", json!("Bearer")),
    ] {
        counts.push(signed(&header(), &with(&good, field, value), 1));
    }
    for text in counts {
        let me = site.caller_with(text).get("/api/v1/me").await.ok(200);
        assert_eq!(me["account"], "bo");
        assert!(me["token"].as_str().unwrap().starts_with("oidc:"), "{me}");
        assert!(me["token_ends_ms"].as_i64().unwrap() <= (now_s + 86_430) * 1000, "{me}");
    }

    let mut bad = Vec::new();
    for (field, value, why) in [
        ("iss", json!("https://idp.example.org"), "iss"),
        ("iss", json!(format!("{}/", liar.issuer)), "iss"),
        ("aud", json!("jit"), "aud"),
        ("aud", json!(["jit", "api://jit/"]), "aud"),
        ("aud", Value::Null, "aud"),
        ("exp", json!(now_s - 61), "exp"),
        ("exp", Value::Null, "exp"),
        ("exp", json!("tomorrow"), "exp"),
        ("iat", json!(now_s + 120), "iat"),
        ("iat", json!(now_s - 86_400), "24 hours"),
        ("iat", Value::Null, "iat"),
        ("nbf", json!(now_s + 120), "nbf"),
        // Tokens for something else.
        ("nonce", json!("n"), "nonce"),
        ("at_hash", json!("x"), "at_hash"),
        ("events", json!({}), "events"),
        ("typ", json!("ID"), "typ"),
        ("typ", json!("Refresh"), "typ"),
        ("cnf", json!({ "jkt": "x" }), "cnf"),
    ] {
        bad.push((signed(&header(), &with(&good, field, value), 1), why));
    }
    // An ID token and a logout token, as the provider gives them to clients.
    let identity = with(&with(&good, "aud", json!("jit")), "nonce", json!("n"));
    bad.push((signed(&header(), &identity, 1), "aud"));
    bad.push((signed(&typed("logout+jwt"), &good, 1), "typ"));
    bad.push((signed(&typed("dpop+jwt"), &good, 1), "typ"));
    let (x, y) = point();
    let public = [vec![4], x.clone(), y.clone()].concat();
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": coded(&x), "y": coded(&y) });
    let whole = signed(&header(), &good, 1);
    let parts: Vec<_> = whole.split('.').collect();
    let none = |header: Value| format!("{}.{}.", coded(header.to_string()), parts[1]);
    let root = coded(with(&good, "sub", json!("root@example.org")).to_string());
    bad.extend([
        (none(json!({ "alg": "none", "typ": "at+jwt" })), "algorithm"),
        (none(json!({ "alg": "none", "kid": "one" })), "algorithm"),
        (none(header()), "signature"),
        (mac(&good, &public), "algorithm"),
        (mac(&good, &x), "algorithm"),
        (mac(&good, b"the secret of jit"), "algorithm"),
        (mac(&good, b"a secret that everybody knows"), "algorithm"),
        (signed(&header(), &good, 2), "signature"),
        (signed(&json!({ "alg": "ES256", "kid": "two" }), &good, 1), "a key"),
        (signed(&json!({ "alg": "RS256", "kid": "one" }), &good, 1), "signature"),
        (signed(&json!({ "alg": "ES256", "kid": "mine", "jwk": jwk }), &good, 1), "a key"),
        (signed(&json!({ "alg": "ES256", "kid": "one", "crit": ["x"] }), &good, 1), "crit"),
        (format!("{}.{root}.{}", parts[0], parts[2]), "signature"),
        ("..".into(), "cannot be read"),
        ("a.b.c".into(), "three parts"),
    ]);
    for (text, why) in bad {
        let refused = site.caller_with(text).get("/api/v1/me").await;
        let refused = refused.problem(401, "token_refused");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{why:?} is not in {detail:?}");
    }
    site.caller_with(whole).get("/api/v1/me").await.ok(200);
}

async fn tokens_of_a_provider_count_only_where_they_are_wanted(database: Database) {
    let liar = Liar::start().await;
    let without = site(database, &liar.issuer, "").await;
    let good = signed(&header(), &claims(&liar), 1);
    without.caller_with(good.clone()).get("/api/v1/me").await.problem(401, "token_unknown");

    // The provider is down: its tokens wait, those of the controller work.
    let nobody = format!("https://127.0.0.1:{}", free_port());
    let down = site(databases::sqlite().await, &nobody, WANTED).await;
    let answer = down.caller_with(good).get("/api/v1/me").await;
    answer.problem(503, "unavailable");
    down.caller("ana").await.get("/api/v1/me").await.ok(200);
}

async fn whom_a_token_names_is_found_as_at_the_sign_in(database: Database) {
    let liar = Liar::start().await;
    let more = "subject = \"email\"\naccount = \"login\"\naudience = \"api://jit\"\n\
                token_scopes = [\"read\"]\n[roles]\nops = [\"approvers\"]\n";
    let site = site(database, &liar.issuer, more).await;
    let of = |verified: bool, login: &str| {
        let mut claims = claims(&liar);
        claims["sub"] = json!("7");
        claims["email"] = json!("ana@example.org");
        claims["email_verified"] = json!(verified);
        claims["login"] = json!(login);
        claims["groups"] = json!(["ops"]);
        site.caller_with(signed(&header(), &claims, 1))
    };
    // Ana has two accounts.
    let me = of(true, "ana").get("/api/v1/me").await.ok(200);
    assert_eq!((&me["account"], &me["scopes"]), (&json!("ana"), &json!(["read"])));
    assert_eq!(me["groups"], json!(["sre"]), "groups follow the provider at a sign-in alone");
    let admin = of(true, "ana-admin");
    assert_eq!(admin.get("/api/v1/me").await.ok(200)["account"], "ana-admin");
    admin.get("/api/v1/accounts").await.problem(403, "scope_missing");
    let made = admin.post("/api/v1/tokens", json!({ "scopes": ["read"], "duration": "90d" })).await;
    let ends_ms = made.ok(201)["view"]["ends_ms"].as_i64().unwrap();
    assert!(ends_ms < now_ms() + 3_600_000, "an administrator's does not live longer either");
    let refused = of(true, "x").get("/api/v1/me").await.problem(401, "account_missing");
    assert!(refused["detail"].as_str().unwrap().contains("ana, ana-admin"), "{refused}");
    let refused = of(false, "ana").get("/api/v1/me").await.problem(401, "account_missing");
    assert!(refused["detail"].as_str().unwrap().contains("not verified"), "{refused}");
    let records = audited(&site, "attempt_refused").await;
    assert!(
        records.iter().any(|one| one["by"] == "unknown" && one["account"] == ""),
        "{records:#?}"
    );
}

async fn a_stream_of_a_program_ends_with_its_account(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, WANTED).await;
    let root = site.caller("root").await;
    for (name, subject, disabled, word) in [
        ("eve", "eve@example.org", true, "account_disabled"),
        // The account is somebody else's now.
        ("bo", "another@example.org", false, "account_missing"),
    ] {
        let claims = with(&claims(&liar), "sub", json!(format!("{name}@example.org")));
        let program = site.caller_with(signed(&header(), &claims, 1));
        let stream = program.request(Method::GET, "/api/v1/events").send().await.unwrap();
        assert_eq!(stream.status(), 200, "{name}");
        let body = json!({ "subject": subject, "groups": ["sre"], "disabled": disabled });
        root.put(&format!("/api/v1/accounts/{name}"), body).await.ok(200);
        let streamed = stream.text().await.unwrap();
        assert!(streamed.contains(word), "{streamed}");
    }
}

async fn a_token_is_bound_to_its_person_as_a_sign_in_is(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, &format!("subject = \"email\"\n{WANTED}")).await;
    let of = |sub: &str, email: &str| {
        let mut claims = claims(&liar);
        claims["sub"] = json!(sub);
        claims["email"] = json!(email);
        claims["email_verified"] = json!(true);
        site.caller_with(signed(&header(), &claims, 1))
    };
    let (old, new) = ("bo@example.org", "bo.married@example.org");
    // The first token binds the account, though nobody has signed in at the pages.
    assert_eq!(of("7", old).get("/api/v1/me").await.ok(200)["account"], "bo");
    let arrival = site.store().arrival("bo").await.unwrap().unwrap();
    assert_eq!((arrival.sub.as_str(), arrival.groups.len()), ("7", 0));
    let refused = of("8", old).get("/api/v1/me").await.problem(401, "account_missing");
    assert!(refused["detail"].as_str().unwrap().contains("somebody else"), "{refused}");
    // Another account, with the person's new address, is no second person.
    put(&site, "bo-two", new, false).await;
    let refused = of("7", new).get("/api/v1/me").await.problem(401, "account_missing");
    assert!(refused["detail"].as_str().unwrap().contains("the account bo is yours"), "{refused}");
    assert!(site.store().arrival("bo-two").await.unwrap().is_none());
    assert_eq!(of("7", old).get("/api/v1/me").await.ok(200)["groups"], json!(["sre"]));

    // What lasts longer than a call ends when somebody else has the account.
    let program = of("7", old);
    let stream = program.request(Method::GET, "/api/v1/events").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut tx = site.store().begin().await.unwrap();
    oidc::bind(&mut tx, "bo", (&liar.issuer, "9")).await.unwrap();
    tx.commit().await.unwrap();
    site.caller("ana").await.ask("web-1").await;
    let streamed = stream.text().await.unwrap();
    assert!(streamed.contains("account_missing"), "{streamed}");
}

//! At a provider that lies, is broken, or is somebody else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_controller::clock::now_ms;
use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{CREATE, Visitor, audited, site};
use crate::{databases::Database, portal::Shown};

on_each_database! {
    what_a_provider_must_not_sign_is_refused,
    an_answer_counts_once_and_only_for_who_began,
    the_answer_of_another_provider_is_refused,
    who_is_sent_on_stays_here,
    a_broken_provider_is_said_to_be_down,
    calls_to_end_sessions_are_the_providers_own,
}

/// What it does differently from a good one.
#[derive(Default)]
pub(super) struct Lies {
    /// The ID token in place of a good one.
    token: Option<String>,
    /// Parts of the document about itself.
    document: Value,
    /// What it answers at the token's address.
    answer: Option<(u16, String)>,
    pub(super) userinfo: Value,
    /// What came at the token's address.
    asked: Vec<BTreeMap<String, String>>,
}

/// A provider that signs whatever a test wants.
#[derive(Clone)]
pub(super) struct Liar {
    pub(super) issuer: String,
    lies: Arc<Mutex<Lies>>,
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).unwrap()
}

/// The coordinates of its public key.
pub(super) fn point() -> (Vec<u8>, Vec<u8>) {
    let point = key(1).verifying_key().to_sec1_point(false);
    let (x, y) = point.as_bytes()[1..].split_at(32);
    (x.to_vec(), y.to_vec())
}

pub(super) fn coded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token that is signed with this key of ours.
pub(super) fn signed(header: &Value, claims: &Value, number: u8) -> String {
    let message = format!("{}.{}", coded(header.to_string()), coded(claims.to_string()));
    let signature: Signature = key(number).sign(message.as_bytes());
    format!("{message}.{}", coded(signature.to_bytes()))
}

/// A token whose signature is a code with this secret.
pub(super) fn mac(claims: &Value, secret: &[u8]) -> String {
    let header = json!({ "alg": "HS256", "kid": "one", "typ": "JWT" });
    let message = format!("{}.{}", coded(header.to_string()), coded(claims.to_string()));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    format!("{message}.{}", coded(ring::hmac::sign(&secret, message.as_bytes())))
}

pub(super) fn header() -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
}

impl Liar {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let liar = Self { issuer, lies: Arc::default() };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(document))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/me", get(userinfo))
            .with_state(liar.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        liar
    }

    pub(super) fn lie(&self, change: impl FnOnce(&mut Lies)) {
        change(&mut self.lies.lock().unwrap());
    }

    /// The claims of a good token for this sign-in.
    fn claims(&self, given: &BTreeMap<String, String>) -> Value {
        let now_s = now_ms() / 1000;
        json!({
            "iss": self.issuer, "aud": "jit", "sub": "zoe", "nonce": given["nonce"],
            "iat": now_s, "exp": now_s + 300, "email": "zoe@example.org",
        })
    }

    /// Begins a sign-in that comes back with the token that is made of its claims.
    pub(super) async fn with_token(
        &self,
        visitor: &Visitor<'_>,
        make: impl FnOnce(Value) -> String,
    ) -> Shown {
        let (_, given) = visitor.begin("%2Fme").await;
        let token = make(self.claims(&given));
        self.lie(|lies| lies.token = Some(token));
        self.come_back(visitor, &given).await
    }

    /// Comes back with a good answer.
    async fn come_back(&self, visitor: &Visitor<'_>, given: &BTreeMap<String, String>) -> Shown {
        let state = given["state"].as_str();
        visitor.come_back(&[("code", "c"), ("state", state), ("iss", &self.issuer)]).await
    }

    /// A sign-in that is as it should be.
    pub(super) async fn good(&self, visitor: &Visitor<'_>) -> Shown {
        self.with_token(visitor, |claims| signed(&header(), &claims, 1)).await
    }
}

async fn document(State(liar): State<Liar>) -> Json<Value> {
    let issuer = &liar.issuer;
    let mut document = json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth?tenant=a"),
        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
        "userinfo_endpoint": format!("{issuer}/me"),
        "authorization_response_iss_parameter_supported": true,
    });
    if let Some(lies) = liar.lies.lock().unwrap().document.as_object() {
        document.as_object_mut().unwrap().extend(lies.clone());
    }
    Json(document)
}

async fn keys() -> Json<Value> {
    let (x, y) = point();
    Json(json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "use": "sig", "kid": "one", "x": coded(x), "y": coded(y) },
        { "kty": "oct", "kid": "shared", "k": coded("a secret that everybody knows") },
        { "kty": "of a later time", "kid": "later" },
    ] }))
}

async fn token(State(liar): State<Liar>, body: String) -> Response {
    let asked = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let mut lies = liar.lies.lock().unwrap();
    lies.asked.push(asked);
    if let Some((status, text)) = lies.answer.clone() {
        return (StatusCode::from_u16(status).unwrap(), text).into_response();
    }
    Json(json!({ "access_token": "a", "token_type": "Bearer", "id_token": lies.token }))
        .into_response()
}

async fn userinfo(State(liar): State<Liar>) -> Json<Value> {
    Json(liar.lies.lock().unwrap().userinfo.clone())
}

pub(super) fn with(claims: &Value, field: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[field] = value;
    claims
}

async fn what_a_provider_must_not_sign_is_refused(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, CREATE).await;
    let visitor = Visitor::new(&site);
    assert_eq!(liar.good(&visitor).await.goes_to(), "/me");
    assert_eq!(visitor.who().await.as_deref(), Some("zoe"));
    visitor.set_cookie("__Host-jit", "");

    let now_s = now_ms() / 1000;
    // Clocks differ a little.
    for (field, value) in [("exp", now_s - 30), ("iat", now_s + 30), ("nbf", now_s + 30)] {
        let shown = liar
            .with_token(&visitor, |claims| {
                signed(&header(), &with(&claims, field, json!(value)), 1)
            })
            .await;
        assert_eq!(shown.goes_to(), "/me", "{field}");
        visitor.set_cookie("__Host-jit", "");
    }
    for (field, value) in [
        ("nonce", json!("of another sign-in")),
        ("nonce", Value::Null),
        ("aud", json!("another client")),
        ("aud", json!(["jit", "another client"])),
        ("aud", json!([])),
        ("azp", json!("another client")),
        ("iss", json!("https://idp.example.org")),
        ("iss", json!(format!("{}/", liar.issuer))),
        ("exp", json!(now_s - 61)),
        ("exp", Value::Null),
        ("iat", json!(now_s + 120)),
        ("nbf", json!(now_s + 120)),
        ("sub", Value::Null),
    ] {
        let shown = liar
            .with_token(&visitor, |claims| {
                signed(&header(), &with(&claims, field, value.clone()), 1)
            })
            .await;
        refused(&visitor, &shown, &format!("{field}: {value}"));
    }
    let (x, y) = point();
    let public = [vec![4], x.clone(), y.clone()].concat();
    type Make<'m> = Box<dyn FnOnce(Value) -> String + 'm>;
    let forgeries: Vec<(&str, Make<'_>)> = vec![
        (
            "no signature",
            Box::new(|claims: Value| {
                let header = json!({ "alg": "none", "typ": "JWT" });
                format!("{}.{}.", coded(header.to_string()), coded(claims.to_string()))
            }),
        ),
        (
            "no signature, with a key",
            Box::new(|claims: Value| {
                let header = json!({ "alg": "none", "kid": "one" });
                format!("{}.{}.", coded(header.to_string()), coded(claims.to_string()))
            }),
        ),
        (
            "the signature taken off",
            Box::new(|claims: Value| {
                let good = signed(&header(), &claims, 1);
                format!("{}.", good.rsplit_once('.').unwrap().0)
            }),
        ),
        ("HS256 with the public key", Box::new(|claims: Value| mac(&claims, &public))),
        ("HS256 with x of it", Box::new(|claims: Value| mac(&claims, &x))),
        ("HS256 with our secret", Box::new(|claims: Value| mac(&claims, b"the secret of jit"))),
        (
            "HS256 with a key of the set",
            Box::new(|claims: Value| mac(&claims, b"a secret that everybody knows")),
        ),
        ("another key of the same name", Box::new(|claims: Value| signed(&header(), &claims, 2))),
        (
            "a key of another name",
            Box::new(|claims: Value| signed(&json!({ "alg": "ES256", "kid": "two" }), &claims, 1)),
        ),
        (
            "another algorithm",
            Box::new(|claims: Value| signed(&json!({ "alg": "RS256", "kid": "one" }), &claims, 1)),
        ),
        (
            "an own key in the header",
            Box::new(|claims: Value| {
                let (x, y) = point();
                let jwk = json!({ "kty": "EC", "crv": "P-256", "x": coded(x), "y": coded(y) });
                signed(&json!({ "alg": "ES256", "jwk": jwk, "kid": "mine" }), &claims, 1)
            }),
        ),
        (
            "more that must be understood",
            Box::new(|claims: Value| {
                signed(&json!({ "alg": "ES256", "kid": "one", "crit": ["x"], "x": 1 }), &claims, 1)
            }),
        ),
        (
            "changed after it was signed",
            Box::new(|claims: Value| {
                let good = signed(&header(), &claims, 1);
                let parts: Vec<_> = good.split('.').collect();
                let other = coded(with(&claims, "sub", json!("root")).to_string());
                format!("{}.{other}.{}", parts[0], parts[2])
            }),
        ),
        (
            "a logout token",
            Box::new(|claims: Value| {
                signed(&json!({ "alg": "ES256", "kid": "one", "typ": "logout+jwt" }), &claims, 1)
            }),
        ),
        ("nothing", Box::new(|_| String::new())),
        (
            "too long",
            Box::new(|claims: Value| {
                signed(&header(), &with(&claims, "more", json!("x".repeat(100_000))), 1)
            }),
        ),
    ];
    for (what, make) in forgeries {
        let shown = liar.with_token(&visitor, make).await;
        refused(&visitor, &shown, what);
    }
    assert_eq!(audited(&site, "signed_in").await.len(), 4);
    let refused = audited(&site, "sign_in_refused").await;
    assert!((1..8).contains(&refused.len()), "one a minute: {refused:#?}");
    assert_eq!(refused[0]["why"], "token");
}

fn refused(visitor: &Visitor<'_>, shown: &Shown, what: &str) {
    assert_eq!(shown.status, 403, "{what}: {}", shown.text);
    assert!(shown.text.contains("does not count"), "{what}: {}", shown.text);
    assert!(visitor.cookie("__Host-jit").is_empty(), "{what}");
    assert!(visitor.cookie("__Host-jit-oidc").is_empty(), "{what}");
}

async fn an_answer_counts_once_and_only_for_who_began(database: Database) {
    let liar = Liar::start().await;
    let more = "create = true\n[roles]\nops = [\"sre\"]\n";
    let site = site(database, &liar.issuer, more).await;
    let (ana, eve) = (Visitor::new(&site), Visitor::new(&site));
    let (_, given) = ana.begin("%2Fme").await;
    let cookie = ana.cookie("__Host-jit-oidc");
    let good = signed(&header(), &liar.claims(&given), 1);
    let userinfo = json!({ "sub": "zoe", "groups": ["ops"] });
    liar.lie(|lies| (lies.token, lies.userinfo) = (Some(good), userinfo));
    // Eve has the whole address, and has begun nothing, or something else.
    for shown in [
        liar.come_back(&eve, &given).await,
        {
            eve.begin("%2Fme").await;
            liar.come_back(&eve, &given).await
        },
        ana.come_back(&[("code", "c"), ("state", "x"), ("iss", &liar.issuer)]).await,
    ] {
        assert_eq!(shown.status, 400, "{}", shown.text);
        assert!(shown.text.contains("begin again"), "{}", shown.text);
    }
    assert!(liar.lies.lock().unwrap().asked.is_empty(), "no code was exchanged");
    ana.set_cookie("__Host-jit-oidc", &cookie);
    assert_eq!(liar.come_back(&ana, &given).await.goes_to(), "/me");
    // What was asked with the code fits what the browser was sent with.
    let asked = liar.lies.lock().unwrap().asked.pop().unwrap();
    assert_eq!(coded(Sha256::digest(&asked["code_verifier"])), given["code_challenge"]);
    assert_eq!(asked["redirect_uri"], given["redirect_uri"]);
    assert!(!asked.contains_key("client_secret"), "it is in the header");
    // The same once more, from the same browser.
    let other = Visitor::new(&site);
    other.set_cookie("__Host-jit-oidc", &cookie);
    let again = liar.come_back(&other, &given).await;
    assert_eq!(again.status, 400);
    assert!(again.text.contains("used before"), "{}", again.text);
    assert!(other.cookie("__Host-jit").is_empty());
    // A cookie that says where to go on to, but not what the state says.
    let (_, given) = other.begin("%2Fme").await;
    let cookie = other.cookie("__Host-jit-oidc");
    let (front, _) = cookie.rsplit_once('.').unwrap();
    other.set_cookie("__Host-jit-oidc", &format!("{front}.{}", coded("/other")));
    assert_eq!(liar.come_back(&other, &given).await.status, 400);
    // Claims that are of another person.
    let eve = Visitor::new(&site);
    liar.lie(|lies| lies.userinfo = json!({ "sub": "root", "groups": ["ops"] }));
    let shown = liar.good(&eve).await;
    refused(&eve, &shown, "claims of another person");
}

async fn the_answer_of_another_provider_is_refused(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, CREATE).await;
    let visitor = Visitor::new(&site);
    for issuer in ["https://evil.example.org", ""] {
        let (_, given) = visitor.begin("%2Fme").await;
        let good = signed(&header(), &liar.claims(&given), 1);
        liar.lie(|lies| lies.token = Some(good));
        let state = given["state"].as_str();
        let shown = visitor.come_back(&[("code", "c"), ("state", state), ("iss", issuer)]).await;
        refused(&visitor, &shown, issuer);
        // Not even its refusal is believed.
        let (_, given) = visitor.begin("%2Fme").await;
        let state = given["state"].as_str();
        let no = [("error", "access_denied"), ("state", state), ("iss", issuer)];
        let shown = visitor.come_back(&no).await;
        refused(&visitor, &shown, issuer);
    }
    assert!(liar.lies.lock().unwrap().asked.is_empty(), "no code was given away");
    let (_, given) = visitor.begin("%2Fme").await;
    let (state, words) = (given["state"].as_str(), "<b>you may not</b>");
    let no = [
        ("error", "access_denied"),
        ("error_description", words),
        ("state", state),
        ("iss", liar.issuer.as_str()),
    ];
    let shown = visitor.come_back(&no).await;
    assert_eq!(shown.status, 403);
    assert!(shown.text.contains("Test SSO refused: access_denied"), "{}", shown.text);
    assert!(!shown.text.contains("<b>"), "{}", shown.text);
}

async fn who_is_sent_on_stays_here(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, CREATE).await;
    for next in
        ["//evil.example.org", "https://evil.example.org", "/%5Cevil.example.org", "/sign-out"]
    {
        let visitor = Visitor::new(&site);
        let (url, given) = visitor.begin(next).await;
        assert!(url.as_str().starts_with(&format!("{}/auth?tenant=a&", liar.issuer)), "{url}");
        let good = signed(&header(), &liar.claims(&given), 1);
        liar.lie(|lies| lies.token = Some(good));
        assert_eq!(liar.come_back(&visitor, &given).await.goes_to(), "/", "{next}");
    }
    // Also if the browser itself makes up the cookie, with all that follows from it.
    let visitor = Visitor::new(&site);
    let (secret, began) = ("A".repeat(43), now_ms());
    let next = "//evil.example.org";
    let derived = |purpose: &str| {
        let text = format!("jit-controller oidc {purpose}\0{secret}\0{began}\0{next}");
        coded(Sha256::digest(text))
    };
    visitor.set_cookie("__Host-jit-oidc", &format!("{secret}.{began}.{}", coded(next)));
    let given = BTreeMap::from([
        ("state".to_owned(), derived("state")),
        ("nonce".to_owned(), derived("nonce")),
    ]);
    let good = signed(&header(), &liar.claims(&given), 1);
    liar.lie(|lies| lies.token = Some(good));
    assert_eq!(liar.come_back(&visitor, &given).await.goes_to(), "/");
}

async fn a_broken_provider_is_said_to_be_down(database: Database) {
    let liar = Liar::start().await;
    let other = Liar::start().await;
    let more = CREATE;
    for (lie, words) in [
        (json!({ "issuer": other.issuer }), "letter by letter"),
        (json!({ "token_endpoint": "http://idp.example.org/token" }), "token_endpoint"),
        (json!({ "authorization_endpoint": "javascript:alert(1)" }), "authorization_endpoint"),
        (json!({ "jwks_uri": format!("{}/nothing", other.issuer) }), "its keys: it answered 404"),
        (json!({ "jwks_uri": 7 }), "cannot be read"),
    ] {
        liar.lie(|lies| lies.document = lie);
        let site = site(crate::databases::sqlite().await, &liar.issuer, more).await;
        let shown = Visitor::new(&site).get("/sign-in/oidc").await;
        assert_eq!(shown.status, 503, "{words}: {}", shown.text);
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
    }
    liar.lie(|lies| lies.document = Value::Null);
    let site = site(database, &liar.issuer, more).await;
    let visitor = Visitor::new(&site);
    for (status, answer, shown_status, words) in [
        (400, r#"{"error":"invalid_grant"}"#.to_owned(), 403, "refused: invalid_grant"),
        (401, r#"{"error":"invalid_client"}"#.to_owned(), 403, "refused: invalid_client"),
        (500, "<html>".to_owned(), 503, "it answered 500"),
        (302, String::new(), 503, "it answered 302"),
        (200, "<html>".to_owned(), 503, "cannot be read"),
        (200, "{}".to_owned(), 403, "no ID token"),
        (200, format!("{{\"x\":\"{}\"}}", "x".repeat(300_000)), 503, "over 262144 bytes"),
    ] {
        liar.lie(|lies| lies.answer = Some((status, answer)));
        let shown = liar.good(&visitor).await;
        assert_eq!(shown.status, shown_status, "{words}: {}", shown.text);
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
        assert!(visitor.cookie("__Host-jit").is_empty());
    }
    liar.lie(|lies| lies.answer = None);
    assert_eq!(liar.good(&visitor).await.goes_to(), "/me");
}

async fn calls_to_end_sessions_are_the_providers_own(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, CREATE).await;
    let (one, two) = (Visitor::new(&site), Visitor::new(&site));
    for (visitor, sid) in [(&one, "s-1"), (&two, "s-2")] {
        let shown = liar
            .with_token(visitor, |claims| signed(&header(), &with(&claims, "sid", json!(sid)), 1))
            .await;
        assert_eq!(shown.goes_to(), "/me");
    }
    let now_s = now_ms() / 1000;
    let event = "http://schemas.openid.net/event/backchannel-logout";
    let good = json!({
        "iss": liar.issuer, "aud": ["jit"], "iat": now_s, "exp": now_s + 120, "jti": "1",
        "sub": "zoe", "sid": "s-1", "events": { event: {} },
    });
    let kind = json!({ "alg": "ES256", "kid": "one", "typ": "logout+jwt" });
    let call = async |token: &str| {
        // No browser: neither Origin nor a cookie.
        let url = format!("{}/sign-out/oidc", site.base);
        let body = format!("logout_token={token}");
        let client = &one.client;
        let kind = "application/x-www-form-urlencoded";
        let call = client.post(url).header("content-type", kind).body(body);
        Shown::of(call.send().await.unwrap()).await
    };
    for (what, token) in [
        ("nothing", String::new()),
        ("another key", signed(&kind, &good, 2)),
        ("an unknown key", signed(&with(&kind, "kid", json!("two")), &good, 1)),
        ("no signature", {
            let header = json!({ "alg": "none", "kid": "one" });
            format!("{}.{}.", coded(header.to_string()), coded(good.to_string()))
        }),
        ("HS256", mac(&good, b"the secret of jit")),
        ("another type", signed(&with(&kind, "typ", json!("at+jwt")), &good, 1)),
        ("crit", signed(&with(&kind, "crit", json!(["x"])), &good, 1)),
        ("iss", signed(&kind, &with(&good, "iss", json!("https://idp.example.org")), 1)),
        ("aud", signed(&kind, &with(&good, "aud", json!("another client")), 1)),
        ("old", signed(&kind, &with(&good, "iat", json!(now_s - 700)), 1)),
        ("ended", signed(&kind, &with(&good, "exp", json!(now_s - 61)), 1)),
        ("future", signed(&kind, &with(&good, "iat", json!(now_s + 120)), 1)),
        ("no event", signed(&kind, &with(&good, "events", json!({})), 1)),
        ("a nonce", signed(&kind, &with(&good, "nonce", json!("x")), 1)),
        ("nobody", signed(&kind, &with(&with(&good, "sub", json!("")), "sid", json!("")), 1)),
        ("no id", signed(&kind, &with(&good, "jti", json!("")), 1)),
    ] {
        let answer = call(&token).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        let words: Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(words["error"], "invalid_request", "{what}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(one.who().await.is_some() && two.who().await.is_some(), "{what}");
    }
    let token = signed(&kind, &good, 1);
    assert_eq!(call(&token).await.status, 200);
    assert_eq!((one.who().await, two.who().await.as_deref()), (None, Some("zoe")));
    // It counts once: a new session does not end by the old call.
    let again = with(&good, "sid", json!("s-2"));
    assert_eq!(call(&signed(&kind, &again, 1)).await.status, 200);
    assert!(two.who().await.is_some(), "its id was used before");
    // Without a session it is all of the person's.
    let mut all = with(&good, "jti", json!("2"));
    all.as_object_mut().unwrap().remove("sid");
    assert_eq!(call(&signed(&kind, &all, 1)).await.status, 200);
    assert_eq!(two.who().await, None);
    assert_eq!(audited(&site, "signed_out").await.len(), 2);
    // Who is no provider is stopped; the provider ends as many as it likes, even from there.
    let forged = signed(&kind, &good, 2);
    let mut statuses = Vec::new();
    for _ in 0..70 {
        statuses.push(call(&forged).await.status);
    }
    assert!(statuses[0] == 400 && statuses.contains(&429), "{statuses:?}");
    for number in 0..200 {
        let one = with(&all, "jti", json!(format!("many-{number}")));
        assert_eq!(call(&signed(&kind, &one, 1)).await.status, 200, "{number}");
    }
}

//! The API over real HTTPS on the loopback interface.

mod auth;
mod clouds;
pub(crate) mod defender;
mod enrolments;
mod events;
mod keys;
mod lists;
mod openapi;
mod passwords;
mod policies;
mod problems;
mod requests;
mod revocations;
mod rules;
mod secrets;
mod webhooks;

use std::{path::Path, sync::Arc, time::Duration};

use jit_client::ca::{Authority, Names};
use jit_controller::{
    api::{self, ApiState, Deliverer, RawSettings, Server, Settings, WebhookKey, server::Control},
    clock::now_ms,
    defender as microsoft,
    desk::{self, Desk},
    enrol::opened::Opened,
    fleet::{self, Fleet, SignError, SignPolicy},
    model::{Account, Host},
    people::People,
    portal,
    store::{self, RulesVersion, Store, Token, accounts, hosts},
};
use reqwest::{Certificate, Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::databases::Database;

/// All scopes.
const SCOPES: [&str; 9] =
    ["admin", "approve", "audit", "hosts", "policy", "read", "request", "rules", "signatures"];
const HOUR_MS: i64 = 3_600_000;

/// A controller without hosts and without a signer, that listens.
pub(crate) struct Site {
    pub(crate) desk: Desk,
    pub(crate) base: String,
    /// Certificate of its authority, PEM.
    pub(crate) ca: String,
    client: Client,
    control: Control,
    directory: TempDir,
    /// Kept for as long as it is called.
    _deliverer: Deliverer,
    _database: Database,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.control.end();
    }
}

impl Site {
    /// One with people, hosts and the default rules.
    pub(crate) async fn new(database: Database) -> Self {
        Self::with(database, RawSettings::default(), |_| {}).await
    }

    pub(crate) async fn with(
        database: Database,
        raw: RawSettings,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::build(database, raw, change, |_, _| People::default(), false, None).await
    }

    /// One that talks to hosts, none of which answers.
    pub(crate) async fn with_fleet(database: Database) -> Self {
        let nobody = |_: &Path, _: &str| People::default();
        Self::build(database, RawSettings::default(), |_| {}, nobody, true, None).await
    }

    /// One where people sign in in other ways too. `people` gets its directory, with `ca.pem`, and
    /// its address.
    pub(crate) async fn with_people(
        database: Database,
        people: impl FnOnce(&Path, &str) -> People,
    ) -> Self {
        Self::build(database, RawSettings::default(), |_| {}, people, false, None).await
    }

    /// One at which hosts enrol.
    pub(crate) async fn enrolling(database: Database, opened: Opened) -> Self {
        let raw = RawSettings::default();
        let nobody = |_: &Path, _: &str| People::default();
        Self::build(database, raw, |_| {}, nobody, false, Some(opened)).await
    }

    async fn build(
        database: Database,
        raw: RawSettings,
        change: impl FnOnce(&mut Settings),
        of_site: impl FnOnce(&Path, &str) -> People,
        has_fleet: bool,
        opened: Option<Opened>,
    ) -> Self {
        let store = Store::open(&database.url).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca = certificates(directory.path());
        let raw = RawSettings { listen: Some("127.0.0.1:0".into()), ..raw };
        let mut settings = Settings::of(raw, directory.path()).unwrap();
        change(&mut settings);
        people(&store).await;
        let desk = Desk::new(store, None, desk::Settings::default());
        let key = WebhookKey::open(&settings.webhook_key).unwrap();
        let deliverer = Deliverer::start(desk.clone(), &settings, key.clone()).unwrap();
        let server = Server::bind(&settings).unwrap();
        let base = format!("https://{}", server.address().unwrap());
        let control = server.control();
        let fleet = if has_fleet { Some(fleet(&desk, directory.path(), &ca).await) } else { None };
        let people = of_site(directory.path(), &base);
        let state = ApiState::with_people(desk.clone(), settings, Some(key), fleet, people, opened);
        let router = api::router(state.clone()).merge(microsoft::router(&state));
        tokio::spawn(server.run(router.merge(portal::router(state))));
        let client = Client::builder()
            .tls_certs_only([Certificate::from_pem(ca.as_bytes()).unwrap()])
            .no_proxy()
            .build()
            .unwrap();
        Self {
            desk,
            base,
            ca,
            client,
            control,
            directory,
            _deliverer: deliverer,
            _database: database,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.desk.store()
    }

    /// Its directory, for files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A token of this account with these scopes.
    async fn token(&self, account: &str, scopes: &[&str]) -> String {
        self.token_until(account, scopes, now_ms() + HOUR_MS).await.0
    }

    /// A token that ends then, and its id.
    async fn token_until(&self, account: &str, scopes: &[&str], ends_ms: i64) -> (String, String) {
        let secret = api::token::Secret::generate();
        let token = Token {
            id: ulid::Ulid::generate().to_string(),
            hash: secret.hash(),
            account: account.into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            label: "test".into(),
            created_ms: 1,
            ends_ms,
            used_ms: 0,
            revoked_ms: 0,
        };
        let mut tx = self.store().begin().await.unwrap();
        accounts::add_token(&mut tx, &token).await.unwrap();
        tx.commit().await.unwrap();
        (secret.expose().to_owned(), token.id)
    }

    /// A caller with this token, which may be anybody's.
    pub(crate) const fn caller_with(&self, token: String) -> Caller<'_> {
        Caller { site: self, token }
    }

    /// A caller of this account with all scopes.
    pub(crate) async fn caller(&self, account: &str) -> Caller<'_> {
        Caller { site: self, token: self.token(account, &SCOPES).await }
    }
}

/// Calls with a token.
pub(crate) struct Caller<'s> {
    site: &'s Site,
    token: String,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, headers, body }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// A problem, with all that each has.
    pub(crate) fn problem(self, status: u16, word: &str) -> Value {
        assert_eq!(
            (self.status.as_u16(), self.body["word"].as_str()),
            (status, Some(word)),
            "{}",
            self.body
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["type"], format!("urn:jit-agent:problem:{word}"));
        assert_eq!(self.body["request_id"], self.header("x-request-id"));
        for field in ["title", "detail", "next", "instance"] {
            assert!(!self.body[field].as_str().unwrap().is_empty(), "{field}: {}", self.body);
        }
        self.body
    }

    /// What it should be.
    pub(crate) fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }
}

impl Caller<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.site.base);
        self.site.client.request(method, url).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body).send().await.unwrap()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(&body).send().await.unwrap()).await
    }

    /// Submits a request for SSH.
    pub(crate) async fn ask(&self, host: &str) -> Value {
        self.post("/api/v1/requests", ssh(host)).await.ok(201)
    }
}

impl Site {
    /// A call without a token.
    async fn anybody(&self, method: Method, path: &str, body: &Value) -> Answer {
        let call = self.client.request(method, format!("{}{path}", self.base));
        Answer::of(call.json(body).send().await.unwrap()).await
    }
}

/// SSH on a host for half an hour.
fn ssh(host: &str) -> Value {
    json!({
        "hosts": [host], "sources": ["203.0.113.7"], "ports": ["22"], "duration": "30m",
        "reason": "disk full",
    })
}

/// The part that talks to hosts. Their addresses are where nobody listens.
async fn fleet(desk: &Desk, directory: &Path, ca: &str) -> Fleet {
    let mut tx = desk.store().begin().await.unwrap();
    for known in desk.store().hosts("", 100, None).await.unwrap() {
        let host = Host { address: "127.0.0.1:1".into(), ..known.host };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    tx.commit().await.unwrap();
    std::fs::write(directory.join("ca.pem"), ca).unwrap();
    let file = |name: &str| directory.join(name);
    let settings = fleet::Settings::new(file("ca.pem"), file("api.pem"), file("api.key"));
    let sign: SignPolicy = Arc::new(|_| {
        Box::pin(async { Err(SignError::Unavailable("nobody signs in this test".into())) })
    });
    Fleet::start(desk.clone(), &settings, sign).unwrap()
}

/// A certificate for the loopback address; returns its authority's.
fn certificates(directory: &Path) -> String {
    // Of several in one process the first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let day = Duration::from_secs(86_400);
    let ca = Authority::create("test", day).unwrap();
    let authority = Authority::from_pem(&ca.certificate, &ca.key).unwrap();
    let names = Names { ip: vec!["127.0.0.1".parse().unwrap()], ..Names::default() };
    let pair = authority.issue("api", &names, day).unwrap();
    std::fs::write(directory.join("api.pem"), pair.certificate).unwrap();
    std::fs::write(directory.join("api.key"), pair.key).unwrap();
    std::fs::write(directory.join("ca.pem"), &ca.certificate).unwrap();
    ca.certificate
}

/// Ana and Bo are of sre, Li of approvers too; Ana has a second account; Eve is in no group.
async fn people(store: &Store) {
    let account = |name: &str, subject: &str, groups: &[&str]| Account {
        name: name.into(),
        subject: format!("{subject}@example.org"),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        disabled: false,
        created_ms: 1,
    };
    let host = |id: &str, env: &str| Host {
        id: id.into(),
        address: "192.0.2.10:7443".into(),
        labels: [("env".to_owned(), env.to_owned())].into(),
        ..Host::default()
    };
    let mut tx = store.begin().await.unwrap();
    for account in [
        account("root", "root", &["admins"]),
        account("ana", "ana", &["sre"]),
        account("ana-admin", "ana", &["admins", "approvers", "sre"]),
        account("bo", "bo", &["sre"]),
        account("li", "li", &["approvers", "sre"]),
        account("eve", "eve", &[]),
    ] {
        accounts::put(&mut tx, &account).await.unwrap();
    }
    for host in [host("web-1", "test"), host("db-1", "prod")] {
        hosts::put(&mut tx, &host).await.unwrap();
    }
    let text = jit_controller::rules::DEFAULT.to_owned();
    let author = "root@example.org".to_owned();
    let first = RulesVersion { version: 1, text, author, note: String::new(), saved_ms: 1 };
    store::rules::save(&mut tx, &first).await.unwrap();
    tx.commit().await.unwrap();
}

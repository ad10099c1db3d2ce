//! A browser without a script and without a cache, whose person has signed in with a password.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_client::controller::{call::Call, types::PasswordInput};
use jit_tests::{
    controller::{API_PORT, CONTROLLER, Stage},
    netns::Namespace,
};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response, redirect::Policy};
use tokio::runtime::Runtime;
use url::form_urlencoded;

use super::runtime;

/// The password of everybody here.
const PASSWORD: &str = "several plain words";
/// A connection that was idle for longer is not used again: between calls nothing answers the
/// controller's pings.
const IDLE: Duration = Duration::from_secs(5);

pub(super) struct Browser {
    hub: Arc<Namespace>,
    runtime: Runtime,
    client: Client,
    /// `__Host-jit=...`
    pub(super) cookie: String,
}

/// What came.
pub(super) struct Came {
    pub(super) status: u16,
    pub(super) text: String,
    /// Bytes of the answer as it was sent, with its headers as HTTP/1.1 writes them.
    pub(super) bytes: usize,
}

impl Browser {
    /// Signs somebody in, over a new connection. Returns also what the sign-in itself took.
    pub(super) fn sign_in(stage: &Stage, account: &str) -> (Self, Duration) {
        let input = PasswordInput { password: PASSWORD.into(), current: None };
        stage.admin.done(&Call::put(["accounts", account, "password"]).json(&input));
        let mut browser = Self {
            hub: Arc::clone(&stage.hub),
            runtime: runtime(),
            client: client(stage, |builder| builder),
            cookie: String::new(),
        };
        let (cookie, took) = browser.calls(async |browser| {
            // What the connection takes is no part of it.
            assert_eq!(browser.get("/sign-in").await.status, 200);
            let fields = [("name", account), ("password", PASSWORD)];
            let began = Instant::now();
            let response = browser.form("/sign-in", &fields).send().await.unwrap();
            let took = began.elapsed();
            assert_eq!(response.status(), 303, "{account} signs in");
            let cookie = response.headers().get("set-cookie").unwrap().to_str().unwrap();
            (cookie.split(';').next().unwrap().to_owned(), took)
        });
        browser.cookie = cookie;
        (browser, took)
    }

    /// Calls where the controller is.
    pub(super) fn calls<T: Send>(&self, body: impl AsyncFnOnce(&Self) -> T + Send) -> T {
        self.hub.run(|| self.runtime.block_on(body(self)))
    }

    /// Reads a page, or a file of one.
    pub(super) async fn get(&self, path: &str) -> Came {
        let call = self.client.get(url(path)).header("accept-encoding", "gzip");
        Came::of(call.header("cookie", &self.cookie).send().await.unwrap()).await
    }

    /// Sends a form, as from a page of the site; `fields` has the key of the session where there is
    /// one.
    pub(super) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Came {
        Came::of(self.form(path, fields).send().await.unwrap()).await
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let call = self.client.post(url(path)).header("cookie", &self.cookie);
        let call = call.header("origin", url("")).header("sec-fetch-site", "same-origin");
        call.header("content-type", "application/x-www-form-urlencoded").body(body)
    }
}

impl Came {
    async fn of(response: Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let head: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let body = response.bytes().await.unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        Self { status, text, bytes: "HTTP/1.1 200 OK\r\n\r\n".len() + head + body.len() }
    }

    /// The value of the first field of this name.
    pub(super) fn field(&self, name: &str) -> String {
        self.between(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| {
            panic!("no field {name}: {}", self.text);
        })
    }

    /// What stands after this text, up to the next quotation mark.
    pub(super) fn between(&self, before: &str) -> Option<String> {
        let (_, rest) = self.text.split_once(before)?;
        Some(rest.split('"').next()?.replace("&#38;", "&"))
    }
}

/// A client that trusts the controller's authority, and goes where it is sent only when it is asked
/// to.
pub(super) fn client(stage: &Stage, with: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Client {
    // Of several in one process the first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = Certificate::from_pem(&fs::read(stage.own("pki/ca.pem")).unwrap()).unwrap();
    let builder = Client::builder().tls_certs_only([ca]).no_proxy().redirect(Policy::none());
    with(builder.pool_idle_timeout(IDLE)).build().unwrap()
}

/// The address of a page.
pub(super) fn url(path: &str) -> String {
    format!("https://{CONTROLLER}:{API_PORT}{path}")
}

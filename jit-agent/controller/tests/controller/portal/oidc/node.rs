//! `oidc-provider` by node on the loopback interface: a certified provider
//! (openid.net/certification).

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::api::Site;

/// A client of its own right, without a person.
pub(super) const ROBOT: &str = "robot";
/// Whom access tokens are for.
pub(super) const AUDIENCE: &str = "api://jit";

/// A provider that runs.
pub(super) struct Provider {
    child: Child,
    pub(super) issuer: String,
    client: reqwest::Client,
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It ends with its standard input. Nobody waits for long: threads of node that was killed
        // may stay.
        drop(self.child.stdin.take());
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _gone = self.child.kill();
    }
}

impl Provider {
    /// The provider of this site on this port, which signs so.
    pub(super) fn start(site: &Site, port: u16, algorithm: &str, people: &Value) -> Self {
        let (directory, base) = (site.directory(), site.base.as_str());
        let issuer = format!("https://127.0.0.1:{port}");
        let settings = json!({
            "port": port, "issuer": issuer, "algorithm": algorithm,
            "certificate": directory.join("api.pem"), "key": directory.join("api.key"),
            "people": people,
            "client": {
                "client_id": "jit", "client_secret": "the secret of jit",
                "redirect_uris": [format!("{base}/sign-in/oidc/back")],
                "post_logout_redirect_uris": [format!("{base}/sign-in")],
                "grant_types": ["authorization_code"], "response_types": ["code"],
                "backchannel_logout_uri": format!("{base}/sign-out/oidc"),
                "backchannel_logout_session_required": true,
            },
            "programs": [{
                "client_id": ROBOT, "client_secret": "the secret of a robot",
                "redirect_uris": [], "response_types": [], "grant_types": ["client_credentials"],
            }],
        });
        let file = directory.join("provider.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/node/provider.mjs");
        let node = env::var_os("JIT_NODE").unwrap_or_else(|| "node".into());
        let mut child = Command::new(node)
            .arg(script)
            .arg(modules())
            .arg(file)
            .env("UV_USE_IO_URING", "0")
            .env("NODE_EXTRA_CA_CERTS", directory.join("ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("node does not start ({error}): `cargo xtask setup`"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "ready");
        let ca = reqwest::Certificate::from_pem(site.ca.as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
        let provider = Self { child, issuer, client };
        assert!(ready, "the provider has ended; it needs Node.js 20");
        provider
    }

    /// Gives the provider an order of tests.
    async fn order(&self, path: &str, body: String) {
        let call = self.client.post(format!("{}/test/{path}", self.issuer)).body(body);
        assert!(call.send().await.unwrap().status().is_success());
    }

    /// An access token of the robot (RFC 6749 section 4.4), for this audience (RFC 8707).
    pub(super) async fn token(&self, audience: Option<&str>) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(audience) = audience {
            form.append_pair("resource", audience);
        }
        let call = self.client.post(format!("{}/token", self.issuer));
        let call = call.basic_auth(ROBOT, Some("the+secret+of+a+robot"));
        let call = call.header("content-type", "application/x-www-form-urlencoded");
        let said = call.body(form.finish()).send().await.unwrap().text().await.unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        said["access_token"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// It signs with another key, and has none of the old ones any more.
    pub(super) async fn rotate(&self) {
        self.order("rotate", String::new()).await;
    }

    /// It says something else of people.
    pub(super) async fn people(&self, people: &Value) {
        self.order("people", people.to_string()).await;
    }
}

/// The directory with the packages of tests/node/package-lock.json: the one that JIT_NODE_MODULES
/// names, or that in the target directory.
fn modules() -> PathBuf {
    let named = env::var_os("JIT_NODE_MODULES").map(PathBuf::from);
    let modules = named.unwrap_or_else(|| {
        let this = env::current_exe().unwrap();
        // target/<profile>/deps/<test>
        this.ancestors().nth(3).unwrap().join("node/node_modules")
    });
    let entry = modules.join("oidc-provider/lib/index.js");
    assert!(entry.exists(), "{} is missing: `cargo xtask setup` installs it", entry.display());
    modules
}

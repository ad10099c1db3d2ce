//! A controller that says what a test wants, over real HTTPS, and notes what it was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Response},
};
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

/// What the server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) call: String,
    pub(crate) query: String,
    pub(crate) body: String,
    headers: HeaderMap,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// An answer: status, headers, body.
#[derive(Clone, Debug)]
pub(crate) struct Canned {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Canned {
    pub(crate) fn with_body(self, body: &impl Serialize) -> Self {
        Self { body: serde_json::to_string(body).unwrap(), ..self }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

pub(crate) fn ok(body: &impl Serialize) -> Canned {
    Canned { status: 200, headers: Vec::new(), body: serde_json::to_string(body).unwrap() }
}

pub(crate) fn page(items: &impl Serialize, next: Option<&str>) -> Canned {
    ok(&serde_json::json!({ "items": items, "next": next }))
}

pub(crate) fn problem(status: u16, word: &str, detail: &str) -> Canned {
    let body = serde_json::json!({
        "type": format!("urn:jit-agent:problem:{word}"), "title": "No", "status": status,
        "word": word, "detail": detail, "next": "look again", "instance": "", "request_id": "r1",
    });
    Canned { status, ..ok(&body) }
}

#[derive(Default)]
struct Scene {
    /// By method and path; the last answer stays.
    answers: BTreeMap<String, VecDeque<Canned>>,
    asked: Vec<Asked>,
}

/// The server, and the home of who calls it.
pub(crate) struct Controller {
    scene: Arc<Mutex<Scene>>,
    pub(crate) url: String,
    home: TempDir,
}

impl Controller {
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (ca, chain, key) = certificate();
        std::fs::write(home.path().join("ca.pem"), ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let scene = Arc::new(Mutex::new(Scene::default()));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&scene));
        // The thread ends with the test program.
        thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let config = RustlsConfig::from_config(Arc::new(config));
                let server = axum_server::from_tcp_rustls(listener, config).unwrap();
                server.serve(app.into_make_service()).await.unwrap();
            });
        });
        Self { scene, url, home }
    }

    /// With a login of ana, whose token is `jit_ana`.
    pub(crate) fn with_login() -> Self {
        let controller = Self::start();
        controller.says("GET /me", ok(&me()));
        let said = controller.jitctl_with(&controller.login(), "jit_ana\n");
        assert_eq!(said.exit, Some(0), "{said:?}");
        controller.asked();
        controller
    }

    pub(crate) fn login(&self) -> String {
        format!(
            "login --controller {} --ca {} --context prod",
            self.url,
            self.file("ca.pem").display()
        )
    }

    /// What it answers from now on to a call such as `GET /requests`.
    pub(crate) fn says(&self, call: &str, answer: Canned) {
        self.answers(call, [answer]);
    }

    /// The same, one after the other; the last one stays.
    pub(crate) fn answers<const N: usize>(&self, call: &str, answers: [Canned; N]) {
        self.scene.lock().unwrap().answers.insert(call.to_owned(), answers.into());
    }

    /// What it was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.scene.lock().unwrap().asked)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jitctl"));
        command.args(arguments.split_whitespace()).current_dir(self.home.path());
        command.env_clear().env("HOME", self.home.path()).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn jitctl(&self, arguments: &str) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }

    /// With this on standard input.
    pub(crate) fn jitctl_with(&self, arguments: &str, input: &str) -> Said {
        std::fs::write(self.file("input"), input).unwrap();
        let input = std::fs::File::open(self.file("input")).unwrap();
        Said::from(self.command(arguments).stdin(input).output().unwrap())
    }
}

/// The output of a command that has ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    pub(crate) fn good(self) -> String {
        assert_eq!(self.exit, Some(0), "{self:?}");
        self.out
    }

    /// It fails with this exit code, and says this.
    #[track_caller]
    pub(crate) fn fails(self, exit: i32, says: &str) {
        assert_eq!(self.exit, Some(exit), "{self:?}");
        assert!(self.err.contains(says), "{says:?} in {self:?}");
    }
}

pub(crate) fn me() -> Value {
    serde_json::json!({
        "account": "ana", "subject": "ana@example.org", "groups": ["dev"], "admin": false,
        "token": "01KPEXAMP1ET0KEN0000000001", "scopes": ["read", "request"],
        "token_ends": "2099-01-01T00:00:00Z", "token_ends_ms": 4_070_908_800_000_i64,
        "version": "0.1.0",
    })
}

async fn answer(State(scene): State<Arc<Mutex<Scene>>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let path = head.uri.path();
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let asked = Asked {
        call: format!("{} {path}", head.method),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: String::from_utf8(body.to_vec()).unwrap(),
        headers: head.headers,
    };
    let mut scene = scene.lock().unwrap();
    let answers = scene.answers.get_mut(&asked.call);
    let canned = match answers {
        Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
        Some(answers) => answers.front().unwrap().clone(),
        None => problem(404, "not_found", "there is no such thing"),
    };
    scene.asked.push(asked);
    let mut response = Response::builder().status(canned.status);
    for (name, value) in canned.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(canned.body)).unwrap()
}

/// A CA as PEM, and a certificate for 127.0.0.1 with its key.
fn certificate() -> (String, rustls_pki_types::CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    (ca_pem, certificate.der().clone(), key.into())
}

/// A program in the home, for `--ssh`.
pub(crate) fn script(controller: &Controller, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path: &Path = &controller.file("ssh.sh");
    // By another process: a file that this one has open for writing cannot be run by its threads.
    let beside = path.with_extension("text");
    std::fs::write(&beside, format!("#!/bin/sh\n{text}\n")).unwrap();
    assert!(Command::new("cp").arg(&beside).arg(path).status().unwrap().success());
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

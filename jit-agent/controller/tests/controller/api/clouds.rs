//! Machines that prove who they are by a token of Azure Arc or Google: signed with keys that a real
//! server publishes over HTTPS, which are read when they are needed, kept, and read anew.

use std::{
    fs,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_client::ca::{Authority, Names};
use jit_controller::{
    clock::now_ms,
    enrol::{
        attest::jwt::Audience,
        certify,
        keys::{ArcMachines, GcpInstances},
        opened::Opened,
        settings::{ArcSettings, GcpSettings, KeysAt},
    },
};
use rcgen::{CertificateParams, KeyPair};
use reqwest::Method;
use ring::{rand::SystemRandom, rsa, signature::RSA_PKCS1_SHA256};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::Site;
use crate::{databases::Database, signers};

on_each_database! {
    a_machine_of_a_cloud_enrols_by_its_token_and_the_keys_are_read_when_they_are_needed,
}

const AUDIENCE: &str = "api://jit.example.org";
const TENANT: &str = "72f988bf-0000-0000-0000-2d7cd011db47";
const ARC: &str = "/subscriptions/8d10da13-8125-4ba9-a717-bf7490507b3d/resourceGroups/prod/providers/\
                   Microsoft.HybridCompute/machines/db-1";
const GOOGLE: &str = "https://accounts.google.com";

/// Somebody who signs tokens.
struct Signs {
    key: rsa::KeyPair,
    kid: &'static str,
}

impl Signs {
    fn new(kid: &'static str) -> Self {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let text = String::from_utf8(made.stdout).unwrap();
        let der = jit_proto::pem::one(&text, &["PRIVATE KEY"]).unwrap().der;
        let key = rsa::KeyPair::from_pkcs8(&der).unwrap();
        Self { key, kid }
    }

    fn published(&self) -> Value {
        let rsa::PublicKeyComponents { n, e } =
            rsa::PublicKeyComponents::<Vec<u8>>::from(self.key.public());
        let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "RSA", "use": "sig", "kid": self.kid, "n": coded(&n), "e": coded(&e) })
    }

    /// A token with these claims, for this controller, now.
    fn token(&self, issuer: &str, more: &Value) -> String {
        let now_s = now_ms() / 1000;
        let mut claims =
            json!({ "iss": issuer, "aud": AUDIENCE, "iat": now_s, "exp": now_s + 600 });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.kid });
        let coded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", coded(&header), coded(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = SystemRandom::new();
        self.key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Publishes keys over HTTPS.
struct Publisher {
    directory: TempDir,
    port: u16,
    body: Arc<Mutex<String>>,
    read: Arc<AtomicUsize>,
}

impl Publisher {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(86_400);
        let ca = Authority::create("keys", day).unwrap();
        fs::write(directory.path().join("ca.pem"), &ca.certificate).unwrap();
        let names = Names { ip: vec![[127, 0, 0, 1].into()], ..Names::default() };
        let own = Authority::from_pem(&ca.certificate, &ca.key).unwrap();
        let own = own.issue("keys", &names, day).unwrap();
        let der =
            |text: &str, label: &str| jit_proto::pem::one(text, &[label]).unwrap().der.to_vec();
        let chain = vec![der(&own.certificate, "CERTIFICATE").into()];
        let key = PrivateKeyDer::try_from(der(&own.key, "PRIVATE KEY")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (body, read) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let (shown, counted) = (Arc::clone(&body), Arc::clone(&read));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let body = shown.lock().unwrap().clone();
                let text = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                let _gone = stream.write_all(text.as_bytes()).await;
                let _gone = stream.shutdown().await;
            }
        });
        Self { directory, port, body, read }
    }

    fn publish(&self, keys: &[&Signs]) {
        let keys: Vec<_> = keys.iter().map(|one| one.published()).collect();
        *self.body.lock().unwrap() = json!({ "keys": keys }).to_string();
    }

    fn reads(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    fn at(&self, path: &str, of_tenants: bool) -> KeysAt {
        KeysAt::new(&format!("https://127.0.0.1:{}/{path}", self.port), of_tenants).unwrap()
    }

    fn gcp(&self) -> GcpInstances {
        let settings = GcpSettings {
            audience: Audience::new(AUDIENCE).unwrap(),
            projects: ["prod-1".to_owned()].into(),
            keys: self.at("certs", false),
            keys_ca: Some(self.directory.path().join("ca.pem")),
        };
        GcpInstances::open(&settings).unwrap()
    }

    fn arc(&self) -> ArcMachines {
        let settings = ArcSettings {
            audience: Audience::new(AUDIENCE).unwrap(),
            tenants: [TENANT.to_owned()].into(),
            keys: self.at("{tenant}/keys", true),
            keys_ca: Some(self.directory.path().join("ca.pem")),
        };
        ArcMachines::open(&settings).unwrap()
    }
}

fn input(method: &str, proof: &str, host: &str) -> Value {
    let params = CertificateParams::new(Vec::<String>::new()).unwrap();
    let made = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    json!({ "csr": made.pem().unwrap(), "method": method, "proof": proof, "host": host })
}

async fn enrol(site: &Site, input: &Value) -> super::Answer {
    site.anybody(Method::POST, "/api/v1/enrolments", input).await
}

fn instance(id: &str) -> Value {
    json!({ "google": { "compute_engine": { "project_id": "prod-1", "zone": "europe-west3-a",
        "instance_id": id } } })
}

async fn a_machine_of_a_cloud_enrols_by_its_token_and_the_keys_are_read_when_they_are_needed(
    database: Database,
) {
    let (google, entra) = (Publisher::start().await, Publisher::start().await);
    let opened = Opened {
        hubs: vec!["hub.example.org:7444".into()],
        hub_ca: "-- the CA --".into(),
        arc: Some(entra.arc()),
        gcp: Some(google.gcp()),
        ..Opened::default()
    };
    let site = Arc::new(Site::enrolling(database, opened).await);
    let signing = signers::with_authority().await;
    let weak = Arc::downgrade(&site);
    tokio::spawn(async move {
        while let Some(site) = weak.upgrade() {
            certify::issue_wanted(site.store(), &signing.signer, now_ms()).await.unwrap();
            drop(site);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (old, new, thief) = (Signs::new("one"), Signs::new("two"), Signs::new("one"));

    // Nothing is read before a token comes, and of many tokens once.
    google.publish(&[&old]);
    assert_eq!(google.reads(), 0);
    for id in ["1", "2"] {
        let token = old.token(GOOGLE, &instance(id));
        let made = enrol(&site, &input("gcp", &token, "")).await.ok(201);
        let host =
            format!("//compute.googleapis.com/projects/prod-1/zones/europe-west3-a/instances/{id}");
        assert_eq!(made["host"], host, "{made}");
        let known = site.store().host(&host).await.unwrap().unwrap().host;
        assert_eq!(known.labels["gcp_project_id"], "prod-1");
    }
    assert_eq!(google.reads(), 1);
    // Whoever has no key of Google's proves nothing, whatever its name is.
    let forged = input("gcp", &thief.token(GOOGLE, &instance("3")), "");
    enrol(&site, &forged).await.problem(403, "enrolment_refused");
    assert_eq!(google.reads(), 1);
    // A new key is read for, once.
    google.publish(&[&old, &new]);
    let token = new.token(GOOGLE, &instance("4"));
    enrol(&site, &input("gcp", &token, "")).await.ok(201);
    assert_eq!(google.reads(), 2);
    let unknown = Signs::new("three");
    let token = unknown.token(GOOGLE, &instance("5"));
    enrol(&site, &input("gcp", &token, "")).await.problem(403, "enrolment_refused");
    assert_eq!(google.reads(), 2, "nobody makes it read again and again");

    // Azure Arc: what is published is too much, then no JSON, then good.
    let issuer = format!("https://sts.windows.net/{TENANT}/");
    let said = json!({ "tid": TENANT, "xms_mirid": ARC });
    let token = old.token(&issuer, &said);
    *entra.body.lock().unwrap() = " ".repeat(300_000);
    enrol(&site, &input("arc", &token, ARC)).await.problem(503, "unavailable");
    enrol(&site, &input("arc", &token, ARC)).await.problem(503, "unavailable");
    assert_eq!(entra.reads(), 1, "after a failure nobody is asked for a while");
    entra.publish(&[&old]);
    tokio::time::sleep(Duration::from_millis(5100)).await;
    let elsewhere =
        old.token("https://sts.windows.net/11111111-2222-3333-4444-555555555555/", &said);
    enrol(&site, &input("arc", &elsewhere, ARC)).await.problem(403, "enrolment_refused");
    assert_eq!(entra.reads(), 1, "no address is followed");
    let made = enrol(&site, &input("arc", &token, ARC)).await.ok(201);
    assert_eq!(made["host"], ARC, "{made}");
    assert_eq!(entra.reads(), 2);
    let other = input("arc", &token, &ARC.replace("db-1", "db-2"));
    enrol(&site, &other).await.problem(403, "enrolment_refused");
}

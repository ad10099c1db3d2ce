//! The examples for key services: AWS KMS against moto's server, Azure Key Vault against a small server
//! with the documented shape of its REST API (learn.microsoft.com, "Sign - Sign" and "Get Key", 7.4).

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jit_controller::{
    model::Proposal,
    signer::{KeySettings, SignRequest, SignerError},
};
use p256::{ecdsa::signature::hazmat::PrehashSigner as _, pkcs8::EncodePublicKey as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    ports::free_port,
    world::{Running, World, agreed, proposal, signs, succeed, verify},
};

/// Variables of boto3 that reach nothing but the server of the test.
const OF_TEST: [&str; 4] = [
    "AWS_ACCESS_KEY_ID=test",
    "AWS_SECRET_ACCESS_KEY=test",
    "AWS_DEFAULT_REGION=eu-central-1",
    "AWS_EC2_METADATA_DISABLED=true",
];

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).display().to_string()
}

fn of_command(command: Vec<String>) -> Vec<KeySettings> {
    vec![KeySettings::Command { command, public_key: None, timeout: Duration::from_secs(20) }]
}

/// A Python with the packages of tests/python/requirements.txt: the one that JIT_CLIENT_PYTHON names,
/// or an environment in the target directory, made when it is missing; once, whoever asks first.
fn python() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(find_python).clone()
}

fn find_python() -> PathBuf {
    let has_packages = |python: &Path| {
        let mut import = Command::new(python);
        import.args(["-c", "import boto3, moto.server"]).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    };
    let named = env::var_os("JIT_CLIENT_PYTHON").map(PathBuf::from);
    if let Some(python) = named.filter(|python| has_packages(python)) {
        return python;
    }
    let this = env::current_exe().unwrap();
    // target/<profile>/deps/<test>
    let environment = this.ancestors().nth(3).unwrap().join("client-venv");
    let python = environment.join("bin/python3");
    if !has_packages(&python) {
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
        let packages =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/requirements.txt");
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--requirement"]);
        succeed(install.arg(packages));
    }
    python
}

/// Waits until something listens there.
fn wait_for(port: u16) {
    for _ in 0..600 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("nothing listens on port {port} after a minute");
}

#[tokio::test]
async fn a_key_of_aws_kms_signs() {
    let python = python();
    let port = free_port();
    let server = Command::new(&python)
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _server = Running(server.unwrap());
    wait_for(port);
    let url = format!("http://127.0.0.1:{port}");
    let make = "import boto3, sys\n\
                kms = boto3.client('kms', endpoint_url=sys.argv[1])\n\
                for spec in ('ECC_NIST_P256', 'ECC_NIST_P384'):\n    \
                    made = kms.create_key(KeySpec=spec, KeyUsage='SIGN_VERIFY')\n    \
                    print(made['KeyMetadata']['KeyId'])\n";
    let mut command = Command::new("env");
    command.args(OF_TEST).arg(&python).args(["-c", make, &url]);
    let made = succeed(&mut command);
    let keys: Vec<_> = made.lines().collect();
    let with = |key: &str| {
        let words = ["env"].into_iter().chain(OF_TEST).map(str::to_owned);
        let python = python.display().to_string();
        let rest =
            [&python, &example("aws-kms-signer.py"), "--key-id", key, "--endpoint-url", &url];
        of_command(words.chain(rest.map(str::to_owned)).collect())
    };
    let mut world = World::new();
    world.settings.keys = with(keys[0]);
    world.settings.limits.hosts_a_request = 10_000;
    let signer = world.start().await;
    assert_eq!(signer.keys()[0].algorithm, "ECDSA P-256");
    for _ in 0..5 {
        signs(&signer).await;
    }
    // moto hashes a digest once more, which KMS does not: what comes back is not passed on.
    let wrong = signer.sign(&long()).await;
    assert!(
        matches!(&wrong, Err(SignerError::Unavailable(why)) if why.contains("signature")),
        "{wrong:?}"
    );
    drop(signer);
    world.settings.keys = with(keys[1]);
    assert!(matches!(world.try_start().await, Err(SignerError::Unavailable(_))));
}

/// What was agreed to for so many hosts that the payload is much longer than KMS takes.
fn long() -> SignRequest {
    let hosts = (0..256).map(|number| format!("{number:03}-{}", "x".repeat(250))).collect();
    let long = agreed(Proposal { hosts, ..proposal() });
    assert!(long.payload.len() > 10 * 4096, "{}", long.payload.len());
    long
}

/// A KMS with one key, as its reference describes `Sign` (docs.aws.amazon.com/kms/latest/APIReference):
/// `RAW` takes at most 4096 bytes, `DIGEST` the 32 of SHA-256. Returns its address, and the kinds of
/// messages that it was asked to sign.
fn kms(key: p256::ecdsa::SigningKey) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let kinds = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&kinds);
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let (head, body) = asked(&connection);
            let asked: Value = serde_json::from_str(&body).unwrap();
            let (status, answer) = if head.contains("TrentService.GetPublicKey") {
                let public = key.verifying_key().to_public_key_der().unwrap();
                let public = STANDARD.encode(public.as_bytes());
                let spec = "ECC_NIST_P256";
                ("200 OK", json!({ "KeyId": "k", "PublicKey": public, "KeySpec": spec }))
            } else {
                assert!(head.contains("TrentService.Sign"), "{head}");
                assert_eq!(asked["SigningAlgorithm"], "ECDSA_SHA_256");
                let message = STANDARD.decode(asked["Message"].as_str().unwrap()).unwrap();
                let kind = asked["MessageType"].as_str().unwrap();
                noted.lock().unwrap().push(kind.to_owned());
                let digest = match kind {
                    "RAW" if message.len() <= 4096 => Sha256::digest(&message).to_vec(),
                    "DIGEST" if message.len() == 32 => message,
                    _ => Vec::new(),
                };
                match digest.is_empty() {
                    true => ("400 Bad Request", json!({ "__type": "ValidationException" })),
                    false => {
                        let signed: p256::ecdsa::Signature = key.sign_prehash(&digest).unwrap();
                        let signed = STANDARD.encode(signed.to_der().as_bytes());
                        ("200 OK", json!({ "KeyId": "k", "Signature": signed }))
                    }
                }
            };
            let answer = answer.to_string();
            let length = answer.len();
            write!(
                connection,
                "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
            )
            .unwrap();
        }
    });
    (base, kinds)
}

#[tokio::test]
async fn aws_kms_gets_the_digest_of_a_payload_that_is_longer_than_it_takes() {
    let (url, kinds) = kms(p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap());
    let mut words = vec!["env".to_owned()];
    words.extend(OF_TEST.map(str::to_owned));
    words.push(python().display().to_string());
    let rest = [&example("aws-kms-signer.py"), "--key-id", "k", "--endpoint-url", &url];
    words.extend(rest.map(str::to_owned));
    let mut world = World::new();
    world.settings.keys = of_command(words);
    world.settings.limits.hosts_a_request = 10_000;
    let signer = world.start().await;
    signs(&signer).await;
    let long = long();
    let signatures = signer.sign(&long).await.unwrap();
    verify(&signer, &long.payload, jit_proto::payload_type::GRANT_TYPE, &signatures);
    assert_eq!(*kinds.lock().unwrap(), ["RAW", "DIGEST"]);
}

/// What the vault was asked.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A vault with one key and a managed identity. It answers until the test ends.
fn vault(key: p256::ecdsa::SigningKey) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let (kid, noted) = (format!("{base}/keys/jit/0123"), Arc::clone(&seen));
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let (head, body) = asked(&connection);
            let path = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
            noted.lock().unwrap().push((path.clone(), body.clone()));
            let (status, answer) = answered(&key, &kid, &head, &path, &body);
            let answer = answer.to_string();
            write!(
                connection,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{answer}",
                answer.len()
            )
            .unwrap();
        }
    });
    (base, seen)
}

fn asked(connection: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn answered(
    key: &p256::ecdsa::SigningKey,
    kid: &str,
    head: &str,
    path: &str,
    body: &str,
) -> (&'static str, Value) {
    let identity = "GET /identity?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    if path == identity && head.contains("\r\nMetadata: true\r\n") {
        return ("200 OK", json!({ "access_token": "t0ken", "expires_in": "86400" }));
    }
    if !head.contains("\r\nAuthorization: Bearer t0ken\r\n") {
        return ("401 Unauthorized", json!({ "error": { "code": "Unauthorized" } }));
    }
    match path {
        "GET /keys/jit/0123?api-version=7.4" => {
            let point = key.verifying_key().to_sec1_bytes();
            let (x, y) = (&point[1..33], &point[33..]);
            let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
            let key = json!({ "kid": kid, "kty": "EC", "crv": "P-256", "x": x, "y": y,
                              "key_ops": ["sign", "verify"] });
            ("200 OK", json!({ "key": key, "attributes": { "enabled": true } }))
        }
        "POST /keys/jit/0123/sign?api-version=7.4" => {
            let asked: Value = serde_json::from_str(body).unwrap();
            assert_eq!(asked["alg"], "ES256");
            let digest = URL_SAFE_NO_PAD.decode(asked["value"].as_str().unwrap()).unwrap();
            assert_eq!(digest.len(), 32);
            let signature: p256::ecdsa::Signature = key.sign_prehash(&digest).unwrap();
            let value = URL_SAFE_NO_PAD.encode(signature.to_bytes());
            ("200 OK", json!({ "kid": kid, "value": value }))
        }
        _ => {
            let message = "A key with (name/id) was not found in this key vault.";
            ("404 Not Found", json!({ "error": { "code": "KeyNotFound", "message": message } }))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_azure_key_vault_signs() {
    let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let (base, seen) = vault(secret);
    let with = |key: &str| {
        let words = [
            "python3",
            &example("azure-key-vault-signer.py"),
            "--key",
            &format!("{base}/keys/{key}"),
            "--identity-endpoint",
            &format!("{base}/identity"),
        ];
        of_command(words.map(str::to_owned).to_vec())
    };
    let mut world = World::new();
    world.settings.keys = with("jit/0123");
    world.settings.limits.hosts_a_request = 10_000;
    let signer = world.start().await;
    for _ in 0..5 {
        signs(&signer).await;
    }
    // Long payloads too: the service sees the digest.
    let long = long();
    let signatures = signer.sign(&long).await.unwrap();
    verify(&signer, &long.payload, jit_proto::payload_type::GRANT_TYPE, &signatures);
    drop(signer);
    {
        let seen = seen.lock().unwrap();
        let tokens = seen.iter().filter(|(path, _)| path.starts_with("GET /identity")).count();
        assert_eq!(tokens, 1, "a token is kept: {seen:?}");
        assert!(!seen.iter().any(|(_, body)| body.contains(&STANDARD.encode(&long.payload)[..60])));
    }
    world.settings.keys = with("other/0123");
    assert!(matches!(world.try_start().await, Err(SignerError::Unavailable(_))));
}

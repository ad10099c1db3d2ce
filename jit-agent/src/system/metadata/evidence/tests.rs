//! Evidence from services that are played on loopback as they are documented, and from hostile ones.

use std::{
    fs::File,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// The audience of an application of ours.
const OURS: &str = "api://jit-controller.example.org";
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2ln";

/// A service that answers a request so: status, headers, body.
type Answers = dyn Fn(&str) -> (u16, String, String) + Send + Sync;

/// Its address, and the requests that it gets.
async fn service(
    answers: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let answers: Arc<Answers> = Arc::new(answers);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let mut request = vec![0; 16_384];
            let length = peer.read(&mut request).await.unwrap();
            request.truncate(length);
            let request = String::from_utf8(request).unwrap();
            noted.lock().unwrap().push(request.clone());
            let (status, headers, body) = answers(&request);
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}",
                body.len()
            );
            // It may have gone.
            let _gone = peer.write_all(answer.as_bytes()).await;
        }
    });
    (at, asked)
}

fn good(body: impl Into<String>) -> (u16, String, String) {
    (200, String::new(), body.into())
}

#[tokio::test]
async fn ec2s_document_comes_byte_for_byte_with_its_signature() {
    const DOCUMENT: &str = "{\n  \"accountId\" : \"123456789012\"\n}";
    let (at, asked) = service(|request| match request.split(' ').nth(1).unwrap() {
        "/latest/api/token" => good("TOKEN=="),
        "/latest/dynamic/instance-identity/document" => good(DOCUMENT),
        "/latest/dynamic/instance-identity/rsa2048" => good("TUlJ\nQQ==\n"),
        other => panic!("{other}"),
    })
    .await;
    let evidence = ec2_at(at).await.unwrap();
    assert_eq!(evidence.document, DOCUMENT.as_bytes());
    assert_eq!(evidence.rsa2048, "TUlJQQ==");
    let asked = asked.lock().unwrap().clone();
    assert!(asked[0].starts_with("PUT "));
    assert!(asked[1..].iter().all(|one| one.contains("x-aws-ec2-metadata-token: TOKEN==")));
    let (at, _) = service(|_| good("no+base64!")).await;
    assert!(matches!(ec2_at(at).await, Err(Fault::Malformed(_))));
}

/// Azure's answer: something like PKCS#7 around the JSON with this nonce.
fn attested(nonce: &str) -> (u16, String, String) {
    let signed = format!("\u{30}\u{1}{{\"licenseType\":\"\",\"nonce\": \"{nonce}\"}}\u{2}");
    let signature = BASE64_STANDARD.encode(signed);
    good(format!("{{\"encoding\":\"pkcs7\",\"signature\":\"{signature}\"}}"))
}

/// The nonce that a request asks for.
fn nonce_of(request: &str) -> String {
    let (_, rest) = request.split_once("nonce=").unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

fn counting() -> impl FnMut() -> String {
    let mut number = 0;
    move || {
        number += 1;
        format!("nonce{number}")
    }
}

#[tokio::test]
async fn azures_document_has_the_nonce_that_was_asked_for_at_the_third_try_at_the_latest() {
    for (cached, tries) in [(0, 1), (2, 3), (3, 3)] {
        let (at, asked) = service(move |request| {
            let nonce = nonce_of(request);
            let number: usize = nonce.trim_start_matches("nonce").parse().unwrap();
            attested(if number <= cached { "old" } else { &nonce })
        })
        .await;
        let evidence = azure_at(at, counting()).await;
        assert_eq!(asked.lock().unwrap().len(), tries, "{evidence:?}");
        match evidence {
            Ok(evidence) => assert_eq!(evidence.nonce, format!("nonce{}", cached + 1)),
            Err(fault) => assert!(cached == 3 && fault.to_string().contains("another nonce")),
        }
    }
}

#[tokio::test]
async fn a_nonce_that_azure_does_not_take_is_not_sent_and_what_is_no_pkcs7_is_refused() {
    let (at, asked) = service(|_| good("{\"encoding\":\"none\",\"signature\":\"\"}")).await;
    for nonce in ["", "a&b=c", "a b", &"a".repeat(33)] {
        let nonce = nonce.to_owned();
        assert!(azure_at(at, move || nonce.clone()).await.is_err());
    }
    assert!(asked.lock().unwrap().is_empty());
    let fault = azure_at(at, counting()).await.unwrap_err();
    assert!(matches!(fault, Fault::Malformed(_)), "{fault}");
}

/// A directory of key files with one, and its path.
fn keys() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().canonicalize().unwrap().join("tokens");
    fs::create_dir(&keys).unwrap();
    let key = keys.join("0f1e-2d3c.key");
    fs::write(&key, "SECRET\n").unwrap();
    (directory, keys)
}

#[tokio::test]
async fn arcs_token_comes_after_its_challenge_for_the_audience_that_was_asked_for() {
    let (_directory, keys) = keys();
    let realm = keys.join("0f1e-2d3c.key").display().to_string();
    let (at, asked) = service(move |request| {
        if request.contains("authorization: Basic SECRET\r\n") {
            return good(format!("{{\"access_token\":\"{JWT}\",\"expires_in\":1}}"));
        }
        (401, format!("Www-Authenticate: Basic realm={realm}\r\n"), String::new())
    })
    .await;
    assert_eq!(arc_at(at, &keys, OURS).await.unwrap(), JWT);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    for one in asked.iter() {
        assert!(one.contains("resource=api%3A%2F%2Fjit-controller.example.org "), "{one}");
        assert!(one.contains("metadata: true\r\n"), "{one}");
    }
}

#[tokio::test]
async fn a_service_without_a_challenge_gets_no_key() {
    let (_directory, keys) = keys();
    for (status, header) in [(200, ""), (401, ""), (401, "www-authenticate: Bearer x\r\n")] {
        let (at, asked) = service(move |_| {
            (status, header.to_owned(), format!("{{\"access_token\":\"{JWT}\"}}"))
        })
        .await;
        assert!(arc_at(at, &keys, OURS).await.is_err());
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_hostile_challenge_makes_no_other_file_be_read() {
    let (directory, keys) = keys();
    let within = |name: &str| keys.join(name).display().to_string();
    let secret = directory.path().canonicalize().unwrap().join("secret.key");
    fs::write(&secret, "SHADOW").unwrap();
    symlink(&secret, keys.join("link.key")).unwrap();
    fs::create_dir(keys.join("directory.key")).unwrap();
    File::create(keys.join("large.key")).unwrap().set_len(KEY + 1).unwrap();
    fs::write(keys.join("empty.key"), " \n").unwrap();
    fs::write(keys.join("header.key"), "a\r\nHost: b").unwrap();
    fs::write(keys.join("note.txt"), "text").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        keys.join("fifo.key"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert_eq!(key(&keys, &within("0f1e-2d3c.key")).unwrap(), "SECRET");
    for realm in [
        "/etc/shadow",
        "",
        "0f1e-2d3c.key",
        &within(".key"),
        &within("note.txt"),
        &within("../secret.key"),
        &within("./0f1e-2d3c.key"),
        &within("/0f1e-2d3c.key"),
        &within("link.key"),
        &within("directory.key"),
        &within("large.key"),
        &within("empty.key"),
        &within("header.key"),
        &within("fifo.key"),
        &within("missing.key"),
        secret.to_str().unwrap(),
    ] {
        let fault = key(&keys, realm).unwrap_err();
        assert!(matches!(fault, Fault::Untrusted(_)), "{realm}: {fault}");
    }
    let by_link = directory.path().canonicalize().unwrap().join("by-link");
    symlink(&keys, &by_link).unwrap();
    let realm = by_link.join("0f1e-2d3c.key").display().to_string();
    assert!(key(&by_link, &realm).unwrap_err().to_string().contains("a link leads to"));
    fs::write(keys.join("longest.key"), "k".repeat(4_096)).unwrap();
    assert_eq!(key(&keys, &within("longest.key")).unwrap().len(), 4_096);
}

#[test]
fn a_token_for_the_cloud_itself_is_never_asked_for() {
    for audience in [
        "https://management.azure.com/",
        "https://management.azure.com",
        "HTTPS://Management.Azure.com/.default",
        "management.azure.com",
        "https://management.azure.com:443/",
        "https://management.core.windows.net/",
        "https://graph.microsoft.com",
        "https://prod.vault.azure.net",
        "https://user@management.azure.com/",
        "",
        "a b",
        &"a".repeat(256),
    ] {
        assert!(check_audience(audience).is_err(), "{audience}");
    }
    for audience in [OURS, "https://jit.example.org/", "api://00000000-0000-0000-0000-000000000001"]
    {
        check_audience(audience).unwrap();
    }
}

#[tokio::test]
async fn gcps_token_is_for_the_audience_and_is_a_jwt_or_nothing() {
    let (at, asked) = service(|_| good(JWT)).await;
    assert_eq!(gcp_at(at, "https://jit.example.org/a b").await.unwrap(), JWT);
    let request = asked.lock().unwrap()[0].clone();
    assert!(
        request.contains("identity?audience=https%3A%2F%2Fjit.example.org%2Fa%20b&format=full "),
        "{request}"
    );
    assert!(request.contains("metadata-flavor: Google\r\n"));
    for body in ["", "a.b", "a.b.c.d", "a..c", "a.b.c\n", "<html>"] {
        let (at, _) = service(move |_| good(body)).await;
        assert!(matches!(gcp_at(at, OURS).await, Err(Fault::Malformed(_))), "{body}");
    }
}

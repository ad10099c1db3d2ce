//! Bytes that no browser sends: two lengths of one body, lines in the middle of values, a forged
//! address.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Browser, asked::asked};
use crate::{api::Site, databases::Database};

on_each_database! {
    a_call_with_two_lengths_hides_no_other_call,
    no_value_becomes_a_header,
}

/// Sends these bytes on one connection of HTTP/1.1, and returns all that comes back until it is
/// closed.
async fn sent(site: &Site, bytes: &str) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.ca.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let address = site.base.trim_start_matches("https://");
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // It may be closed without a goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn a_call_with_two_lengths_hides_no_other_call(database: Database) {
    let site = Site::new(database).await;
    let ana = Browser::of(&site, "ana").await;
    let page = asked(&ana).await;
    let key = ana.get("/me").await.ok().field("form_key");
    let host = site.base.trim_start_matches("https://");
    let common = format!(
        "Host: {host}\r\nOrigin: {}\r\nCookie: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n",
        site.base,
        ana.cookie()
    );
    let body = format!("form_key={key}");
    // What somebody hides behind a body: it takes the request back.
    let hidden = format!(
        "POST {page}/withdraw HTTP/1.1\r\n{common}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let chunks = format!("0\r\n\r\n{hidden}");
    let (short, long) = (4, chunks.len());
    for lengths in [
        format!("Content-Length: {long}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {long}\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {short}\r\n"),
        "Transfer-Encoding: chunked\r\n".to_owned(),
        format!("Transfer-Encoding: xchunked\r\nContent-Length: {short}\r\n"),
        format!("Transfer-Encoding: chunked, identity\r\nContent-Length: {short}\r\n"),
        format!("Transfer-Encoding : chunked\r\nContent-Length: {short}\r\n"),
        format!("Transfer-Encoding:\tchunked\r\nContent-Length: {short}\r\n"),
        format!("Content-Length: {short}\r\nContent-Length: {long}\r\n"),
        format!("Content-Length: {short}, {long}\r\n"),
        format!("Content-Length: +{short}\r\n"),
    ] {
        for path in ["/sign-in", "/api/v1/requests"] {
            let call = format!("POST {path} HTTP/1.1\r\n{common}{lengths}\r\n{chunks}");
            let answer = sent(&site, &call).await;
            assert!(
                ["HTTP/1.1 400 ", "HTTP/1.1 411 "].iter().any(|line| answer.starts_with(line)),
                "{path} {lengths:?}: {answer}"
            );
            let answers = answer.matches("HTTP/1.1 ").count();
            assert_eq!(answers, 1, "{path} {lengths:?}: {answer}");
        }
    }
    let shown = ana.get(&page).await.ok();
    assert!(shown.text.contains("waits for agreement"), "{}", shown.text);
    // The same call by itself does what it says: the bytes above would have done it.
    let answer = sent(&site, &hidden.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
    assert!(ana.get(&page).await.ok().text.contains("taken back"));
}

async fn no_value_becomes_a_header(database: Database) {
    let site = Site::new(database).await;
    let ana = Browser::of(&site, "ana").await;
    let evil = "%0d%0aSet-Cookie:%20evil=1%0d%0a%0d%0a<b>";
    for path in [
        format!("/requests/{evil}"),
        format!("/static/{evil}"),
        format!("/sign-in?next=/{evil}"),
        format!("/?q={evil}"),
        format!("/open?host={evil}"),
        format!("/live?after={evil}"),
        format!("/{evil}"),
    ] {
        for browser in [&ana, &Browser::new(&site)] {
            let shown = browser.get(&path).await;
            assert!(shown.status < 500, "{path}: {}", shown.text);
            assert!(shown.headers.get("set-cookie").is_none(), "{path}");
            assert!(!shown.header("location").contains('\n'), "{path}");
            assert!(!shown.text.contains("<b>"), "{path}: {}", shown.text);
        }
    }
    for act in ["withdraw", "decision", "extend", "end"] {
        let fields = [("ruling", "approve"), ("hash", "x"), ("duration", "15m"), ("reason", "x")];
        let shown = ana.post(&format!("/requests/{evil}/{act}"), &fields).await;
        assert!((400..500).contains(&shown.status), "{act}: {}", shown.text);
        assert!(shown.headers.get("set-cookie").is_none(), "{act}");
    }
    // A part of a page that is asked for without a session: the script goes to the sign-in.
    let anybody = Browser::new(&site);
    let call = anybody.call(reqwest::Method::GET, &format!("/hosts/found?q={evil}"));
    let answer = call.header("hx-request", "true").send().await.unwrap();
    let target = answer.headers()["hx-redirect"].to_str().unwrap();
    assert!(target.starts_with("/sign-in"), "{target}");
    // Who calls from elsewhere names no other address: no proxy is trusted.
    let form = ana.call(reqwest::Method::GET, "/open?host=web-1");
    let form = form.header("x-forwarded-for", "198.51.100.9").send().await.unwrap();
    let form = form.text().await.unwrap();
    assert!(form.contains("127.0.0.1") && !form.contains("198.51.100.9"), "{form}");
}

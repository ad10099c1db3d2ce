//! The audit over syslog and TLS, to a real receiver that breaks connections: nothing is lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jit_client::ca::{Authority, Names};
use jit_controller::{
    audit::{
        export::Format,
        forward::{Forward, Pace, Receiver},
    },
    store::Store,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{databases::Database, filled::record};

on_each_database! {
    nothing_is_lost_when_connections_break,
}

const RECORDS: i64 = 120;

/// How the receiver ends its first connections.
#[derive(Clone, Copy, Debug)]
enum End {
    /// At once, before it has read anything.
    AtOnce,
    /// After some bytes, in the middle of a message; what it has read is thrown away.
    Cut(usize),
    /// It reads everything, and dies before it has stored anything.
    Dies,
    /// As it should.
    Well,
}

/// The numbers of the records in what was received, message by message.
fn messages(mut bytes: &[u8]) -> Vec<i64> {
    let mut found = Vec::new();
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&bytes[..space]).unwrap().parse().unwrap();
        let Some(message) = bytes.get(space + 1..space + 1 + length) else { break };
        let text = std::str::from_utf8(message).unwrap();
        assert!(text.starts_with("<110>1 "), "{text}");
        let json = text.split_once("] ").unwrap().1;
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        found.push(value["metadata"]["sequence"].as_i64().unwrap());
        bytes = &bytes[space + 1 + length..];
    }
    found
}

fn keep(stored: &Mutex<BTreeMap<i64, usize>>, bytes: &[u8]) {
    let mut stored = stored.lock().unwrap();
    for seq in messages(bytes) {
        *stored.entry(seq).or_default() += 1;
    }
}

fn config() -> (ServerConfig, ClientConfig) {
    let pair = Authority::create("test", Duration::from_secs(3600)).unwrap();
    let authority = Authority::from_pem(&pair.certificate, &pair.key).unwrap();
    let names = Names { ip: vec!["127.0.0.1".parse().unwrap()], ..Names::default() };
    let leaf = authority.issue("siem", &names, Duration::from_secs(3600)).unwrap();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der(&leaf.certificate)], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(der(&pair.certificate)).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, client)
}

async fn nothing_is_lost_when_connections_break(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    record(&store, 1, RECORDS / 2).await;
    let (server, client) = config();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stored: Arc<Mutex<BTreeMap<i64, usize>>> = Arc::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (Arc::clone(&stored), Arc::clone(&connections));
    let ends = [End::AtOnce, End::Cut(5000), End::Dies, End::Cut(1), End::Well];
    let receiver = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(server));
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let end = ends.get(number).copied().unwrap_or(End::Well);
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut bytes = Vec::new();
            match end {
                End::AtOnce => {}
                End::Cut(most) => {
                    // What it has of whole messages is stored, and may come a second time.
                    let _read = (&mut tls).take(most as u64).read_to_end(&mut bytes).await;
                    keep(&kept, &bytes);
                }
                End::Dies => {
                    let reading = tls.read_to_end(&mut bytes);
                    let _read = timeout(Duration::from_millis(300), reading).await;
                }
                End::Well => {
                    tls.read_to_end(&mut bytes).await.unwrap();
                    keep(&kept, &bytes);
                    tls.shutdown().await.unwrap();
                }
            }
        }
    });
    let receiver_of = || Receiver {
        name: address.to_string(),
        server: address.to_string(),
        server_name: address.ip().into(),
        tls: Arc::new(client.clone()),
        format: Format::Ocsf,
        pace: Pace {
            linger: Duration::from_millis(700),
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_millis(200),
        },
    };
    let forward = Forward::start(store.clone(), receiver_of());
    record(&store, RECORDS / 2 + 1, RECORDS / 2).await;
    let arrived = async {
        while store.audit_cursor(&address.to_string()).await.unwrap() < RECORDS {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = timeout(Duration::from_secs(90), arrived).await;
    assert!(waited.is_ok(), "{:?}: {}", stored.lock().unwrap().len(), forward.trouble());
    let seen: Vec<i64> = stored.lock().unwrap().keys().copied().collect();
    assert_eq!(seen, (1..=RECORDS).collect::<Vec<_>>());
    assert!(connections.load(Ordering::SeqCst) >= ends.len());
    assert_eq!(forward.trouble(), "");
    // What is written just before the end is sent before the end.
    record(&store, RECORDS + 1, 3).await;
    forward.end().await;
    assert_eq!(store.audit_cursor(&address.to_string()).await.unwrap(), RECORDS + 3);
    assert!((RECORDS + 1..=RECORDS + 3).all(|seq| stored.lock().unwrap().contains_key(&seq)));
    receiver.abort();
}

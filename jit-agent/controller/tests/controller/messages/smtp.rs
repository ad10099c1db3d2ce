//! A server of SMTP that a test plays (RFC 5321), in plain text, with STARTTLS (RFC 3207) or over
//! TLS.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use jit_client::ca::{Authority, Names};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// A mail as the server got it.
#[derive(Clone, Debug, Default)]
pub(super) struct Got {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) text: String,
}

impl Got {
    /// Names of headers, and the text after them.
    pub(super) fn parts(&self) -> (Vec<&str>, String) {
        let (headers, body) = self.text.split_once("\r\n\r\n").unwrap();
        let names = headers.lines().filter(|line| !line.starts_with([' ', '\t']));
        // Quoted-printable: soft line breaks end with `=`.
        let body = body.replace("=\r\n", "").replace("=3D", "=");
        (names.map(|line| line.split(':').next().unwrap()).collect(), body)
    }
}

/// How its connections are protected.
#[derive(Clone)]
pub(super) enum Kind {
    Plain,
    Starttls(TlsAcceptor),
    Tls(TlsAcceptor),
}

/// The server. The next answers to RCPT are in `answers`; without a word it takes everything.
#[derive(Clone, Default)]
pub(super) struct Server {
    pub(super) got: Arc<Mutex<Vec<Got>>>,
    pub(super) answers: Arc<Mutex<Vec<&'static str>>>,
    /// Answers to RCPT for an address, each time.
    pub(super) always: Arc<Mutex<BTreeMap<String, &'static str>>>,
    /// The answer to MAIL, if it is not taken.
    pub(super) mail: Arc<Mutex<Option<&'static str>>>,
    /// Each command that it got in plain text.
    pub(super) seen_by_all: Arc<Mutex<Vec<String>>>,
    /// Each command AUTH.
    pub(super) logins: Arc<Mutex<Vec<String>>>,
}

/// A certificate for the loopback address; its authority is written to this file.
pub(super) fn acceptor(authority: &Path) -> TlsAcceptor {
    let day = Duration::from_secs(86_400);
    let ca = Authority::create("test", day).unwrap();
    std::fs::write(authority, &ca.certificate).unwrap();
    let names = Names { ip: vec!["127.0.0.1".parse().unwrap()], ..Names::default() };
    let authority = Authority::from_pem(&ca.certificate, &ca.key).unwrap();
    let pair = authority.issue("mail", &names, day).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Server {
    pub(super) async fn start(kind: Kind) -> (Self, SocketAddr) {
        let this = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream, kind.clone()));
            }
        });
        (this, address)
    }

    async fn serve(self, stream: TcpStream, kind: Kind) {
        match kind {
            Kind::Plain => {
                self.talk(stream, "250 mail.example.org", true, true).await;
            }
            Kind::Tls(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    self.talk(stream, "250-mail.example.org\r\n250 AUTH PLAIN", true, false).await;
                }
            }
            Kind::Starttls(acceptor) => {
                let offers = "250-mail.example.org\r\n250 STARTTLS";
                let Some(stream) = self.talk(stream, offers, true, true).await else { return };
                if let Ok(stream) = acceptor.accept(stream).await {
                    let offers = "250-mail.example.org\r\n250 AUTH PLAIN";
                    self.talk(stream, offers, false, false).await;
                }
            }
        }
    }

    /// Answers until the end, or until the client wants TLS.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        offers: &str,
        greets: bool,
        is_plain: bool,
    ) -> Option<S> {
        let mut stream = BufReader::new(stream);
        let mut got = Got::default();
        let mut answer = if greets { "220 mail.example.org" } else { "" }.to_owned();
        loop {
            if !answer.is_empty() {
                stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
                stream.get_mut().flush().await.ok()?;
            }
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return None;
            }
            if is_plain {
                self.seen_by_all.lock().unwrap().push(line.trim().to_owned());
            }
            let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            answer = match line.get(..4).unwrap_or_default() {
                "EHLO" => offers.to_owned(),
                "STAR" => {
                    stream.get_mut().write_all(b"220 go on\r\n").await.ok()?;
                    return Some(stream.into_inner());
                }
                "AUTH" => {
                    self.logins.lock().unwrap().push(line.trim().to_owned());
                    "235 welcome".into()
                }
                "MAIL" => {
                    got.from = address();
                    self.mail.lock().unwrap().unwrap_or("250 ok").into()
                }
                "RCPT" => {
                    got.to.push(address());
                    let always = self.always.lock().unwrap().get(&address()).copied();
                    let answer = always.or_else(|| self.answers.lock().unwrap().pop());
                    answer.unwrap_or("250 ok").into()
                }
                "DATA" => {
                    stream.get_mut().write_all(b"354 go on\r\n").await.ok()?;
                    stream.get_mut().flush().await.ok()?;
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).await.ok()?;
                        if line == ".\r\n" {
                            break;
                        }
                        got.text.push_str(&line);
                    }
                    self.got.lock().unwrap().push(std::mem::take(&mut got));
                    "250 taken".into()
                }
                "QUIT" => "221 bye".into(),
                "NOOP" | "RSET" => "250 ok".into(),
                _ => "500 what".into(),
            };
        }
    }

    /// Waits until it took this many.
    pub(super) async fn until(&self, count: usize) -> Vec<Got> {
        for _ in 0..400 {
            let got = self.got.lock().unwrap().clone();
            if got.len() >= count {
                return got;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{count} did not come: {:#?}", self.got.lock().unwrap());
    }
}

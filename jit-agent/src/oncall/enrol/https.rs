//! One call of the controller's API over HTTPS, and its answer within bounds: no proxy, no redirect,
//! no second try. Whom the CA does not name is not talked to.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use jit_client::pem::{self, Holds};
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use crate::config::Hub;

/// The longest wait for a connection, and for a whole answer with it.
const CONNECT: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(30);
/// The largest answer, bytes.
const BODY: usize = 64 * 1024;
/// The largest head of an answer, bytes, and the most headers.
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;
/// The port of a URL without one.
const PORT: &str = ":443";

/// A controller that can be called.
pub(super) struct Controller {
    at: Hub,
    tls: Arc<ClientConfig>,
}

impl Controller {
    /// The one at `https://NAME[:PORT]`, whom a certificate of these authorities (PEM) names.
    pub(super) fn new(url: &str, ca: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("https://");
        let rest = rest.ok_or_else(|| format!("{url:?} does not begin with https://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let has_port = rest.rsplit_once(':').is_some_and(|(_, end)| !end.ends_with(']'));
        let place = if has_port { rest.to_owned() } else { format!("{rest}{PORT}") };
        let at = Hub::parse(&place).map_err(|why| format!("{url:?}: {why}"))?;
        let mut roots = RootCertStore::empty();
        for one in pem::certificates(ca, Holds::One).map_err(|error| error.to_string())? {
            roots.add(one).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13]);
        let config = config.map_err(|error| error.to_string())?;
        let mut tls = config.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { at, tls: Arc::new(tls) })
    }

    /// One call: its status and its body.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let Self { at, tls } = self;
        let end = tokio::time::Instant::now() + WHOLE;
        let name = at.name().ok_or("the controller has no name")?;
        let late = |_| format!("{at} does not answer");
        let connected = timeout(CONNECT, TcpStream::connect((at.host.as_str(), at.port)));
        let stream = connected.await.map_err(late)?;
        let stream = stream.map_err(|error| format!("cannot connect to {at}: {error}"))?;
        let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let secured = timeout_at(end, secured).await.map_err(late)?;
        let secured = secured.map_err(|error| format!("TLS with {at}: {error}"))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, at.to_string())
            .header(CONNECTION, "close")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len())
            .body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| error.to_string())?;
        let exchange = async {
            let mut builder = http1::Builder::new();
            builder.max_buf_size(HEAD).max_headers(HEADERS);
            let (mut sender, connection) = builder.handshake(TokioIo::new(secured)).await?;
            let answered = async {
                let (head, body) = sender.send_request(request).await?.into_parts();
                Ok::<_, hyper::Error>((head.status, Limited::new(body, BODY).collect().await))
            };
            tokio::pin!(answered);
            tokio::select! {
                biased;
                done = &mut answered => done,
                // All that came may wait to be read.
                _ended = connection => answered.await,
            }
        };
        let answered = timeout_at(end, exchange).await.map_err(late)?;
        let (status, body) = answered.map_err(|error| format!("HTTP with {at}: {error}"))?;
        if status.is_redirection() {
            return Err(format!("{at} sends elsewhere ({status}), and that is not followed"));
        }
        let body = body.map_err(|error| format!("the answer of {at}: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_an_https_address_without_a_path() {
        let key = rcgen::generate_simple_self_signed(vec!["c.example.org".into()]).unwrap();
        let ca = key.cert.pem();
        for (url, port) in [
            ("https://c.example.org", 443),
            ("https://c.example.org:8443/", 8443),
            ("https://[2001:db8::1]", 443),
        ] {
            assert_eq!(Controller::new(url, &ca).unwrap().at.port, port, "{url}");
        }
        for url in ["http://c.example.org", "c.example.org", "https://c.example.org/x", "https://"]
        {
            assert!(Controller::new(url, &ca).is_err(), "{url}");
        }
        assert!(Controller::new("https://c.example.org", "").is_err(), "a CA is needed");
    }
}

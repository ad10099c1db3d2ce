//! HTTPS: where the API listens.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use axum_server::{
    Handle,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use super::{places::Places, settings::Settings};

/// Longest TLS handshake, and longest wait for the head of a call.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most connections: more than streams of events, each of which may have one for itself.
const MOST: usize = 4096;
/// Calls at once on one connection of HTTP/2.
const STREAMS: u32 = 100;
/// Calls that are under way get this time when the controller ends.
const GRACE: Duration = Duration::from_secs(5);

/// The listening API.
pub struct Server {
    listener: TcpListener,
    tls: RustlsConfig,
    handle: Handle<SocketAddr>,
    places: Places,
}

impl Server {
    /// Reads certificate and key, and begins to listen.
    ///
    /// # Errors
    /// A file cannot be used, or the address is taken, in words.
    pub fn bind(settings: &Settings) -> Result<Self, String> {
        let tls = RustlsConfig::from_config(Arc::new(tls(settings)?));
        let failed = |why: io::Error| format!("api.listen, {}: {why}", settings.listen);
        let listener = TcpListener::bind(settings.listen).map_err(failed)?;
        let proxies = settings.trusted_proxies.clone();
        Ok(Self { listener, tls, handle: Handle::new(), places: Places::new(MOST, proxies) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What ends it, or gives it another certificate.
    pub fn control(&self) -> Control {
        Control { tls: self.tls.clone(), handle: self.handle.clone() }
    }

    /// Answers calls until [`Control::end`].
    ///
    /// # Errors
    /// Those of the listening socket.
    pub async fn run(self, router: Router) -> io::Result<()> {
        let acceptor = RustlsAcceptor::new(self.tls).handshake_timeout(HANDSHAKE);
        let acceptor = acceptor.acceptor(self.places);
        let mut server = axum_server::from_tcp(self.listener)?
            .acceptor(acceptor)
            .handle(self.handle)
            .first_request_timeout(HANDSHAKE);
        let builder = server.http_builder();
        builder.http1().header_read_timeout(HANDSHAKE);
        builder
            .http2()
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(HANDSHAKE);
        server.serve(router.into_make_service_with_connect_info::<SocketAddr>()).await
    }
}

/// What ends a [`Server`], or gives it another certificate.
#[derive(Clone)]
pub struct Control {
    tls: RustlsConfig,
    handle: Handle<SocketAddr>,
}

impl Control {
    /// No new calls; those under way get a few seconds.
    pub fn end(&self) {
        self.handle.graceful_shutdown(Some(GRACE));
    }

    /// Reads certificate and key again. With a mistake the old ones stay.
    ///
    /// # Errors
    /// A file cannot be used, in words.
    pub fn reload(&self, settings: &Settings) -> Result<(), String> {
        self.tls.reload_from_config(Arc::new(tls(settings)?));
        Ok(())
    }
}

fn tls(settings: &Settings) -> Result<ServerConfig, String> {
    let chain = certificates(&settings.certificate)?;
    let failed =
        |why: &dyn std::fmt::Display| format!("api.key, {}: {why}", settings.key.display());
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|why| failed(&why))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|why| failed(&why))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|why| failed(&why))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed =
        |why: &dyn std::fmt::Display| format!("api.certificate, {}: {why}", file.display());
    let chain = CertificateDer::pem_file_iter(file).map_err(|why| failed(&why))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|why| failed(&why))?;
    if chain.is_empty() { Err(failed(&"it holds no certificate")) } else { Ok(chain) }
}

//! Connects to an agent: over TCP and TLS 1.3, or over its unix socket. Every failure becomes a
//! sentence that says what to do next. No certificate check can be turned off.

use std::{
    io::{self, ErrorKind},
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error as TlsError, RootCertStore,
    client::Resumption, pki_types::CertificateDer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use crate::{
    CallError, files,
    pem::{self, Holds},
    target::{Target, Tls, Way},
    text,
};

/// A stream of bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection to an agent, and the TLS error that broke it.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Duplex>,
    pub(crate) broken: Broken,
}

/// CA, client certificate and private key, read once for the connections to many agents.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<ClientConfig>);

impl Credentials {
    /// Reads the CA of the agents' certificates, the client certificate chain, and its private key.
    /// Files that change later are read again by nobody: make new ones.
    ///
    /// # Errors
    /// A file that is missing, unreadable or wrong.
    pub fn read(ca: &Path, cert: &Path, key: &Path) -> Result<Self, CallError> {
        let mut config = client_config(ca, cert, key)?;
        // Each connection proves itself anew, as one with a configuration of its own does.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// The TLS error that ended a connection; empty until then.
///
/// In TLS 1.3 the server checks the client's certificate after the client's handshake is complete.
/// A refused certificate therefore shows as an alert during the first call, and HTTP/2 reduces that
/// alert to "broken pipe".
pub(crate) type Broken = Arc<OnceLock<TlsError>>;

/// Connects within the target's time-out.
pub(crate) async fn dial(
    target: &Target,
    credentials: Option<&Credentials>,
) -> Result<Connection, CallError> {
    let Target { way, timeout } = target;
    let connecting = async {
        match way {
            Way::Socket(path) => unix(path).await,
            Way::Tls(tls) => over_tls(way, tls, credentials, *timeout).await,
            Way::Uplink(peer) => {
                let why = format!("the agent at {peer} dials out: it connects by itself");
                Err(CallError::Unavailable(why))
            }
        }
    };
    tokio::time::timeout(*timeout, connecting)
        .await
        .unwrap_or_else(|_| Err(too_slow(way, *timeout)))
}

/// What a TLS error means, and what to do about it.
pub(crate) fn explain(way: &Way, error: &TlsError) -> CallError {
    let Way::Tls(tls) = way else {
        return CallError::Unavailable(format!("the connection to {way} broke: {error}"));
    };
    let (ca, cert, name) = (tls.ca.display(), tls.cert.display(), tls.name.to_str());
    if let TlsError::AlertReceived(AlertDescription::AccessDenied) = error {
        let detail = format!(
            "the agent at {way} has no [[controller]] with a name of the certificate {cert}; add \
             one to its configuration"
        );
        return CallError::refused("not_permitted", &detail);
    }
    let why = match error {
        TlsError::InvalidCertificate(cause) => match cause {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "the agent's certificate does not come from a CA in {ca}; use the CA that issued \
                 it, or find out who answers at that address"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the agent's certificate does not bear the name {name} ({cause}); connect to a \
                 name that it bears, or say which one with --server-name"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
                "the agent's certificate has expired ({cause}); renew it on the host, or check \
                 the clock of this machine"
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
                "the agent's certificate is not valid yet ({cause}); check the clock of this \
                 machine"
            ),
            _ => format!("the agent's certificate is not acceptable: {cause}"),
        },
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the agent asks for a client certificate and got none; say --cert and --key".into()
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnsupportedCertificate => format!(
                "the agent refused the certificate {cert} ({alert:?}): it must come from the CA \
                 that client_ca in the agent's configuration names, and be meant for clients"
            ),
            AlertDescription::CertificateExpired | AlertDescription::CertificateRevoked => {
                format!("the agent refused the certificate {cert} ({alert:?}); renew it")
            }
            AlertDescription::ProtocolVersion => {
                "the other side does not speak TLS 1.3, so it is not an agent; check the address"
                    .into()
            }
            _ => format!(
                "the agent closed the connection with the TLS alert {alert:?}; its log says why"
            ),
        },
        TlsError::InvalidMessage(_) | TlsError::PeerIncompatible(_) => {
            format!("the other side does not speak TLS 1.3 ({error}); check address and port")
        }
        _ => error.to_string(),
    };
    CallError::Unavailable(format!("cannot talk to the agent at {way}: {why}"))
}

async fn unix(path: &Path) -> Result<Connection, CallError> {
    let stream = UnixStream::connect(path).await.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => {
                "there is no such socket; is the agent running on this machine?".to_owned()
            }
            ErrorKind::ConnectionRefused => "nobody listens; the agent is not running".to_owned(),
            ErrorKind::PermissionDenied => {
                "no permission; only root and the socket's group may talk to the agent".to_owned()
            }
            _ => error.to_string(),
        };
        CallError::Unavailable(format!("cannot connect to the socket {}: {why}", path.display()))
    })?;
    Ok(Connection { stream: Box::new(stream), broken: Broken::default() })
}

async fn over_tls(
    way: &Way,
    tls: &Tls,
    credentials: Option<&Credentials>,
    timeout: Duration,
) -> Result<Connection, CallError> {
    let config = match credentials {
        Some(Credentials(config)) => Arc::clone(config),
        None => Arc::new(client_config(&tls.ca, &tls.cert, &tls.key)?),
    };
    let tcp = tcp(way, tls, timeout).await?;
    let connecting = TlsConnector::from(config).connect(tls.name.clone(), tcp);
    let stream = connecting.await.map_err(|error| match tls_error(&error) {
        Some(error) => explain(way, error),
        None => CallError::Unavailable(format!(
            "cannot talk to the agent at {way}: the TLS handshake failed: {error}; is this the \
             agent's port?"
        )),
    })?;
    let broken = Broken::default();
    let stream = Watched { inner: stream, broken: Arc::clone(&broken), failed: None };
    Ok(Connection { stream: Box::new(stream), broken })
}

async fn tcp(way: &Way, tls: &Tls, timeout: Duration) -> Result<TcpStream, CallError> {
    let addresses: Vec<_> = tokio::net::lookup_host((tls.host.as_str(), tls.port))
        .await
        .map_err(|error| {
            CallError::Unavailable(format!(
                "cannot find the address of {}: {error}; check --agent",
                tls.host
            ))
        })?
        .collect();
    // Each address gets its share of the time: one that answers nothing leaves time for the next.
    let share = timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match tokio::time::timeout(share, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = ErrorKind::TimedOut.into(),
        }
    }
    let next = match last.kind() {
        ErrorKind::ConnectionRefused => {
            "; nobody listens there: is the agent running, with \
                                         [control] listen on this port?"
        }
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => "; there is no route to it",
        ErrorKind::TimedOut => {
            "; the host is down, or a firewall on the way drops the packets (--timeout waits longer)"
        }
        _ => "",
    };
    Err(CallError::Unavailable(format!("cannot connect to the agent at {way}: {last}{next}")))
}

fn client_config(ca: &Path, cert: &Path, key: &Path) -> Result<ClientConfig, CallError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, "the CA certificate", Holds::One)? {
        roots.add(certificate).map_err(|error| {
            CallError::Files(format!("cannot use the CA certificate {}: {error}", ca.display()))
        })?;
    }
    let holds = if cert == key { Holds::Both } else { Holds::One };
    let chain = certificates(cert, "the client certificate", holds)?;
    let text = files::read_text(key, "the private key")?;
    let private = pem::private_key(&text, holds).map_err(|error| {
        CallError::Files(format!("cannot use the private key {}: {error}", key.display()))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .map_err(|error| {
            CallError::Files(format!(
                "cannot use the certificate {} with the private key {}: {error}",
                cert.display(),
                key.display()
            ))
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(
    path: &Path,
    what: &str,
    holds: Holds,
) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let text = files::read_text(path, what)?;
    pem::certificates(&text, holds)
        .map_err(|error| CallError::Files(format!("cannot use {what} {}: {error}", path.display())))
}

fn too_slow(way: &Way, timeout: Duration) -> CallError {
    CallError::Unavailable(format!(
        "no connection to the agent at {way} within {}; a firewall on the way may drop the \
         packets, or the host is down (--timeout waits longer)",
        text::duration(timeout)
    ))
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

/// A TLS stream that remembers the error which ended it.
struct Watched<S> {
    inner: S,
    broken: Broken,
    /// The error of a failed write, until the peer's last bytes are read.
    failed: Option<io::Error>,
}

impl<S: Duplex> Watched<S> {
    fn note(&self, error: &io::Error) {
        if let Some(error) = tls_error(error) {
            // The first error is the cause; later ones follow from it.
            let _later = self.broken.set(error.clone());
        }
    }

    /// Writes, unless a write has failed before. A failed write means that the peer has closed the
    /// connection. Its alert, which says why, may not have been read yet. So this reads to the end
    /// of the stream before it returns the error.
    fn write_with<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let failed = match self.failed.take() {
            Some(failed) => failed,
            None => match write(Pin::new(&mut self.inner), context) {
                Poll::Ready(Err(error)) => error,
                done => return done,
            },
        };
        self.note(&failed);
        let mut bytes = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    self.failed = Some(failed);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(end) => {
                    if let Err(error) = &end {
                        self.note(error);
                    }
                    return Poll::Ready(Err(failed));
                }
            }
        }
    }
}

impl<S: Duplex> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &done {
            self.note(error);
        }
        done
    }
}

impl<S: Duplex> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_with(context, |inner, context| inner.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_with(context, |inner, context| inner.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

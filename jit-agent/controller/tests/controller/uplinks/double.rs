//! A stand-in of an agent that dials: a real TLS connection, over which it serves HTTP/2.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use jit_proto::{
    GrantId, WallTime,
    mailbox::{self, Mailbox},
    merkle,
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    v1::{self, jit_agent_server as server},
};
use prost::Message as _;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpSocket,
    sync::{oneshot, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Request, Response, Status, transport::server::Connected};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What an agent is, and what it has heard.
#[derive(Clone)]
pub(super) struct Double {
    pub(super) host: String,
    pub(super) boot_id: String,
    /// Dropped to end its connections.
    open: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    pub(super) heard: Arc<Heard>,
}

/// What it has heard.
#[derive(Default)]
pub(super) struct Heard {
    /// Payloads of grants.
    pub(super) pushed: Mutex<Vec<Vec<u8>>>,
    pub(super) revoked: Mutex<BTreeSet<Vec<u8>>>,
    /// Signed revocations, each time that one came.
    pub(super) closed: Mutex<Vec<v1::Envelope>>,
    /// One for every host has come.
    pub(super) all: AtomicBool,
    /// Signed revocations are refused.
    pub(super) refuses: AtomicBool,
    /// Numbers of the checkpoints that it was asked about, and what it said.
    pub(super) compared: Mutex<Vec<(u64, &'static str)>>,
    /// What it says of the next ones.
    pub(super) says: Mutex<Option<&'static str>>,
    /// Pushes are answered only after this time.
    pub(super) slow: AtomicBool,
    pub(super) begun: AtomicBool,
    /// Bytes of a text in its status.
    pub(super) text: AtomicUsize,
}

impl Double {
    pub(super) fn new(host: &str, boot_id: &str) -> Self {
        Self {
            host: host.into(),
            boot_id: boot_id.into(),
            open: Arc::default(),
            heard: Arc::default(),
        }
    }

    /// Number of grants that it has got: one that came twice is one.
    pub(super) fn pushes(&self) -> usize {
        self.heard.pushed.lock().unwrap().iter().collect::<BTreeSet<_>>().len()
    }

    /// Number of signed revocations that have come.
    pub(super) fn closed(&self) -> usize {
        self.heard.closed.lock().unwrap().len()
    }

    /// What it last said of a checkpoint.
    pub(super) fn last_said(&self) -> Option<&'static str> {
        self.heard.compared.lock().unwrap().last().map(|(_, said)| *said)
    }

    /// Compares what it has heard with a checkpoint, as an agent does.
    fn compare(&self, request: v1::CompareMailboxRequest) -> v1::CompareMailboxResponse {
        let v1::CompareMailboxRequest { checkpoint, index, path, listed, items } = request;
        let checkpoint = v1::Checkpoint::decode(checkpoint.unwrap().payload).unwrap();
        let at = WallTime(checkpoint.issued_at_ms);
        let revoked = self.heard.revoked.lock().unwrap().clone();
        let mut arrived = Mailbox::default();
        for payload in self.heard.pushed.lock().unwrap().iter() {
            let grant = v1::Grant::decode(payload.as_slice()).unwrap();
            let item = mailbox::item(GRANT_TYPE, payload);
            let id = GrantId::from_bytes(&grant.id).unwrap();
            arrived.add_grant(item, id, WallTime(grant.not_after_ms));
        }
        for envelope in self.heard.closed.lock().unwrap().iter() {
            let message = v1::Revocation::decode(&envelope.payload[..]).unwrap();
            let item = mailbox::item(REVOCATION_TYPE, &envelope.payload);
            arrived.add(item, WallTime(message.keep_until_ms));
        }
        let digest = mailbox::digest(arrived.items(at, |id| revoked.contains(&id.0[..])).iter());
        let leaf = mailbox::leaf(&self.host, &digest);
        let root = merkle::root(&leaf, index, checkpoint.hosts, path.as_chunks().0);
        let ended: BTreeSet<_> =
            revoked.iter().map(|id| mailbox::ended(GrantId::from_bytes(id).unwrap())).collect();
        let missing: Vec<_> = items
            .as_chunks()
            .0
            .iter()
            .filter(|item| !arrived.has(item) && !ended.contains(*item))
            .collect();
        let said = match self.heard.says.lock().unwrap().take() {
            Some(said) => said,
            None if root.is_some_and(|root| root[..] == checkpoint.root[..]) => "complete",
            None if !listed => "list_wanted",
            None if missing.is_empty() => "complete",
            None => "missing",
        };
        self.heard.compared.lock().unwrap().push((checkpoint.number, said));
        v1::CompareMailboxResponse {
            standing: said.into(),
            missing: u32::try_from(missing.len()).unwrap(),
            first_missing: missing.into_iter().flatten().copied().collect::<Vec<u8>>().into(),
        }
    }

    /// Connects, and serves until the hub closes. Returns what says when that was.
    pub(super) async fn dial(
        &self,
        hub: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> io::Result<watch::Receiver<()>> {
        let (open, closed) = watch::channel(());
        let stream = connect(hub, config, [127, 0, 0, 1]).await?;
        let (until, ended) = oneshot::channel();
        self.open.lock().unwrap().push(until);
        let served = Served { stream, ended, _open: open };
        let service = server::JitAgentServer::new(self.clone());
        tokio::spawn(async move {
            let one = stream::once(async { Ok::<_, io::Error>(served) });
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(one).await
        });
        Ok(closed)
    }
}

impl Double {
    /// Ends its connections, as an agent does that has made another one.
    pub(super) fn leave(&self) {
        self.open.lock().unwrap().clear();
    }
}

/// A TLS connection from this address.
pub(super) async fn connect(
    hub: SocketAddr,
    config: Arc<ClientConfig>,
    from: [u8; 4],
) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let tcp = socket.connect(hub).await?;
    let name = ServerName::try_from("hub.example.org").unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}

/// Whether the hub has closed this connection within some seconds.
pub(super) async fn is_closed(closed: &mut watch::Receiver<()>) -> bool {
    let gone = async { while closed.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), gone).await.is_ok()
}

struct Served {
    stream: TlsStream<tokio::net::TcpStream>,
    ended: oneshot::Receiver<()>,
    _open: watch::Sender<()>,
}

impl Connected for Served {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.is_terminated() || Pin::new(&mut self.ended).poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Served {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A refusal, as an agent sends it.
fn refusal(word: &str, detail: &str) -> Status {
    let info = ErrorDetails::with_error_info(word, "jit-agent", HashMap::<String, String>::new());
    Status::with_error_details(Code::FailedPrecondition, detail, info)
}

macro_rules! double {
    ($($name:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl server::JitAgent for Double {
            type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

            async fn status(
                &self,
                _request: Request<v1::StatusRequest>,
            ) -> Result<Response<v1::StatusResponse>, Status> {
                Ok(Response::new(v1::StatusResponse {
                    state: "enforcing".into(),
                    problems: vec!["x".repeat(self.heard.text.load(Ordering::SeqCst))],
                    host: self.host.clone(),
                    boot_id: self.boot_id.clone(),
                    started_at_ms: 1,
                    ..Default::default()
                }))
            }

            async fn watch(
                &self,
                _request: Request<v1::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                Ok(Response::new(stream::pending().boxed()))
            }

            async fn push_batch(
                &self,
                request: Request<v1::PushBatchRequest>,
            ) -> Result<Response<v1::PushBatchResponse>, Status> {
                self.heard.begun.store(true, Ordering::SeqCst);
                if self.heard.slow.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                let envelopes = request.into_inner().envelopes;
                let outcome = v1::Outcome { reason: "ok".into(), accepted: true, ..Default::default() };
                let outcomes = vec![outcome; envelopes.len()];
                let payloads = envelopes.into_iter().map(|envelope| envelope.payload.to_vec());
                self.heard.pushed.lock().unwrap().extend(payloads);
                Ok(Response::new(v1::PushBatchResponse { outcomes, ..Default::default() }))
            }

            async fn revoke(
                &self,
                request: Request<v1::RevokeRequest>,
            ) -> Result<Response<v1::RevokeResponse>, Status> {
                match request.into_inner().what {
                    Some(v1::revoke_request::What::GrantId(id)) => {
                        self.heard.revoked.lock().unwrap().insert(id.to_vec());
                    }
                    Some(v1::revoke_request::What::Signed(_))
                        if self.heard.refuses.load(Ordering::SeqCst) =>
                    {
                        return Err(refusal("unknown_key", "no such key"));
                    }
                    Some(v1::revoke_request::What::Signed(envelope)) => {
                        let message = v1::Revocation::decode(&envelope.payload[..]).unwrap();
                        self.heard.all.fetch_or(message.every_host, Ordering::SeqCst);
                        let ids = message.grant_ids.into_iter().map(|id| id.to_vec());
                        self.heard.revoked.lock().unwrap().extend(ids);
                        self.heard.closed.lock().unwrap().push(envelope);
                    }
                    other => panic!("{other:?}"),
                }
                Ok(Response::new(v1::RevokeResponse::default()))
            }

            async fn compare_mailbox(
                &self,
                request: Request<v1::CompareMailboxRequest>,
            ) -> Result<Response<v1::CompareMailboxResponse>, Status> {
                Ok(Response::new(self.compare(request.into_inner())))
            }

            async fn list(
                &self,
                _request: Request<v1::ListRequest>,
            ) -> Result<Response<v1::ListResponse>, Status> {
                Ok(Response::new(v1::ListResponse::default()))
            }

            $(
                async fn $name(
                    &self,
                    _request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    Err(Status::unimplemented("a stand-in does not"))
                }
            )*
        }
    };
}

double! {
    push(PushRequest) -> PushResponse,
    break_glass(BreakGlassRequest) -> BreakGlassResponse,
    enforce(EnforceRequest) -> EnforceResponse,
    confirm(ConfirmRequest) -> ConfirmResponse,
    show_policy(ShowPolicyRequest) -> ShowPolicyResponse,
    diff_policy(DiffPolicyRequest) -> DiffPolicyResponse,
    push_policy(PushPolicyRequest) -> PushPolicyResponse,
    confirm_policy(ConfirmPolicyRequest) -> ConfirmPolicyResponse,
    set_policy_floor(SetPolicyFloorRequest) -> SetPolicyFloorResponse,
    denials(DenialsRequest) -> DenialsResponse,
    why(WhyRequest) -> WhyResponse,
    reconnect(ReconnectRequest) -> ReconnectResponse,
    request_certificate(RequestCertificateRequest) -> RequestCertificateResponse,
    install_certificate(InstallCertificateRequest) -> InstallCertificateResponse,
}

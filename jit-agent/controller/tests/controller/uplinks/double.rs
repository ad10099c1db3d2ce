//! A stand-in of an agent that dials: a real TLS connection, over which it serves HTTP/2.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream};
use jit_proto::{
    GrantId, WallTime,
    mailbox::{self, Mailbox},
    merkle,
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    uplink::next_certificate,
    v1::{self, jit_agent_server as server},
};
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
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
#[derive(Clone, Default)]
pub(super) struct Double {
    pub(super) host: String,
    pub(super) boot_id: String,
    /// Dropped to end its connections.
    open: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    /// With what it connects when it is asked to connect anew, and where, in turn.
    ways: Arc<Mutex<Option<Ways>>>,
    /// Number of connections so far.
    made: Arc<AtomicU64>,
    pub(super) heard: Arc<Heard>,
    pub(super) policies: Arc<Mutex<Policies>>,
    pub(super) renews: Arc<Mutex<Renews>>,
}

#[derive(Default)]
pub(super) struct Renews {
    /// The one in use (DER), and its key; `None`: it is not.
    pub(super) used: Option<(Vec<u8>, KeyPair)>,
    /// Its hub puts a request of its own in the place of the host's.
    pub(super) swapped: bool,
    /// Its hub keeps back what is brought, and says that the host has taken it.
    pub(super) kept_back: bool,
    /// Times that it was asked for a request, and that a certificate was brought.
    pub(super) asked: usize,
    pub(super) brought: usize,
    next: Option<KeyPair>,
}

/// Where it connects in turn.
#[derive(Clone)]
struct Ways {
    hubs: Vec<SocketAddr>,
    config: Arc<ClientConfig>,
}

/// The connection over which a call comes, by number.
#[derive(Clone, Copy)]
struct Number(u64);

/// Its policy, as an agent keeps it.
#[derive(Default)]
pub(super) struct Policies {
    /// That in force; `None`: its own file.
    pub(super) in_force: Option<v1::Policy>,
    /// Versions of all that came.
    pub(super) pushed: Vec<u64>,
    /// Why it refuses every policy: a word.
    pub(super) refuses: Option<&'static str>,
    /// What is in force shuts it out: it cannot connect any more.
    pub(super) shuts_out: bool,
    /// It answers a push only after this time.
    pub(super) slow: Option<Duration>,
    /// Number of policies that were not confirmed in time.
    pub(super) returned: usize,
    highest: u64,
    /// Until when it must be confirmed, what was in force before, and over which connection it
    /// came.
    pending: Option<(Instant, Option<v1::Policy>, u64)>,
}

impl Policies {
    /// What it must be confirmed by has passed: the one before returns.
    fn settle(&mut self) {
        if let Some((until, _, _)) = &self.pending
            && *until <= Instant::now()
        {
            let before = self.pending.take().and_then(|(_, before, _)| before);
            self.in_force = before;
            self.returned += 1;
        }
    }
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
    /// How often it was asked, if it is of a release that does not know the call.
    pub(super) unknown: Mutex<Option<usize>>,
    /// Pushes are answered only after this time.
    pub(super) slow: AtomicBool,
    pub(super) begun: AtomicBool,
    /// Its status lists the grants that have not ended.
    pub(super) lists: AtomicBool,
    /// Number of times that it was asked for its status.
    pub(super) asked: AtomicUsize,
    /// Bytes of a text in its status.
    pub(super) text: AtomicUsize,
}

impl Double {
    pub(super) fn new(host: &str, boot_id: &str) -> Self {
        Self { host: host.into(), boot_id: boot_id.into(), ..Self::default() }
    }

    /// Number of grants that it has got: one that came twice is one.
    pub(super) fn pushes(&self) -> usize {
        self.heard.pushed.lock().unwrap().iter().collect::<BTreeSet<_>>().len()
    }

    /// Its grants, if it lists them, until everything was ended.
    fn grants(&self) -> Vec<v1::GrantState> {
        let is_set = |what: &AtomicBool| what.load(Ordering::SeqCst);
        if !is_set(&self.heard.lists) || is_set(&self.heard.all) {
            return Vec::new();
        }
        let shown = |payload: &Vec<u8>| v1::GrantState {
            grant: payload.clone().into(),
            state: v1::State::Active.into(),
            ..Default::default()
        };
        self.heard.pushed.lock().unwrap().iter().map(shown).collect()
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

    /// Connects, and goes from one of these hubs to the next when it is asked to connect anew, or
    /// is cut off.
    pub(super) async fn roam(&self, hubs: &[SocketAddr], config: Arc<ClientConfig>) {
        *self.ways.lock().unwrap() =
            Some(Ways { hubs: hubs.to_vec(), config: Arc::clone(&config) });
        let closed = self.dial(hubs[0], config).await.unwrap();
        tokio::spawn(self.clone().stays(closed));
    }

    fn is_connected(&self) -> bool {
        self.open.lock().unwrap().iter().any(|until| !until.is_closed())
    }

    /// Connects again whenever it has no connection.
    fn stays(self, mut closed: watch::Receiver<()>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            while closed.changed().await.is_ok() {}
            while !self.is_connected() {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if let Some(next) = self.next().await {
                    return self.stays(next).await;
                }
            }
        })
    }

    /// A connection to the next hub, unless its policy shuts it out.
    async fn next(&self) -> Option<watch::Receiver<()>> {
        {
            let mut policies = self.policies.lock().unwrap();
            policies.settle();
            if policies.shuts_out && policies.in_force.is_some() {
                return None;
            }
        }
        let ways = {
            let mut ways = self.ways.lock().unwrap();
            let ways = ways.as_mut()?;
            ways.hubs.rotate_left(1);
            ways.clone()
        };
        self.dial(ways.hubs[0], ways.config).await.ok()
    }

    /// Connects, and serves until the hub closes. Returns what says when that was.
    pub(super) async fn dial(
        &self,
        hub: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> io::Result<watch::Receiver<()>> {
        connect(hub, config, [127, 0, 0, 1]).await.map(|stream| self.serve(stream))
    }

    /// Serves on a connection, until the hub closes it.
    pub(super) fn serve(&self, stream: TlsStream<tokio::net::TcpStream>) -> watch::Receiver<()> {
        let (open, closed) = watch::channel(());
        let (until, ended) = oneshot::channel();
        self.open.lock().unwrap().push(until);
        let number = Number(self.made.fetch_add(1, Ordering::SeqCst));
        let served = Served { stream, ended, number, _open: open };
        let service = server::JitAgentServer::new(self.clone());
        tokio::spawn(async move {
            let one = stream::once(async { Ok::<_, io::Error>(served) });
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(one).await
        });
        closed
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
    number: Number,
    _open: watch::Sender<()>,
}

impl Connected for Served {
    type ConnectInfo = Number;

    fn connect_info(&self) -> Number {
        self.number
    }
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
                self.heard.asked.fetch_add(1, Ordering::SeqCst);
                Ok(Response::new(v1::StatusResponse {
                    state: "enforcing".into(),
                    grants: self.grants(),
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
                if let Some(asked) = &mut *self.heard.unknown.lock().unwrap() {
                    *asked += 1;
                    return Err(Status::unimplemented(""));
                }
                Ok(Response::new(self.compare(request.into_inner())))
            }

            async fn list(
                &self,
                _request: Request<v1::ListRequest>,
            ) -> Result<Response<v1::ListResponse>, Status> {
                Ok(Response::new(v1::ListResponse::default()))
            }

            async fn show_policy(
                &self,
                _request: Request<v1::ShowPolicyRequest>,
            ) -> Result<Response<v1::ShowPolicyResponse>, Status> {
                let mut policies = self.policies.lock().unwrap();
                policies.settle();
                let state = v1::PolicyState { highest_version: policies.highest, ..Default::default() };
                let (state, host) = (Some(state), self.host.clone());
                Ok(Response::new(v1::ShowPolicyResponse { state, host, ..Default::default() }))
            }

            async fn diff_policy(
                &self,
                request: Request<v1::DiffPolicyRequest>,
            ) -> Result<Response<v1::DiffPolicyResponse>, Status> {
                let Some(v1::diff_policy_request::What::Policy(policy)) = request.into_inner().what
                else {
                    panic!("no policy")
                };
                let closed = policy.ports.iter().filter_map(|port| port.range.clone()).collect();
                let changes = v1::PolicyChanges { closed, confirm: true, ..Default::default() };
                let (reason, changes) = ("ok".to_owned(), Some(changes));
                Ok(Response::new(v1::DiffPolicyResponse { reason, changes, ..Default::default() }))
            }

            async fn push_policy(
                &self,
                request: Request<v1::PushPolicyRequest>,
            ) -> Result<Response<v1::PushPolicyResponse>, Status> {
                let Number(number) = *request.extensions().get::<Number>().unwrap();
                let request = request.into_inner();
                let slow = self.policies.lock().unwrap().slow;
                if let Some(slow) = slow {
                    tokio::time::sleep(slow).await;
                }
                let mut policies = self.policies.lock().unwrap();
                policies.settle();
                if let Some(word) = policies.refuses {
                    return Err(refusal(word, "it does not want it"));
                }
                let payload = request.envelope.unwrap().payload;
                let policy = v1::Policy::decode(payload).unwrap();
                let (version, window) = (policy.version, request.confirm_within_s);
                policies.pushed.push(version);
                if policies.in_force.as_ref() == Some(&policy) {
                    let pending = policies.pending.as_ref();
                    let left = pending.map_or(Duration::ZERO, |(until, _, _)| *until - Instant::now());
                    let confirm_left_ms = i64::try_from(left.as_millis()).unwrap();
                    let reason = "known".to_owned();
                    let known = v1::PushPolicyResponse {
                        reason, version, confirm_left_ms, ..Default::default()
                    };
                    return Ok(Response::new(known));
                }
                if policy.hosts != [self.host.clone()] || version <= policies.highest {
                    return Err(refusal("stale_version", "there was a newer one"));
                }
                policies.highest = version;
                let before = policies.in_force.replace(policy);
                let window = Duration::from_secs(window.into());
                policies.pending = Some((Instant::now() + window, before, number));
                let confirm_left_ms = i64::try_from(window.as_millis()).unwrap();
                let reason = "ok".to_owned();
                let answer =
                    v1::PushPolicyResponse { reason, version, confirm_left_ms, ..Default::default() };
                Ok(Response::new(answer))
            }

            async fn confirm_policy(
                &self,
                request: Request<v1::ConfirmPolicyRequest>,
            ) -> Result<Response<v1::ConfirmPolicyResponse>, Status> {
                let Number(number) = *request.extensions().get::<Number>().unwrap();
                let mut policies = self.policies.lock().unwrap();
                policies.settle();
                let version = policies.in_force.as_ref().map_or(0, |policy| policy.version);
                if version != request.into_inner().version {
                    return Err(refusal("not_pending", "it has returned"));
                }
                if policies.pending.as_ref().is_some_and(|(_, _, pushed)| *pushed == number) {
                    return Err(refusal("same_connection", "that is the connection of the push"));
                }
                policies.pending = None;
                Ok(Response::new(v1::ConfirmPolicyResponse { reason: "ok".into() }))
            }

            async fn reconnect(
                &self,
                _request: Request<v1::ReconnectRequest>,
            ) -> Result<Response<v1::ReconnectResponse>, Status> {
                if self.ways.lock().unwrap().is_none() {
                    return Err(Status::unimplemented("a stand-in with one way does not"));
                }
                let double = self.clone();
                tokio::spawn(async move {
                    let old: Vec<_> = double.open.lock().unwrap().drain(..).collect();
                    if let Some(closed) = double.next().await {
                        tokio::spawn(double.stays(closed));
                    }
                    // The answer has gone out by then.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    drop(old);
                });
                Ok(Response::new(v1::ReconnectResponse {}))
            }

            async fn request_certificate(
                &self,
                _request: Request<v1::RequestCertificateRequest>,
            ) -> Result<Response<v1::RequestCertificateResponse>, Status> {
                let mut renews = self.renews.lock().unwrap();
                renews.asked += 1;
                let params = CertificateParams::default();
                let csr_of = |key: &KeyPair| params.serialize_request(key).unwrap().der().to_vec();
                let next = KeyPair::generate().unwrap();
                let mut csr = csr_of(&next);
                let none = || Status::unimplemented("a stand-in does not");
                let (used, key) = renews.used.as_ref().ok_or_else(none)?;
                let mut answer = v1::RequestCertificateResponse {
                    standing: "ready".into(),
                    certificate: used.clone().into(),
                    proof: key.sign(&next_certificate(&csr)).unwrap().into(),
                    ..v1::RequestCertificateResponse::default()
                };
                if renews.swapped {
                    csr = csr_of(&KeyPair::generate().unwrap());
                }
                answer.csr = csr.into();
                renews.next = Some(next);
                Ok(Response::new(answer))
            }

            async fn install_certificate(
                &self,
                request: Request<v1::InstallCertificateRequest>,
            ) -> Result<Response<v1::InstallCertificateResponse>, Status> {
                let mut renews = self.renews.lock().unwrap();
                let key = renews.next.take().ok_or_else(|| Status::aborted("no key waits"))?;
                let certificate = request.into_inner().certificate.to_vec();
                renews.brought += 1;
                if !renews.kept_back {
                    renews.used = Some((certificate, key));
                }
                let standing = "installed".into();
                Ok(Response::new(v1::InstallCertificateResponse { standing, ..Default::default() }))
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
    set_policy_floor(SetPolicyFloorRequest) -> SetPolicyFloorResponse,
    denials(DenialsRequest) -> DenialsResponse,
    why(WhyRequest) -> WhyResponse,
}

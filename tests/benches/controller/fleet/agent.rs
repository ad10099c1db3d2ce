//! A simulated agent: what the hub calls. Its answers are made by the agent's own rules: signatures, policy and
//! ledger. Only kernel and disk are missing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use jit_agent::{
    config::Config,
    rules::{
        grant,
        ledger::{Floor, Ledger},
        refusal::Refused,
        revocation,
    },
    system::sys,
};
use jit_proto::{
    GrantId, Refusal,
    v1::{self, event, jit_agent_server as server, revoke_request::What},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::{Request, Response, Status, codegen::tokio_stream::Stream};

use super::{
    arrivals::Arrivals,
    board::{Board, Kind},
};

/// An agent, across all its connections.
pub(crate) struct Agent {
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) board: Arc<Board>,
    trust: Arc<Config>,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    arrivals: Arrivals,
    /// Payloads of grants that were ended.
    ended: Vec<Vec<u8>>,
    /// Who reads its events.
    reader: Option<UnboundedSender<v1::Event>>,
    /// Whether it hears of what the controller itself has ended.
    says_ends: bool,
}

impl Agent {
    /// Without grants. `trust`: keys and policy, the same for all.
    pub(crate) fn new(number: usize, id: String, trust: &Arc<Config>, board: &Arc<Board>) -> Self {
        let ahead = trust.policy.longest_ahead();
        let ledger = Ledger::new(trust.limits.into(), trust.limits.slots(), ahead);
        let arrivals = Arrivals::new(&id, sys::now());
        let state = Mutex::new(State {
            ledger,
            arrivals,
            ended: Vec::new(),
            reader: None,
            says_ends: true,
        });
        Self { number, id, board: Arc::clone(board), trust: Arc::clone(trust), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, envelope: &v1::Envelope) -> v1::Outcome {
        match self.admit(envelope) {
            Ok((id, reason)) => {
                let grant_id = id.0.to_vec().into();
                v1::Outcome {
                    reason: reason.into(),
                    accepted: true,
                    grant_id,
                    ..Default::default()
                }
            }
            Err(Refused { refusal, detail, .. }) => {
                // A host may have heard a revocation sooner than the controller has noted that it did.
                if refusal != Refusal::Revoked {
                    self.board.refused(&format!("{}: {detail}", refusal.word()));
                }
                v1::Outcome { reason: refusal.word().into(), detail, ..Default::default() }
            }
        }
    }

    fn admit(&self, envelope: &v1::Envelope) -> Result<(GrantId, &'static str), Refused> {
        let Config { keyring, policy, .. } = &*self.trust;
        let now = sys::now();
        let grant = grant::verify(envelope, keyring, &self.id)?;
        let id = grant.id();
        let mut state = self.state();
        state.arrivals.grant(&grant);
        policy.check(&grant, keyring, now)?;
        let admission = state.ledger.admit(grant, now)?;
        let kind = if admission.word() == "ok" { Kind::Opened } else { Kind::Again };
        state.say("activated", id);
        drop(state);
        self.board.answered(self.number, id, kind);
        Ok((id, admission.word()))
    }

    fn end(&self, id: GrantId) -> Result<bool, Status> {
        let mut state = self.state();
        let held = state.ledger.grants().find(|held| held.grant.id() == id);
        let payload = held.map(|held| held.grant.payload().to_vec());
        let ended = state.ledger.revoke(id, sys::now(), 0);
        state.ended.extend(payload);
        let (ended, _) = ended.map_err(|refused| Status::internal(refused.to_string()))?;
        if state.says_ends {
            state.say("revoked", id);
        }
        drop(state);
        self.board.answered(self.number, id, if ended { Kind::Closed } else { Kind::Again });
        Ok(ended)
    }

    /// Ends all that a signed revocation is about.
    fn close(&self, envelope: &v1::Envelope) -> Result<usize, Status> {
        let wrong = |refused: Refused| {
            self.board.refused(&format!("{}: {}", refused.refusal.word(), refused.detail));
            Status::permission_denied(refused.to_string())
        };
        let now = sys::now();
        let keyring = &self.trust.keyring;
        let order = revocation::verify(envelope, keyring, &self.id).map_err(wrong)?;
        order.check_keys(keyring, now).map_err(wrong)?;
        let held: Vec<_> = {
            let mut state = self.state();
            state.arrivals.revocation(&order);
            state.ledger.raise_floor(Floor { requester: None, at: order.floor(now) });
            let live =
                state.ledger.grants().filter(|held| !state.ledger.has_ended(held.grant.id()));
            live.map(|held| held.grant.id()).collect()
        };
        for id in &held {
            self.end(*id)?;
        }
        Ok(held.len())
    }

    fn compare(
        &self,
        request: v1::CompareMailboxRequest,
    ) -> Result<v1::CompareMailboxResponse, Status> {
        let State { ledger, arrivals, .. } = &mut *self.state();
        let compared = arrivals.compare(request, &self.trust.keyring, ledger, sys::now());
        compared.map_err(|refused| {
            self.board.refused(&format!("{}: {}", refused.refusal.word(), refused.detail));
            Status::permission_denied(refused.to_string())
        })
    }

    fn grants(&self, include_ended: bool) -> Vec<v1::GrantState> {
        let state = self.state();
        let shown = |payload: &[u8], state: v1::State| v1::GrantState {
            grant: payload.to_vec().into(),
            state: state.into(),
            ..Default::default()
        };
        let ended = state.ended.iter().filter(|_| include_ended);
        let ended = ended.map(|payload| shown(payload, v1::State::Revoked));
        let held = state.ledger.grants();
        held.map(|held| shown(held.grant.payload(), v1::State::Active)).chain(ended).collect()
    }
}

impl State {
    fn say(&self, kind: &str, id: GrantId) {
        let Some(reader) = &self.reader else { return };
        let grant_id = id.0.to_vec().into();
        let event = v1::GrantEvent { kind: kind.into(), grant_id, ..Default::default() };
        let event = v1::Event {
            cursor: "bench-1".into(),
            what: Some(event::What::Grant(event)),
            ..Default::default()
        };
        // Nobody may read any more.
        let _gone = reader.send(event);
    }
}

/// Events as they happen. While somebody reads them, the agent is up.
pub(crate) struct Events {
    events: UnboundedReceiver<v1::Event>,
    board: Arc<Board>,
}

impl Stream for Events {
    type Item = Result<v1::Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context).map(|event| event.map(Ok))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.board.down();
    }
}

/// What is served on one connection.
pub(crate) struct Service(pub(crate) Arc<Agent>);

macro_rules! service {
    ($($name:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl server::JitAgent for Service {
            type WatchStream = Events;

            async fn status(
                &self,
                _request: Request<v1::StatusRequest>,
            ) -> Result<Response<v1::StatusResponse>, Status> {
                Ok(Response::new(v1::StatusResponse {
                    state: "enforcing".into(),
                    version: "1.0.0".into(),
                    host: self.0.id.clone(),
                    boot_id: format!("boot-of-{}", self.0.id),
                    started_at_ms: 1,
                    grants: self.0.grants(false),
                    ..Default::default()
                }))
            }

            async fn watch(
                &self,
                request: Request<v1::WatchRequest>,
            ) -> Result<Response<Events>, Status> {
                let (reader, events) = unbounded_channel();
                let mut state = self.0.state();
                state.reader = Some(reader);
                state.says_ends = !request.into_inner().without_own_ends;
                drop(state);
                self.0.board.up();
                let board = Arc::clone(&self.0.board);
                Ok(Response::new(Events { events, board }))
            }

            async fn push_batch(
                &self,
                request: Request<v1::PushBatchRequest>,
            ) -> Result<Response<v1::PushBatchResponse>, Status> {
                let envelopes = request.into_inner().envelopes;
                let outcomes = envelopes.iter().map(|envelope| self.0.take(envelope)).collect();
                Ok(Response::new(v1::PushBatchResponse { outcomes, ..Default::default() }))
            }

            async fn revoke(
                &self,
                request: Request<v1::RevokeRequest>,
            ) -> Result<Response<v1::RevokeResponse>, Status> {
                let ended = match request.into_inner().what {
                    Some(What::GrantId(id)) => {
                        let id = GrantId::from_bytes(&id);
                        usize::from(self.0.end(id.ok_or(Status::invalid_argument("no id"))?)?)
                    }
                    Some(What::Signed(envelope)) => self.0.close(&envelope)?,
                    _ => return Err(Status::unimplemented("a grant, or a signed revocation")),
                };
                let revoked = u32::try_from(ended).unwrap_or(u32::MAX);
                let reason = "ok".to_owned();
                Ok(Response::new(v1::RevokeResponse { revoked, reason, ..Default::default() }))
            }

            async fn list(
                &self,
                request: Request<v1::ListRequest>,
            ) -> Result<Response<v1::ListResponse>, Status> {
                let grants = self.0.grants(request.into_inner().include_ended);
                Ok(Response::new(v1::ListResponse { grants }))
            }

            async fn compare_mailbox(
                &self,
                request: Request<v1::CompareMailboxRequest>,
            ) -> Result<Response<v1::CompareMailboxResponse>, Status> {
                self.0.compare(request.into_inner()).map(Response::new)
            }

            $(
                async fn $name(
                    &self,
                    _request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    Err(Status::unimplemented("a simulated agent does not"))
                }
            )*
        }
    };
}

service! {
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

//! The service's methods, and the HTTP/2 server that carries them.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use jit_proto::{
    GrantId, PortRange,
    permission::Permission,
    text::MAX_NAME_BYTES,
    v1::{
        self,
        jit_agent_server::{JitAgent, JitAgentServer},
    },
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, transport::server::Router};
use tower::layer::util::{Identity as Bare, Stack};

use crate::{
    config::Controller,
    control::server::{
        answer::{accepted_outcome, gone, refused_outcome, refused_status},
        authority::{Authority, Trusted, Witness, caller},
        call::MAX_MESSAGE_BYTES,
        compare, denials,
        front_board::FrontBoard,
        heartbeat::Heartbeat,
        http2::http2,
        intake::IntakeLayer,
        lists::Lists,
        places::MAX_CONNECTIONS,
        policy,
        renewals::Renewals,
        revoke::{self, source_prefix},
        trial,
        uplinks::Uplinks,
    },
    gate::{GateHandle, Gone, Opened, Pusher, Target, measure::Measured},
    kernel::datapath::verdict::Question,
    rules::grant::break_glass::BreakGlass,
    system::sys,
};

/// Most envelopes in one batch.
pub(super) const MAX_BATCH: usize = 16_384;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    gate: GateHandle,
    authority: Authority,
    front: FrontBoard,
    heartbeat: Heartbeat,
    uplinks: Uplinks,
    renewals: Renewals,
}

impl Service {
    /// A service in front of a gate.
    pub fn new(gate: GateHandle) -> Self {
        let authority = Authority::new(Witness::Gate(gate.clone()));
        let (front, heartbeat, uplinks, renewals) = Default::default();
        Self { gate, authority, front, heartbeat, uplinks, renewals }
    }

    /// From now on these are the controllers, and these authorities vouch for them, also on open
    /// connections and streams.
    pub fn set_controllers(&self, controllers: &[Controller], trusted: Trusted) {
        self.authority.replace(controllers, trusted);
    }

    /// The gate in numbers, for the metrics.
    pub(crate) async fn measure(&self) -> Result<Measured, Gone> {
        let mut measured = self.gate.measure().await?;
        self.add_connections(&mut measured.status);
        Ok(measured)
    }

    fn add_connections(&self, status: &mut v1::StatusResponse) {
        if let Some(control) = &mut status.control {
            control.connections = number(self.front.connections());
            control.connections_max = number(MAX_CONNECTIONS);
        }
        status.front = self.front.shown();
        // The gate knows of pushes, and no more.
        let v1::Uplink { last_push_ms, last_controller, .. } =
            status.uplink.take().unwrap_or_default();
        status.uplink = self.uplinks.shown(sys::now().wall).map(|shown| v1::Uplink {
            last_push_ms,
            last_controller,
            ..shown
        });
    }

    /// The peer that pushes, if it may.
    fn pusher<T>(&self, request: &Request<T>) -> Result<Pusher, Status> {
        let name = self.authority.authorize(request, Permission::Grant)?;
        Ok(Pusher { name, may_revoke: self.authority.may(request, Permission::Revoke)? })
    }

    /// Who may do what.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The process that talks to the network.
    pub fn front(&self) -> &FrontBoard {
        &self.front
    }

    /// The connections to hubs.
    pub fn uplinks(&self) -> &Uplinks {
        &self.uplinks
    }

    /// Hubs that have the certificate renewed.
    pub fn renewals(&self) -> &Renewals {
        &self.renewals
    }

    /// When it is asked whether it answers.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    pub(super) fn gate(&self) -> &GateHandle {
        &self.gate
    }

    /// The service without a server: it decodes requests and answers them.
    pub(super) fn methods(self) -> JitAgentServer<Self> {
        JitAgentServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(usize::MAX)
    }

    /// The HTTP/2 server for the local socket.
    pub(super) fn router(self) -> Router<Stack<IntakeLayer, Bare>> {
        let lists = Lists::new(self.gate.clone());
        let intake = IntakeLayer::new(self.authority.clone(), Some(lists));
        http2().layer(intake).add_service(self.methods())
    }
}

#[tonic::async_trait]
impl JitAgent for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn push(
        &self,
        request: Request<v1::PushRequest>,
    ) -> Result<Response<v1::PushResponse>, Status> {
        let by = self.pusher(&request)?;
        let envelope = request
            .into_inner()
            .envelope
            .ok_or_else(|| Status::invalid_argument("envelope is missing"))?;
        let outcomes = self.gate.push(vec![envelope], by).await.map_err(gone)?;
        match outcomes.into_iter().next() {
            Some(Ok(accepted)) => {
                Ok(Response::new(v1::PushResponse { outcome: Some(accepted_outcome(&accepted)) }))
            }
            Some(Err(refused)) => Err(refused_status(&refused)),
            None => Err(Status::internal("the gate gave no outcome")),
        }
    }

    async fn push_batch(
        &self,
        request: Request<v1::PushBatchRequest>,
    ) -> Result<Response<v1::PushBatchResponse>, Status> {
        let by = self.pusher(&request)?;
        let revokes = !request.get_ref().revoke_ids.is_empty();
        let may_revoke = revokes.then(|| self.authority.authorize(&request, Permission::Revoke));
        let v1::PushBatchRequest { envelopes, revoke_ids } = request.into_inner();
        if envelopes.len() > MAX_BATCH || revoke_ids.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!("more than {MAX_BATCH} in one batch")));
        }
        // Before all that may be refused.
        let (envelopes, revocations) = revoke::split(envelopes);
        let signed = revoke::all(&self.gate, revocations, &by.name).await?;
        let mut response = v1::PushBatchResponse::default();
        if let Some(may_revoke) = may_revoke {
            may_revoke?;
            // A bad id must not stop the good ones.
            let ids: Vec<_> = revoke_ids.iter().filter_map(|id| GrantId::from_bytes(id)).collect();
            let bad = revoke_ids.len() - ids.len();
            let revoked =
                self.gate.revoke(Target::Ids(ids), &by.name, "batch").await.map_err(gone)?;
            response.revoked = revoked.ended;
            response.warning = revoked.warning;
            response.sessions_open = revoked.sessions_open;
            response.sessions_ended = revoked.sessions_ended;
            if bad > 0 {
                let text = format!("{bad} of revoke_ids are no grant ids (16 bytes); ");
                response.warning.insert_str(0, &text);
            }
        }
        let outcomes = self.gate.push(envelopes, by).await.map_err(gone)?;
        let grants = outcomes.iter().map(|outcome| match outcome {
            Ok(accepted) => accepted_outcome(accepted),
            Err(refused) => refused_outcome(refused),
        });
        response.outcomes = revoke::merge(grants, signed);
        Ok(Response::new(response))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        revoke::answer(&self.gate, &self.authority, request).await
    }

    async fn break_glass(
        &self,
        request: Request<v1::BreakGlassRequest>,
    ) -> Result<Response<v1::BreakGlassResponse>, Status> {
        let by = self.authority.authorize_root(&request)?;
        let asked = opening(request.into_inner())?;
        match self.gate.break_glass(asked, &by).await.map_err(gone)? {
            Ok(Opened { id, not_after }) => Ok(Response::new(v1::BreakGlassResponse {
                grant_id: id.0.to_vec().into(),
                not_after_ms: not_after.0,
            })),
            Err(refused) => Err(refused_status(&refused)),
        }
    }

    async fn enforce(
        &self,
        request: Request<v1::EnforceRequest>,
    ) -> Result<Response<v1::EnforceResponse>, Status> {
        trial::enforce(&self.gate, &self.authority, request).await
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmResponse>, Status> {
        trial::confirm(&self.gate, &self.authority, request).await
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        self.authority.authorize(&request, Permission::Read)?;
        let grants = self.gate.list(request.get_ref().include_ended).await.map_err(gone)?;
        Ok(Response::new(v1::ListResponse { grants }))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        self.authority.authorize(&request, Permission::Read)?;
        let mut status = self.gate.status().await.map_err(gone)?;
        self.add_connections(&mut status);
        Ok(Response::new(status))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = self.authority.authorize(&request, Permission::Read)?;
        let own = request.get_ref().without_own_ends.then_some(name);
        let journal = Arc::clone(self.gate.journal());
        let reader = journal
            .reader(&request.get_ref().cursor)
            .map_err(|error| Status::invalid_argument(format!("cursor: {error}")))?;
        let batches = stream::unfold((journal, reader), |(journal, mut reader)| async {
            let events = journal.next(&mut reader).await;
            Some((events, (journal, reader)))
        });
        let events = batches.flat_map(move |mut events| {
            events.retain(|event| !own.as_ref().is_some_and(|own| is_end_by(event, own)));
            stream::iter(events.into_iter().map(Ok))
        });
        // A peer that may not read any more does not get the rest either.
        let (authority, caller) = (self.authority.clone(), caller(&request)?.clone());
        let (sender, why) = oneshot::channel();
        let lost = async move {
            let _gone = sender.send(authority.lost(caller, Permission::Read).await);
        };
        let last = async { Err(why.await.unwrap_or_else(|_| Status::internal("no reason"))) };
        Ok(Response::new(Box::pin(events.take_until(lost).chain(stream::once(last)))))
    }

    async fn show_policy(
        &self,
        request: Request<v1::ShowPolicyRequest>,
    ) -> Result<Response<v1::ShowPolicyResponse>, Status> {
        policy::show(&self.gate, &self.authority, &request).await
    }

    async fn diff_policy(
        &self,
        request: Request<v1::DiffPolicyRequest>,
    ) -> Result<Response<v1::DiffPolicyResponse>, Status> {
        policy::diff(&self.gate, &self.authority, request).await
    }

    async fn push_policy(
        &self,
        request: Request<v1::PushPolicyRequest>,
    ) -> Result<Response<v1::PushPolicyResponse>, Status> {
        policy::push(&self.gate, &self.authority, request).await
    }

    async fn confirm_policy(
        &self,
        request: Request<v1::ConfirmPolicyRequest>,
    ) -> Result<Response<v1::ConfirmPolicyResponse>, Status> {
        policy::confirm(&self.gate, &self.authority, &request).await
    }

    async fn set_policy_floor(
        &self,
        request: Request<v1::SetPolicyFloorRequest>,
    ) -> Result<Response<v1::SetPolicyFloorResponse>, Status> {
        policy::set_floor(&self.gate, &self.authority, &request).await
    }

    async fn reconnect(
        &self,
        request: Request<v1::ReconnectRequest>,
    ) -> Result<Response<v1::ReconnectResponse>, Status> {
        let caller = caller(&request)?;
        self.authority.authorize_any(caller, &Permission::ALL)?;
        if !caller.who.is_hub() {
            let why = "the agent did not make this connection: connect anew from your side";
            return Err(Status::failed_precondition(why));
        }
        self.uplinks.renew();
        Ok(Response::new(v1::ReconnectResponse {}))
    }

    async fn request_certificate(
        &self,
        request: Request<v1::RequestCertificateRequest>,
    ) -> Result<Response<v1::RequestCertificateResponse>, Status> {
        self.renewals.request(&self.authority, &request).await
    }

    async fn install_certificate(
        &self,
        request: Request<v1::InstallCertificateRequest>,
    ) -> Result<Response<v1::InstallCertificateResponse>, Status> {
        self.renewals.install(&self.authority, request).await
    }

    async fn compare_mailbox(
        &self,
        request: Request<v1::CompareMailboxRequest>,
    ) -> Result<Response<v1::CompareMailboxResponse>, Status> {
        compare::answer(&self.gate, &self.authority, request).await
    }

    async fn denials(
        &self,
        request: Request<v1::DenialsRequest>,
    ) -> Result<Response<v1::DenialsResponse>, Status> {
        denials::list(&self.gate, &self.authority, request).await
    }

    async fn why(
        &self,
        request: Request<v1::WhyRequest>,
    ) -> Result<Response<v1::WhyResponse>, Status> {
        self.authority.authorize(&request, Permission::Read)?;
        let v1::WhyRequest { source, protocol: _, port, requester } = request.get_ref();
        let question = Question::of_message(source, request.get_ref().protocol(), *port);
        let question = question.ok_or_else(|| {
            Status::invalid_argument("say which: a source of 4 or 16 bytes, a protocol, a port")
        })?;
        if requester.len() > MAX_NAME_BYTES {
            return Err(Status::invalid_argument("no requester has so long a name"));
        }
        let answer = self.gate.why(question, requester.clone()).await.map_err(gone)?;
        answer.map(Response::new).map_err(Status::unavailable)
    }
}

fn opening(request: v1::BreakGlassRequest) -> Result<BreakGlass, Status> {
    let v1::BreakGlassRequest { source, ports, lasts_ms, reason } = request;
    let missing = |what: &str| Status::invalid_argument(format!("{what} is missing"));
    Ok(BreakGlass {
        source: source_prefix(&source.ok_or_else(|| missing("source"))?)?,
        ports: PortRange::try_from(&ports.ok_or_else(|| missing("ports"))?)
            .map_err(|error| Status::invalid_argument(format!("ports: {error}")))?,
        lasts: Duration::from_millis(lasts_ms),
        reason,
    })
}

/// Whether it says that this peer has ended a grant.
fn is_end_by(event: &v1::Event, peer: &str) -> bool {
    let Some(v1::event::What::Grant(grant)) = &event.what else { return false };
    grant.kind == "revoked" && grant.by == peer
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_peer_itself_has_revoked_is_its_own_end() {
        let event = |kind: &str, by: &str| {
            let grant =
                v1::GrantEvent { kind: kind.into(), by: by.into(), ..v1::GrantEvent::default() };
            let what = Some(v1::event::What::Grant(grant));
            v1::Event { what, ..v1::Event::default() }
        };
        assert!(is_end_by(&event("revoked", "hub-1"), "hub-1"));
        assert!(!is_end_by(&event("revoked", "local uid 0"), "hub-1"));
        for kind in ["activated", "expired", "replaced"] {
            assert!(!is_end_by(&event(kind, "hub-1"), "hub-1"), "{kind}");
        }
        assert!(!is_end_by(&v1::Event::default(), "hub-1"));
    }
}

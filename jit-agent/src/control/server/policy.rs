//! The calls about policies: from messages to the gate's questions, and back.

use std::time::Duration;

use jit_proto::v1::{self, diff_policy_request::What};
use tonic::{Request, Response, Status};

use crate::{
    control::server::{
        Service,
        authority::{May, caller},
        gone, refused_status,
    },
    gate::{PolicyAnswer, PolicyDraft, PolicyPush, PolicyRequest},
};

impl Service {
    pub(super) async fn answer_show_policy(
        &self,
        request: &Request<v1::ShowPolicyRequest>,
    ) -> Result<Response<v1::ShowPolicyResponse>, Status> {
        let by = self.authority.authorize_any(request, &[May::Read, May::Policy])?;
        match self.ask_policy(PolicyRequest::Show, &by).await? {
            PolicyAnswer::Shown(answer) => Ok(Response::new(answer)),
            _ => Err(mixed_up()),
        }
    }

    pub(super) async fn answer_diff_policy(
        &self,
        request: Request<v1::DiffPolicyRequest>,
    ) -> Result<Response<v1::DiffPolicyResponse>, Status> {
        let by = self.authority.authorize(&request, May::Policy)?;
        let draft = match request.into_inner().what {
            Some(What::Envelope(envelope)) => PolicyDraft::Envelope(envelope),
            Some(What::Policy(policy)) => PolicyDraft::Message(Box::new(policy)),
            None => return Err(Status::invalid_argument("say which: policy, or envelope")),
        };
        match self.ask_policy(PolicyRequest::Diff(draft), &by).await? {
            PolicyAnswer::Diff(answer) => Ok(Response::new(answer)),
            _ => Err(mixed_up()),
        }
    }

    pub(super) async fn answer_push_policy(
        &self,
        request: Request<v1::PushPolicyRequest>,
    ) -> Result<Response<v1::PushPolicyResponse>, Status> {
        let by = self.authority.authorize(&request, May::Policy)?;
        if request.get_ref().strict {
            self.authority.authorize(&request, May::Revoke)?;
        }
        let v1::PushPolicyRequest { envelope, confirm_within_s, strict } = request.into_inner();
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("envelope is missing"))?;
        let confirm_within =
            (confirm_within_s > 0).then(|| Duration::from_secs(confirm_within_s.into()));
        let push = PolicyPush { envelope, confirm_within, strict };
        match self.ask_policy(PolicyRequest::Push(push), &by).await? {
            PolicyAnswer::Pushed(answer) => Ok(Response::new(answer)),
            _ => Err(mixed_up()),
        }
    }

    pub(super) async fn answer_confirm_policy(
        &self,
        request: &Request<v1::ConfirmPolicyRequest>,
    ) -> Result<Response<v1::ConfirmPolicyResponse>, Status> {
        let by = self.authority.authorize(request, May::Policy)?;
        let version = request.get_ref().version;
        let connected = caller(request)?.connected;
        match self.ask_policy(PolicyRequest::Confirm { version, connected }, &by).await? {
            PolicyAnswer::Confirmed(answer) => Ok(Response::new(answer)),
            _ => Err(mixed_up()),
        }
    }

    async fn ask_policy(&self, request: PolicyRequest, by: &str) -> Result<PolicyAnswer, Status> {
        match self.gate.policy(request, by).await.map_err(gone)? {
            PolicyAnswer::Refused(refused) => Err(refused_status(&refused)),
            answer => Ok(answer),
        }
    }
}

fn mixed_up() -> Status {
    Status::internal("the gate answered another question")
}

//! The calls about policies: translates messages to the gate's commands, and the answers back.

use std::time::Duration;

use jit_proto::{
    permission::Permission,
    v1::{self, diff_policy_request::What},
};
use tonic::{Request, Response, Status};

use crate::{
    control::server::{
        answer::{gone, refused_status},
        authority::{Authority, caller},
    },
    gate::{GateHandle, PolicyDraft, PolicyPush},
};

pub(super) async fn show(
    gate: &GateHandle,
    authority: &Authority,
    request: &Request<v1::ShowPolicyRequest>,
) -> Result<Response<v1::ShowPolicyResponse>, Status> {
    authority.authorize_any(caller(request)?, &[Permission::Read, Permission::Policy])?;
    gate.show_policy().await.map(Response::new).map_err(gone)
}

pub(super) async fn diff(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::DiffPolicyRequest>,
) -> Result<Response<v1::DiffPolicyResponse>, Status> {
    let by = authority.authorize(&request, Permission::Policy)?;
    let draft = match request.into_inner().what {
        Some(What::Envelope(envelope)) => PolicyDraft::Envelope(envelope),
        Some(What::Policy(policy)) => PolicyDraft::Message(Box::new(policy)),
        None => return Err(Status::invalid_argument("say which: policy, or envelope")),
    };
    gate.diff_policy(draft, &by).await.map(Response::new).map_err(gone)
}

pub(super) async fn push(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::PushPolicyRequest>,
) -> Result<Response<v1::PushPolicyResponse>, Status> {
    let by = authority.authorize(&request, Permission::Policy)?;
    if request.get_ref().strict {
        authority.authorize(&request, Permission::Revoke)?;
    }
    let v1::PushPolicyRequest { envelope, confirm_within_s, strict } = request.into_inner();
    let envelope = envelope.ok_or_else(|| Status::invalid_argument("envelope is missing"))?;
    let confirm_within =
        (confirm_within_s > 0).then(|| Duration::from_secs(confirm_within_s.into()));
    let push = PolicyPush { envelope, confirm_within, strict };
    let pushed = gate.push_policy(push, &by).await.map_err(gone)?;
    pushed.map(Response::new).map_err(|refused| refused_status(&refused))
}

pub(super) async fn confirm(
    gate: &GateHandle,
    authority: &Authority,
    request: &Request<v1::ConfirmPolicyRequest>,
) -> Result<Response<v1::ConfirmPolicyResponse>, Status> {
    let by = authority.authorize(request, Permission::Policy)?;
    let version = request.get_ref().version;
    let connected = caller(request)?.connected;
    let confirmed = gate.confirm_policy(version, connected, &by).await.map_err(gone)?;
    confirmed.map(Response::new).map_err(|refused| refused_status(&refused))
}

pub(super) async fn set_floor(
    gate: &GateHandle,
    authority: &Authority,
    request: &Request<v1::SetPolicyFloorRequest>,
) -> Result<Response<v1::SetPolicyFloorResponse>, Status> {
    let by = authority.authorize_root(request)?;
    let set = gate.set_policy_floor(request.get_ref().version, &by).await.map_err(gone)?;
    set.map(Response::new).map_err(|refused| refused_status(&refused))
}

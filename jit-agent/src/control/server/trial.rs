//! The calls about a configuration on trial: only for root on the host.

use jit_proto::{Refusal, v1};
use tonic::{Request, Response, Status};

use crate::{
    control::server::{
        answer::{gone, refused_status},
        authority::Authority,
    },
    gate::{GateHandle, trial::TrialRefused},
    rules::refusal::Refused,
};

pub(super) async fn enforce(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::EnforceRequest>,
) -> Result<Response<v1::EnforceResponse>, Status> {
    let by = authority.authorize_root(&request)?;
    let answer = gate.enforce(request.into_inner(), by).await.map_err(gone)?;
    answer.map(Response::new).map_err(|refused| status(&refused))
}

pub(super) async fn confirm(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::ConfirmRequest>,
) -> Result<Response<v1::ConfirmResponse>, Status> {
    let by = authority.authorize_root(&request)?;
    let answer = gate.confirm(request.into_inner(), by).await.map_err(gone)?;
    answer.map(Response::new).map_err(|refused| status(&refused))
}

fn status(refused: &TrialRefused) -> Status {
    let with_word = |word| refused_status(&Refused::new(word, refused.to_string()));
    match refused {
        TrialRefused::NotNow(why) => Status::failed_precondition(why),
        TrialRefused::NothingPending(_) => with_word(Refusal::NothingPending),
        TrialRefused::NotFresh(_) => with_word(Refusal::NotFresh),
        TrialRefused::Failed(why) => Status::unavailable(why),
    }
}

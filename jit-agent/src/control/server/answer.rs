//! Answers for callers: outcomes of grants, and refusals as gRPC statuses.

use std::{collections::HashMap, fmt::Display};

use jit_proto::{Refusal, v1, words::counted};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    gate::{Accepted, Revoked},
    rules::refusal::Refused,
};

/// Domain of the error details (google.rpc.ErrorInfo).
const ERROR_DOMAIN: &str = "jit-agent";

pub(super) fn accepted_outcome(accepted: &Accepted) -> v1::Outcome {
    let Accepted { admission, id, not_after, warning } = accepted;
    v1::Outcome {
        reason: admission.word().into(),
        accepted: true,
        grant_id: id.0.to_vec().into(),
        detail: format!("until {not_after}"),
        not_after_ms: not_after.0,
        warning: warning.clone(),
    }
}

pub(super) fn refused_outcome(refused: &Refused) -> v1::Outcome {
    let Refused { refusal, detail, id } = refused;
    v1::Outcome {
        reason: refusal.word().into(),
        accepted: false,
        grant_id: id.map(|id| id.0.to_vec()).unwrap_or_default().into(),
        detail: detail.clone(),
        not_after_ms: 0,
        warning: String::new(),
    }
}

/// The outcome of a signed revocation in a batch.
pub(super) fn revocation_outcome(result: &Result<Revoked, Refused>) -> v1::Outcome {
    let revoked = match result {
        Ok(revoked) => revoked,
        Err(refused) => return refused_outcome(refused),
    };
    v1::Outcome {
        reason: revoked_word(revoked).into(),
        accepted: true,
        detail: format!("{} ended", counted(revoked.ended, "grant")),
        warning: revoked.warning.clone(),
        ..v1::Outcome::default()
    }
}

/// Whether a revocation changed anything, as a word.
pub(super) const fn revoked_word(revoked: &Revoked) -> &'static str {
    if revoked.changed { "ok" } else { "known" }
}

/// A refusal as a gRPC status, with the stable word in google.rpc.ErrorInfo.
pub(super) fn refused_status(refused: &Refused) -> Status {
    let Refused { refusal, detail, id } = refused;
    let code = match refusal {
        Refusal::BadSignature | Refusal::NotPermitted | Refusal::UnknownKey | Refusal::WeakKey => {
            Code::PermissionDenied
        }
        Refusal::BadType | Refusal::Malformed | Refusal::TooLarge => Code::InvalidArgument,
        Refusal::Capacity | Refusal::Throttled => Code::ResourceExhausted,
        Refusal::ClockUntrusted | Refusal::Storage => Code::Unavailable,
        Refusal::ApprovalsMissing
        | Refusal::Ceiling
        | Refusal::Expired
        | Refusal::IdConflict
        | Refusal::Lifetime
        | Refusal::NotFresh
        | Refusal::NotYetValid
        | Refusal::NothingPending
        | Refusal::PortNotAllowed
        | Refusal::PortNotProtected
        | Refusal::Revoked
        | Refusal::SourceNotAllowed
        | Refusal::SourceTooWide
        | Refusal::Stale
        | Refusal::StaleVersion
        | Refusal::WrongHost => Code::FailedPrecondition,
    };
    let metadata = id.map(|id| ("grant_id".to_owned(), id.to_string()));
    let details = ErrorDetails::with_error_info(
        refusal.word(),
        ERROR_DOMAIN,
        metadata.into_iter().collect::<HashMap<_, _>>(),
    );
    Status::with_error_details(code, format!("{}: {detail}", refusal.word()), details)
}

/// The gate does not answer any more.
pub(super) fn gone(error: impl Display) -> Status {
    Status::unavailable(error.to_string())
}

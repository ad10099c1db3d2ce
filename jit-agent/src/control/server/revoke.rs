//! The calls that close: revocations by a controller that may, and signed ones by any.

use jit_proto::{
    GrantId, Refusal, SourcePrefix,
    payload_type::REVOCATION_TYPE,
    permission::Permission,
    text::MAX_NAME_BYTES,
    v1::{self, revoke_request::What},
};
use tonic::{Request, Response, Status};

use crate::{
    control::server::{
        answer::{gone, refused_status, revocation_outcome, revoked_word},
        authority::{Authority, caller},
    },
    gate::{GateHandle, Revoked, Target},
    rules::refusal::Refused,
};

/// Number of bytes that are kept of a text from the control plane.
const MAX_REASON_BYTES: usize = 1024;

/// A part of a batch: each has its place in it.
type Placed<T> = Vec<(usize, T)>;

/// Answers `Revoke`. A signed revocation carries its authority itself: every controller may deliver
/// it, whatever its permissions.
pub(super) async fn answer(
    gate: &GateHandle,
    authority: &Authority,
    request: Request<v1::RevokeRequest>,
) -> Result<Response<v1::RevokeResponse>, Status> {
    let signed = matches!(request.get_ref().what, Some(What::Signed(_)));
    let needs: &[_] = if signed { &Permission::ALL } else { &[Permission::Revoke] };
    let by = authority.authorize_any(caller(&request)?, needs)?;
    let v1::RevokeRequest { what, reason, cut } = request.into_inner();
    let target = match what {
        Some(What::All(true)) => Target::All,
        Some(What::GrantId(id)) => Target::Ids(vec![grant_id(&id)?]),
        Some(What::Requester(name)) if name.len() > MAX_NAME_BYTES => {
            return Err(Status::invalid_argument(format!(
                "no grant has a requester of {} bytes: at most {MAX_NAME_BYTES}",
                name.len()
            )));
        }
        Some(What::Requester(name)) if !name.is_empty() => Target::Requester(name),
        Some(What::Signed(_)) if cut || !reason.is_empty() => {
            let detail = "reason and cut stand in the signed revocation; leave them out beside it";
            return Err(refused_status(&Refused::new(Refusal::Malformed, detail)));
        }
        Some(What::Signed(envelope)) => {
            let revoked = gate.revoke_signed(envelope, &by).await.map_err(gone)?;
            return revoked.map(response).map_err(|refused| refused_status(&refused));
        }
        Some(What::Source(source)) => Target::Source(source_prefix(&source)?),
        Some(What::All(false) | What::Requester(_)) | None => {
            return Err(Status::invalid_argument(
                "say what to revoke: grant_id, requester, source, all = true, or signed",
            ));
        }
    };
    let why = truncated(&reason);
    let revoked = if cut {
        gate.revoke_and_cut(target, &by, why).await
    } else {
        gate.revoke(target, &by, why).await
    };
    Ok(response(Revoked { changed: true, ..revoked.map_err(gone)? }))
}

/// Takes the signed revocations out of a batch.
pub(super) fn split(envelopes: Vec<v1::Envelope>) -> (Vec<v1::Envelope>, Placed<v1::Envelope>) {
    let (mut grants, mut revocations) = (Vec::with_capacity(envelopes.len()), Vec::new());
    for (place, envelope) in envelopes.into_iter().enumerate() {
        if envelope.payload_type == REVOCATION_TYPE {
            revocations.push((place, envelope));
        } else {
            grants.push(envelope);
        }
    }
    (grants, revocations)
}

/// Carries out the signed revocations of a batch, each by itself.
pub(super) async fn all(
    gate: &GateHandle,
    revocations: Placed<v1::Envelope>,
    by: &str,
) -> Result<Placed<v1::Outcome>, Status> {
    let mut outcomes = Vec::with_capacity(revocations.len());
    for (place, envelope) in revocations {
        let result = gate.revoke_signed(envelope, by).await.map_err(gone)?;
        outcomes.push((place, revocation_outcome(&result)));
    }
    Ok(outcomes)
}

/// The outcomes of a batch in the order of its envelopes.
pub(super) fn merge(
    grants: impl ExactSizeIterator<Item = v1::Outcome>,
    revocations: Placed<v1::Outcome>,
) -> Vec<v1::Outcome> {
    let mut outcomes = Vec::with_capacity(grants.len() + revocations.len());
    let mut revocations = revocations.into_iter().peekable();
    for grant in grants {
        while let Some((_, outcome)) = revocations.next_if(|(place, _)| *place == outcomes.len()) {
            outcomes.push(outcome);
        }
        outcomes.push(grant);
    }
    outcomes.extend(revocations.map(|(_, outcome)| outcome));
    outcomes
}

fn response(revoked: Revoked) -> Response<v1::RevokeResponse> {
    let reason = revoked_word(&revoked).into();
    let Revoked { ended: revoked, warning, sessions_open, sessions_ended, unseen, changed: _ } =
        revoked;
    Response::new(v1::RevokeResponse {
        revoked,
        warning,
        sessions_open,
        sessions_ended,
        unseen,
        reason,
    })
}

fn grant_id(bytes: &[u8]) -> Result<GrantId, Status> {
    GrantId::from_bytes(bytes).ok_or_else(|| {
        Status::invalid_argument(format!("a grant id has 16 bytes, not {}", bytes.len()))
    })
}

/// The address or prefix of a message.
pub(super) fn source_prefix(source: &v1::Source) -> Result<SourcePrefix, Status> {
    SourcePrefix::try_from(source)
        .map_err(|error| Status::invalid_argument(format!("source: {error}")))
}

fn truncated(text: &str) -> &str {
    let end = text.floor_char_boundary(text.len().min(MAX_REASON_BYTES));
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jit_proto::payload_type::GRANT_TYPE;

    use super::*;

    #[test]
    fn each_outcome_of_a_batch_stands_in_the_place_of_its_envelope() {
        for types in ["", "r", "g", "rgr", "grrg", "rrgg", "ggrr"] {
            let envelope = |(place, letter): (usize, char)| v1::Envelope {
                payload_type: if letter == 'r' { REVOCATION_TYPE } else { GRANT_TYPE }.into(),
                payload: place.to_string().into_bytes().into(),
                ..v1::Envelope::default()
            };
            let (grants, revocations) = split(types.chars().enumerate().map(envelope).collect());
            let outcome = |envelope: &v1::Envelope| v1::Outcome {
                detail: String::from_utf8(envelope.payload.to_vec()).expect("a number"),
                ..v1::Outcome::default()
            };
            let signed = revocations.iter().map(|(place, one)| (*place, outcome(one))).collect();
            let merged = merge(grants.iter().map(outcome), signed);
            let places: Vec<_> = merged.into_iter().map(|outcome| outcome.detail).collect();
            let expected: Vec<_> = (0..types.len()).map(|place| place.to_string()).collect();
            assert_eq!(places, expected, "{types}");
        }
    }
}

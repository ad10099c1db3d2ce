//! Machines that ask for certificates, and the tokens of administrators.

use jit_client::controller::types::{EnrolmentTokenView, EnrolmentView};

use super::{moment, time};
use crate::store::{Enrolment, EnrolmentToken};

/// A machine that has asked.
pub(in crate::api) fn enrolment(of: Enrolment) -> EnrolmentView {
    let (decided, decided_ms) = moment(of.decided_ms);
    let text = |text: String| (!text.is_empty()).then_some(text);
    EnrolmentView {
        id: of.id,
        host: of.host,
        method: of.method,
        machine: of.machine,
        facts: of.facts,
        token: text(of.token),
        csr_sha256: of.csr_hash,
        state: of.state.word().to_owned(),
        why: of.why,
        created: time(of.created_ms),
        created_ms: of.created_ms,
        decided_by: text(of.decided_by),
        decided,
        decided_ms,
    }
}

/// A token.
pub(in crate::api) fn enrolment_token(of: EnrolmentToken, now_ms: i64) -> EnrolmentTokenView {
    EnrolmentTokenView {
        state: of.state(now_ms).to_owned(),
        id: of.id,
        labels: of.labels,
        uses_left: of.uses_left,
        created_by: of.created_by,
        created: time(of.created_ms),
        created_ms: of.created_ms,
        ends: time(of.ends_ms),
        ends_ms: of.ends_ms,
    }
}

//! From the controller's nouns to the API's JSON.

mod enrolments;
mod hosts;
mod people;
mod records;
mod requests;
mod revocations;
mod rollouts;

use std::time::Duration;

use jit_proto::WallTime;

pub(super) use enrolments::{enrolment, enrolment_token};
pub(super) use hosts::host;
pub(super) use people::{account, account_key, passkey, token};
pub(super) use records::{audit, rules, webhook};
pub(super) use requests::{Parts, preview, request, summary, verdict, with_payload};
pub(super) use revocations::{revocation, revocation_host};
pub(super) use rollouts::{policy, rollout, rollout_host};

/// RFC 3339.
pub(super) fn time(ms: i64) -> String {
    WallTime(ms).exact()
}

/// A moment and its text; 0 is none.
pub(super) fn moment(ms: i64) -> (Option<String>, Option<i64>) {
    if ms == 0 { (None, None) } else { (Some(time(ms)), Some(ms)) }
}

/// `1h 30m`
pub(super) fn duration(ms: i64) -> String {
    jit_client::text::duration(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// A number that cannot be negative.
pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

//! Policies and rollouts.

use jit_client::controller::types::{PolicyView, RolloutHostView, RolloutView};

use super::{duration, moment, time};
use crate::store::{Policy, Rollout, RolloutHost};

/// A policy.
pub(in crate::api) fn policy(of: Policy) -> PolicyView {
    let Policy { id, text, author, justification, saved_ms } = of;
    PolicyView { id, text, author, justification, saved: time(saved_ms), saved_ms }
}

/// A rollout, without counts.
pub(in crate::api) fn rollout(of: Rollout) -> RolloutView {
    let Rollout {
        id,
        policy,
        waves,
        state,
        why,
        wave,
        wave_since_ms,
        confirm_s,
        pause_ms,
        created_by,
        created_ms,
    } = of;
    let confirm_ms = confirm_s.saturating_mul(1000);
    RolloutView {
        id,
        policy,
        state: state.word().to_owned(),
        why,
        author: created_by,
        waves: waves.iter().map(ToString::to_string).collect(),
        wave: u64::try_from(wave).unwrap_or(0),
        wave_since: time(wave_since_ms),
        wave_since_ms,
        confirm_ms,
        confirm: duration(confirm_ms),
        pause_ms,
        pause: duration(pause_ms),
        counts: Vec::new(),
        created: time(created_ms),
        created_ms,
    }
}

/// A host of a rollout.
pub(in crate::api) fn rollout_host(of: RolloutHost) -> RolloutHostView {
    let RolloutHost {
        rollout: _,
        host,
        wave,
        state,
        word,
        detail,
        version,
        payload: _,
        envelope: _,
        changes,
        changed_ms,
    } = of;
    let (since, since_ms) = moment(changed_ms);
    RolloutHostView {
        host,
        wave: u64::try_from(wave).unwrap_or(0),
        state: state.word().to_owned(),
        word,
        detail,
        version,
        changes,
        since,
        since_ms,
    }
}

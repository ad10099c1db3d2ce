//! States of rollouts and of their hosts in plain words.

use crate::model::rollout::{HostState, RolloutState};

/// A state in words, and the class of its colour.
pub(super) const fn state(state: RolloutState) -> (&'static str, &'static str) {
    match state {
        RolloutState::Aborted => ("ended by somebody", ""),
        RolloutState::Done => ("done", "good"),
        RolloutState::Halted => ("halted", "bad"),
        RolloutState::Running => ("running", "warn"),
    }
}

/// How far a host is in words, and the class of its colour.
pub(super) const fn host(state: HostState) -> (&'static str, &'static str) {
    match state {
        HostState::Applied => ("in force", "good"),
        HostState::Degraded => ("with a problem since", "bad"),
        HostState::Pushed => ("waiting for the confirmation", "warn"),
        HostState::Refused => ("refused", "bad"),
        HostState::Signing => ("being signed", "warn"),
        HostState::Silent => ("silent", "bad"),
        HostState::Skipped => ("left out", ""),
        HostState::Waiting => ("waiting", ""),
    }
}

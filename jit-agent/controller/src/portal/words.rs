//! States in plain words, and how loud they are shown.

use crate::model::{State, host::Condition};

/// A state in words.
pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Approved => "agreed to, not signed yet",
        State::AwaitingSignatures => "waits for more signatures",
        State::Delivering => "on its way to the hosts",
        State::Denied => "denied",
        State::Ended => "ended",
        State::ExpiredUnapproved => "nobody agreed in time",
        State::Open => "open",
        State::Partly => "open on some hosts",
        State::Pending => "waits for agreement",
        State::Refused => "refused by the hosts",
        State::Revoked => "ended early",
        State::Scheduled => "begins later",
        State::Withdrawn => "taken back",
    }
}

/// The class of its colour.
pub(super) const fn tone(state: State) -> &'static str {
    match state {
        State::Open | State::Scheduled => "good",
        State::Approved
        | State::AwaitingSignatures
        | State::Delivering
        | State::Partly
        | State::Pending => "warn",
        State::Denied | State::ExpiredUnapproved | State::Refused => "bad",
        State::Ended | State::Revoked | State::Withdrawn => "",
    }
}

/// What is known of a host, in words.
pub(super) const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Degraded => "in force, with a problem",
        Condition::Enforcing => "in force",
        Condition::NotEnforcing => "not in force",
        Condition::Unknown => "has not answered yet",
        Condition::Unreachable => "does not answer",
    }
}

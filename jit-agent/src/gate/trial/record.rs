//! What is said of a trial, and recorded.

use jit_proto::{WallTime, v1, words::duration};

use crate::disk::audit::{EventCode, Record};

/// The field of a record that says which trial it is about: when that began.
pub const BEGUN: &str = "begun_ms";

/// A trial that goes on: how long, and what to do.
pub fn running_text(trial: &v1::TrialState) -> String {
    let left = duration(trial.left_ms);
    let (what, back) = if trial.of_file {
        ("the reloaded file is on trial", "the configuration before returns")
    } else {
        ("enforcing on trial", "the gate observes again")
    };
    format!(
        "{what}, {left} left: open a NEW SSH session and run `sudo jit-agent confirm` there, or {back}"
    )
}

/// What a trial that ended without a confirmation leaves.
pub fn lapsed_text(of_file: bool, begun: WallTime) -> String {
    if of_file {
        format!(
            "it closes something and was on trial since {begun}, and nobody confirmed it in time; \
             `systemctl reload jit-agent` puts it on trial again, and `jit-agent confirm` over a new SSH \
             session keeps it"
        )
    } else {
        format!(
            "nobody confirmed the trial that began at {begun}: the gate observes as before; \
             `jit-agent enforce` tries again"
        )
    }
}

/// The record of a trial that ended without a confirmation.
pub fn lapsed_record(of_file: bool, begun: WallTime) -> Record {
    let record = Record::new(EventCode::TrialLapsed).by("agent");
    record.with(BEGUN, begun.0).detail(&lapsed_text(of_file, begun))
}

/// The record of a trial that somebody confirmed.
pub fn confirmed_record(of_file: bool, begun: WallTime, by: &str) -> Record {
    let what = if of_file { "the file" } else { "enforcing" };
    let record = Record::new(EventCode::TrialConfirmed).by(by).with(BEGUN, begun.0);
    record.detail(&format!("{what}, on trial since {begun}"))
}

//! Whether a configuration is on trial, or nobody confirmed the last one.

use jit_proto::{WallTime, v1};

use super::{
    finding::Finding,
    host::{Agent, Host},
};
use crate::{
    disk::{
        last_good::LastGood,
        trial::{Standing, StoredTrial},
    },
    gate::trial::{lapsed_text, running_text},
    system::sys,
};

const NAME: &str = "trial";
const CONFIRM: &str = "in a NEW SSH session: sudo jit-agent confirm";

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let found = match (&host.status, host.agent) {
        (Ok(status), Agent::Answers) => Some(of_agent(status.trial.as_ref())),
        (Ok(_), Agent::Silent(_)) if host.is_root => without_agent(host),
        _ => None,
    };
    found.into_iter().collect()
}

/// What the agent says.
fn of_agent(trial: Option<&v1::TrialState>) -> Finding {
    let Some(trial) = trial else { return Finding::ok(NAME, "nothing is on trial") };
    let v1::TrialState { of_file, begun_ms, ended, .. } = trial;
    match ended.as_str() {
        "" => Finding::warning(NAME, running_text(trial))
            .fix(CONFIRM)
            .fix("at the console of this host: jit-agent confirm --from-console"),
        "lapsed" => {
            let finding = Finding::warning(NAME, lapsed_text(*of_file, WallTime(*begun_ms)));
            if *of_file {
                finding.fix("systemctl reload jit-agent").fix(CONFIRM)
            } else {
                finding.fix("jit-agent enforce").fix(CONFIRM)
            }
        }
        how => Finding::ok(NAME, format!("nothing is on trial; the last one was {how}")),
    }
}

/// What the disk says while no agent answers.
fn without_agent(host: &Host) -> Option<Finding> {
    let path = std::path::absolute(&host.path).ok()?;
    let trial = StoredTrial::find(&host.glimpse.states, &path)?;
    let (good, _) = LastGood::find(&host.glimpse.states, &path);
    let standing = trial.standing(&good?, &sys::boot_id().ok()?, host.now.boot);
    let left = host.now.until(trial.until()).as_millis();
    let state = v1::TrialState {
        left_ms: i64::try_from(left).unwrap_or(i64::MAX),
        begun_ms: trial.begun_ms,
        of_file: trial.of_file,
        ..v1::TrialState::default()
    };
    match standing {
        Standing::Gone => None,
        Standing::Lapsed => {
            Some(of_agent(Some(&v1::TrialState { ended: "lapsed".into(), ..state })))
        }
        // Nobody can confirm it without an agent.
        Standing::Live => {
            let finding = Finding::warning(NAME, running_text(&state));
            Some(finding.fix("systemctl start jit-agent").fix(CONFIRM))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn a_trial_that_goes_on_or_lapsed_is_a_warning_that_says_what_to_do() {
        let state = |of_file, ended: &str| v1::TrialState {
            left_ms: 103_000,
            begun_ms: 1_000,
            of_file,
            ended: ended.into(),
            ..v1::TrialState::default()
        };
        for (trial, level, seen, fix) in [
            (None, Level::Ok, "nothing is on trial", ""),
            (Some(state(false, "")), Level::Warning, "enforcing on trial, 1m43s left", "confirm"),
            (Some(state(true, "")), Level::Warning, "the reloaded file is on trial", "NEW"),
            (Some(state(false, "lapsed")), Level::Warning, "nobody confirmed", "jit-agent enforce"),
            (Some(state(true, "lapsed")), Level::Warning, "1970-01-01T00:00:01Z", "reload"),
            (Some(state(false, "confirmed")), Level::Ok, "the last one was confirmed", ""),
            (Some(state(true, "replaced")), Level::Ok, "the last one was replaced", ""),
        ] {
            let finding = of_agent(trial.as_ref());
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.seen.contains(seen), "{finding:?}");
            assert!(finding.fix.concat().contains(fix), "{finding:?}");
            assert_eq!(finding.fix.is_empty(), level == Level::Ok, "{finding:?}");
        }
    }
}

//! A configuration on trial: it closes something, and the one before returns unless a person confirms
//! in time, over a connection that was made meanwhile.
//!
//! The kernel holds the end for ports that everybody could reach before ([`Settings::trial_until`]): an
//! agent that is dead or hangs shuts nobody out for longer. For all else (an exemption that is gone,
//! sessions that are cut) the gate returns by itself, also at its next start. No session is destroyed
//! before the confirmation.
//!
//! The gate does not touch the disk here. `app::reload` writes the trial down before it begins.

mod preview;
mod record;

use std::{collections::BTreeMap, time::Duration};

use jit_common::{Address, PortKey, PortRule, Settings};
use jit_proto::{WallTime, v1, words::duration_text};
use tokio::sync::oneshot;

pub use preview::{closes, no_signer};
pub use record::{BEGUN, confirmed_record, lapsed_record, lapsed_text, running_text};

use crate::{
    config::Config,
    disk::audit::{EventCode, Record},
    gate::{Gate, Target, changes::Changes, configuration::NextStart},
    kernel::datapath::Datapath,
    rules::{
        clock::{BootNanos, Now},
        grant::VerifiedGrant,
        problem::{ProblemKind, ProblemName},
    },
};

/// How much later a trial ends while a confirmation is written to the disk. It came in time, so the
/// ports stay closed meanwhile; a disk that hangs keeps them closed no longer than this.
const HOLD: Duration = Duration::from_secs(10);
/// The begin of a line of the log.
const LAPSED: &str = "trial ended without a confirmation";
/// Why grants end with a trial.
const OF_TRIAL: &str = "only the configuration on trial allowed it, and nobody confirmed that";

/// A configuration that goes on trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The configuration.
    pub config: Config,
    /// The good one, which returns.
    pub before: Config,
    /// When that was first put in force.
    pub before_since: WallTime,
    /// When it returns.
    pub until: BootNanos,
    /// When the trial began.
    pub begun: WallTime,
    /// It is the file on the disk that is on trial.
    pub of_file: bool,
    /// Who began it.
    pub by: String,
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Confirmed,
    Lapsed,
    Replaced,
}

impl Ended {
    const fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Lapsed => "lapsed",
            Self::Replaced => "replaced",
        }
    }
}

/// A step of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The disk is written: the trial ends later, in the gate and in the kernel.
    Hold,
    /// The disk has it.
    Commit,
    /// The disk has not taken it: the trial goes on to its end, which may have passed.
    Release,
}

/// A session at a port of this host: the peer, its port, this end, and the port.
pub type Session = (Address, u16, Address, u16);

/// A request to the keeper of the configuration, which writes the disk.
#[derive(Debug)]
pub enum TrialRequest {
    /// `jit-agent enforce`.
    Enforce {
        /// What was asked for.
        asked: v1::EnforceRequest,
        /// Who asks.
        by: String,
        /// Takes the answer.
        reply: oneshot::Sender<Result<v1::EnforceResponse, TrialRefused>>,
    },
    /// `jit-agent confirm`.
    Confirm {
        /// What was asked for.
        asked: v1::ConfirmRequest,
        /// Who asks.
        by: String,
        /// Takes the answer.
        reply: oneshot::Sender<Result<v1::ConfirmResponse, TrialRefused>>,
    },
}

/// Why nothing is put on trial, or not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialRefused {
    /// It is not a thing to do now.
    #[error("{0}")]
    NotNow(String),
    /// No trial goes on.
    #[error("no trial goes on: {0}")]
    NothingPending(String),
    /// The connection shows nothing.
    #[error("{0}")]
    NotFresh(String),
    /// The disk or the kernel does not take it.
    #[error("{0}")]
    Failed(String),
}

/// The trial that goes on, and how the last one ended.
#[derive(Debug, Default)]
pub(super) struct Trials {
    on: Option<Running>,
    last: Option<v1::TrialState>,
    /// The good configuration came back, and its keys do not count yet.
    returned: bool,
}

#[derive(Debug)]
struct Running {
    before: Box<Config>,
    before_since: WallTime,
    until: BootNanos,
    begun: WallTime,
    of_file: bool,
    closes: Vec<String>,
    /// When it would end, while a confirmation is written.
    held: Option<BootNanos>,
}

impl Running {
    fn message(&self, now: Now) -> v1::TrialState {
        let left = now.until(self.held.unwrap_or(self.until)).as_millis();
        v1::TrialState {
            left_ms: i64::try_from(left).unwrap_or(i64::MAX),
            begun_ms: self.begun.0,
            of_file: self.of_file,
            closes: self.closes.clone(),
            ended: String::new(),
            ended_ms: 0,
        }
    }
}

impl Trials {
    /// The trial that a run before this one began.
    pub(super) fn resume(trial: &Trial) -> Self {
        Self { on: Some(Running::of(trial)), ..Self::default() }
    }

    /// Whether one goes on.
    pub(super) const fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// The trial that goes on, or the last one.
    pub(super) fn state(&self, now: Now) -> Option<v1::TrialState> {
        self.on.as_ref().map(|trial| trial.message(now)).or_else(|| self.last.clone())
    }

    /// When it ends.
    pub(super) fn next_change(&self, now: Now) -> Option<Duration> {
        let left = self.on.as_ref().map(|trial| now.until(trial.until));
        left.filter(|left| !left.is_zero())
    }

    /// Whether other keys count from now on. Says so once.
    pub(super) fn take_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    pub(super) fn problem(&self, now: Now) -> Option<(ProblemName, String)> {
        let trial = self.on.as_ref()?;
        Some((ProblemKind::Trial.into(), running_text(&trial.message(now))))
    }

    /// A trial of an earlier run has ended without a confirmation.
    pub(super) fn note_lapsed(&mut self, of_file: bool, begun: WallTime, now: Now) {
        self.last = Some(v1::TrialState {
            begun_ms: begun.0,
            of_file,
            ended: Ended::Lapsed.word().into(),
            ended_ms: now.wall.0,
            ..v1::TrialState::default()
        });
    }

    /// The settings of the whole gate, with the trial in them.
    pub(super) fn settings(&self, settings: Settings) -> Settings {
        let Some(trial) = &self.on else { return settings };
        let whole = trial.before.gate.observe && settings.observe == 0;
        Settings { trial: u32::from(whole), trial_until: trial.until.0, ..settings }
    }

    /// Whether everybody got in to this port before.
    fn is_new(&self, port: PortKey) -> bool {
        self.on.as_ref().is_some_and(|trial| {
            let before = trial.before.policy.port(port);
            !trial.before.gate.observe && before.is_none_or(|section| section.observe)
        })
    }

    fn end(&mut self, how: Ended, now: Now) -> Option<Running> {
        let trial = self.on.take()?;
        let ended = v1::TrialState {
            left_ms: 0,
            ended: how.word().into(),
            ended_ms: now.wall.0,
            ..trial.message(now)
        };
        self.last = Some(ended);
        Some(trial)
    }
}

impl Running {
    fn of(trial: &Trial) -> Self {
        let Trial { config, before, before_since, until, begun, of_file, by: _ } = trial;
        Self {
            before: Box::new(before.clone()),
            before_since: *before_since,
            until: *until,
            begun: *begun,
            of_file: *of_file,
            closes: Changes::between(before, config, &[], *begun).closed,
            held: None,
        }
    }
}

impl<D: Datapath> Gate<D> {
    /// The protected ports and their rules, with the trial in them. A pushed policy is not on trial: it
    /// is signed, and has its own way to be confirmed.
    pub(super) fn rules(&self) -> BTreeMap<PortKey, PortRule> {
        let of_file = self.config.policy == *self.policies.file_policy();
        let rules = self.config.policy.rules().map(|(port, rule)| {
            let trial = of_file && rule.observe == 0 && self.trials.is_new(port);
            (port, PortRule { trial: u8::from(trial), ..rule })
        });
        rules.collect()
    }

    /// Puts a configuration in force on trial. On an error the one before stays.
    pub fn begin_trial(&mut self, trial: &Trial, now: Now) -> Result<v1::TrialState, String> {
        let running = Running::of(trial);
        let closes = running.closes.clone();
        let (old, gated) = (self.config.clone(), self.gated());
        // What was open before is only held up: no session ends by what the trial closes.
        let ending = std::mem::take(&mut self.ending);
        let previous = self.trials.on.replace(running);
        let tried = self.try_reconfigure(trial.config.clone(), now);
        self.ending = ending;
        if let Err((why, next)) = tried {
            self.trials.on = previous;
            if let Err(error) = self.apply_policy() {
                // The review of the tables puts it right.
                tracing::error!("{error}");
            }
            if trial.of_file {
                self.refuse_configuration(&why, next, now);
            }
            return Err(why);
        }
        self.trials.last = None;
        self.took(&old, &gated, now);
        let left = now.until(trial.until);
        tracing::warn!(
            by = trial.by,
            closes = closes.join("; "),
            "ON TRIAL: confirm within {} (open a new SSH session and run `jit-agent confirm` there), or \
             the last good configuration returns",
            duration_text(left)
        );
        let record = Record::new(EventCode::TrialBegun).by(&trial.by);
        let record = record.with(BEGUN, trial.begun.0).with("closes", closes);
        self.record(record.with("seconds", left.as_secs()), now);
        self.record_alarms(now);
        self.settle_audit(now);
        Ok(self.trials.state(now).unwrap_or_default())
    }

    /// A step of the confirmation. `false`: no trial goes on, or its time has passed.
    pub fn confirm_trial(&mut self, step: Confirmation, by: &str, now: Now) -> bool {
        match step {
            Confirmation::Hold => self.hold_trial(now),
            Confirmation::Release => self.release_trial(),
            Confirmation::Commit => self.commit_trial(by, now),
        }
    }

    fn hold_trial(&mut self, now: Now) -> bool {
        let Some(trial) = &mut self.trials.on else { return false };
        if now.boot >= trial.until {
            return false;
        }
        let until = *trial.held.get_or_insert(trial.until);
        trial.until = until.max(now.boot + HOLD);
        // The kernel must not observe before the confirmation is in force.
        if let Err(error) = self.datapath.settings(self.settings()) {
            tracing::error!("the trial cannot be confirmed: {error}");
            self.release_trial();
            return false;
        }
        true
    }

    fn release_trial(&mut self) -> bool {
        let Some(trial) = &mut self.trials.on else { return false };
        let Some(until) = trial.held.take() else { return true };
        trial.until = until;
        if let Err(error) = self.datapath.settings(self.settings()) {
            // The review of the tables puts it right.
            tracing::error!("{error}");
        }
        true
    }

    fn commit_trial(&mut self, by: &str, now: Now) -> bool {
        let Some(trial) = &mut self.trials.on else { return false };
        if now.boot >= trial.until {
            return false;
        }
        let (of_file, begun) = (trial.of_file, trial.begun);
        // A port that is on trial without an end of the trial would observe: the end goes last.
        trial.until = BootNanos(u64::MAX);
        let written = self.datapath.settings(self.settings());
        self.trials.end(Ended::Confirmed, now);
        let rules = self.rules();
        let written = written.and_then(|()| self.datapath.protect(&rules));
        if let Err(error) = written.and_then(|()| self.apply_policy()) {
            // The review of the tables puts it right.
            tracing::error!("{error}");
        }
        self.ending.anywhere();
        let record = confirmed_record(of_file, begun, by);
        tracing::info!(by, of_file, "what is on trial since {begun} is confirmed");
        self.record(record, now);
        self.record_alarms(now);
        self.settle_audit(now);
        true
    }

    /// The configuration before the trial returns when its time has passed.
    pub(super) fn end_trial_in_time(&mut self, now: Now) {
        let passed = |trial: &&Running| now.boot >= trial.until;
        if self.trials.on.as_ref().filter(passed).is_none() {
            return;
        }
        let last = self.trials.last.clone();
        let Some(trial) = self.trials.end(Ended::Lapsed, now) else { return };
        let (old, gated) = (self.config.clone(), self.gated());
        let ending = std::mem::take(&mut self.ending);
        let applied = self.apply_config((*trial.before).clone(), now);
        self.ending = ending;
        if let Err(refused) = applied {
            // The kernel observes what was on trial. It is tried again.
            tracing::error!("the configuration before the trial cannot return: {refused}");
            self.trials.on = Some(trial);
            self.trials.last = last;
            return;
        }
        self.trials.returned = true;
        self.check_attachments(now);
        self.took(&old, &gated, now);
        self.set_in_force_since(trial.before_since);
        self.revoke_of_trial(&old, now);
        let text = lapsed_text(trial.of_file, trial.begun);
        if trial.of_file {
            self.refuse_configuration(&text, NextStart::LastGood, now);
        }
        tracing::warn!("{LAPSED}: {text}");
        self.record(lapsed_record(trial.of_file, trial.begun), now);
        self.record_alarms(now);
        self.settle_audit(now);
    }

    /// Ends the grants that were open only by what was on trial: its signers, its wider limits.
    fn revoke_of_trial(&mut self, on_trial: &Config, now: Now) {
        let in_force = &self.config;
        let is_of_trial = |grant: &VerifiedGrant| {
            let by = |config: &Config| config.policy.check_open(grant, &config.keyring).is_ok();
            by(on_trial) && !by(in_force)
        };
        let held = self.ledger.grants().filter(|held| held.stage.deadline().is_some());
        let ids: Vec<_> =
            held.filter(|held| is_of_trial(&held.grant)).map(|held| held.grant.id()).collect();
        if ids.is_empty() {
            return;
        }
        let revoked = self.revoke(&Target::Ids(ids), "agent", OF_TRIAL, now);
        tracing::warn!(grants = revoked.ended, "{OF_TRIAL}");
    }

    /// Notes a trial that ended without a confirmation while no agent ran. `app::reload` records it.
    pub fn note_lapsed(&mut self, of_file: bool, begun: WallTime, now: Now) {
        tracing::warn!("{LAPSED}: {}", lapsed_text(of_file, begun));
        self.trials.note_lapsed(of_file, begun, now);
    }

    /// Another configuration takes the place of the one on trial, or of the one that nobody confirmed.
    pub(super) fn replace_trial(&mut self, now: Now) {
        if self.trials.end(Ended::Replaced, now).is_some() {
            tracing::warn!("the trial has ended: another configuration takes its place");
        } else if self.trials.last.as_ref().is_some_and(|last| last.ended == Ended::Lapsed.word()) {
            self.trials.last = None;
        }
    }
}

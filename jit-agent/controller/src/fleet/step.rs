//! One host of a rollout: what would change, the signature, the push, and the confirmation over a
//! connection of its own. Each step is in the store before the next one begins.

use std::{sync::Arc, time::Duration};

use jit_client::{CallError, policy_changes};
use jit_proto::{
    PolicyFile,
    dsse::MAX_ENVELOPE_BYTES,
    payload_type::POLICY_TYPE,
    printable::clean,
    v1::{self, diff_policy_request::What},
};
use prost::Message as _;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{FleetError, Rolls, SignError, reach::Nth, rollouts};
use crate::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::{
        host::Condition,
        rollout::{HostState, RolloutState},
    },
    store::{Policy, Rollout, RolloutHost, rollouts as stored},
};

/// How long a host may be silent before it counts as that.
const SILENT: Duration = Duration::from_secs(20);
/// Between attempts at a silent host, or at a signer that is not there.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a version that others have overtaken is made anew.
const OVERTAKEN: usize = 3;
const MAX_DETAIL: usize = 1000;

/// Brings the policy to one host; returns how that ended.
pub(super) async fn run(
    rolls: &Arc<Rolls>,
    rollout: &Rollout,
    policy: &Policy,
    host: RolloutHost,
) -> Result<HostState, FleetError> {
    let file = rollouts::read(&policy.text)?;
    let mut step = Step { rolls, rollout, policy, file, host, overtaken: 0, replaced: None };
    let mut deadline = Instant::now() + SILENT;
    loop {
        let before = step.host.state;
        let done = match step.host.state {
            HostState::Waiting | HostState::Signing if !step.still_running().await? => {
                return Ok(before);
            }
            HostState::Waiting => step.prepare().await,
            HostState::Signing if step.host.envelope.is_none() => step.sign().await,
            HostState::Signing => step.push().await,
            HostState::Pushed => step.confirm().await,
            HostState::Applied
            | HostState::Degraded
            | HostState::Refused
            | HostState::Silent
            | HostState::Skipped => return Ok(before),
        };
        match done {
            Ok(()) => {}
            Err(Stop::Fleet(error)) => return Err(error),
            Err(Stop::Refused(word, detail)) => {
                step.end(HostState::Refused, &word, &detail).await?;
            }
            Err(Stop::Silent(why)) if Instant::now() > deadline => {
                step.end(HostState::Silent, "silent", &why).await?;
            }
            Err(Stop::Silent(_) | Stop::Signer) => sleep(AGAIN).await,
        }
        if step.host.state != before {
            deadline = Instant::now() + SILENT;
        }
    }
}

/// Writes a host's part, and in the audit what the host answered.
pub(super) async fn keep(rolls: &Rolls, host: &mut RolloutHost) -> Result<(), FleetError> {
    host.changed_ms = now_ms();
    host.detail = clean(&host.detail, MAX_DETAIL);
    let mut turn = rolls.outbox.begin().await?;
    stored::update_host(&mut turn.tx, host).await?;
    if host.state.is_over() || host.state == HostState::Pushed {
        let fields = json!({
            "rollout": host.rollout, "host": host.host, "state": host.state.word(),
            "version": host.version, "word": host.word, "detail": host.detail,
        });
        let record = Record::new(Code::PolicyAnswered, "", &host.host, fields);
        audit::append(&mut turn.tx, host.changed_ms, &record).await?;
    }
    Ok(turn.commit().await?)
}

struct Step<'a> {
    rolls: &'a Rolls,
    rollout: &'a Rollout,
    policy: &'a Policy,
    file: PolicyFile,
    host: RolloutHost,
    overtaken: usize,
    /// The connection of an agent that dials out which was there at the push.
    replaced: Option<Nth>,
}

/// Why a step did not succeed.
enum Stop {
    /// The database, or a defect.
    Fleet(FleetError),
    /// For good: word and sentence.
    Refused(String, String),
    /// Nobody signs now; it is tried again.
    Signer,
    /// The host does not answer now; it is tried again for a while.
    Silent(String),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { word, detail } => Self::Refused(word, detail),
            CallError::Files(why) | CallError::Unavailable(why) => Self::Silent(why),
        }
    }
}

impl From<FleetError> for Stop {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Agent(error) => error.into(),
            FleetError::Unreachable(why) => Self::Silent(why),
            FleetError::NotFound(what) => {
                Self::Refused("unknown_host".into(), format!("there is no {what}"))
            }
            other => Self::Fleet(other),
        }
    }
}

impl Step<'_> {
    async fn still_running(&self) -> Result<bool, FleetError> {
        let rollout = self.rolls.outbox.store().rollout(&self.rollout.id).await?;
        Ok(rollout.is_some_and(|rollout| rollout.state == RolloutState::Running))
    }

    async fn keep(&mut self) -> Result<(), FleetError> {
        keep(self.rolls, &mut self.host).await
    }

    async fn end(&mut self, state: HostState, word: &str, detail: &str) -> Result<(), FleetError> {
        self.host.state = state;
        self.host.word = clean(word, 64);
        self.host.detail = detail.to_owned();
        self.keep().await
    }

    /// Asks what would change, and fixes version and payload.
    async fn prepare(&mut self) -> Result<(), Stop> {
        let id = self.host.host.clone();
        let mut agent = self.rolls.reach.caller(&id).await?;
        let before = agent.status().await?;
        let shown = agent.show_policy().await?;
        if shown.host != id {
            let detail = format!("the agent says that it is {:?}", shown.host);
            return Err(Stop::Refused("wrong_host".into(), detail));
        }
        let version = shown.state.unwrap_or_default().highest_version.saturating_add(1);
        let policy = rollouts::signed_policy(self.policy, &self.file, &id, version, now_ms());
        let payload = policy.encode_to_vec();
        if payload.len() > MAX_ENVELOPE_BYTES / 2 {
            let detail = format!("the policy has {} bytes: agents accept no such", payload.len());
            return Err(Stop::Refused("too_large".into(), detail));
        }
        let answer = agent.diff_policy(What::Policy(policy)).await?;
        if !matches!(answer.reason.as_str(), "ok" | "known") {
            return Err(Stop::Refused(answer.reason, answer.detail));
        }
        let changes = answer.changes.as_ref().map(policy_changes::text).unwrap_or_default();
        self.host.changes = clean_lines(&changes);
        self.host.version = i64::try_from(version).unwrap_or(i64::MAX);
        self.host.payload = payload;
        self.host.envelope = None;
        self.host.state = HostState::Signing;
        // With what it is compared after the push.
        self.host.word = Condition::of_word(&before.state).word().to_owned();
        Ok(self.keep().await?)
    }

    async fn sign(&mut self) -> Result<(), Stop> {
        let signatures = match (self.rolls.sign)(self.host.payload.clone()).await {
            Ok(signatures) => signatures,
            Err(SignError::Refused(detail)) => {
                return Err(Stop::Refused("signer_refused".into(), detail));
            }
            Err(SignError::Unavailable(why)) => {
                tracing::warn!(why, host = self.host.host, "no signer for a policy");
                return Err(Stop::Signer);
            }
        };
        self.host.envelope = Some(v1::Envelope {
            payload_type: POLICY_TYPE.into(),
            payload: self.host.payload.clone().into(),
            signatures,
        });
        let fields = json!({
            "rollout": self.rollout.id, "policy": self.policy.id, "host": self.host.host,
            "version": self.host.version, "payload_sha256": sha256(&self.host.payload),
        });
        let now = now_ms();
        self.host.changed_ms = now;
        let mut turn = self.rolls.outbox.begin().await.map_err(FleetError::from)?;
        stored::update_host(&mut turn.tx, &self.host).await.map_err(FleetError::from)?;
        let record = Record::new(Code::PolicySigned, "", &self.policy.author, fields);
        audit::append(&mut turn.tx, now, &record).await.map_err(FleetError::from)?;
        Ok(turn.commit().await.map_err(FleetError::from)?)
    }

    async fn push(&mut self) -> Result<(), Stop> {
        let mut agent = self.rolls.reach.caller(&self.host.host).await?;
        let request = v1::PushPolicyRequest {
            envelope: self.host.envelope.clone(),
            confirm_within_s: u32::try_from(self.rollout.confirm_s).unwrap_or(u32::MAX),
            strict: false,
        };
        match agent.push_policy(request).await {
            Ok(answer) if answer.confirm_left_ms > 0 => {
                self.host.state = HostState::Pushed;
                self.host.detail = answer.warning;
                Ok(self.keep().await?)
            }
            Ok(answer) => {
                let status = agent.status().await?;
                if let Some((word, detail)) = self.worse(&status) {
                    return Ok(self.end(HostState::Degraded, &word, &detail).await?);
                }
                Ok(self.end(HostState::Applied, &answer.reason, &answer.warning).await?)
            }
            Err(CallError::Refused { word, .. })
                if word == "stale_version" && self.overtaken < OVERTAKEN =>
            {
                // Another version came first, or this one was not confirmed in time, when nobody ran.
                self.overtaken += 1;
                self.host.state = HostState::Waiting;
                self.host.envelope = None;
                Ok(self.keep().await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Confirms over a connection that was made after the push: that the controller still gets in is what
    /// the confirmation says.
    async fn confirm(&mut self) -> Result<(), Stop> {
        let mut fresh = self.rolls.reach.fresh(&self.host.host, &mut self.replaced).await?;
        let status = fresh.status().await?;
        if let Some((word, detail)) = self.worse(&status) {
            let detail = format!("{detail} (not confirmed: the policy before returns)");
            return Ok(self.end(HostState::Degraded, &word, &detail).await?);
        }
        let version = u64::try_from(self.host.version).unwrap_or(0);
        let answer = fresh.confirm_policy(version).await?;
        Ok(self.end(HostState::Applied, &answer.reason, "").await?)
    }

    /// Whether the host is worse than before the push, with word and sentence.
    fn worse(&self, status: &v1::StatusResponse) -> Option<(String, String)> {
        let (before, after) =
            (Condition::of_word(&self.host.word), Condition::of_word(&status.state));
        let observes = self.file.sections.iter().all(|section| section.observe);
        let rank = |condition| match condition {
            Condition::Enforcing | Condition::Unknown => 0,
            // A policy that closes nothing is meant like that.
            Condition::NotEnforcing if observes => 0,
            Condition::Degraded => 1,
            Condition::NotEnforcing => 2,
            Condition::Unreachable => 3,
        };
        (rank(after) > rank(before)).then(|| (after.word().to_owned(), status.problems.join("; ")))
    }
}

fn clean_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().take(200).map(|line| clean(line, MAX_DETAIL)).collect();
    lines.join("\n")
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

//! What people do with policies: save one, bring it to hosts in waves, halt, go on, give up.

use std::{collections::BTreeSet, time::Duration};

use jit_proto::{
    PolicyFile, PortSection, text,
    v1::{self, diff_policy_request::What},
};
use serde_json::json;

use super::{Fleet, FleetError};
use crate::{
    audit::{self, Code, Record},
    model::{
        Host,
        rollout::{HostState, RolloutState, Wave, plan},
    },
    store::{Policy, Rollout, StoreError, Tx, rollouts},
};

/// The longest wait of a host for the confirmation (`agent.proto`).
const MAX_CONFIRM: Duration = jit_proto::confirm::MAX_WINDOW;
/// The longest pause between two waves.
const MAX_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most waves.
const MAX_WAVES: usize = 64;
/// For how long an administrator who could not begin a rollout has the next turn, milliseconds.
const YIELD_MS: i64 = 5 * 60_000;
/// Hosts of one page of the store.
const PAGE: u32 = 1000;

/// How a policy comes to hosts.
#[derive(Clone, Debug)]
pub struct Course {
    /// Id of the policy.
    pub policy: String,
    /// Which hosts come when; those that no wave selects keep what they have.
    pub waves: Vec<Wave>,
    /// How long a host waits for the confirmation before it returns to the policy before: 10 s to 1
    /// h.
    pub confirm_within: Duration,
    /// Time between the end of a wave and the next one, in which its hosts must stay well.
    pub pause: Duration,
}

impl Fleet {
    /// Keeps a policy: TOML, as `jitctl policy push` reads it. `hosts` and `version` may not stand
    /// in it: a rollout decides both.
    ///
    /// # Errors
    /// It cannot be read, with line; or the database does not answer.
    pub async fn save_policy(
        &self,
        by: &str,
        policy: &str,
        justification: &str,
        now_ms: i64,
    ) -> Result<Policy, FleetError> {
        let policy = new_policy(by, policy, justification, now_ms)?;
        let mut turn = self.rolls.outbox.begin().await?;
        rollouts::insert_policy(&mut turn.tx, &policy).await?;
        turn.commit().await?;
        Ok(policy)
    }

    /// What a policy would change on a host, as its agent says; nothing changes.
    ///
    /// # Errors
    /// There is no such policy or host, or the host does not answer.
    pub async fn preview_policy(
        &self,
        policy: &str,
        host: &str,
        now_ms: i64,
    ) -> Result<v1::DiffPolicyResponse, FleetError> {
        let policy = self.policy(policy).await?;
        let file = read(&policy.text)?;
        let mut agent = self.rolls.reach.caller(host).await?;
        let shown = agent.show_policy().await?.state.unwrap_or_default();
        let version = shown.highest_version.saturating_add(1);
        let policy = signed_policy(&policy, &file, host, version, now_ms);
        Ok(agent.diff_policy(What::Policy(policy)).await?)
    }

    /// What a host protects now, as its agent says.
    ///
    /// # Errors
    /// There is no such host, or it does not answer.
    pub async fn protected(&self, host: &str) -> Result<Vec<PortSection>, FleetError> {
        let shown = self.rolls.reach.caller(host).await?.show_policy().await?;
        let sections = shown.ports.iter().map(PortSection::try_from).collect::<Result<_, _>>();
        sections.map_err(|why| FleetError::Invalid(format!("what {host} protects: {why}")))
    }

    /// The hosts of each wave, if the rollout began now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn plan_rollout(&self, waves: &[Wave]) -> Result<Vec<Vec<String>>, FleetError> {
        let store = self.rolls.outbox.store();
        let mut hosts: Vec<Host> = Vec::new();
        loop {
            let after = hosts.last().map(|host| host.id.clone()).unwrap_or_default();
            let page = store.hosts(&after, PAGE, None).await?;
            if page.is_empty() {
                return Ok(plan(&hosts, waves));
            }
            hosts.extend(page.into_iter().map(|stored| stored.host));
        }
    }

    /// Begins a rollout.
    ///
    /// # Errors
    /// There is no such policy, a value is wrong, no host is selected, or a host is in another
    /// rollout that has not ended.
    pub async fn begin_rollout(
        &self,
        by: &str,
        course: Course,
        now_ms: i64,
    ) -> Result<Rollout, FleetError> {
        let Course { policy, waves, confirm_within, pause } = course;
        let invalid = |text: String| Err(FleetError::Invalid(text));
        let policy = self.policy(&policy).await?;
        if waves.is_empty() || waves.len() > MAX_WAVES {
            return invalid(format!("there are 1 to {MAX_WAVES} waves"));
        }
        if confirm_within < Duration::from_secs(10) || confirm_within > MAX_CONFIRM {
            return invalid("a host waits 10s to 1h for the confirmation".into());
        }
        if pause > MAX_PAUSE {
            return invalid("the pause between waves is a week at most".into());
        }
        let hosts = self.plan_rollout(&waves).await?;
        if hosts.iter().all(Vec::is_empty) {
            return invalid("the waves select no host".into());
        }
        let rollout = Rollout {
            id: new_id(now_ms),
            policy: policy.id,
            waves,
            state: RolloutState::Running,
            why: String::new(),
            wave: 0,
            wave_since_ms: now_ms,
            confirm_s: i64::try_from(confirm_within.as_secs()).unwrap_or(i64::MAX),
            pause_ms: i64::try_from(pause.as_millis()).unwrap_or(i64::MAX),
            created_by: by.to_owned(),
            created_ms: now_ms,
        };
        let mut turn = self.rolls.outbox.begin().await?;
        if let (_, Some(other)) = rollouts::take_turn(&mut turn.tx).await? {
            rollouts::set_waiting(&mut turn.tx, now_ms).await?;
            turn.commit().await?;
            return Err(goes_on(&other));
        }
        rollouts::set_waiting(&mut turn.tx, 0).await?;
        rollouts::insert(&mut turn.tx, &rollout, &hosts).await?;
        record(&mut turn.tx, &rollout, by, now_ms).await?;
        turn.commit().await?;
        self.rolls.roll.notify_one();
        Ok(rollout)
    }

    /// Keeps a policy and begins its rollout to these hosts, as a part of the caller's change.
    /// Returns the id of the rollout; `None`: another one goes on, or an administrator waits to
    /// begin one.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn bring(
        &self,
        tx: &mut Tx,
        policy: &Policy,
        hosts: BTreeSet<String>,
        confirm_within: Duration,
    ) -> Result<Option<String>, FleetError> {
        let now_ms = policy.saved_ms;
        let (waiting_ms, other) = rollouts::take_turn(tx).await?;
        if other.is_some() || is_waited_for(waiting_ms, now_ms) {
            return Ok(None);
        }
        let of_wave: Vec<Vec<String>> = vec![hosts.iter().cloned().collect()];
        let rollout = Rollout {
            id: new_id(now_ms),
            policy: policy.id.clone(),
            waves: vec![Wave::Hosts(hosts)],
            state: RolloutState::Running,
            why: String::new(),
            wave: 0,
            wave_since_ms: now_ms,
            confirm_s: i64::try_from(confirm_within.as_secs()).unwrap_or(i64::MAX),
            pause_ms: 0,
            created_by: policy.author.clone(),
            created_ms: now_ms,
        };
        rollouts::insert_policy(tx, policy).await?;
        rollouts::insert(tx, &rollout, &of_wave).await?;
        record(tx, &rollout, &policy.author, now_ms).await?;
        Ok(Some(rollout.id))
    }

    /// Says that the change of [`Self::bring`] was committed.
    pub(crate) fn brings(&self) {
        self.rolls.roll.notify_one();
    }

    /// Stops a rollout for now. Hosts that have the policy already still get their confirmation.
    ///
    /// # Errors
    /// It does not run.
    pub async fn halt_rollout(
        &self,
        by: &str,
        id: &str,
        now_ms: i64,
    ) -> Result<Rollout, FleetError> {
        self.change_rollout(by, id, now_ms, RolloutState::Halted, &[RolloutState::Running]).await
    }

    /// Goes on with a rollout that has halted: hosts that refused, degraded or stayed silent are
    /// tried again. Hosts that a newer one has reached are left out.
    ///
    /// # Errors
    /// It has not halted, another one goes on, or newer ones have left it nothing to bring.
    pub async fn resume_rollout(
        &self,
        by: &str,
        id: &str,
        now_ms: i64,
    ) -> Result<Rollout, FleetError> {
        self.change_rollout(by, id, now_ms, RolloutState::Running, &[RolloutState::Halted]).await
    }

    /// Ends a rollout. Hosts that have the policy keep it; others keep what they have.
    ///
    /// # Errors
    /// It has ended.
    pub async fn abort_rollout(
        &self,
        by: &str,
        id: &str,
        now_ms: i64,
    ) -> Result<Rollout, FleetError> {
        let from = [RolloutState::Halted, RolloutState::Running];
        self.change_rollout(by, id, now_ms, RolloutState::Aborted, &from).await
    }

    async fn change_rollout(
        &self,
        by: &str,
        id: &str,
        now_ms: i64,
        to: RolloutState,
        from: &[RolloutState],
    ) -> Result<Rollout, FleetError> {
        let mut turn = self.rolls.outbox.begin().await?;
        let mut rollout = rollouts::lock(&mut turn.tx, id)
            .await?
            .ok_or_else(|| FleetError::NotFound(format!("rollout {id:?}")))?;
        if !from.contains(&rollout.state) {
            let state = rollout.state.word();
            return Err(FleetError::Conflict(format!("rollout {id} is {state}")));
        }
        if to == RolloutState::Running {
            if let (_, Some(other)) = rollouts::take_turn(&mut turn.tx).await? {
                rollouts::set_waiting(&mut turn.tx, now_ms).await?;
                turn.commit().await?;
                return Err(goes_on(&other));
            }
            rollouts::set_waiting(&mut turn.tx, 0).await?;
        }
        rollout.state = to;
        rollout.why = format!("{by} said so");
        match to {
            RolloutState::Aborted => {
                let waiting = [HostState::Waiting, HostState::Signing];
                let skipped = HostState::Skipped;
                rollouts::move_hosts(&mut turn.tx, id, &waiting, skipped, now_ms).await?;
            }
            RolloutState::Done | RolloutState::Halted => {}
            RolloutState::Running => {
                let again = [HostState::Degraded, HostState::Refused, HostState::Silent];
                let waiting = HostState::Waiting;
                if rollouts::leave_overtaken(&mut turn.tx, id, now_ms).await? {
                    return Err(FleetError::Conflict(format!(
                        "rollout {id} has nothing left to bring: its hosts have the policy, or get a newer \
                         one by another rollout; abort it"
                    )));
                }
                rollouts::move_hosts(&mut turn.tx, id, &again, waiting, now_ms).await?;
            }
        }
        rollouts::update(&mut turn.tx, &rollout).await?;
        record(&mut turn.tx, &rollout, by, now_ms).await?;
        turn.commit().await?;
        self.rolls.roll.notify_one();
        Ok(rollout)
    }

    async fn policy(&self, id: &str) -> Result<Policy, FleetError> {
        let found = self.rolls.outbox.store().policy(id).await?;
        found.ok_or_else(|| FleetError::NotFound(format!("policy {id:?}")))
    }
}

/// Two rollouts would overtake each other at the same hosts.
fn goes_on(other: &str) -> FleetError {
    FleetError::Conflict(format!("rollout {other} goes on: wait for its end, or abort it"))
}

/// Whether what is no administrator's leaves the turn to one who could not begin a rollout.
pub(crate) fn is_waited_for(waiting_ms: i64, now_ms: i64) -> bool {
    // `now_ms` may be read a little before an administrator is refused. A moment far in the future
    // is that of a clock that was set back since: it counts for nothing.
    now_ms.abs_diff(waiting_ms) < YIELD_MS.unsigned_abs()
}

/// A policy that is not kept yet.
///
/// # Errors
/// It cannot be read, with line; or its author or justification is too long.
pub(crate) fn new_policy(
    by: &str,
    policy: &str,
    justification: &str,
    now_ms: i64,
) -> Result<Policy, FleetError> {
    check_policy(policy)?;
    text::check("the justification", justification, text::MAX_TEXT_BYTES)
        .and_then(|()| text::check("the author", by, text::MAX_NAME_BYTES))
        .map_err(FleetError::Invalid)?;
    Ok(Policy {
        id: new_id(now_ms),
        text: policy.to_owned(),
        author: by.to_owned(),
        justification: justification.to_owned(),
        saved_ms: now_ms,
    })
}

/// Checks a policy that is not kept yet.
///
/// # Errors
/// It cannot be read, with line; or a rollout decides something of it.
pub fn check_policy(text: &str) -> Result<(), FleetError> {
    let file = read(text)?;
    if file.version.is_none() && file.hosts.is_empty() {
        return Ok(());
    }
    let why = "a rollout decides `hosts` and `version`: leave them out of the policy";
    Err(FleetError::Invalid(why.into()))
}

/// Reads a policy.
pub(super) fn read(text: &str) -> Result<PolicyFile, FleetError> {
    text.parse().map_err(|why| FleetError::Invalid(format!("the policy cannot be used: {why}")))
}

/// What is signed for one host.
pub(super) fn signed_policy(
    policy: &Policy,
    file: &PolicyFile,
    host: &str,
    version: u64,
    now_ms: i64,
) -> v1::Policy {
    v1::Policy {
        hosts: vec![host.to_owned()],
        version,
        issued_at_ms: now_ms,
        // What is signed and not delivered must not come into force long after.
        not_after_ms: now_ms.saturating_add(24 * 3600 * 1000),
        ports: file.sections.iter().map(v1::PolicyPort::from).collect(),
        author: policy.author.clone(),
        justification: policy.justification.clone(),
    }
}

/// Records the state of a rollout.
pub(super) async fn record(
    tx: &mut Tx,
    rollout: &Rollout,
    by: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let waves: Vec<_> = rollout.waves.iter().map(Wave::brief).collect();
    let fields = json!({
        "rollout": rollout.id, "policy": rollout.policy, "state": rollout.state.word(),
        "why": rollout.why, "wave": rollout.wave, "waves": waves,
    });
    audit::append(tx, now_ms, &Record::new(Code::RolloutChanged, "", by, fields)).await?;
    Ok(())
}

fn new_id(now_ms: i64) -> String {
    let random = u128::from(super::backoff::random()) << 32 | u128::from(super::backoff::random());
    let random = random << 16 | u128::from(super::backoff::random());
    ulid::Ulid::from_parts(u64::try_from(now_ms).unwrap_or(0), random).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_has_the_turn_for_some_minutes_also_after_a_clock_was_set_back() {
        let now_ms = 1_803_888_000_000;
        for (waiting_ms, is_waited) in [
            (0, false),
            (now_ms, true),
            (now_ms - YIELD_MS + 1, true),
            (now_ms - YIELD_MS, false),
            (now_ms + 1, true),
            (now_ms + YIELD_MS, false),
            (i64::MAX, false),
        ] {
            assert_eq!(is_waited_for(waiting_ms, now_ms), is_waited, "{waiting_ms}");
        }
    }
}

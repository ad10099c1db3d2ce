//! Brings policies to hosts, wave by wave. All that was decided, signed and answered is in the store: after
//! a kill it goes on where it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use super::{FleetError, Rolls, rollouts, step};
use crate::{
    clock::now_ms,
    model::{
        host::Condition,
        rollout::{HostState, RolloutState},
    },
    store::{Rollout, RolloutHost, rollouts as stored},
};

/// Hosts that get a policy at the same time.
const AT_ONCE: usize = 16;
/// The longest time without a look.
const LOOK: Duration = Duration::from_secs(5);
/// How often the hosts of a wave are looked at in the pause after it.
const TICK: Duration = Duration::from_millis(500);

/// Rolls until the task is ended.
pub(super) async fn run(rolls: Arc<Rolls>) {
    let mut rolling = BTreeMap::new();
    let mut tasks = JoinSet::new();
    // Ended or halted, but a host may still wait for its confirmation: `None` before the first look.
    let mut unsettled: Option<BTreeSet<String>> = None;
    loop {
        let found = match &unsettled {
            Some(_) => Ok(()),
            None => rolls.outbox.store().unsettled_rollouts().await.map(|found| {
                unsettled = Some(found.into_iter().collect());
            }),
        };
        let running = rolls.outbox.store().running_rollouts().await;
        match found.and(running) {
            Ok(running) => {
                let running = running.into_iter().map(|rollout| rollout.id);
                let ids: BTreeSet<_> = running.chain(unsettled.iter().flatten().cloned()).collect();
                for id in ids {
                    if rolling.contains_key(&id) {
                        continue;
                    }
                    let (rolled, rolls) = (id.clone(), Arc::clone(&rolls));
                    let task = tasks.spawn(async move {
                        let result = roll(&rolls, &rolled).await;
                        if let Err(error) = &result {
                            tracing::warn!(%error, rollout = rolled, "a rollout stands still");
                            sleep(LOOK).await;
                        }
                        (rolled, result.is_ok())
                    });
                    rolling.insert(id, task.id());
                }
            }
            Err(error) => tracing::warn!(%error, "rollouts cannot be read"),
        }
        tokio::select! {
            Some(ended) = tasks.join_next() => match ended {
                Ok((id, settled)) => {
                    rolling.remove(&id);
                    let unsettled = unsettled.get_or_insert_default();
                    if settled { unsettled.remove(&id); } else { unsettled.insert(id); }
                }
                Err(error) => {
                    tracing::error!(%error, "a rollout stood still by a defect; it is tried again");
                    rolling.retain(|_, task| *task != error.id());
                    sleep(LOOK).await;
                }
            },
            () = rolls.roll.notified() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Goes on with a rollout until it does not run any more, and no host of it waits for a confirmation.
async fn roll(rolls: &Arc<Rolls>, id: &str) -> Result<(), FleetError> {
    let store = rolls.outbox.store();
    loop {
        let Some(rollout) = store.rollout(id).await? else { return Ok(()) };
        let mut hosts = store.wave_hosts(id, rollout.wave).await?;
        if rollout.state != RolloutState::Running {
            // It was killed while it waited for them.
            hosts.retain(|host| host.state == HostState::Pushed);
            return if hosts.is_empty() { Ok(()) } else { together(rolls, &rollout, hosts).await };
        }
        if let Some(bad) = hosts.iter().find(|host| host.state.halts()) {
            return halt(rolls, id, bad).await;
        }
        let todo: Vec<_> = hosts.iter().filter(|host| !host.state.is_over()).cloned().collect();
        if !todo.is_empty() {
            together(rolls, &rollout, todo).await?;
            continue;
        }
        if let Some(bad) = worse(rolls, &hosts).await? {
            return halt(rolls, id, &bad).await;
        }
        let last = hosts.iter().map(|host| host.changed_ms).max().unwrap_or(rollout.wave_since_ms);
        let is_last = usize::try_from(rollout.wave).unwrap_or(0) + 1 >= rollout.waves.len();
        if !hosts.is_empty() && !is_last && now_ms() < last.saturating_add(rollout.pause_ms) {
            sleep(TICK).await;
            continue;
        }
        next(rolls, id, is_last).await?;
    }
}

/// A policy for several hosts at the same time; no other begins once one of them has ended badly.
async fn together(
    rolls: &Arc<Rolls>,
    rollout: &Rollout,
    hosts: Vec<RolloutHost>,
) -> Result<(), FleetError> {
    let policy = rolls.outbox.store().policy(&rollout.policy).await?;
    let policy =
        policy.ok_or_else(|| FleetError::NotFound(format!("policy {}", rollout.policy)))?;
    let policy = Arc::new(policy);
    let mut waiting = hosts.into_iter();
    let mut tasks = JoinSet::new();
    let mut result = Ok(());
    loop {
        while result.is_ok() && tasks.len() < AT_ONCE {
            let Some(host) = waiting.next() else { break };
            let (rolls, rollout) = (Arc::clone(rolls), rollout.clone());
            let policy = Arc::clone(&policy);
            tasks.spawn(async move { step::run(&rolls, &rollout, &policy, host).await });
        }
        match tasks.join_next().await {
            None => return result,
            Some(Ok(Ok(HostState::Applied))) => {}
            // It halts, or was ended: the caller looks again.
            Some(Ok(Ok(_))) => waiting = Vec::new().into_iter(),
            Some(Ok(Err(error))) => result = Err(error),
            Some(Err(error)) => result = Err(FleetError::Conflict(format!("a defect: {error}"))),
        }
    }
}

/// A host of the wave that has become worse since it has the policy.
async fn worse(
    rolls: &Arc<Rolls>,
    hosts: &[RolloutHost],
) -> Result<Option<RolloutHost>, FleetError> {
    for host in hosts.iter().filter(|host| host.state == HostState::Applied) {
        let Some(known) = rolls.outbox.store().host(&host.host).await? else { continue };
        let observed = known.observed;
        let bad = matches!(observed.condition, Condition::Degraded | Condition::Unreachable);
        if bad && observed.since_ms >= host.changed_ms {
            let mut host = host.clone();
            host.state = match observed.condition {
                Condition::Unreachable => HostState::Silent,
                _ => HostState::Degraded,
            };
            host.word = observed.condition.word().to_owned();
            host.detail = if observed.trouble.is_empty() {
                observed.problems.join("; ")
            } else {
                observed.trouble
            };
            step::keep(rolls, &mut host).await?;
            return Ok(Some(host));
        }
    }
    Ok(None)
}

async fn halt(rolls: &Arc<Rolls>, id: &str, bad: &RolloutHost) -> Result<(), FleetError> {
    let mut turn = rolls.outbox.begin().await?;
    let Some(mut rollout) = stored::lock(&mut turn.tx, id).await? else { return Ok(()) };
    if rollout.state == RolloutState::Running {
        rollout.state = RolloutState::Halted;
        let state = bad.state.word();
        rollout.why = format!("{} is {state}: {}: {}", bad.host, bad.word, bad.detail);
        stored::update(&mut turn.tx, &rollout).await?;
        rollouts::record(&mut turn.tx, &rollout, "controller", now_ms()).await?;
    }
    Ok(turn.commit().await?)
}

async fn next(rolls: &Arc<Rolls>, id: &str, is_last: bool) -> Result<(), FleetError> {
    let mut turn = rolls.outbox.begin().await?;
    let Some(mut rollout) = stored::lock(&mut turn.tx, id).await? else { return Ok(()) };
    if rollout.state == RolloutState::Running {
        if is_last {
            rollout.state = RolloutState::Done;
            rollout.why.clear();
        } else {
            rollout.wave = rollout.wave.saturating_add(1);
            rollout.wave_since_ms = now_ms();
        }
        stored::update(&mut turn.tx, &rollout).await?;
        rollouts::record(&mut turn.tx, &rollout, "controller", now_ms()).await?;
    }
    Ok(turn.commit().await?)
}

//! Brings what policies of Defender say to the hosts, by signed policies and rollouts: one rollout
//! for all hosts that should protect the same.
//!
//! What is wanted is in the store: after a kill it goes on. An administrator who could not begin a
//! rollout because one of these went on has the next turn. A host that does not answer is asked
//! again; one that refuses fails, until its policy is put again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use jit_proto::{PolicyFile, PortSection};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    sections::{self, Merged},
    standing::NOTHING_TO_CHANGE,
};
use crate::{
    clock::now_ms,
    desk::Desk,
    fleet::{
        Fleet, FleetError,
        rollouts::{is_waited_for, new_policy},
    },
    store::{DefenderHost, Policy, defender},
};

/// How often the store is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a host waits for the confirmation before it returns to the policy before.
const CONFIRM: Duration = Duration::from_secs(60);
/// Hosts that are asked what they protect before a rollout begins.
const BATCH: u32 = 256;
/// Hosts that are asked at the same time.
const AT_ONCE: usize = 16;

/// Runs until the task is ended.
pub async fn run(desk: Desk, fleet: Fleet) -> &'static str {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut after) = (String::new(), String::new());
    loop {
        ticks.tick().await;
        match round(&desk, &fleet, &mut after).await {
            Ok(()) => last.clear(),
            Err(error) => {
                let error = error.to_string();
                if error != last {
                    tracing::warn!("policies of Defender do not come to hosts now: {error}");
                }
                last = error;
            }
        }
    }
}

/// Begins a rollout, if hosts after `after` wait for one, no other goes on, and no administrator
/// waits.
async fn round(desk: &Desk, fleet: &Fleet, after: &mut String) -> Result<(), FleetError> {
    let store = desk.store();
    store.defender_hosts_again(now_ms()).await?;
    let has_turn = !is_waited_for(store.rollout_waiting_ms().await?, now_ms())
        && store.running_rollouts().await?.is_empty();
    if !has_turn {
        return Ok(());
    }
    let waiting = store.defender_hosts_waiting(after, BATCH).await?;
    // Those that do not answer do not stand in the way of the ones after them.
    let next = match waiting.last() {
        Some(last) if waiting.len() == usize::try_from(BATCH).unwrap_or(usize::MAX) => {
            last.host.clone()
        }
        Some(_) | None => String::new(),
    };
    let mut groups: BTreeMap<(String, String, String), Vec<DefenderHost>> = BTreeMap::new();
    let mut silent = None;
    for (mut host, now) in asked(fleet, waiting).await {
        let now = match now {
            Ok(now) => now,
            Err(FleetError::NotFound(what)) => {
                host.trouble = format!("there is no {what}");
                keep(desk, &host).await?;
                continue;
            }
            Err(error) => {
                // It is asked again; the others do not wait for it.
                silent = Some(error);
                continue;
            }
        };
        let merged = merged(&host, &now)?;
        let text = sections::text(&merged.sections);
        host.brought = sections::text(&merged.brought);
        host.had = sections::text(&merged.had);
        host.replaced = sections::text(&merged.replaced);
        if text == sections::text(&now) {
            host.rollout = NOTHING_TO_CHANGE.to_owned();
            keep(desk, &host).await?;
            continue;
        }
        let group = (text, host.author.clone(), host.why.clone());
        groups.entry(group).or_default().push(host);
    }
    match groups.pop_first() {
        Some(((text, author, why), hosts)) => match new_policy(&author, &text, &why, now_ms()) {
            Ok(policy) => begin(desk, fleet, &policy, hosts).await,
            Err(error) => never(desk, hosts, &error.to_string()).await,
        },
        None => {
            *after = next;
            silent.map_or(Ok(()), Err)
        }
    }
}

/// What each of these hosts protects now.
async fn asked(
    fleet: &Fleet,
    hosts: Vec<DefenderHost>,
) -> Vec<(DefenderHost, Result<Vec<PortSection>, FleetError>)> {
    let mut answers = Vec::with_capacity(hosts.len());
    for some in hosts.chunks(AT_ONCE) {
        answers.extend(join_all(some.iter().map(|host| fleet.protected(&host.host))).await);
    }
    hosts.into_iter().zip(answers).collect()
}

/// The rollout and what stood at its hosts are one change: after a kill, and beside another process
/// that does the same, nothing of Defender's is taken for a host's own.
async fn begin(
    desk: &Desk,
    fleet: &Fleet,
    policy: &Policy,
    hosts: Vec<DefenderHost>,
) -> Result<(), FleetError> {
    let ids: BTreeSet<_> = hosts.iter().map(|host| host.host.clone()).collect();
    let mut tx = desk.store().begin().await?;
    let Some(rollout) = fleet.bring(&mut tx, policy, ids, CONFIRM).await? else { return Ok(()) };
    for host in hosts {
        let host = DefenderHost { rollout: rollout.clone(), ..host };
        if !defender::bring(&mut tx, &host).await? {
            // Something else is wanted there by now: all of it is looked at again.
            return Ok(());
        }
    }
    tx.commit().await?;
    desk.changed();
    fleet.brings();
    Ok(())
}

/// What they have does not change.
async fn never(desk: &Desk, hosts: Vec<DefenderHost>, why: &str) -> Result<(), FleetError> {
    for host in hosts {
        let stored = desk.store().defender_hosts(std::slice::from_ref(&host.host)).await?;
        let Some((stored, _)) = stored.into_values().next() else { continue };
        if stored.revision == host.revision {
            keep(desk, &DefenderHost { trouble: why.to_owned(), ..stored }).await?;
        }
    }
    Ok(())
}

async fn keep(desk: &Desk, host: &DefenderHost) -> Result<(), FleetError> {
    let mut tx = desk.store().begin().await?;
    defender::bring(&mut tx, host).await?;
    tx.commit().await?;
    Ok(())
}

/// What a host should protect.
fn merged(host: &DefenderHost, now: &[PortSection]) -> Result<Merged, FleetError> {
    let corrupt = |why: String| FleetError::Invalid(format!("what {} had: {why}", host.host));
    let read = |text: &str| text.parse::<PolicyFile>().map_err(corrupt);
    let known = [read(&host.brought)?.sections, read(&host.had)?.sections].concat();
    Ok(sections::merged(now, &known, &read(&host.replaced)?.sections, &host.wanted))
}

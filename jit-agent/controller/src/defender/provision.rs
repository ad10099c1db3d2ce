//! Brings what policies of Defender say to the hosts, by signed policies and rollouts: one rollout for
//! all hosts that should protect the same.
//!
//! What is wanted is in the store: after a kill it goes on. A host that does not answer is asked again;
//! one that refuses fails, until its policy is put again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jit_proto::{PolicyFile, PortSection};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    sections::{self, Merged},
    standing::NOTHING_TO_CHANGE,
};
use crate::{
    clock::now_ms,
    desk::Desk,
    fleet::{Fleet, FleetError, rollouts::Course},
    model::rollout::Wave,
    store::{DefenderHost, defender},
};

/// How often the store is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a host waits for the confirmation before it returns to the policy before.
const CONFIRM: Duration = Duration::from_secs(60);

/// Runs until the task is ended.
pub async fn run(desk: Desk, fleet: Fleet) -> &'static str {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        match round(&desk, &fleet).await {
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

/// Begins a rollout, if hosts wait for one and no other goes on.
async fn round(desk: &Desk, fleet: &Fleet) -> Result<(), FleetError> {
    let store = desk.store();
    store.defender_hosts_again().await?;
    let waiting = store.defender_hosts_waiting().await?;
    if waiting.is_empty() || !store.running_rollouts().await?.is_empty() {
        return Ok(());
    }
    let mut groups: BTreeMap<(String, String, String), Vec<DefenderHost>> = BTreeMap::new();
    let mut silent = None;
    for mut host in waiting {
        let now = match fleet.protected(&host.host).await {
            Ok(now) => now,
            Err(FleetError::NotFound(what)) => {
                host.trouble = format!("there is no {what}");
                begun(desk, &[host]).await?;
                continue;
            }
            Err(error) => {
                // It is asked again; the others do not wait for it.
                silent = Some(error);
                continue;
            }
        };
        let merged = merged(&host, &now)?;
        host.brought = sections::text(&merged.brought);
        host.had = sections::text(&merged.had);
        host.replaced = sections::text(&merged.replaced);
        let text = sections::text(&merged.sections);
        if text == sections::text(&now) {
            host.rollout = NOTHING_TO_CHANGE.to_owned();
            if manage(desk, &host).await? {
                begun(desk, &[host]).await?;
            }
            continue;
        }
        let group = (text, host.author.clone(), host.why.clone());
        groups.entry(group).or_default().push(host);
    }
    match groups.pop_first() {
        Some(((text, author, why), hosts)) => begin(desk, fleet, &text, &author, &why, hosts).await,
        None => silent.map_or(Ok(()), Err),
    }
}

async fn begin(
    desk: &Desk,
    fleet: &Fleet,
    text: &str,
    author: &str,
    why: &str,
    hosts: Vec<DefenderHost>,
) -> Result<(), FleetError> {
    // First what stood there: a kill after the rollout began must not take Defender's for the host's own.
    let mut still = Vec::new();
    for host in hosts {
        if manage(desk, &host).await? {
            still.push(host);
        }
    }
    let ids: BTreeSet<_> = still.iter().map(|host| host.host.clone()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let begun_as = async {
        let policy = fleet.save_policy(author, text, why, now_ms()).await?;
        let course = Course {
            policy: policy.id,
            waves: vec![Wave::Hosts(ids)],
            confirm_within: CONFIRM,
            pause: Duration::ZERO,
        };
        fleet.begin_rollout(author, course, now_ms()).await
    };
    match begun_as.await {
        Ok(rollout) => still.iter_mut().for_each(|host| host.rollout.clone_from(&rollout.id)),
        Err(FleetError::Invalid(why)) => {
            still.iter_mut().for_each(|host| host.trouble.clone_from(&why));
        }
        Err(error) => return Err(error),
    }
    begun(desk, &still).await
}

/// What a host should protect.
fn merged(host: &DefenderHost, now: &[PortSection]) -> Result<Merged, FleetError> {
    let corrupt = |why: String| FleetError::Invalid(format!("what {} had: {why}", host.host));
    let read = |text: &str| text.parse::<PolicyFile>().map_err(corrupt);
    let known = [read(&host.brought)?.sections, read(&host.had)?.sections].concat();
    Ok(sections::merged(now, &known, &read(&host.replaced)?.sections, &host.wanted))
}

async fn manage(desk: &Desk, host: &DefenderHost) -> Result<bool, FleetError> {
    let mut tx = desk.store().begin().await?;
    let is_same = defender::manage(&mut tx, host).await?;
    tx.commit().await?;
    Ok(is_same)
}

async fn begun(desk: &Desk, hosts: &[DefenderHost]) -> Result<(), FleetError> {
    let mut tx = desk.store().begin().await?;
    for host in hosts {
        defender::begun(&mut tx, host).await?;
    }
    tx.commit().await?;
    Ok(())
}

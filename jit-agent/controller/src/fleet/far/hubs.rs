//! Which hubs are there: each says so every few seconds. Hosts of one that says nothing any more are shown as
//! not connected, until another hub, or the same one, reports them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jit_proto::printable::clean;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{
    super::{FleetError, observe, scribe::Note},
    Office, checkpoints,
    doubles::Doubles,
    place::hub_of,
};
use crate::{
    bus::{Beat, Sign},
    clock::now_ms,
    store::StoreError,
};

/// A hub is silent when it has said nothing for this time: it speaks every five seconds.
const SILENT: Duration = Duration::from_secs(30);
/// Between looks.
const LOOK: Duration = Duration::from_secs(2);
/// Between attempts to listen.
const AGAIN: Duration = Duration::from_secs(1);
/// The most hubs that are known: a broken one can invent names.
const MOST: usize = 1000;
/// Hosts of one page.
const PAGE: u32 = 500;

/// The hubs that are known.
#[derive(Default)]
pub(super) struct Hubs(Mutex<BTreeMap<String, Hub>>);

struct Hub {
    at_ms: i64,
    heard: Instant,
    /// Its hosts are shown as not connected.
    silent: bool,
}

impl Hubs {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Hub>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has reported a host, or there is a host that it has reported before.
    pub(super) fn expect(&self, hub: &str) {
        let mut all = self.all();
        if all.len() < MOST && !hub.is_empty() {
            let new = || Hub { at_ms: 0, heard: Instant::now(), silent: false };
            all.entry(hub.to_owned()).or_insert_with(new);
        }
    }

    fn hear(&self, beat: &Beat, now: Instant) {
        self.expect(&beat.hub);
        let mut all = self.all();
        let Some(hub) = all.get_mut(&beat.hub) else { return };
        // A message that comes once more is no sign of life.
        if beat.at_ms <= hub.at_ms {
            return;
        }
        if hub.silent {
            tracing::info!(hub = beat.hub, hosts = beat.hosts, "a hub is there again");
        }
        *hub = Hub { at_ms: beat.at_ms, heard: now, silent: false };
        if beat.ends {
            // It has said of each host that it left.
            all.remove(&beat.hub);
        }
    }

    /// While the bus is away nobody is silent.
    fn all_are_there(&self, now: Instant) {
        self.all().values_mut().for_each(|hub| hub.heard = now);
    }

    /// Those that have become silent.
    fn silent(&self, now: Instant) -> Vec<String> {
        let mut all = self.all();
        let silent = all
            .iter_mut()
            .filter(|(_, hub)| !hub.silent && now.saturating_duration_since(hub.heard) > SILENT);
        silent
            .map(|(name, hub)| {
                hub.silent = true;
                name.clone()
            })
            .collect()
    }
}

/// Listens to hubs, and to what they say of hosts, until the task is ended.
pub(super) async fn listen(office: Arc<Office>) {
    loop {
        match office.bus.signs().await {
            Ok(mut signs) => {
                while let Some(sign) = signs.next().await {
                    match sign {
                        Sign::Hub(beat) => office.hubs.hear(&beat, Instant::now()),
                        Sign::Compared(said) => {
                            let office = Arc::clone(&office);
                            tokio::spawn(async move {
                                if let Err(error) = checkpoints::compared(&office, &said).await {
                                    tracing::warn!(%error, "what a host says of a checkpoint is lost");
                                }
                            });
                        }
                        Sign::Here { question, presence } => {
                            let said = Doubles::answered(&office, &question, &presence).await;
                            if let Err(error) = said {
                                tracing::warn!(%error, "what a hub says of a host is not kept");
                            }
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "hubs are not heard"),
        }
        sleep(AGAIN).await;
    }
}

/// Shows hosts of silent hubs as not connected, until the task is ended.
pub(super) async fn run(office: Arc<Office>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = false;
    loop {
        ticks.tick().await;
        if !known {
            match expected(&office).await {
                Ok(()) => known = true,
                Err(error) => tracing::warn!(%error, "the hosts of hubs cannot be read"),
            }
        }
        if !office.bus.is_connected() {
            office.hubs.all_are_there(Instant::now());
        }
        for hub in office.hubs.silent(Instant::now()) {
            tracing::warn!(hub, "a hub is silent; its hosts are shown as not connected");
            if let Err(error) = lost(&office, &hub).await {
                tracing::warn!(%error, hub, "its hosts cannot be shown as not connected");
                if let Some(hub) = office.hubs.all().get_mut(&hub) {
                    hub.silent = false;
                }
            }
        }
    }
}

/// Hubs that hosts were connected to when this process began.
async fn expected(office: &Office) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let page = office.outbox.store().hosts(&after, PAGE, None).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.host.id);
        for host in &page {
            office.hubs.expect(hub_of(&host.observed.uplink).unwrap_or_default());
        }
    }
}

/// Nothing is known any more of the hosts of this hub.
async fn lost(office: &Office, hub: &str) -> Result<(), FleetError> {
    let mut after = String::new();
    let why = format!("its hub {} is silent", clean(hub, 64));
    loop {
        let page = office.outbox.store().hosts(&after, PAGE, None).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.host.id);
        for host in page {
            if hub_of(&host.observed.uplink) != Some(hub) {
                continue;
            }
            let observed = observe::unreachable(&host.observed, &why, now_ms());
            let note = Note { host: host.host.id, observed: Some(observed), ..Note::default() };
            let gone = |_| FleetError::Conflict("the fleet has ended".into());
            office.notes.send(note).await.map_err(gone)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(at_ms: i64, ends: bool) -> Beat {
        Beat { hub: "a".into(), at_ms, hosts: 1, ends }
    }

    #[test]
    fn a_hub_is_silent_once_and_speaks_again() {
        let (hubs, now) = (Hubs::default(), Instant::now());
        hubs.hear(&beat(1, false), now);
        assert_eq!(hubs.silent(now + SILENT), [""; 0]);
        // The same message again is no sign of life.
        hubs.hear(&beat(1, false), now + SILENT);
        let late = now + SILENT + LOOK;
        assert_eq!(hubs.silent(late), ["a"]);
        assert_eq!(hubs.silent(late), [""; 0], "once");
        hubs.hear(&beat(2, false), late);
        assert_eq!(hubs.silent(late + SILENT), [""; 0]);
        assert_eq!(hubs.silent(late + SILENT + LOOK), ["a"]);
        hubs.hear(&beat(3, true), late);
        assert_eq!(hubs.silent(late + 2 * SILENT), [""; 0], "it has ended in order");
    }

    #[test]
    fn invented_names_have_a_bound() {
        let hubs = Hubs::default();
        for number in 0..2 * MOST {
            hubs.expect(&number.to_string());
        }
        assert_eq!(hubs.all().len(), MOST);
    }
}

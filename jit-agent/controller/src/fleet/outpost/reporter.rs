//! Reports what hosts have answered: several at the same time, each until the bus has acknowledged it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use crate::{
    bus::{Bus, BusError, Report},
    fleet::backoff::{Backoff, random},
};

/// Reports that wait here. More: hosts wait.
const WAITING: usize = 4096;
/// Reports that are under way at the same time: while the servers have no leader, none is acknowledged, and
/// those that come after must go out all the same.
const AT_ONCE: usize = 1024;
const AGAIN: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// Where reports go.
pub(super) struct Reports {
    sender: mpsc::Sender<Waiting>,
    count: Arc<AtomicUsize>,
}

/// A report that counts until it is acknowledged.
pub(super) struct Waiting {
    report: Report,
    count: Arc<AtomicUsize>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reports {
    /// With the other end, for [`run`].
    pub(super) fn open() -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, waiting) = mpsc::channel(WAITING);
        (Self { sender, count: Arc::default() }, waiting)
    }

    /// Reports. It waits while there is no room: then nothing is delivered either.
    pub(super) async fn add(&self, report: Report) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { report, count: Arc::clone(&self.count) };
        // The other end is there as long as the hub.
        let _reported = self.sender.send(waiting).await;
    }

    /// Number of reports that the bus has not acknowledged.
    pub(super) fn waiting(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Reports until nobody is left who could.
pub(super) async fn run(
    mut bus: watch::Receiver<Option<Bus>>,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    let Ok(bus) = bus.wait_for(Option::is_some).await.map(|bus| bus.clone()) else { return };
    let Some(bus) = bus else { return };
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() >= AT_ONCE {
            ended(under_way.join_next().await);
        }
        let Some(report) = waiting.recv().await else { break };
        under_way.spawn(one(bus.clone(), report));
        while let Some(done) = under_way.try_join_next() {
            ended(Some(done));
        }
    }
    while let Some(done) = under_way.join_next().await {
        ended(Some(done));
    }
}

fn ended(done: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = done {
        tracing::error!(%error, "a report ended by a defect; the outbox asks again");
    }
}

async fn one(bus: Bus, waiting: Waiting) {
    for failed in 1_u32.. {
        match bus.report(&waiting.report).await {
            Ok(()) => return,
            Err(error @ BusError::TooLarge { .. }) => {
                tracing::warn!(%error, "a report is left out");
                return;
            }
            Err(error) => {
                if failed == 1 {
                    tracing::info!(%error, "a report is tried again");
                }
                sleep(AGAIN.pause(failed, random())).await;
            }
        }
    }
}

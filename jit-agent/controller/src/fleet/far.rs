//! Hosts at hubs that are other processes: what they must hear goes to the bus, and what the hubs report is
//! kept. The outbox in the store stays the truth: a row is done when the host's answer has come, and goes to
//! the bus again and again until then.

pub(super) mod calls;
mod checkpoints;
mod closings;
mod doubles;
mod hubs;
mod letters;
mod place;
mod renewals;
mod reports;

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet, time::sleep};

pub use self::checkpoints::Freshness;
use super::{
    Rolls,
    backoff::{Backoff, random},
    outbox::{self, Answers, Outbox},
    reach::Reach,
    roller,
    scribe::{self, Note},
};
use crate::{
    bus::{self, Bus, BusError},
    desk::Desk,
    signer::Signer,
};

/// Between attempts to connect to the bus for the first time.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) };

/// What the parts share.
struct Office {
    outbox: Outbox,
    notes: mpsc::Sender<Note>,
    bus: Bus,
    signer: Signer,
    closings: closings::Closings,
    published: letters::Published,
    hubs: hubs::Hubs,
    doubles: doubles::Doubles,
    checkpoints: checkpoints::Checkpoints,
}

/// Whether the files of the bus can be used.
///
/// # Errors
/// One cannot.
pub fn check_files(settings: &bus::Settings) -> Result<(), BusError> {
    Bus::check_files(settings)
}

/// Publishes what hosts must hear, and keeps what is reported of them, until the task is ended. It returns
/// only by a defect. While the bus is away, everything waits in the store. With `freshness` hosts hear of
/// checkpoints.
pub(super) async fn run(
    desk: Desk,
    signer: Signer,
    settings: bus::Settings,
    freshness: Option<Freshness>,
    rolls: Arc<Rolls>,
    answers: Answers,
) {
    let bus = connect(&settings).await;
    let (notes, noted) = scribe::open();
    let outbox = rolls.outbox.clone();
    let (closings, closed) = closings::Closings::open();
    let office = Arc::new(Office {
        outbox: outbox.clone(),
        notes,
        bus,
        signer,
        closings,
        published: letters::Published::default(),
        hubs: hubs::Hubs::default(),
        doubles: doubles::Doubles::default(),
        checkpoints: checkpoints::Checkpoints::default(),
    });
    let mut parts = JoinSet::new();
    parts.spawn(outbox::run(desk.clone(), answers));
    parts.spawn(closings::write(desk, closed));
    parts.spawn(closings::run(Arc::clone(&office)));
    parts.spawn(scribe::run(outbox, noted));
    parts.spawn(hubs::listen(Arc::clone(&office)));
    parts.spawn(hubs::run(Arc::clone(&office)));
    if let Some(freshness) = freshness {
        parts.spawn(checkpoints::bring(Arc::clone(&office)));
        parts.spawn(checkpoints::make(Arc::clone(&office), freshness));
    }
    if let Reach::Bus(calls) = &rolls.reach {
        parts.spawn(calls::listen(Arc::clone(calls), office.bus.clone()));
        parts.spawn(renewals::run(office.outbox.clone(), Arc::clone(calls)));
    }
    parts.spawn(roller::run(rolls));
    parts.spawn(letters::run(Arc::clone(&office)));
    parts.spawn(reports::run(office));
    let ended = parts.join_next().await;
    tracing::error!(?ended, "a part of the bus has ended; hosts at hubs get nothing any more");
}

async fn connect(settings: &bus::Settings) -> Bus {
    let mut failed = 0_u32;
    loop {
        match Bus::of_store(settings.clone()).await {
            Ok(bus) => {
                tracing::info!("the bus lets this controller in");
                return bus;
            }
            Err(error) => {
                failed = failed.saturating_add(1);
                tracing::warn!("the bus is tried again, and everything for hosts waits: {error}");
                sleep(AGAIN.pause(failed, random())).await;
            }
        }
    }
}

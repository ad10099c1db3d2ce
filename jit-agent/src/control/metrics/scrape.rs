//! Makes the pages, one after the other and at most one in a second: however many scrape, the gate is
//! asked no more often.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use prost::bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::{
    control::{
        metrics::{families::Scrape, page},
        server::Service,
    },
    disk::sizes::Sizes,
    system::log,
};

/// How long a page serves all who ask.
const FRESH: Duration = Duration::from_secs(1);
/// The longest wait for the gate, and for the disk.
const GATE: Duration = Duration::from_secs(2);
const DISK: Duration = Duration::from_millis(200);

/// A page, or why there is none.
pub(super) type Made = Result<Bytes, &'static str>;
/// Takes a page.
pub(super) type Asked = oneshot::Sender<Made>;

/// Makes the pages that are asked for, until nobody can ask any more.
pub(super) async fn make(service: Service, mut asked: mpsc::Receiver<Asked>) {
    let mut sizes = Reading::default();
    let mut last: Option<(Instant, Made)> = None;
    while let Some(asked) = asked.recv().await {
        let fresh = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        let made = match fresh {
            Some((_, made)) => made.clone(),
            None => {
                let made = page(&service, &mut sizes).await;
                last = Some((Instant::now(), made.clone()));
                made
            }
        };
        // Whoever asked may be gone.
        let _gone = asked.send(made);
    }
}

async fn page(service: &Service, sizes: &mut Reading) -> Made {
    let measured = timeout(GATE, service.measure()).await;
    let measured = measured.map_err(|_| "the gate does not answer within 2 s\n")?;
    let measured = measured.map_err(|_| "the gate's task has ended\n")?;
    let sizes = sizes.of(&measured.state).await;
    let scrape = Scrape { measured, sizes, log: log::state() };
    page::text(scrape).map(Bytes::from).map_err(|_| "a value cannot be written\n")
}

/// The sizes of the files. A disk that hangs holds one thread and no scrape: the page is then without
/// them.
#[derive(Debug, Default)]
struct Reading(Option<JoinHandle<Sizes>>);

impl Reading {
    async fn of(&mut self, state: &Path) -> Sizes {
        let Self(reading) = self;
        let state = state.to_owned();
        let running = reading.get_or_insert_with(|| spawn_blocking(move || Sizes::read(&state)));
        match timeout(DISK, running).await {
            Ok(read) => {
                *reading = None;
                read.unwrap_or_default()
            }
            Err(_) => Sizes::default(),
        }
    }
}

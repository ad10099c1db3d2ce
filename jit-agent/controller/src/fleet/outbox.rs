//! What hosts have answered, and what followers saw. Answers that come while others are being written are
//! written together: one sync of the disk for all of them.

use tokio::sync::{
    mpsc::{Receiver, Sender, channel},
    oneshot,
};

use super::FleetError;
use crate::{
    clock::now_ms,
    desk::{Changes, Desk, DeskError, Heard, What},
    model::Answer,
    store::{Delivery, Store, StoreError, Tx},
};

/// The most hosts of one transaction.
const BATCH: usize = 256;

/// Where answers of hosts go.
#[derive(Clone)]
pub(super) struct Outbox {
    desk: Desk,
    heard: Sender<Waiting>,
}

/// What is to be written, for [`run`].
pub(super) struct Answers(Receiver<Waiting>);

/// What was heard, and who waits until it is written.
struct Waiting {
    heard: Vec<Heard>,
    written: oneshot::Sender<Result<(), DeskError>>,
}

impl Outbox {
    /// With the other end, for [`run`].
    pub(super) fn open(desk: Desk) -> (Self, Answers) {
        let (heard, waiting) = channel(BATCH);
        (Self { desk, heard }, Answers(waiting))
    }

    pub(super) fn store(&self) -> &Store {
        self.desk.store()
    }

    /// Notices that something was committed.
    pub(super) fn changes(&self) -> Changes {
        self.desk.changes()
    }

    /// Keeps what hosts answered, or that they did not. Returns when it is on disk.
    pub(super) async fn hear(&self, heard: Vec<Heard>) -> Result<(), FleetError> {
        if heard.is_empty() {
            return Ok(());
        }
        let (written, wait) = oneshot::channel();
        let gone = || FleetError::Conflict("the fleet has ended".into());
        self.heard.send(Waiting { heard, written }).await.map_err(|_| gone())?;
        Ok(wait.await.map_err(|_| gone())??)
    }

    /// Begins a change of the fleet's own.
    pub(super) async fn begin(&self) -> Result<Turn, StoreError> {
        Ok(Turn { tx: self.store().begin().await?, desk: self.desk.clone() })
    }
}

/// What a host answered.
pub(super) fn answered(of: &Delivery, answer: Answer, word: &str, detail: &str) -> Heard {
    let what = What::Answered { answer, word: word.to_owned(), detail: detail.to_owned() };
    Heard { of: of.clone(), what }
}

/// Writes answers until nobody is left who could have one.
pub(super) async fn run(desk: Desk, Answers(mut waiting): Answers) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let heard: Vec<_> = batch.iter().flat_map(|one| &one.heard).cloned().collect();
        let together = desk.hear(&heard, now_ms()).await;
        for one in batch.drain(..) {
            let result = match &together {
                Ok(()) => Ok(()),
                // One that cannot be written must not hold up the others.
                Err(_) => desk.hear(&one.heard, now_ms()).await,
            };
            // Who asked may have been ended meanwhile.
            let _gone = one.written.send(result);
        }
    }
}

/// A transaction. Dropped without a commit, it changes nothing.
pub(super) struct Turn {
    pub(super) tx: Tx,
    desk: Desk,
}

impl Turn {
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        self.desk.changed();
        Ok(())
    }
}

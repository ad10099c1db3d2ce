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

/// The most answers of one transaction.
const BATCH: usize = 256;

/// Where answers of hosts go.
#[derive(Clone)]
pub(super) struct Outbox {
    desk: Desk,
    heard: Sender<Waiting>,
}

/// Something that was heard, and who waits until it is written.
pub(super) struct Waiting {
    heard: Heard,
    written: oneshot::Sender<Result<(), DeskError>>,
}

impl Outbox {
    /// With the other end, for [`run`].
    pub(super) fn open(desk: Desk) -> (Self, Receiver<Waiting>) {
        let (heard, waiting) = channel(BATCH);
        (Self { desk, heard }, waiting)
    }

    pub(super) fn store(&self) -> &Store {
        self.desk.store()
    }

    /// Notices that something was committed.
    pub(super) fn changes(&self) -> Changes {
        self.desk.changes()
    }

    /// A host has answered. Returns when that is on disk.
    pub(super) async fn answered(
        &self,
        of: &Delivery,
        answer: Answer,
        word: &str,
        detail: &str,
    ) -> Result<(), FleetError> {
        let what = What::Answered { answer, word: word.to_owned(), detail: detail.to_owned() };
        self.hear(Heard { of: of.clone(), what }).await
    }

    /// A host has not answered.
    pub(super) async fn failed(
        &self,
        of: &Delivery,
        trouble: &str,
        next_ms: i64,
    ) -> Result<(), FleetError> {
        let what = What::Failed { trouble: trouble.to_owned(), next_ms };
        self.hear(Heard { of: of.clone(), what }).await
    }

    async fn hear(&self, heard: Heard) -> Result<(), FleetError> {
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

/// Writes answers until nobody is left who could have one.
pub(super) async fn run(desk: Desk, mut waiting: Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let (heard, written): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|one| (one.heard, one.written)).unzip();
        let together = desk.hear(&heard, now_ms()).await;
        for (number, written) in written.into_iter().enumerate() {
            let result = match (&together, heard.get(number)) {
                // One that cannot be written must not hold up the others.
                (Err(_), Some(one)) => desk.hear(std::slice::from_ref(one), now_ms()).await,
                _ => Ok(()),
            };
            // Who asked may have been ended meanwhile.
            let _gone = written.send(result);
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

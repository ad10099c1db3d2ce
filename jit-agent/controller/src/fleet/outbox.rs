//! What hosts have answered, and what followers saw. One writer at a time: SQLite has no more, and who
//! waits here waits in order.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    desk::{Changes, Desk, DeskError},
    model::Answer,
    store::{Delivery, Store, StoreError, Tx},
};

/// Where answers of hosts go.
#[derive(Clone)]
pub(super) struct Outbox {
    desk: Desk,
    writing: Arc<Mutex<()>>,
}

impl Outbox {
    pub(super) fn new(desk: Desk) -> Self {
        Self { desk, writing: Arc::default() }
    }

    pub(super) fn store(&self) -> &Store {
        self.desk.store()
    }

    /// Notices that something was committed.
    pub(super) fn changes(&self) -> Changes {
        self.desk.changes()
    }

    /// A host has answered.
    pub(super) async fn answered(
        &self,
        of: &Delivery,
        answer: Answer,
        word: &str,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), DeskError> {
        let _turn = self.writing.lock().await;
        self.desk.answered(of, answer, word, detail, now_ms).await
    }

    /// A host has not answered.
    pub(super) async fn failed(
        &self,
        of: &Delivery,
        trouble: &str,
        now_ms: i64,
        next_ms: i64,
    ) -> Result<(), DeskError> {
        let _turn = self.writing.lock().await;
        self.desk.failed(of, trouble, now_ms, next_ms).await
    }

    /// Begins a change of the fleet's own.
    pub(super) async fn begin(&self) -> Result<Turn, StoreError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let tx = self.store().begin().await?;
        Ok(Turn { tx, desk: self.desk.clone(), _turn: turn })
    }
}

/// A transaction. Dropped without a commit, it changes nothing.
pub(super) struct Turn {
    pub(super) tx: Tx,
    desk: Desk,
    _turn: OwnedMutexGuard<()>,
}

impl Turn {
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        self.desk.changed();
        Ok(())
    }
}

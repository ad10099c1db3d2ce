//! What hosts have answered, for the request. One writer at a time: SQLite has no more, and who waits here
//! waits in order.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::{
    model::Answer,
    store::{Delivery, Store, StoreError, Tx, deliveries},
};

/// Where answers of hosts go.
#[derive(Clone)]
pub(super) struct Outbox {
    store: Store,
    writing: Arc<Mutex<()>>,
    changes: watch::Sender<u64>,
}

impl Outbox {
    pub(super) fn new(store: Store) -> Self {
        Self { store, writing: Arc::default(), changes: watch::channel(0).0 }
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    /// Notices that something was committed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A host has answered.
    pub(super) async fn answered(
        &self,
        of: &Delivery,
        answer: Answer,
        word: &str,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut turn = self.begin().await?;
        deliveries::answered(&mut turn.tx, of, answer, word, detail, now_ms).await?;
        turn.commit().await
    }

    /// A host has not answered.
    pub(super) async fn failed(
        &self,
        of: &Delivery,
        trouble: &str,
        now_ms: i64,
        next_ms: i64,
    ) -> Result<(), StoreError> {
        let mut turn = self.begin().await?;
        deliveries::failed(&mut turn.tx, of, trouble, now_ms, next_ms).await?;
        turn.commit().await
    }

    /// Begins a change of the fleet's own.
    pub(super) async fn begin(&self) -> Result<Turn, StoreError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let tx = self.store.begin().await?;
        Ok(Turn { tx, changes: self.changes.clone(), _turn: turn })
    }
}

/// A transaction. Dropped without a commit, it changes nothing.
pub(super) struct Turn {
    pub(super) tx: Tx,
    changes: watch::Sender<u64>,
    _turn: OwnedMutexGuard<()>,
}

impl Turn {
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}

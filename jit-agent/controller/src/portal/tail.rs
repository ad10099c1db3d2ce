//! The end of the audit, read once for all open pages: a change costs one question to the database,
//! however many pages are open.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::store::{Store, StoreError};

/// Records that are kept.
const KEPT: usize = 2000;
/// Records that are read at once.
const CHUNK: u32 = 500;
/// Another process of the controller may have written something: it is read again after this time.
const OLDEST: Duration = Duration::from_secs(1);

/// The last records that are about a request. Clones are of the same.
#[derive(Clone, Default)]
pub(super) struct Tail(Arc<Mutex<Last>>);

#[derive(Default)]
struct Last {
    /// Number and request of the last records, the oldest first.
    records: VecDeque<(i64, String)>,
    /// All records after this one are known, up to `tip`.
    from: i64,
    tip: i64,
    /// The state that was read: the count of changes, and when. `None`: nothing was read.
    read: Option<(u64, Instant)>,
}

/// What has happened since a record.
pub(super) struct Since {
    /// The last record that there is.
    pub(super) tip: i64,
    /// Which requests records are about; `None`: it was too long ago to say.
    pub(super) requests: Option<Vec<String>>,
}

impl Tail {
    /// What has happened after the record `after`. `count` is the count of changes that the caller
    /// has seen.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn since(
        &self,
        store: &Store,
        after: i64,
        count: u64,
    ) -> Result<Since, StoreError> {
        let mut last = self.0.lock().await;
        let is_new = last.read.is_some_and(|(read, at)| read == count && at.elapsed() < OLDEST);
        if !is_new {
            last.read(store, count).await?;
        }
        let requests = (after >= last.from).then(|| {
            let newer = last.records.iter().rev().take_while(|(seq, _)| *seq > after);
            let mut requests: Vec<_> = newer.map(|(_, request)| request.clone()).collect();
            requests.sort_unstable();
            requests.dedup();
            requests
        });
        Ok(Since { tip: last.tip, requests })
    }
}

impl Last {
    async fn read(&mut self, store: &Store, count: u64) -> Result<(), StoreError> {
        if self.read.is_none() {
            let (tip, _) = store.audit_tip().await?;
            self.from = tip.saturating_sub(i64::from(CHUNK)).max(0);
            self.tip = self.from;
        }
        let began = Instant::now();
        loop {
            let lines = store.audit_after(self.tip, CHUNK).await?;
            let is_last = lines.len() < usize::try_from(CHUNK).unwrap_or(usize::MAX);
            for line in lines {
                self.tip = line.seq;
                if !line.request.is_empty() {
                    self.records.push_back((line.seq, line.request));
                }
            }
            while self.records.len() > KEPT {
                if let Some((seq, _)) = self.records.pop_front() {
                    self.from = seq;
                }
            }
            if is_last {
                break;
            }
        }
        self.read = Some((count, began));
        Ok(())
    }
}

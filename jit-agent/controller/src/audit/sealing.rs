//! Signs the end of the audit: every minute in which something was written, after every 1,000 records,
//! and at the end of the program.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::head::{Head, HeadKey, SignedHead, keep};
use crate::store::{Store, StoreError};

/// The longest time that records have no signed head.
const LONGEST: i64 = 60_000;
/// The most records without one.
const MOST: i64 = 1000;
/// How often it is looked whether a head is due.
const LOOK: Duration = Duration::from_secs(2);

/// The task that signs heads. It ends with the value, or with [`Sealing::end`].
#[derive(Debug)]
pub struct Sealing {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sealing {
    /// Starts it.
    pub fn start(store: Store, key: HeadKey) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let key = Arc::new(key);
        let task = tokio::spawn(async move {
            let mut ticks = interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let last = tokio::select! {
                    _ = ticks.tick() => false,
                    _ = stopped.changed() => true,
                };
                if let Err(error) = sign_if_due(&store, &key, now_ms(), last).await {
                    tracing::warn!("the end of the audit cannot be signed now: {error}");
                }
                if last {
                    return;
                }
            }
        });
        Self { stop, task }
    }

    /// Signs what is not signed yet, and ends.
    pub async fn end(self) {
        let _gone = self.stop.send(true);
        let _panicked = self.task.await;
    }
}

/// Signs the end, if that is due; with `at_once` if anything is not signed. Returns the new head.
///
/// # Errors
/// Those of the database.
pub async fn sign_if_due(
    store: &Store,
    key: &HeadKey,
    now_ms: i64,
    at_once: bool,
) -> Result<Option<SignedHead>, StoreError> {
    let last = store.last_signed_head().await?.map_or((0, 0), |head| (head.seq, head.time_ms));
    let (seq, hash) = store.audit_tip().await?;
    if !is_due(last, seq, now_ms, at_once) {
        return Ok(None);
    }
    let head = key.sign(Head { seq, hash }, now_ms);
    let mut tx = store.begin().await?;
    keep(&mut tx, &head).await?;
    tx.commit().await?;
    Ok(Some(head))
}

/// `last`: number and time of the last head. A clock that went back is no reason to wait.
fn is_due(last: (i64, i64), tip: i64, now_ms: i64, at_once: bool) -> bool {
    let age = now_ms - last.1;
    tip > last.0 && (at_once || tip - last.0 >= MOST || !(0..LONGEST).contains(&age))
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::is_due;

    #[test]
    fn a_head_is_due_after_a_minute_or_many_records_if_there_is_something_new() {
        for (tip, age, at_once, due) in [
            (10, 3_600_000, true, false),
            (11, 59_999, false, false),
            (11, 60_000, false, true),
            (11, -1, false, true),
            (11, 0, true, true),
            (1009, 0, false, false),
            (1010, 0, false, true),
        ] {
            assert_eq!(is_due((10, 1_000_000), tip, 1_000_000 + age, at_once), due, "{tip} {age}");
        }
    }
}

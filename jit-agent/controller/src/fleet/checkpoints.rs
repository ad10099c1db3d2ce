//! Makes checkpoints: what each host must have received by now. Followers bring them to the hosts.

use std::{pin::Pin, sync::Arc, time::Duration};

use jit_proto::v1;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use crate::{
    checkpoint::mailboxes::{Mailboxes, Snapshot},
    clock::now_ms,
    signer::{CheckpointWish, SignerError},
    store::StoreError,
};

/// Signs the next checkpoint. The fleet has no key.
pub type SignCheckpoint = Arc<
    dyn Fn(
            CheckpointWish,
        ) -> Pin<Box<dyn Future<Output = Result<v1::Envelope, SignerError>> + Send>>
        + Send
        + Sync,
>;

/// The mail is read at this number of checkpoints at the latest: another process may change it, too.
const READ_EVERY: u32 = 3;
/// Hosts hear of a checkpoint within this part of the time until the next one.
const SPREAD: u32 = 5;

/// Makes one in each period until the task is ended.
pub(super) async fn run(shared: Arc<Shared>, every: Duration, sign: SignCheckpoint) {
    let mut changes = shared.outbox.changes();
    let mut boxes = Mailboxes::default();
    let (mut until_read, mut last) = (0, String::new());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at_ms = now_ms();
        if until_read == 0 || changes.has_changed().unwrap_or(true) {
            changes.mark_unchanged();
            match read(&shared, &mut boxes, at_ms).await {
                Ok(()) => until_read = READ_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "no checkpoint: the mail cannot be read");
                    until_read = 0;
                    continue;
                }
            }
        } else {
            boxes.go_to(at_ms);
        }
        until_read = until_read.saturating_sub(1);
        let made = make(&boxes, at_ms, every / SPREAD, &sign).await;
        match made {
            Ok(snapshot) => {
                last.clear();
                shared.checkpoints.send_replace(snapshot.map(Arc::new));
            }
            Err(error) => {
                let error = error.to_string();
                if error != last {
                    tracing::warn!("no checkpoint is signed, hosts say so soon: {error}");
                }
                last = error;
            }
        }
    }
}

async fn read(shared: &Shared, boxes: &mut Mailboxes, at_ms: i64) -> Result<(), StoreError> {
    let store = shared.outbox.store();
    let hosts = store.addresses().await?.into_keys().collect();
    let mail = store.mail(at_ms).await?;
    boxes.update(hosts, &mail, at_ms);
    Ok(())
}

/// `None`: there are no hosts.
async fn make(
    boxes: &Mailboxes,
    at_ms: i64,
    spread: Duration,
    sign: &SignCheckpoint,
) -> Result<Option<Snapshot>, SignerError> {
    let Some((root, hosts)) = boxes.root() else { return Ok(None) };
    let hosts = u64::try_from(hosts).unwrap_or(u64::MAX);
    let wish = CheckpointWish { issued_at_ms: at_ms, root: root.to_vec(), hosts };
    let envelope = sign(wish).await?;
    Ok(boxes.snapshot(envelope, spread))
}

//! Makes checkpoints: what each host must have received by now. Followers bring them to the hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use jit_proto::v1;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep_until},
};

use super::{outbox::Outbox, rush::Rush};
use crate::{
    checkpoint::mailboxes::{Mailboxes, Revocation, Snapshot},
    clock::now_ms,
    signer::{CheckpointWish, SignerError},
    store::{Store, StoreError},
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
const READ_EVERY: u32 = 2;
/// Hosts hear of a checkpoint within two fifths of the time until the next one: soon enough that one may be
/// lost, and not all of a large fleet at the same moment.
const SPREAD: (u32, u32) = (2, 5);

/// Makes one in each period until the task is ended. To read the mail of all hosts is much work: it waits while
/// this process has them hear that something ends.
pub(super) async fn run(
    outbox: &Outbox,
    made: &watch::Sender<Option<Arc<Snapshot>>>,
    every: Duration,
    rush: Option<&Rush>,
    sign: SignCheckpoint,
) {
    let mut changes = outbox.changes();
    let mut boxes = Mailboxes::default();
    let mut signed = Signed::default();
    let (mut until_read, mut last) = (0, String::new());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(until) = rush.and_then(Rush::until) {
            sleep_until(until).await;
        }
        let at_ms = now_ms();
        let is_due = until_read == 0 || changes.has_changed().unwrap_or(true);
        changes.mark_unchanged();
        match read(outbox, &mut boxes, &mut signed, is_due, at_ms).await {
            Ok(true) => until_read = READ_EVERY,
            Ok(false) => boxes.go_to(at_ms),
            Err(error) => {
                tracing::warn!(%error, "no checkpoint: the mail cannot be read");
                until_read = 0;
                continue;
            }
        }
        until_read = until_read.saturating_sub(1);
        match make(&boxes, at_ms, every * SPREAD.0 / SPREAD.1, &sign).await {
            Ok(snapshot) => {
                last.clear();
                made.send_replace(snapshot.map(Arc::new));
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

/// The signed revocations that count, by their ids. They never change: each is read once.
#[derive(Default)]
struct Signed(BTreeMap<String, Revocation>);

impl Signed {
    /// Returns whether there are new ones.
    async fn read(&mut self, store: &Store, at_ms: i64) -> Result<bool, StoreError> {
        let live: BTreeSet<_> = store.signed_closings(at_ms).await?.into_iter().collect();
        self.0.retain(|id, _| live.contains(id));
        let mut new = false;
        for id in live {
            if !self.0.contains_key(&id)
                && let Some(closing) = store.closing(&id).await?
            {
                self.0.insert(id, closing.into());
                new = true;
            }
        }
        Ok(new)
    }
}

/// Reads the mail if it is due, or there is a new revocation: no checkpoint is made without that. Returns
/// whether it did.
async fn read(
    outbox: &Outbox,
    boxes: &mut Mailboxes,
    signed: &mut Signed,
    is_due: bool,
    at_ms: i64,
) -> Result<bool, StoreError> {
    let store = outbox.store();
    if !signed.read(store, at_ms).await? && !is_due {
        return Ok(false);
    }
    let hosts = store.addresses().await?.into_keys().collect();
    let mail = store.mail(at_ms).await?;
    boxes.update(hosts, &mail, signed.0.values(), at_ms);
    Ok(true)
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

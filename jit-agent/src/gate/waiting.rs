//! Pushes that wait for the gate: in turns between the peers, so that nobody waits for more than
//! one slice of each other peer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::{
    gate::{
        Pusher,
        push::Accepted,
        verification::{Batch, Turns},
    },
    rules::refusal::Refused,
};

/// The outcomes of a push, in the order of its envelopes.
pub(super) type Outcomes = Vec<Result<Accepted, Refused>>;

/// Part of a push, and the outcomes so far.
#[derive(Debug)]
pub(super) struct Push {
    /// Whether the peer may revoke.
    pub(super) may_revoke: bool,
    pub(super) batch: Batch,
    pub(super) outcomes: Outcomes,
    pub(super) reply: oneshot::Sender<Outcomes>,
}

/// The senders' end.
#[derive(Clone, Debug)]
pub(super) struct Pushes(Arc<Shared>);

/// The gate's end. When it is dropped, those who wait get an error.
#[derive(Debug)]
pub(super) struct PushRequests(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    pushes: Turns<Push>,
    ended: bool,
}

/// Both ends.
pub(super) fn pushes() -> (Pushes, PushRequests) {
    let shared = Arc::<Shared>::default();
    (Pushes(Arc::clone(&shared)), PushRequests(shared))
}

impl Pushes {
    /// Adds a push. The receiver gets the outcomes, or an error when the gate has ended.
    pub(super) fn add(&self, by: &Pusher, batch: Batch) -> oneshot::Receiver<Outcomes> {
        let (reply, answer) = oneshot::channel();
        let outcomes = Vec::with_capacity(batch.candidates.len());
        let mut waiting = self.0.lock();
        if !waiting.ended {
            let push = Push { may_revoke: by.may_revoke, batch, outcomes, reply };
            waiting.pushes.add(&by.name, push);
        }
        drop(waiting);
        self.0.added.notify_one();
        answer
    }
}

impl PushRequests {
    /// Waits for the next push. Nothing is lost if this is not waited for to its end.
    pub(super) async fn next(&self) -> (String, Push) {
        loop {
            if let Some(next) = self.0.lock().pushes.next() {
                return next;
            }
            self.0.added.notified().await;
        }
    }

    /// Gives a slice's outcomes back. What is left waits for the next turn of this peer.
    pub(super) fn done(&self, by: &str, push: Push) {
        if push.batch.candidates.is_empty() {
            // The asking peer may be gone; an accepted grant stays accepted.
            let Push { outcomes, reply, .. } = push;
            drop(reply.send(outcomes));
        } else {
            self.0.lock().pushes.put_back(by, push);
            self.0.added.notify_one();
        }
    }
}

impl Drop for PushRequests {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.ended = true;
        waiting.pushes.clear();
    }
}

impl Shared {
    /// Nobody panics while this is locked, and each change is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

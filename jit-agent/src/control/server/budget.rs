//! A budget that peers share: something is reserved before it is used, in the order of asking. One
//! peer can never have all of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::Status;

/// Longest wait for a part of a budget.
const QUEUE: Duration = Duration::from_secs(30);

/// A budget of units: of all peers, and of each. Clones are of the same budget.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    of_all: Arc<Semaphore>,
    of_each: u32,
    by_peer: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// Units that are in use until this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new(of_each: u32, of_all: u32) -> Self {
        let by_peer = Arc::default();
        Self { of_all: semaphore(of_all), of_each, by_peer }
    }

    /// Waits until the peer has these units, at most all of its own.
    pub(super) async fn reserve(&self, peer: &str, units: u32) -> Option<Reserved> {
        let units = units.min(self.of_each);
        let own = self.of_peer(peer);
        // Its own first: a peer that asks for too much waits alone. Neither is ever closed.
        let of_peer = own.acquire_many_owned(units).await.ok()?;
        let of_all = Arc::clone(&self.of_all).acquire_many_owned(units).await.ok()?;
        Some(Reserved { _of_peer: of_peer, _of_all: of_all })
    }

    /// The same, but not for long. `what` names in the answer what there is too much of.
    pub(super) async fn reserve_soon(
        &self,
        peer: &str,
        units: u32,
        what: &str,
    ) -> Result<Reserved, Status> {
        let reserved = timeout(QUEUE, self.reserve(peer, units)).await.ok().flatten();
        reserved.ok_or_else(|| {
            let seconds = QUEUE.as_secs();
            Status::resource_exhausted(format!(
                "too many {what} at once: no room became free within {seconds} s; try again later"
            ))
        })
    }

    fn of_peer(&self, peer: &str) -> Arc<Semaphore> {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        // Peers without a reservation are forgotten, so the table is never longer than the number
        // of calls.
        by_peer.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let own = by_peer.entry(peer.to_owned()).or_insert_with(|| semaphore(self.of_each));
        Arc::clone(own)
    }
}

fn semaphore(units: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_peer_gets_its_own_share_and_no_more() {
        let budget = Budget::new(3, 5);
        let now = |peer: &str, units| budget.reserve(peer, units).now_or_never().flatten();
        let one = now("one", 2).unwrap();
        let _two = now("one", 1).unwrap();
        assert!(now("one", 1).is_none());
        assert!(now("other", 2).is_some() && now("other", 3).is_none());
        drop(one);
        // Never more than the share, so that the largest request is served.
        let _all = now("other", 100).unwrap();
        assert!(now("other", 1).is_none());
        assert_eq!(budget.by_peer.lock().unwrap().len(), 2);
        assert!(now("third", 1).is_some());
    }

    #[test]
    fn who_asked_first_is_served_first() {
        let budget = Budget::new(4, 4);
        let held = budget.reserve("one", 4).now_or_never().flatten();
        let mut first = Box::pin(budget.reserve("two", 3));
        let mut second = Box::pin(budget.reserve("three", 1));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(held);
        assert!((&mut second).now_or_never().is_some(), "there was room for both");
        assert!((&mut first).now_or_never().is_some());
    }
}

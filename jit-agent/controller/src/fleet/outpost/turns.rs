//! Turns of hosts that begin at this hub. When another hub was killed, all of its hosts come at the same
//! moment. If all began at once, each would be ready only when all are. So they begin some at a time, and
//! those for which a letter is published meanwhile begin at once.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};

use super::super::connection::Turn;
use crate::bus::subject::HostTag;

/// Hosts that begin at the same time, for each processor: what comes meanwhile for others must not wait long.
const TURNS: usize = 8;
/// The longest turn: a far host has its turn for less than it needs. So at least 200 begin in a second, for each
/// processor, however far they are.
const TURN: Duration = Duration::from_millis(40);
/// Letters that are remembered for hosts that were not here.
const ABSENT: usize = 256;

/// The turns.
pub(super) struct Turns {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Hosts that were not here when a letter for them was published; the newest last.
    absent: VecDeque<HostTag>,
    /// Hosts that wait for their turn.
    waiting: HashMap<HostTag, Arc<Notify>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, NonZeroUsize::get).saturating_mul(TURNS))
    }
}

impl Turns {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A letter was published for a host that is not here. Perhaps it comes just now.
    pub(super) fn missed(&self, host: &HostTag) {
        let State { absent, waiting } = &mut *self.state();
        if let Some(waits) = waiting.get(host) {
            waits.notify_one();
        }
        if absent.len() >= ABSENT {
            absent.pop_front();
        }
        absent.push_back(host.clone());
    }

    /// Waits for a turn; `None`: there is a letter for this host, and it begins at once.
    pub(super) async fn begin(&self, host: &HostTag) -> Option<Turn> {
        let waits = {
            let State { absent, waiting } = &mut *self.state();
            if absent.contains(host) {
                return None;
            }
            Arc::clone(waiting.entry(host.clone()).or_default())
        };
        let _waits = Waits(self, host);
        tokio::select! {
            // `Err`: nobody closes it.
            place = Arc::clone(&self.places).acquire_owned() => {
                let (has, over) = oneshot::channel();
                tokio::spawn(async move {
                    let _late = timeout(TURN, over).await;
                    drop(place);
                });
                Some(Turn(has))
            }
            () = waits.notified() => None,
        }
    }
}

/// Removes who does not wait any more.
struct Waits<'t>(&'t Turns, &'t HostTag);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let Self(turns, host) = self;
        turns.state().waiting.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn hosts_begin_some_at_a_time_and_a_letter_goes_before_all() {
        let turns = Turns::new(TURNS);
        let tag = |number: usize| HostTag::of(&format!("h-{number}"));
        let tags: Vec<_> = (0..3 * TURNS).map(tag).collect();
        let mut had = Vec::new();
        for tag in tags.iter().take(TURNS) {
            had.push(turns.begin(tag).now_or_never().expect("there are as many turns").unwrap());
        }
        let (late, absent) = (&tags[TURNS], &tags[TURNS + 1]);
        assert!(turns.begin(late).now_or_never().is_none(), "it waits");
        // A letter was published before it came, or comes while it waits.
        turns.missed(absent);
        assert!(turns.begin(absent).now_or_never().unwrap().is_none());
        let begins = turns.begin(late);
        let letter = async {
            sleep(TURN / 4).await;
            turns.missed(late);
        };
        let (began, turn) = (Instant::now(), tokio::join!(begins, letter).0);
        assert!(turn.is_none() && began.elapsed() < TURN / 2);
        // One that is given back is the next one's, at once.
        drop(had.pop());
        let turn = turns.begin(&tags[TURNS + 2]).await;
        assert!(turn.is_some() && began.elapsed() < TURN / 2, "{:?}", began.elapsed());
        // The slow ones have theirs for a bounded time.
        for tag in &tags[TURNS + 3..] {
            assert!(turns.begin(tag).await.is_some());
        }
        assert!(began.elapsed() < 4 * TURN, "{:?}", began.elapsed());
        assert!(turns.state().waiting.is_empty());
    }

    #[test]
    fn letters_for_hosts_of_other_hubs_take_no_room() {
        let turns = Turns::default();
        for number in 0..10 * ABSENT {
            turns.missed(&HostTag::of(&number.to_string()));
        }
        assert_eq!(turns.state().absent.len(), ABSENT);
    }
}

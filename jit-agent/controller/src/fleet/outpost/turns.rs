//! Turns of hosts that begin at this hub. When another hub was killed, all of its hosts come at the same
//! moment. If all began at once, each would be ready only when all are. So they begin some at a time, and
//! those for which a letter is published meanwhile begin at once, and with it.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::{Instant, sleep, timeout},
};

use super::super::connection::Turn;
use crate::bus::subject::HostTag;

/// Hosts that begin at the same time, for each processor: what comes meanwhile for others must not wait long.
const TURNS: usize = 8;
/// A turn. A far host has its turn for less than it needs: so at least 200 begin in a second, for each processor,
/// however far they are. One that is done sooner keeps it: so it is not more, and the processors have time for
/// what people wait for.
const TURN: Duration = Duration::from_millis(40);
/// If all that wait would not have begun within this time by that, turns end as soon as their hosts are done.
const ALL: Duration = Duration::from_secs(4);
/// Letters that are kept for hosts that are not here, bytes of them, and for which time: while a host goes from
/// one hub to another. All else it finds in its mailbox.
const ABSENT: usize = 256;
const ABSENT_BYTES: usize = 1024 * 1024;
const KEPT: Duration = Duration::from_secs(3);

/// The turns.
pub(super) struct Turns {
    places: Arc<Semaphore>,
    /// Number of them.
    count: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Letters for hosts that were not here when they were published; the newest last.
    absent: VecDeque<Absent>,
    /// Hosts that wait for their turn.
    waiting: HashMap<HostTag, Arc<Notify>>,
}

struct Absent {
    host: HostTag,
    letter: Bytes,
    at: Instant,
}

impl State {
    /// Keeps what is new, and not too much.
    fn trim(&mut self) {
        let size = |absent: &VecDeque<Absent>| -> usize {
            absent.iter().map(|one| one.letter.len()).sum()
        };
        while self.absent.front().is_some_and(|oldest| {
            oldest.at.elapsed() >= KEPT
                || self.absent.len() > ABSENT
                || size(&self.absent) > ABSENT_BYTES
        }) {
            self.absent.pop_front();
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, NonZeroUsize::get).saturating_mul(TURNS))
    }
}

impl Turns {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), count: places, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A letter was published for a host that is not here. Perhaps it comes just now.
    pub(super) fn missed(&self, host: &HostTag, letter: &Bytes) {
        let mut state = self.state();
        if let Some(waits) = state.waiting.get(host) {
            waits.notify_one();
        }
        let (host, letter, at) = (host.clone(), letter.clone(), Instant::now());
        state.absent.push_back(Absent { host, letter, at });
        state.trim();
    }

    /// A letter was published for every host. One that ends everything must not come behind a grant that is
    /// kept here: hosts find both in their mailboxes, in the right order, and those that wait begin at once.
    pub(super) fn missed_by_all(&self) {
        let mut state = self.state();
        state.absent.clear();
        state.waiting.values().for_each(|waits| waits.notify_one());
    }

    /// What was published lately for this host, which has come.
    pub(super) fn letters(&self, host: &HostTag) -> Vec<Bytes> {
        let mut state = self.state();
        state.trim();
        let mut letters = Vec::new();
        state.absent.retain(|one| {
            let is_of_host = one.host == *host;
            letters.extend(is_of_host.then(|| one.letter.clone()));
            !is_of_host
        });
        letters
    }

    /// Whether all that wait begin soon with whole turns.
    fn are_few(&self) -> bool {
        let times = usize::try_from(ALL.as_millis() / TURN.as_millis()).unwrap_or(usize::MAX);
        self.state().waiting.len() <= self.count.saturating_mul(times)
    }

    /// Waits for a turn; `None`: there is a letter for this host, and it begins at once.
    pub(super) async fn begin(&self, host: &HostTag) -> Option<Turn> {
        let waits = {
            let mut state = self.state();
            state.trim();
            if state.absent.iter().any(|one| one.host == *host) {
                return None;
            }
            Arc::clone(state.waiting.entry(host.clone()).or_default())
        };
        let _waits = Waits(self, host);
        tokio::select! {
            // `Err`: nobody closes it.
            place = Arc::clone(&self.places).acquire_owned() => {
                let (has, over) = oneshot::channel();
                let kept = if self.are_few() { TURN } else { Duration::ZERO };
                tokio::spawn(async move {
                    let _late = tokio::join!(timeout(TURN, over), sleep(kept));
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
        let letter = Bytes::from_static(b"letter");
        turns.missed(absent, &letter);
        assert!(turns.begin(absent).now_or_never().unwrap().is_none());
        let begins = turns.begin(late);
        let comes = async {
            sleep(TURN / 4).await;
            turns.missed(late, &letter);
        };
        let (began, turn) = (Instant::now(), tokio::join!(begins, comes).0);
        assert!(turn.is_none() && began.elapsed() < TURN / 2);
        assert_eq!(turns.letters(late).len(), 1);
        assert_eq!(turns.letters(late).len(), 0, "once");
        // One that is given back is the next one's when its time has passed.
        drop(had.pop());
        let turn = turns.begin(&tags[TURNS + 2]).await;
        assert!(turn.is_some() && (TURN / 2..2 * TURN).contains(&began.elapsed()));
        // The slow ones have theirs for a bounded time.
        for tag in &tags[TURNS + 3..] {
            assert!(turns.begin(tag).await.is_some());
        }
        assert!(began.elapsed() < 4 * TURN, "{:?}", began.elapsed());
        assert!(turns.state().waiting.is_empty());
        sleep(KEPT).await;
        assert_eq!(turns.letters(absent).len(), 0, "it stands in its mailbox");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_whole_unless_too_many_wait() {
        let few = usize::try_from(ALL.as_millis() / TURN.as_millis()).unwrap();
        let turns = Turns::new(1);
        let tags: Vec<_> = (0..few + 2).map(|number| HostTag::of(&number.to_string())).collect();
        let first = turns.begin(&tags[0]).await;
        let begins = tags[1..].iter().map(|tag| Box::pin(turns.begin(tag)));
        let mut begins: VecDeque<_> = begins.collect();
        assert!(begins.iter_mut().all(|begins| begins.now_or_never().is_none()), "they wait");
        drop(first);
        // One more than few waits when the second begins, and is done at once; then they are few.
        let mut took = Vec::new();
        for begins in begins.drain(..3) {
            let began = Instant::now();
            assert!(begins.await.is_some());
            took.push(began.elapsed() >= TURN);
        }
        assert_eq!(took, [true, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_letter_for_all_goes_before_what_is_kept_and_lets_all_begin() {
        let turns = Turns::new(0);
        let [absent, waiting] = ["h-1", "h-2"].map(HostTag::of);
        turns.missed(&absent, &Bytes::from_static(b"a grant"));
        let comes = async {
            sleep(TURN).await;
            turns.missed_by_all();
        };
        assert!(tokio::join!(turns.begin(&waiting), comes).0.is_none());
        assert_eq!(
            turns.letters(&absent).len(),
            0,
            "it reads its mailbox, the end of everything first"
        );
    }

    #[tokio::test]
    async fn letters_for_hosts_of_other_hubs_take_little_room() {
        let turns = Turns::default();
        for number in 0..10 * ABSENT {
            turns.missed(&HostTag::of(&number.to_string()), &Bytes::from_static(b"letter"));
        }
        assert_eq!(turns.state().absent.len(), ABSENT);
        for number in 0..ABSENT {
            turns.missed(&HostTag::of(&number.to_string()), &vec![0; ABSENT_BYTES / 8].into());
        }
        assert_eq!(turns.state().absent.len(), 8);
    }
}

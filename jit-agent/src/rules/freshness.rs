//! Whether a host receives what is in its mailbox. Checkpoints say it: each has the root of a tree over the
//! mailboxes of all hosts, and a hub hands it on with the way from this host's leaf to the root.
//!
//! A hub can hold back, and opens nothing by it. Here it is noticed: a checkpoint that does not come
//! ([`Doubt::Frozen`]), one that names what has not arrived ([`Doubt::Withheld`]), one that is earlier
//! than another or beside it ([`Deceit`]). Nothing is opened or closed here.

use std::{cmp::Ordering, collections::BTreeSet, time::Duration};

use jit_proto::{
    WallTime, mailbox,
    merkle::{self, Hash},
};

use crate::rules::clock::{BootNanos, Now};

/// What the mailbox has and the host has not may be on its way for this time.
pub const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// How much later than its end, by the wall clock, a checkpoint still counts as fresh: the clocks of both
/// sides differ, and it takes time to arrive.
pub const LATE: Duration = Duration::from_secs(5);
/// How long the first checkpoint may take after a start.
pub const FIRST: Duration = Duration::from_secs(30);

/// What a verified checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which sequence of numbers.
    pub epoch: u64,
    /// Its place in the sequence.
    pub number: u64,
    /// The moment that it is about.
    pub issued_at: WallTime,
    /// For how long it counts as fresh.
    pub valid_for: Duration,
    /// Root of the tree.
    pub root: Hash,
    /// Number of leaves.
    pub hosts: u64,
}

/// The way from this host's leaf to the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Place of the leaf, counted from 0.
    pub index: u64,
    /// The hashes beside the way, the lowest first.
    pub path: Vec<Hash>,
}

/// What a checkpoint or a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that is in the mailbox has arrived.
    Complete,
    /// The same checkpoint came again: it says nothing new.
    Known,
    /// It cannot be said without the list of what is in the mailbox.
    ListWanted,
    /// This number of pieces has not arrived, or the list is another one than the checkpoint's
    /// (`None`).
    Missing(Option<usize>),
}

/// Two checkpoints that no honest way can bring. Somebody holds old ones, or the key that signs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deceit {
    /// There is another one with the same number.
    Forked,
    /// A later one had come before.
    RolledBack,
}

/// Why what this host holds may be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// No fresh checkpoint has come.
    Frozen {
        /// For this time.
        since: Duration,
    },
    /// Something in the mailbox does not come.
    Withheld {
        /// For this time.
        since: Duration,
        /// Number of pieces; `None`: the list of them does not come either.
        missing: Option<usize>,
    },
}

impl Deceit {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Forked => "forked",
            Self::RolledBack => "rolled_back",
        }
    }
}

impl Doubt {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Frozen { .. } => "frozen",
            Self::Withheld { .. } => "withheld",
        }
    }
}

/// The checkpoints that this host has seen.
#[derive(Clone, Debug)]
pub struct Freshness {
    host: String,
    /// What the last list names and has not arrived.
    awaited: BTreeSet<Hash>,
    /// When checkpoints were first expected.
    begun: BootNanos,
    last: Option<Seen>,
    /// The last one by which all had arrived, and when it came.
    complete: Option<(Stamp, BootNanos)>,
    /// Since when it is not proven that all has arrived, and what is missing.
    incomplete: Option<(BootNanos, Option<usize>)>,
}

#[derive(Clone, Debug)]
struct Seen {
    stamp: Stamp,
    /// When it came, and how to get from a leaf to its root; `None`: before a restart.
    here: Option<(BootNanos, Proof)>,
}

impl Freshness {
    /// Checkpoints for this host are expected from now on. `last`: the one that was seen last before a
    /// restart.
    pub fn new(host: &str, last: Option<Stamp>, now: Now) -> Self {
        let last = last.map(|stamp| Seen { stamp, here: None });
        let (host, awaited) = (host.to_owned(), BTreeSet::new());
        Self { host, awaited, begun: now.boot, last, complete: None, incomplete: None }
    }

    /// From now on the host has this id.
    pub fn set_host(&mut self, host: &str) {
        if self.host != host {
            host.clone_into(&mut self.host);
        }
    }

    /// Learns which checkpoint was seen last before a restart, if that is known only now.
    pub fn resume(&mut self, before: Stamp) {
        let order = |stamp: &Stamp| (stamp.epoch, stamp.number);
        if self.last.as_ref().is_none_or(|seen| order(&seen.stamp) < order(&before)) {
            self.last = Some(Seen { stamp: before, here: None });
        }
    }

    /// What the last list names and has not arrived.
    pub const fn awaited(&self) -> &BTreeSet<Hash> {
        &self.awaited
    }

    /// The last checkpoint; it must survive a restart.
    pub fn last(&self) -> Option<&Stamp> {
        self.last.as_ref().map(|seen| &seen.stamp)
    }

    /// Whether it is the last one, and has come in this run.
    ///
    /// # Errors
    /// It contradicts the last one.
    pub fn knows(&self, stamp: &Stamp) -> Result<bool, Deceit> {
        let Some(Seen { stamp: last, here }) = &self.last else { return Ok(false) };
        let order = |stamp: &Stamp| (stamp.epoch, stamp.number);
        match order(stamp).cmp(&order(last)) {
            Ordering::Less => Err(Deceit::RolledBack),
            Ordering::Equal if stamp != last => Err(Deceit::Forked),
            Ordering::Equal => Ok(here.is_some()),
            Ordering::Greater => Ok(false),
        }
    }

    /// Takes a checkpoint. `arrived`: the digest of what had arrived and counted at its moment.
    ///
    /// # Errors
    /// It contradicts the last one. It is not taken.
    pub fn take(
        &mut self,
        stamp: Stamp,
        proof: Proof,
        arrived: &Hash,
        now: Now,
    ) -> Result<Standing, Deceit> {
        if self.knows(&stamp)? {
            return Ok(Standing::Known);
        }
        let complete = leads_to(&self.host, arrived, &proof, &stamp);
        self.last = Some(Seen { stamp, here: Some((now.boot, proof)) });
        self.awaited.clear();
        if complete {
            self.all_is_here(now);
            return Ok(Standing::Complete);
        }
        self.incomplete.get_or_insert((now.boot, None));
        Ok(Standing::ListWanted)
    }

    /// Takes the list of what is in this host's mailbox at the last checkpoint. `has`: whether a piece has
    /// arrived. More may have arrived than is in the list: what was signed since.
    pub fn take_list(&mut self, list: &[Hash], has: impl Fn(&Hash) -> bool, now: Now) -> Standing {
        let listed = self.last.as_ref().is_some_and(|Seen { stamp, here }| {
            let mailbox = mailbox::digest(list.iter());
            let proven = |(_, proof): &(_, Proof)| leads_to(&self.host, &mailbox, proof, stamp);
            list.is_sorted_by(|one, next| one < next) && here.as_ref().is_some_and(proven)
        });
        self.awaited.clear();
        if listed {
            self.awaited.extend(list.iter().filter(|item| !has(item)));
        }
        let missing = listed.then_some(self.awaited.len());
        if missing == Some(0) {
            self.all_is_here(now);
            return Standing::Complete;
        }
        let since = self.incomplete.map_or(now.boot, |(since, _)| since);
        self.incomplete = Some((since, missing));
        Standing::Missing(missing)
    }

    /// All that the last checkpoint is about has arrived.
    fn all_is_here(&mut self, now: Now) {
        self.incomplete = None;
        self.complete = self.last().cloned().map(|stamp| (stamp, now.boot));
    }

    /// Why what this host holds may be out of date now.
    pub fn doubt(&self, now: Now) -> Option<Doubt> {
        let incomplete = self.incomplete.map(|(since, missing)| (passed(since, now), missing));
        let late = |since: Duration| since > ON_ITS_WAY || self.is_overdue(now);
        if let Some((since, missing)) = incomplete.filter(|(since, _)| late(*since)) {
            return Some(Doubt::Withheld { since, missing });
        }
        self.frozen(now).map(|since| Doubt::Frozen { since })
    }

    /// Whether the last checkpoint by which all had arrived is no longer fresh. A hub that brings the next one
    /// as late as it can gains no more time by it.
    fn is_overdue(&self, now: Now) -> bool {
        let complete = self.complete.as_ref().map(|(stamp, came)| (stamp, *came));
        self.stale(complete, now).is_some()
    }

    /// Whether a grant that has not been here before may open, where nothing may that was withheld: a
    /// checkpoint is fresh, and the grant is newer than it, or the last list names it.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn lets_in(&self, item: &Hash, issued_at: WallTime, now: Now) -> Result<(), String> {
        if self.frozen(now).is_some() {
            return Err("no checkpoint is fresh".into());
        }
        match &self.last {
            Some(Seen { stamp, .. })
                if issued_at <= stamp.issued_at && !self.awaited.contains(item) =>
            {
                Err(format!(
                    "it was issued {issued_at}, and is not in the checkpoint of {}",
                    stamp.issued_at
                ))
            }
            _ => Ok(()),
        }
    }

    /// For how long no checkpoint has been fresh; `None`: one is.
    fn frozen(&self, now: Now) -> Option<Duration> {
        let seen = self.last.as_ref();
        let here = seen.and_then(|Seen { stamp, here }| Some((stamp, here.as_ref()?.0)));
        self.stale(here, now)
    }

    /// For how long this one, which came at that moment, has not been fresh; without one, what is due since
    /// the start.
    fn stale(&self, one: Option<(&Stamp, BootNanos)>, now: Now) -> Option<Duration> {
        let stale = match one {
            Some((stamp, came)) => {
                let by_boot = passed(came, now).checked_sub(stamp.valid_for);
                let by_wall = now.wall.since(stamp.issued_at + stamp.valid_for + LATE);
                by_boot.max(by_wall)
            }
            _ => passed(self.begun, now).checked_sub(FIRST),
        };
        stale.filter(|since| !since.is_zero())
    }
}

/// The time since this moment.
fn passed(since: BootNanos, now: Now) -> Duration {
    Duration::from_nanos(now.boot.0.saturating_sub(since.0))
}

/// Whether a host with a mailbox of this digest is in the tree.
fn leads_to(host: &str, mailbox: &Hash, proof: &Proof, stamp: &Stamp) -> bool {
    let leaf = mailbox::leaf(host, mailbox);
    merkle::root(&leaf, proof.index, stamp.hosts, &proof.path) == Some(stamp.root)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now { wall: WallTime(1_000_000_000), boot: BootNanos(7_000_000_000) };
    const EMPTY: [Hash; 0] = [];

    fn after(seconds: u64) -> Now {
        let passed = Duration::from_secs(seconds);
        Now { wall: START.wall + passed, boot: START.boot + passed }
    }

    /// A checkpoint of two hosts, made `seconds` after the start; this one has these items.
    fn checkpoint(number: u64, seconds: u64, items: &[Hash]) -> (Stamp, Proof) {
        let own = mailbox::leaf("web-1", &mailbox::digest(items.iter()));
        let other = mailbox::leaf("web-2", &[9; 32]);
        let stamp = Stamp {
            epoch: 1,
            number,
            issued_at: after(seconds).wall,
            valid_for: Duration::from_secs(25),
            root: merkle::node(&own, &other),
            hosts: 2,
        };
        (stamp, Proof { index: 0, path: vec![other] })
    }

    fn arrived(items: &[Hash]) -> Hash {
        mailbox::digest(items.iter())
    }

    fn fresh() -> Freshness {
        Freshness::new("web-1", None, START)
    }

    #[test]
    fn with_checkpoints_in_time_and_all_arrived_there_is_no_doubt() {
        let mut fresh = fresh();
        for number in 1..=20 {
            let (stamp, proof) = checkpoint(number, number * 10, &[[1; 32]]);
            let now = after(number * 10);
            let taken = fresh.take(stamp, proof, &arrived(&[[1; 32]]), now);
            assert_eq!((taken, fresh.doubt(now)), (Ok(Standing::Complete), None));
        }
        assert_eq!(fresh.doubt(after(225)), None, "fresh to the end");
    }

    #[test]
    fn no_fresh_checkpoint_is_reported_within_35_seconds() {
        let mut none = fresh();
        assert_eq!(none.doubt(after(30)), None);
        assert_eq!(none.doubt(after(31)), Some(Doubt::Frozen { since: Duration::from_secs(1) }));
        let (stamp, proof) = checkpoint(1, 100, &EMPTY);
        assert_eq!(
            none.take(stamp.clone(), proof.clone(), &arrived(&EMPTY), after(100)),
            Ok(Standing::Complete)
        );
        assert_eq!(none.doubt(after(125)), None);
        let frozen = Some(Doubt::Frozen { since: Duration::from_secs(5) });
        assert_eq!(none.doubt(after(130)), frozen);
        let again = none.take(stamp, proof, &arrived(&EMPTY), after(130));
        assert_eq!((again, none.doubt(after(130))), (Ok(Standing::Known), frozen), "a replay");
    }

    #[test]
    fn checkpoints_that_always_come_late_are_not_fresh() {
        let mut fresh = fresh();
        for number in 1..=5 {
            let (stamp, proof) = checkpoint(number, number * 10, &EMPTY);
            let now = after(number * 10 + 60);
            assert_eq!(fresh.take(stamp, proof, &arrived(&EMPTY), now), Ok(Standing::Complete));
            assert_eq!(fresh.doubt(now), Some(Doubt::Frozen { since: Duration::from_secs(30) }));
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_hides_nothing() {
        let mut fresh = fresh();
        let (stamp, proof) = checkpoint(1, 10, &EMPTY);
        assert_eq!(fresh.take(stamp, proof, &arrived(&EMPTY), after(10)), Ok(Standing::Complete));
        let set_back = Now { wall: START.wall, boot: after(40).boot };
        assert_eq!(fresh.doubt(set_back), Some(Doubt::Frozen { since: Duration::from_secs(5) }));
    }

    #[test]
    fn what_has_not_arrived_is_reported_after_five_seconds_whatever_comes_meanwhile() {
        let (here, withheld) = ([1; 32], [2; 32]);
        let has = |item: &Hash| *item == here;
        let mut fresh = fresh();
        for (number, at, seen) in [(1, 10, false), (2, 13, false), (3, 16, true)] {
            let (stamp, proof) = checkpoint(number, at, &[here, withheld]);
            let taken = fresh.take(stamp, proof, &arrived(&[here]), after(at));
            assert_eq!(taken, Ok(Standing::ListWanted));
            let standing = fresh.take_list(&[here, withheld], has, after(at));
            assert_eq!(standing, Standing::Missing(Some(1)));
            assert_eq!(fresh.doubt(after(at)).is_some(), seen, "after {at} s");
        }
        let doubt = Doubt::Withheld { since: Duration::from_secs(6), missing: Some(1) };
        assert_eq!(fresh.doubt(after(16)), Some(doubt));
        assert_eq!(fresh.take_list(&[here, withheld], |_| true, after(17)), Standing::Complete);
        assert_eq!(fresh.doubt(after(17)), None, "it came");
    }

    #[test]
    fn whenever_a_hub_brings_them_what_it_withholds_is_said_within_31_seconds() {
        let (here, withheld) = ([1; 32], [2; 32]);
        let has = |item: &Hash| *item == here;
        // Every 10 s there is one; from the second on they list what is withheld.
        for brings_first in 0..=30_u64 {
            for (next, brings_next) in (1..=3).flat_map(|next| (0..=60).map(move |at| (next, at))) {
                if brings_next < brings_first.max(next * 10) {
                    continue;
                }
                let mut fresh = fresh();
                let (mut seen, mut reported) = (false, None);
                for second in 0..=31 {
                    let now = after(100 + second);
                    if second == brings_first {
                        let (stamp, proof) = checkpoint(1, 100, &[here]);
                        let taken = fresh.take(stamp, proof, &arrived(&[here]), now);
                        assert_eq!(taken, Ok(Standing::Complete));
                        seen = true;
                    }
                    if second == brings_next {
                        let items = [here, withheld];
                        let (stamp, proof) = checkpoint(1 + next, 100 + next * 10, &items);
                        let taken = fresh.take(stamp, proof, &arrived(&[here]), now);
                        assert_eq!(taken, Ok(Standing::ListWanted));
                        let standing = fresh.take_list(&items, has, now);
                        assert_eq!(standing, Standing::Missing(Some(1)));
                    }
                    if seen && fresh.doubt(now).is_some() {
                        reported.get_or_insert(second);
                    }
                }
                assert!(reported.is_some(), "{brings_first} {next} {brings_next}");
            }
        }
    }

    #[test]
    fn more_than_the_checkpoint_lists_is_no_doubt() {
        let (listed, newer) = ([1; 32], [2; 32]);
        let mut fresh = fresh();
        let (stamp, proof) = checkpoint(1, 10, &[listed]);
        let taken = fresh.take(stamp, proof, &arrived(&[listed, newer]), after(10));
        assert_eq!(taken, Ok(Standing::ListWanted));
        assert_eq!(fresh.take_list(&[listed], |_| true, after(10)), Standing::Complete);
        assert_eq!(fresh.doubt(after(20)), None);
    }

    #[test]
    fn a_list_that_is_not_the_checkpoints_counts_as_withheld() {
        let (one, two) = ([1; 32], [2; 32]);
        let mut fresh = fresh();
        let (stamp, proof) = checkpoint(1, 10, &[one, two]);
        let taken = fresh.take(stamp, proof, &arrived(&[one]), after(10));
        assert_eq!(taken, Ok(Standing::ListWanted));
        for list in [&[one][..], &[], &[two, one], &[one, two, two], &[one, two, [3; 32]]] {
            let standing = fresh.take_list(list, |_| true, after(11));
            assert_eq!(standing, Standing::Missing(None), "{list:?}");
        }
        let doubt = fresh.doubt(after(16));
        assert_eq!(doubt, Some(Doubt::Withheld { since: Duration::from_secs(6), missing: None }));
    }

    #[test]
    fn a_hub_without_a_way_to_the_root_is_noticed() {
        let mut fresh = fresh();
        let (stamp, proof) = checkpoint(1, 10, &EMPTY);
        for wrong in [Proof::default(), Proof { index: 1, ..proof.clone() }] {
            let mut one = fresh.clone();
            let taken = one.take(stamp.clone(), wrong, &arrived(&EMPTY), after(10));
            assert_eq!(taken, Ok(Standing::ListWanted));
            assert_eq!(one.take_list(&EMPTY, |_| true, after(10)), Standing::Missing(None));
            assert_eq!(one.doubt(after(16)).map(Doubt::word), Some("withheld"));
        }
        assert_eq!(fresh.take_list(&EMPTY, |_| true, after(1)), Standing::Missing(None), "none");
    }

    #[test]
    fn another_one_of_the_same_number_and_an_earlier_one_are_named_and_not_taken() {
        let mut fresh = fresh();
        let (stamp, proof) = checkpoint(5, 10, &EMPTY);
        let first = fresh.take(stamp.clone(), proof.clone(), &arrived(&EMPTY), after(10));
        assert_eq!(first, Ok(Standing::Complete));
        let mut take = |stamp| fresh.take(stamp, proof.clone(), &arrived(&EMPTY), after(11));
        let forked = Stamp { root: [0; 32], ..stamp.clone() };
        assert_eq!(take(forked), Err(Deceit::Forked));
        let later = Stamp { issued_at: after(11).wall, ..stamp.clone() };
        assert_eq!(take(later), Err(Deceit::Forked), "the same root at another time");
        assert_eq!(take(Stamp { number: 4, ..stamp.clone() }), Err(Deceit::RolledBack));
        let (old_epoch, new_epoch) = (
            Stamp { epoch: 0, number: 99, ..stamp.clone() },
            Stamp { epoch: 2, number: 1, ..stamp },
        );
        assert_eq!(take(old_epoch), Err(Deceit::RolledBack));
        assert_eq!(take(new_epoch), Ok(Standing::Complete), "the controller was set back");
    }

    #[test]
    fn after_a_restart_an_earlier_one_is_still_refused_and_the_last_one_proves_again() {
        let (stamp, proof) = checkpoint(5, 10, &[[1; 32]]);
        let mut fresh = Freshness::new("web-1", Some(stamp.clone()), after(12));
        let earlier = Stamp { number: 4, ..stamp.clone() };
        let taken = fresh.take(earlier, proof.clone(), &arrived(&EMPTY), after(13));
        assert_eq!(taken, Err(Deceit::RolledBack));
        let taken = fresh.take(stamp, proof, &arrived(&[[1; 32]]), after(13));
        assert_eq!(taken, Ok(Standing::Complete));
    }

    #[test]
    fn where_nothing_withheld_may_open_only_new_and_awaited_grants_do() {
        let (here, awaited, old) = ([1; 32], [2; 32], [3; 32]);
        let issued = |seconds: u64| after(seconds).wall;
        let mut fresh = fresh();
        assert_eq!(fresh.lets_in(&old, issued(1), after(2)), Ok(()), "no checkpoint is due yet");
        assert!(fresh.lets_in(&old, issued(31), after(31)).is_err(), "none came");
        let (stamp, proof) = checkpoint(1, 40, &[here, awaited]);
        let taken = fresh.take(stamp, proof, &arrived(&[here]), after(40));
        assert_eq!(taken, Ok(Standing::ListWanted));
        assert!(fresh.lets_in(&awaited, issued(40), after(40)).is_err(), "nobody named it yet");
        let standing = fresh.take_list(&[here, awaited], |item| *item == here, after(40));
        assert_eq!(standing, Standing::Missing(Some(1)));
        assert_eq!(fresh.lets_in(&awaited, issued(5), after(50)), Ok(()), "it is late");
        assert!(fresh.lets_in(&old, issued(40), after(50)).is_err(), "it was taken out");
        assert_eq!(fresh.lets_in(&old, issued(41), after(50)), Ok(()), "it is newer");
        let (stamp, proof) = checkpoint(2, 50, &[here, awaited]);
        let taken = fresh.take(stamp, proof, &arrived(&[here, awaited]), after(50));
        assert_eq!((taken, fresh.awaited().len()), (Ok(Standing::Complete), 0));
        assert!(fresh.lets_in(&awaited, issued(5), after(51)).is_err());
        assert!(fresh.lets_in(&old, issued(90), after(90)).is_err(), "frozen");
    }

    #[test]
    fn a_checkpoint_of_before_the_restart_that_is_known_late_counts_like_one_known_at_once() {
        let (stamp, proof) = checkpoint(5, 10, &EMPTY);
        let mut fresh = fresh();
        fresh.resume(stamp.clone());
        fresh.resume(Stamp { number: 3, ..stamp.clone() });
        let earlier = Stamp { number: 4, ..stamp.clone() };
        let taken = fresh.take(earlier, proof.clone(), &arrived(&EMPTY), after(13));
        assert_eq!(taken, Err(Deceit::RolledBack));
        fresh.set_host("web-9");
        let taken = fresh.take(stamp, proof, &arrived(&EMPTY), after(13));
        assert_eq!(taken, Ok(Standing::ListWanted), "the leaf of another host");
    }
}

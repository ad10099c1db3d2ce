//! The places of controllers' connections. Each controller has a few, some are kept for those who
//! may revoke, and a connection without a call gives way.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use jit_proto::permission::Permission;
use tokio::sync::oneshot;

use crate::control::{
    link::{Said, ToGate, Unlinked, pipe::Sender},
    server::{
        activity::{Activity, Overdue, Stage},
        peer::Identity,
    },
};

/// Largest number of connections: of one controller, of all that may not revoke, and of all.
pub(super) const MAX_PER_CONTROLLER: usize = 16;
const MAX_WITHOUT_REVOKE: usize = 448;
pub(super) const MAX_CONNECTIONS: usize = 512;

/// The places and who has them. Clones share one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The oldest first.
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    controller: String,
    may_revoke: bool,
    activity: Activity,
    /// Dropped to close the connection.
    _open: oneshot::Sender<()>,
    _registered: Option<Registered>,
}

/// The gate knows of a connection until this is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    gate: Sender<ToGate>,
    connection: u64,
    /// Number of the uplink that it is, and what happens on it.
    uplink: Option<(u64, Activity)>,
}

impl Registered {
    pub(super) fn new(
        gate: Sender<ToGate>,
        connection: u64,
        uplink: Option<(u64, Activity)>,
    ) -> Self {
        Self { gate, connection, uplink }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.gate.send(&ToGate { said: Some(Said::Closed(self.connection)) });
        if let Some((uplink, activity)) = &self.uplink {
            let unlinked = Unlinked { uplink: *uplink, why: activity.end() };
            self.gate.send(&ToGate { said: Some(Said::Unlinked(unlinked)) });
        }
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
}

impl Places {
    /// A place for a connection of this controller, and what becomes ready when the connection must
    /// be closed. `None`: all places are taken by connections at work. `register` gets the place's
    /// number, after the connection that gives way is reported as closed.
    pub(super) fn take(
        &self,
        identity: &Identity,
        activity: Activity,
        register: impl FnOnce(u64) -> Option<Registered>,
    ) -> Option<(Place, oneshot::Receiver<()>)> {
        let may_revoke = identity.may.contains(Permission::Revoke);
        let mut table = self.lock();
        let taken: Vec<_> = table.held.iter().map(Taken::from).collect();
        match choose(&taken, &identity.name, may_revoke) {
            Choice::Free => {}
            Choice::After(at) => drop(table.held.remove(at)),
            Choice::None => return None,
        }
        let number = table.next;
        table.next += 1;
        let (open, closed) = oneshot::channel();
        let controller = identity.name.clone();
        let _registered = register(number);
        table.held.push(Held {
            number,
            controller,
            may_revoke,
            activity,
            _open: open,
            _registered,
        });
        Some((Place { places: self.clone(), number }, closed))
    }

    /// Closes connections that say nothing, do nothing, or do not take their answer. Returns their
    /// controllers and the reasons.
    pub(super) fn close_overdue(&self, now: Instant) -> Vec<(String, Overdue)> {
        let mut closed = Vec::new();
        self.lock().held.retain(|held| match held.activity.overdue(now) {
            Some(why) => {
                closed.push((held.controller.clone(), why));
                false
            }
            None => true,
        });
        closed
    }

    /// Closes this connection, if it is open.
    pub(super) fn close(&self, number: u64) {
        self.lock().held.retain(|held| held.number != number);
    }

    /// Whether this connection is open.
    pub(super) fn is_open(&self, number: u64) -> bool {
        self.lock().held.iter().any(|held| held.number == number)
    }

    /// Number of places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().held.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        let Self(table) = self;
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Its number, which is no other's.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().held.retain(|held| held.number != self.number);
    }
}

/// A place that is taken, as far as a newcomer's place depends on it.
struct Taken<'a> {
    controller: &'a str,
    may_revoke: bool,
    /// What is lost with it; `None`: nothing.
    rank: Option<Stage>,
}

impl<'a> From<&'a Held> for Taken<'a> {
    fn from(held: &'a Held) -> Self {
        let Held { controller, may_revoke, activity, .. } = held;
        Self { controller, may_revoke: *may_revoke, rank: activity.rank() }
    }
}

/// Where a newcomer gets its place.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// There is a free one.
    Free,
    /// This connection gives way.
    After(usize),
    None,
}

/// A controller with all its places gives one of its own. If there are too few for all, the
/// controller with the most connections gives one; first of those who may not revoke.
fn choose(taken: &[Taken<'_>], controller: &str, may_revoke: bool) -> Choice {
    let own = |one: &Taken<'_>| one.controller == controller;
    let without = |one: &Taken<'_>| !one.may_revoke;
    let count = |of: &dyn Fn(&Taken<'_>) -> bool| taken.iter().filter(|one| of(one)).count();
    if count(&own) >= MAX_PER_CONTROLLER {
        return least(taken, own);
    }
    if !may_revoke && count(&without) >= MAX_WITHOUT_REVOKE {
        return least(taken, without);
    }
    if taken.len() < MAX_CONNECTIONS {
        return Choice::Free;
    }
    match least(taken, without) {
        Choice::None if may_revoke => least(taken, |_| true),
        choice => choice,
    }
}

/// Of these the one with the least to lose, of the controller with the most of them, the oldest. A
/// connection whose call is being worked on never gives way.
fn least(taken: &[Taken<'_>], of: impl Fn(&Taken<'_>) -> bool) -> Choice {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for one in taken {
        *counts.entry(one.controller).or_default() += 1;
    }
    let open =
        taken.iter().enumerate().filter(|(_, one)| of(one) && one.rank < Some(Stage::Working));
    let least =
        open.min_by_key(|(at, one)| (one.rank, Reverse(counts.get(one.controller).copied()), *at));
    least.map_or(Choice::None, |(at, _)| Choice::After(at))
}

#[cfg(test)]
mod tests {
    use jit_proto::permission::Permissions;

    use super::*;

    fn taken(count: usize, controller: &str, rank: Option<Stage>) -> Vec<Taken<'_>> {
        let one = || Taken { controller, may_revoke: controller.starts_with("may"), rank };
        std::iter::repeat_with(one).take(count).collect()
    }

    #[test]
    fn a_controller_with_all_its_places_gives_its_own_oldest_idle_one() {
        let mut all = taken(4, "other", None);
        all.extend(taken(MAX_PER_CONTROLLER - 2, "one", Some(Stage::Watching)));
        all.extend(taken(1, "one", None));
        assert_eq!(choose(&all, "one", false), Choice::Free);
        all.extend(taken(1, "one", None));
        assert_eq!(choose(&all, "one", false), Choice::After(4 + MAX_PER_CONTROLLER - 2));
        assert_eq!(choose(&all, "other", false), Choice::Free);
        let watching = taken(MAX_PER_CONTROLLER, "one", Some(Stage::Watching));
        assert_eq!(choose(&watching, "one", false), Choice::After(0));
        let working = taken(MAX_PER_CONTROLLER, "one", Some(Stage::Working));
        assert_eq!(choose(&working, "one", false), Choice::None);
    }

    #[test]
    fn those_who_may_not_revoke_leave_a_share_to_those_who_may() {
        let names: Vec<_> = (0..MAX_WITHOUT_REVOKE).map(|number| format!("c{number}")).collect();
        let mut all: Vec<_> =
            names.iter().flat_map(|name| taken(1, name, Some(Stage::Working))).collect();
        assert_eq!(choose(&all, "new", false), Choice::None);
        assert_eq!(choose(&all, "may revoke", true), Choice::Free);
        all.extend(taken(1, "idle", None));
        assert_eq!(choose(&all, "new", false), Choice::After(MAX_WITHOUT_REVOKE));
        // All places are taken: still the others give way first.
        all.extend(taken(MAX_CONNECTIONS - all.len(), "may too", None));
        assert_eq!(choose(&all, "may revoke", true), Choice::After(MAX_WITHOUT_REVOKE));
        let _idle = all.remove(MAX_WITHOUT_REVOKE);
        all.extend(taken(1, "may too", None));
        assert_eq!(choose(&all, "may revoke", true), Choice::After(MAX_WITHOUT_REVOKE));
    }

    #[test]
    fn a_connection_that_gives_way_is_closed_and_its_end_frees_no_other_place() {
        let (places, now) = (Places::default(), Instant::now());
        let may = Permissions::from_iter([Permission::Read]);
        let identity = Identity { name: "one".into(), may };
        let take = || places.take(&identity, Activity::new(now), |_| None).unwrap();
        let (first, mut closed) = take();
        let mut others: Vec<_> = (1..MAX_PER_CONTROLLER).map(|_| take()).collect();
        assert!(closed.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        others.push(take());
        assert_eq!(closed.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(places.taken(), MAX_PER_CONTROLLER);
        drop(first);
        assert_eq!(places.taken(), MAX_PER_CONTROLLER);
        drop(others.pop());
        assert_eq!(places.taken(), MAX_PER_CONTROLLER - 1);
    }
}

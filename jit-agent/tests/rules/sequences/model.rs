//! The rules of a host, written down a second time and as short as they can be said.

use std::collections::{BTreeMap, BTreeSet};

use jit_proto::SourcePrefix;

use crate::support::v4;

/// Who asks for a grant: by its id.
pub(super) const REQUESTERS: [&str; 2] = ["ana@example.org", "bo@example.org"];
/// The requester of the grants with an id.
pub(super) fn requester_of(id: u8) -> &'static str {
    REQUESTERS.get(usize::from(id % 2)).unwrap()
}

/// The rules, as short as they can be said. Times in milliseconds; the boot clock runs on over
/// reboots.
#[derive(Default)]
pub(super) struct Model {
    pub(super) grants: BTreeMap<u8, Modelled>,
    pub(super) refused: BTreeSet<u8>,
    /// Ids that were accepted since the last start: they are known, whatever comes under them.
    pub(super) known: BTreeSet<u8>,
    pub(super) floor: i64,
    /// Of everybody, and of each requester: what was signed until then is refused.
    pub(super) all: i64,
    pub(super) by_requester: BTreeMap<&'static str, i64>,
}

/// The grants that a signed revocation is about.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    All,
    Ids(Vec<u8>),
    Requester(&'static str),
}

#[derive(Clone)]
pub(super) struct Modelled {
    pub(super) source: SourcePrefix,
    pub(super) begin: i64,
    pub(super) end: i64,
    pub(super) replaces: Option<u8>,
    pub(super) issued: i64,
    /// On the boot clock, while it is open.
    pub(super) open_until: Option<i64>,
    pub(super) begun: bool,
    /// Held back after a reboot with a clock that was not trusted.
    pub(super) held_back: bool,
}

impl Model {
    fn trusts(&self, wall: i64) -> bool {
        wall + 60_000 >= self.floor
    }

    pub(super) fn pass(&mut self, wall: i64, boot: i64) {
        self.grants.retain(|_, grant| grant.open_until.is_none_or(|until| until > boot));
        self.look(wall, boot);
        if !self.trusts(wall) {
            return;
        }
        self.floor = self.floor.max(wall);
        loop {
            let due = |(_, grant): &(&u8, &mut Modelled)| {
                !grant.held_back && grant.open_until.is_none() && grant.begin <= wall
            };
            let first = self.grants.iter_mut().filter(due).min_by_key(|(_, grant)| grant.begin);
            let Some((_, grant)) = first else { break };
            grant.open_until = Some(boot + (grant.end - wall));
            grant.begun = true;
            if let Some(old) = grant.replaces {
                self.refused.insert(old);
                self.grants.remove(&old);
            }
        }
        self.grants.retain(|_, grant| grant.open_until.is_none_or(|until| until > boot));
    }

    /// Says whether the id is taken or refused until this grant would end, from now on.
    pub(super) fn push(&mut self, id: u8, fresh: Modelled, wall: i64, boot: i64) -> bool {
        self.look(wall, boot);
        let refused = self.refused.contains(&id);
        let good = self.trusts(wall) && fresh.end > wall;
        let requester = requester_of(id);
        let floor = self.by_requester.get(requester).copied().unwrap_or_default().max(self.all);
        let taken = good && !refused && !self.known.contains(&id) && fresh.issued > floor;
        if taken {
            self.grants.insert(id, fresh);
            self.known.insert(id);
        }
        taken || good && refused
    }

    pub(super) fn revoke_until_now(&mut self, requester: Option<&'static str>, wall: i64) {
        let falls = |id: &u8| requester.is_none_or(|name| name == requester_of(*id));
        let mut floor = wall.max(self.floor);
        for (id, grant) in self.grants.extract_if(.., |id, _| falls(id)) {
            self.refused.insert(id);
            floor = floor.max(grant.issued);
        }
        self.raise(requester, floor);
    }

    /// By a key: these ids, or what was issued until then, by a requester or by everybody.
    pub(super) fn revoke_signed(&mut self, whose: &Whose, at: i64, wall: i64) {
        let requester = match whose {
            Whose::Ids(ids) => {
                self.refused.extend(ids);
                self.grants.retain(|id, _| !ids.contains(id));
                return;
            }
            Whose::Requester(name) => Some(*name),
            Whose::All => None,
        };
        let falls = |id: &u8, grant: &mut Modelled| {
            grant.issued <= at && requester.is_none_or(|name| name == requester_of(*id))
        };
        self.refused.extend(self.grants.extract_if(.., falls).map(|(id, _)| id));
        // A clock far ahead closes at once, and sets a floor of a minute ahead.
        self.raise(requester, at.min(wall.max(self.floor) + 60_000));
    }

    fn raise(&mut self, requester: Option<&'static str>, floor: i64) {
        let old = match requester {
            Some(name) => self.by_requester.entry(name).or_default(),
            None => &mut self.all,
        };
        *old = floor.max(*old);
    }

    pub(super) fn clock_was_set(&mut self, wall: i64, boot: i64) {
        if self.trusts(wall) {
            for grant in self.grants.values_mut() {
                grant.open_until = grant.open_until.map(|until| until.min(boot + grant.end - wall));
            }
        }
    }

    pub(super) fn start(&mut self, reboot: bool, wall: i64, boot: i64) {
        self.restore(reboot, wall, boot);
        self.known.clear();
        self.know();
    }

    /// Whatever is held and does not wait is known.
    fn know(&mut self) {
        let here = self.grants.iter().filter(|(_, grant)| !grant.held_back);
        self.known.extend(here.map(|(id, _)| *id));
    }

    fn restore(&mut self, reboot: bool, wall: i64, boot: i64) {
        let trusted = self.trusts(wall);
        // An end is judged by the later of clock and floor, a beginning by the clock.
        let late = wall.max(self.floor);
        for grant in self.grants.values_mut() {
            let until = boot + grant.end - late;
            if reboot || grant.held_back || grant.open_until.is_none() {
                grant.held_back = !trusted;
                grant.open_until = (trusted && grant.begun).then_some(until);
            } else {
                grant.open_until = grant.open_until.map(|old| old.min(until));
            }
        }
        self.grants.retain(|_, grant| grant.held_back || grant.end > late);
    }

    /// What waited for a clock that is right is back when it is.
    fn look(&mut self, wall: i64, boot: i64) {
        if self.trusts(wall) && self.grants.values().any(|grant| grant.held_back) {
            self.restore(false, wall, boot);
            self.know();
        }
    }

    pub(super) fn covers(&self, source: &str, boot: i64) -> bool {
        let host = SourcePrefix::new(v4(source), 32).unwrap();
        self.grants.values().any(|grant| {
            grant.open_until.is_some_and(|until| until > boot) && grant.source.contains(&host)
        })
    }
}

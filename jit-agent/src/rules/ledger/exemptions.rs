//! Sources that are let in without a grant, as the policy in force says.

use jit_proto::WallTime;

use crate::rules::{
    claims::{Claims, EXEMPT_SLOT, Kind, PlaceClaim},
    clock::{BootNanos, Now},
    reconcile::{Access, EntryKey},
};

#[derive(Clone, Copy, Debug)]
struct Exemption {
    key: EntryKey,
    deadline: BootNanos,
    /// Its end by the wall clock; `None`: it has none.
    until: Option<WallTime>,
}

/// All exemptions that claim a place.
#[derive(Debug, Default)]
pub(super) struct Exemptions(Vec<Exemption>);

impl Exemptions {
    /// Removes all exemptions.
    pub(super) fn clear(&mut self, claims: &mut Claims) {
        for Exemption { key, deadline, .. } in self.0.drain(..) {
            claims.remove(key, claim(deadline));
        }
    }

    /// Adds an exemption that has not ended. There must be room for it.
    pub(super) fn add(
        &mut self,
        key: EntryKey,
        deadline: BootNanos,
        until: Option<WallTime>,
        claims: &mut Claims,
    ) {
        claims.add(key, claim(deadline));
        self.0.push(Exemption { key, deadline, until });
    }

    /// Handles a wall clock that was set: exemptions may only end sooner.
    pub(super) fn clock_was_set(&mut self, now: Now, claims: &mut Claims) {
        let before = self.0.clone();
        // Removed first, all of them: they share a slot, and two may stand at one place.
        self.clear(claims);
        for Exemption { key, deadline, until } in before {
            let fresh = until.map_or(deadline, |until| now.deadline(until));
            self.add(key, deadline.min(fresh), until, claims);
        }
    }

    /// The places whose exemptions ended after the first time and not after the second.
    pub(super) fn ended(
        &self,
        after: BootNanos,
        until: BootNanos,
    ) -> impl Iterator<Item = EntryKey> + '_ {
        let ended = move |one: &&Exemption| after < one.deadline && one.deadline <= until;
        self.0.iter().filter(ended).map(|one| one.key)
    }

    pub(super) fn next_end(&self, now: Now) -> Option<BootNanos> {
        self.0.iter().map(|one| one.deadline).filter(|end| *end > now.boot).min()
    }
}

const fn claim(deadline: BootNanos) -> PlaceClaim {
    let access = Access { deadline, cut: false, slot: EXEMPT_SLOT };
    PlaceClaim { access, kind: Kind::Unlimited }
}

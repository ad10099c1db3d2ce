//! Claims of grants that have ended and whose sessions are cut. The kernel keeps them, on a port
//! whose own rule would let such sessions live on.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use crate::rules::{
    claims::{Claims, EXEMPT_SLOT, Kind, PlaceClaim},
    clock::{BootNanos, Now},
    reconcile::{Access, EntryKey},
};

/// How long such a claim stays. The sockets of this host do not show every session, and an idle peer
/// may still try.
const LINGER: Duration = Duration::from_secs(24 * 3600);

/// All such claims.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    /// With the time until which each stays.
    claims: HashMap<EntryKey, (BootNanos, PlaceClaim)>,
    by_end: BTreeSet<(BootNanos, EntryKey)>,
}

impl Lingering {
    /// What ended at this place at `end` is cut from now on, if there is room; it takes the place of
    /// what was said before.
    pub(super) fn start(&mut self, key: EntryKey, end: BootNanos, now: Now, claims: &mut Claims) {
        if claims.fits([key], []).is_err() {
            return;
        }
        self.stop(key, claims);
        let access = Access { deadline: end, cut: true, slot: EXEMPT_SLOT };
        let claim = PlaceClaim { access, kind: Kind::Unlimited };
        let until = now.boot + LINGER;
        claims.add(key, claim);
        self.claims.insert(key, (until, claim));
        self.by_end.insert((until, key));
    }

    pub(super) fn stop(&mut self, key: EntryKey, claims: &mut Claims) {
        if let Some((until, claim)) = self.claims.remove(&key) {
            self.by_end.remove(&(until, key));
            claims.remove(key, claim);
        }
    }

    /// Others need the room.
    pub(super) fn stop_all(&mut self, claims: &mut Claims) {
        while let Some((_, key)) = self.by_end.first().copied() {
            self.stop(key, claims);
        }
    }

    pub(super) fn stop_ended(&mut self, now: Now, claims: &mut Claims) {
        while let Some((until, key)) = self.by_end.first().copied() {
            if until > now.boot {
                break;
            }
            self.stop(key, claims);
        }
    }
}

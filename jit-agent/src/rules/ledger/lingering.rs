//! Claims of ended grants that cut their sessions. The kernel keeps these claims on ports whose own
//! rule would let such sessions go on.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use crate::rules::{
    claims::{Claims, EXEMPT_SLOT, Kind, PlaceClaim},
    clock::{BootNanos, Now},
    reconcile::{Access, EntryKey},
};

/// How long such a claim stays. This host's sockets do not show every session, and an idle peer may
/// send again.
const LINGER: Duration = Duration::from_secs(24 * 3600);

/// All these claims.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    /// The claims, each with the time until which it stays.
    claims: HashMap<EntryKey, (BootNanos, PlaceClaim)>,
    by_end: BTreeSet<(BootNanos, EntryKey)>,
}

impl Lingering {
    /// Notes that sessions of a claim that ended at this place at `end` are cut from now on, if
    /// there is room. This replaces an earlier note about the place.
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

    /// Removes all claims: others need the room.
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

//! Admissions: whether the ledger takes a grant, and the slot and places that the grant gets.

use std::sync::Arc;

use jit_common::MAX_PLACES;
use jit_proto::Refusal;

use crate::rules::{
    clock::Now,
    grant::VerifiedGrant,
    ledger::{Admission, HeldGrant, Ledger, Progress, Stage},
    reconcile::EntryKey,
    refusal::Refused,
};

impl Ledger {
    /// Checks the id and the room (docs/grants.md, steps `id` to `room`) and takes the grant. It is
    /// active if its window has begun. The grant that it replaces is still there:
    /// [`Ledger::replace`] ends it.
    pub fn admit(&mut self, grant: VerifiedGrant, now: Now) -> Result<Admission, Refused> {
        if self.knows(&grant)? {
            return Ok(Admission::Known);
        }
        // A stored grant was admitted before: only what is new here is under a floor.
        self.floors.check(&grant)?;
        self.take_in(grant, Progress::default(), now)
    }

    /// Puts a stored grant back, with its progress from an earlier run. Its deadline never gets
    /// later: a wall clock that was set meanwhile may only shorten it. A grant that has ended is
    /// not put back.
    pub fn restore(
        &mut self,
        grant: VerifiedGrant,
        progress: Progress,
        now: Now,
    ) -> Result<Option<Admission>, Refused> {
        let fresh = now.deadline(grant.not_after());
        let deadline = progress.deadline.map_or(fresh, |stored| stored.min(fresh));
        if deadline <= now.boot {
            if progress.deadline.is_some() {
                self.ended_unseen(grant, deadline, now);
            }
            return Ok(None);
        }
        let id = grant.id();
        if self.knows(&grant)? {
            return Ok(Some(Admission::Known));
        }
        let admission = self.take_in(grant, progress, now)?;
        if admission == Admission::Active {
            self.activate(id, deadline);
        }
        Ok(Some(admission))
    }

    /// Takes a grant that is not held.
    fn take_in(
        &mut self,
        mut grant: VerifiedGrant,
        progress: Progress,
        now: Now,
    ) -> Result<Admission, Refused> {
        let id = grant.id();
        let (begin, end) = (grant.not_before(), grant.not_after());
        let scheduled = begin > now.wall;
        let room = self.room_for(&grant, scheduled, progress.slot);
        let slot = room.map_err(|refused| refused.of(id))?;
        let stage = Stage::Scheduled { slot };
        self.shared.share(&mut grant);
        let held = HeldGrant { grant: Arc::new(grant), stage, hits: progress.hits };
        self.claim(&held);
        self.slots.own(slot, id, held.places());
        self.grants.insert(id, held);
        if scheduled {
            self.begins.insert((begin, id));
            return Ok(Admission::Scheduled);
        }
        self.activate(id, now.deadline(end));
        Ok(Admission::Active)
    }

    /// Whether this very grant is held, or was until it ended.
    fn knows(&self, grant: &VerifiedGrant) -> Result<bool, Refused> {
        let id = grant.id();
        if self.tombstones.contains(id) {
            let detail = "this grant was revoked, or another one replaced it";
            return Err(Refused::new(Refusal::Revoked, detail).of(id));
        }
        match self.grants.get(&id).or_else(|| self.ended.find(id)) {
            None => Ok(false),
            Some(known) if known.grant.same_content(grant) => Ok(true),
            Some(_) => {
                let detail = "another grant with this id and other content is known";
                Err(Refused::new(Refusal::IdConflict, detail).of(id))
            }
        }
    }

    /// Takes a slot, if there is room in the tables. Entries that are only there for sessions of
    /// ended grants make room.
    fn room_for(
        &mut self,
        grant: &VerifiedGrant,
        scheduled: bool,
        slot: Option<u32>,
    ) -> Result<u32, Refused> {
        if self.fits(grant, scheduled).is_err() {
            self.lingering.stop_all(&mut self.claims);
            self.fits(grant, scheduled)?;
        }
        self.slots.find(slot).ok_or_else(|| {
            let detail = format!("no room: {} grants are held", self.slots.used());
            Refused::new(Refusal::Capacity, detail)
        })
    }

    fn fits(&self, grant: &VerifiedGrant, scheduled: bool) -> Result<(), Refused> {
        let keys = grant.entries().map(|(port, source)| EntryKey { port, source });
        let leaves = grant.replaces().filter(|_| !scheduled).and_then(|id| self.grants.get(&id));
        let places = self.slots.places() - leaves.map_or(0, HeldGrant::places);
        if grant.limit().is_some_and(|limit| limit.get() > MAX_PLACES.saturating_sub(places)) {
            let detail = format!(
                "no room: of the {MAX_PLACES} connections that grants with a limit may have together, \
                 {places} are given out"
            );
            return Err(Refused::new(Refusal::Capacity, detail));
        }
        let leaving = leaves.into_iter().flat_map(HeldGrant::keys);
        self.claims.fits(keys, leaving).map_err(|full| {
            let detail = format!("no room: all {} {} are in use", full.most, full.table);
            Refused::new(Refusal::Capacity, detail)
        })
    }
}

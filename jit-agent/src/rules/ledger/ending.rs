//! Ends: of time, by revocation, by another grant, and what remains of a grant then.

use std::sync::Arc;

use jit_proto::GrantId;

use crate::rules::{
    clock::{BootNanos, Now},
    grant::VerifiedGrant,
    ledger::{Change, HeldGrant, Ledger, Replacement, Stage, Tombstone},
    reconcile::{Entry, EntryKey},
    refusal::Refused,
};

/// Ended grants that are remembered for `list --all`.
const MAX_ENDED: usize = 1024;

impl Ledger {
    /// Revokes one grant, known or not; says whether it ended one, and until when the id stays
    /// refused. `hits`: connections that the kernel counted in its slot.
    pub fn revoke(
        &mut self,
        id: GrantId,
        now: Now,
        hits: u64,
    ) -> Result<(bool, Tombstone), Refused> {
        self.end_early(id, Stage::Revoked, now, hits)
    }

    /// What a grant that has begun replaces, if it replaces anything.
    pub fn replaced_by(&self, by: GrantId) -> Option<GrantId> {
        let held = self.grants.get(&by)?;
        held.stage.deadline()?;
        held.grant.replaces()
    }

    /// Ends what a grant that has begun replaces, if it replaces anything and that has not been done.
    /// `hits`: connections that the kernel counted in the slot of what it replaces.
    pub fn replace(&mut self, by: GrantId, now: Now, hits: u64) -> Option<Replacement> {
        self.replace_id(self.replaced_by(by)?, by, now, hits)
    }

    /// Ends a grant, seen or not, in whose place another began, unless it has ended already.
    pub fn replace_id(
        &mut self,
        id: GrantId,
        by: GrantId,
        now: Now,
        hits: u64,
    ) -> Option<Replacement> {
        if self.tombstones.contains(id) && !self.grants.contains_key(&id) {
            return None;
        }
        let (ended, until) = self.end_early(id, Stage::Replaced, now, hits).ok()?;
        Some(Replacement { by, ended, id, until })
    }

    /// Takes a replacement back, at once: the successor could not be opened. `before` is what it
    /// ended.
    pub fn take_back(&mut self, replacement: Replacement, before: Option<HeldGrant>) {
        let id = replacement.id;
        self.tombstones.remove(id);
        let Some(before) = before else { return };
        let Some(slot) = before.stage.slot() else { return };
        for key in before.keys() {
            self.lingering.stop(key, &mut self.claims);
        }
        self.ended.retain(|ended| ended.grant.id() != id);
        self.slots.own(slot, id, before.places());
        if let Some(deadline) = before.stage.deadline() {
            self.ends.insert((deadline, id));
        } else {
            self.begins.insert((before.grant.not_before(), id));
        }
        self.claim(&before);
        self.grants.insert(id, before);
    }

    /// A stored grant began in this boot and has ended. Its sessions may be there still, and the
    /// kernel's tables may not know of it, because they are new.
    pub fn ended_unseen(&mut self, grant: VerifiedGrant, end: BootNanos, now: Now) {
        let ended = HeldGrant { grant: Arc::new(grant), stage: Stage::Expired, hits: 0 };
        if ended.cuts() {
            self.linger(&ended, end.min(now.boot), now);
        }
    }

    /// Takes over what an earlier run left in the kernel: whose sessions were to be cut stays so.
    pub fn adopt(&mut self, key: EntryKey, entry: Entry, now: Now) {
        let cut = entry.accesses().into_iter().filter(|access| access.cut && access.is_some());
        if let Some(access) = cut.max() {
            self.lingering.start(key, access.deadline.min(now.boot), now, &mut self.claims);
        }
    }

    pub(super) fn expire(&mut self, now: Now, hits: impl Fn(u32) -> u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((end, id)) = self.ends.first().copied() {
            if end > now.boot {
                break;
            }
            self.ends.pop_first();
            if let Some(held) = self.grants.remove(&id) {
                let hits = held.stage.slot().map_or(0, &hits);
                self.close(held, Stage::Expired, end, now, hits);
            }
            changes.push(Change::Expired(id));
        }
        changes
    }

    fn end_early(
        &mut self,
        id: GrantId,
        stage: Stage,
        now: Now,
        hits: u64,
    ) -> Result<(bool, Tombstone), Refused> {
        let known_end = self.grants.get(&id).map(|held| held.grant.not_after());
        let tombstone = self.tombstones.refuse(id, known_end, now)?;
        let Some(held) = self.grants.remove(&id) else { return Ok((false, tombstone)) };
        self.close(held, stage, now.boot, now, hits);
        Ok((true, tombstone))
    }

    /// Ends a grant that has just left `grants`.
    fn close(&mut self, held: HeldGrant, stage: Stage, end: BootNanos, now: Now, hits: u64) {
        self.release(&held);
        if held.stage.deadline().is_some() {
            self.linger(&held, end, now);
        }
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(held.ended(stage, hits));
    }

    /// Gives back what a grant that leaves `grants` held.
    pub(super) fn release(&mut self, held: &HeldGrant) {
        let id = held.grant.id();
        let (Some(claim), Some(slot)) = (held.claim(), held.stage.slot()) else { return };
        if let Some(deadline) = held.stage.deadline() {
            self.ends.remove(&(deadline, id));
        }
        self.begins.remove(&(held.grant.not_before(), id));
        for key in held.keys() {
            self.claims.remove(key, claim);
        }
        self.slots.release(slot, id, held.places());
    }

    /// What a grant that ended says about the sessions that it let in: cut, they stay so; else
    /// whatever was said before about the same places counts no more.
    fn linger(&mut self, held: &HeldGrant, end: BootNanos, now: Now) {
        for key in held.keys() {
            if held.cuts() {
                self.lingering.start(key, end, now, &mut self.claims);
            } else {
                self.lingering.stop(key, &mut self.claims);
            }
        }
    }
}

//! Ends of grants: by time, by revocation, by another grant. Also what remains of an ended grant.

use std::sync::Arc;

use jit_proto::GrantId;

use crate::rules::{
    clock::{BootNanos, Now},
    grant::VerifiedGrant,
    ledger::{Change, HeldGrant, Ledger, Replacement, Stage, Tombstone},
    reconcile::{Entry, EntryKey},
    refusal::Refused,
};

impl Ledger {
    /// Revokes an id, whether a grant with it is known or not. Returns whether that ended a grant,
    /// and until when the id stays refused. `hits`: connections that the kernel counted in its
    /// slot.
    pub fn revoke(
        &mut self,
        id: GrantId,
        now: Now,
        hits: u64,
    ) -> Result<(bool, Tombstone), Refused> {
        self.end_early(id, Stage::Revoked, now, hits)
    }

    /// The grant that a grant replaces, if it has begun and replaces one.
    pub fn replaced_by(&self, by: GrantId) -> Option<GrantId> {
        let held = self.grants.get(&by)?;
        held.stage.deadline()?;
        held.grant.replaces()
    }

    /// If a grant has begun and replaces another one, ends that one, unless it was done before.
    /// `hits`: connections that the kernel counted in the slot of the replaced grant.
    pub fn replace(&mut self, by: GrantId, now: Now, hits: u64) -> Option<Replacement> {
        self.replace_id(self.replaced_by(by)?, by, now, hits)
    }

    /// Ends the grant, known or not, that another one has replaced, unless it has ended already.
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

    /// Takes a replacement back at once: the successor could not be opened. `before`: the grant
    /// that it ended.
    pub fn take_back(&mut self, replacement: Replacement, before: Option<HeldGrant>) {
        let id = replacement.id;
        self.tombstones.remove(id);
        let Some(before) = before else { return };
        let Some(slot) = before.stage.slot() else { return };
        for key in before.keys() {
            self.lingering.stop(key, &mut self.claims);
        }
        self.ended.remove(id);
        self.slots.own(slot, id, before.places());
        if let Some(deadline) = before.stage.deadline() {
            self.ends.insert((deadline, slot));
        } else {
            self.begins.insert((before.grant.not_before(), id));
        }
        self.claim(&before);
        self.grants.insert(id, before);
    }

    /// Handles a stored grant that began in this boot and has ended. Its sessions may still be
    /// there, and the kernel's tables may be new, without an entry for it.
    pub fn ended_unseen(&mut self, grant: VerifiedGrant, end: BootNanos, now: Now) {
        let ended = HeldGrant { grant: Arc::new(grant), stage: Stage::Expired, hits: 0 };
        if ended.cuts() {
            self.linger(&ended, end.min(now.boot), now);
        }
    }

    /// Takes over an entry that an earlier run left in the kernel: its sessions stay cut.
    pub fn adopt(&mut self, key: EntryKey, entry: Entry, now: Now) {
        let cut = entry.accesses().into_iter().filter(|access| access.cut && access.is_some());
        if let Some(access) = cut.max() {
            self.lingering.start(key, access.deadline.min(now.boot), now, &mut self.claims);
        }
    }

    /// Cuts the sessions of these places from now on, also where the rule of the port lets them go
    /// on, unless another grant covers them.
    pub fn cut_sessions(&mut self, keys: impl IntoIterator<Item = EntryKey>, now: Now) {
        for key in keys {
            self.lingering.start(key, now.boot, now, &mut self.claims);
        }
    }

    pub(super) fn expire(&mut self, now: Now, hits: impl Fn(u32) -> u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((end, slot)) = self.ends.first().copied() {
            if end > now.boot {
                break;
            }
            self.ends.pop_first();
            let Some(id) = self.slots.owner(slot) else { continue };
            if let Some(held) = self.grants.remove(&id) {
                self.close(held, Stage::Expired, end, now, hits(slot));
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
        self.ended.add(held.ended(stage, hits));
    }

    /// Gives back what a grant that leaves `grants` held.
    pub(super) fn release(&mut self, held: &HeldGrant) {
        let id = held.grant.id();
        let (Some(claim), Some(slot)) = (held.claim(), held.stage.slot()) else { return };
        if let Some(deadline) = held.stage.deadline() {
            self.ends.remove(&(deadline, slot));
        }
        self.begins.remove(&(held.grant.not_before(), id));
        for key in held.keys() {
            self.claims.remove(key, claim);
        }
        self.slots.release(slot, id, held.places());
    }

    /// Notes whether the sessions of an ended grant stay cut. If it does not cut them, earlier
    /// notes about the same places do not count any more.
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

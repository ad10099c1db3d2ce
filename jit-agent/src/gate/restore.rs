//! Where grants stand, over restarts and reboots: slots and what they counted, what is used up, what
//! another grant replaced.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jit_common::Slot;
use jit_proto::v1;
use prost::Message as _;

use crate::{
    disk::{
        audit::{EventCode, Record},
        store::{StoredGrant, StoredLife, Transaction},
    },
    gate::Gate,
    kernel::datapath::{Datapath, DatapathError, Elsewhere},
    rules::{
        clock::{BootNanos, Now},
        grant::{self, GrantId},
        ledger::{Admission, Progress, Replacement, Tombstone},
        refusal::{Refusal, Refused},
    },
};

/// Slots of grants with a limit that are looked at in a tick: an event may have been lost.
const LOOKS: usize = 512;

/// Slots of grants that are over that are cleared at a time.
const CLOSES: usize = 1024;

/// A grant as the disk has it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) id: GrantId,
    grant: StoredGrant,
    life: StoredLife,
}

/// Where the tables of another version count a grant.
#[derive(Debug)]
pub(super) struct Carried {
    slot: u32,
    generation: u32,
    /// Connections before those.
    before: u64,
    /// How many of them are known.
    hits: u64,
    /// Our own tables let in none while the other gate may, so that together they never let in more
    /// than the limit.
    held: bool,
}

impl Kept {
    /// Who asked for it, as the controller said; not verified.
    pub(super) fn requester(&self) -> Option<String> {
        let envelope = self.grant.envelope.as_ref()?;
        v1::Grant::decode(&*envelope.payload).ok().map(|grant| grant.requester)
    }
}

impl<D: Datapath> Gate<D> {
    /// Puts back what was stored.
    pub(super) fn restore(
        &mut self,
        grants: Vec<(GrantId, StoredGrant)>,
        mut lives: HashMap<GrantId, StoredLife>,
        tombstones: Vec<(GrantId, Tombstone)>,
        stored_boot: Option<&str>,
        now: Now,
    ) {
        let same_boot = stored_boot == Some(self.boot_id.as_str());
        for (id, tombstone) in tombstones {
            let fresh = Tombstone::new(tombstone.until, now);
            self.ledger.restore_tombstone(id, if same_boot { tombstone } else { fresh });
        }
        if !same_boot {
            // What the disk knows by the boot clock is of another one.
            self.owed.boot_id = Some(self.boot_id.clone());
            self.owed.tombstones.extend(self.ledger.tombstones());
        }
        if !self.clock_is_trusted(now) {
            tracing::error!(
                "this host's clock says {}, but it has been {} before: grants of an earlier boot \
                 stay closed until it is right",
                now.wall,
                self.floor
            );
        }
        let kept = grants.into_iter().map(|(id, grant)| {
            let life = lives.remove(&id).unwrap_or_default();
            Kept { id, grant, life }
        });
        self.restore_grants(kept.collect(), now);
    }

    /// The clock has become right: what waited for that is put back.
    pub(super) fn restore_held_back(&mut self, now: Now) {
        if self.held_back.is_empty() || !self.clock_is_trusted(now) {
            return;
        }
        let held = std::mem::take(&mut self.held_back);
        tracing::info!(
            grants = held.len(),
            "the clock is right: grants of an earlier boot are back"
        );
        self.restore_grants(held, now);
        self.write_all();
    }

    fn restore_grants(&mut self, mut grants: Vec<Kept>, now: Now) {
        let trusted = self.clock_is_trusted(now);
        // Of the floor and a clock that is a little behind it, the later one says what is over.
        let late = Now { wall: now.wall.max(self.floor), ..now };
        // First whoever has a slot: the others take what is left.
        grants.sort_by_cached_key(|kept| (self.slot_kept(&kept.life).is_none(), kept.id));
        let mut replaced = BTreeSet::new();
        for kept in grants {
            if !trusted && self.deadline_kept(&kept.life).is_none() {
                self.held_back.push(kept);
            } else if let Some(old) = self.restore_one(&kept, [now, late]) {
                replaced.insert((old, kept.id));
            }
        }
        for (old, by) in replaced {
            let hits = self.hits(old);
            let replacement = self.ledger.replace_id(old, by, late, hits);
            self.tell_replacement(replacement, now);
        }
        if let Err(error) = self.settle(Transaction::default(), now) {
            tracing::error!("{error}");
        }
    }

    /// The end that a grant was given in this same boot.
    fn deadline_kept(&self, life: &StoredLife) -> Option<BootNanos> {
        let same_boot = life.boot_id == self.boot_id;
        (same_boot && life.deadline != 0).then_some(BootNanos(life.deadline))
    }

    /// Puts one grant back; returns which other one ended when it began. Of the two times the second
    /// is not before the floor: what has not begun begins by the first, what has ends by the second.
    fn restore_one(
        &mut self,
        Kept { id, grant, life }: &Kept,
        [now, late]: [Now; 2],
    ) -> Option<GrantId> {
        let id = *id;
        let deadline = self.deadline_kept(life);
        let envelope = grant.envelope.as_ref()?;
        let mut replaces = None;
        let kept = self.slot_kept(life);
        let (before, hits) = (life.before, life.hits);
        let elsewhere = self.elsewhere(life, kept);
        let carried = match elsewhere {
            Elsewhere::Counted(hits) => {
                let StoredLife { slot, generation, .. } = *life;
                Some(Carried { slot, generation, before, hits, held: true })
            }
            Elsewhere::Nowhere | Elsewhere::Unknown => None,
        };
        let counted = carried.as_ref().map_or(0, |carried| before.saturating_add(carried.hits));
        let verified = grant::verify(envelope, &self.config.keyring, &self.config.host);
        let result = verified.and_then(|grant| {
            let begins = life.began || grant.not_before() <= now.wall;
            replaces = grant.replaces().filter(|_| begins);
            let at = if begins { late } else { now };
            if grant.not_after() <= late.wall {
                if let Some(end) = deadline {
                    self.ledger.ended_unseen(grant, end, now);
                }
                return Ok(None);
            }
            // What was open once is not judged anew by a policy that came later: it stays until its
            // end, as it would without the restart.
            if !life.began {
                self.config.policy.check(&grant, &self.config.keyring, at)?;
            }
            let known = Progress {
                deadline,
                slot: kept,
                hits: match (kept, elsewhere) {
                    (Some(_), _) => before,
                    // How many it let in cannot be known: it may not let in one too many.
                    (None, Elsewhere::Unknown) => {
                        hits.max(grant.limit().map_or(0, |limit| limit.get().into()))
                    }
                    (None, _) => hits.max(counted),
                },
            };
            self.ledger.restore(grant, known, at)
        });
        match result {
            Ok(Some(admission)) => {
                self.resume(id, kept, carried.is_some(), now);
                self.carried.extend(carried.map(|carried| (id, carried)));
                if deadline.is_none() && admission == Admission::Active {
                    self.record_reopened(id, now);
                }
            }
            Ok(None) | Err(Refused { refusal: Refusal::Expired, .. }) => {
                self.owed.remove.push(id);
                let record = Record::new(EventCode::GrantExpired).by("agent").grant(id);
                self.record(record.detail("its end came while no agent was running"), now);
            }
            Err(refused) => {
                // What the audit calls refused does not come back by itself at a later start.
                self.owed.remove.push(id);
                tracing::warn!(grant = %id, "stored grant not restored: {refused}");
                let record = Record::new(EventCode::GrantRefused).by("agent").grant(id);
                let record = record.reason(refused.refusal.word());
                let detail = format!("not restored at start: {}", refused.detail);
                self.record(record.detail(&detail), now);
            }
        }
        replaces
    }

    /// Goes on counting where the kernel does, or starts anew with the connections that are left: with
    /// none of them while another gate counts as well.
    fn resume(&mut self, id: GrantId, kept: Option<u32>, held: bool, now: Now) {
        let Some(slot) = self.ledger.grant(id).and_then(|record| record.stage.slot()) else {
            return;
        };
        let start = |gate: &mut Self| match held {
            true => gate.datapath.open_slot(slot, 0),
            false => gate.count_anew(id),
        };
        if kept != Some(slot)
            && let Err(error) = start(self)
        {
            tracing::error!(grant = %id, "{error}: stored grant not restored");
            let record = Record::new(EventCode::GrantRefused).by("agent").grant(id);
            let detail = format!("not restored at start: {error}");
            self.record(record.reason(Refusal::Storage.word()).detail(&detail), now);
            self.ledger.forget(id);
            return;
        }
        self.owed_lives.insert(id);
        let hits = self.datapath.slot(slot).hits;
        self.ledger.count(slot, hits, now);
    }

    /// The slot that the kernel still counts this grant in.
    fn slot_kept(&self, life: &StoredLife) -> Option<u32> {
        let StoredLife { boot_id, slot, generation, .. } = life;
        let same = *boot_id == self.boot_id
            && *generation != 0
            && self.datapath.slot(*slot).generation == *generation
            && self.ledger.owner(*slot).is_none();
        same.then_some(*slot)
    }

    /// What another version's tables count of a grant that had a slot in this boot.
    fn elsewhere(&self, life: &StoredLife, kept: Option<u32>) -> Elsewhere {
        let StoredLife { boot_id, slot, generation, .. } = life;
        if kept.is_some() || *boot_id != self.boot_id || *generation == 0 {
            return Elsewhere::Nowhere;
        }
        self.datapath.elsewhere(*slot, *generation)
    }

    /// Takes over what another version's gate let in since its tables were read last; what is left of
    /// a limit may be used from now on. When those tables are gone the disk gets to know where it is
    /// counted. Called only when our gate is in force in place of the other.
    pub(super) fn count_carried(&mut self, now: Now) {
        if self.carried.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.carried);
        all.retain(|id, carried| {
            let elsewhere = self.datapath.elsewhere(carried.slot, carried.generation);
            let counted = match elsewhere {
                Elsewhere::Counted(hits) => hits,
                Elsewhere::Nowhere => carried.hits,
                Elsewhere::Unknown => return true,
            };
            let more = counted.saturating_sub(carried.hits);
            carried.hits = counted;
            if more > 0 || carried.held {
                carried.held = !self.count_more(*id, more, now);
            }
            let gone = elsewhere == Elsewhere::Nowhere && !carried.held;
            if gone {
                self.owed_lives.insert(*id);
            }
            !gone
        });
        self.carried = all;
        if self.carried.is_empty()
            && let Err(error) = self.settle(Transaction::default(), now)
        {
            tracing::error!("{error}");
        }
    }

    /// Whether the kernel knows what is left.
    fn count_more(&mut self, id: GrantId, more: u64, now: Now) -> bool {
        let limit = self.ledger.count_elsewhere(id, more);
        let slot = self.ledger.grant(id).and_then(|record| record.stage.slot());
        let (Some(slot), Some(limit)) = (slot, limit) else { return true };
        if let Err(error) = self.datapath.set_limit(slot, limit) {
            tracing::error!(grant = %id, "what another version counted of it: {error}");
            return false;
        }
        self.count(slot, now);
        true
    }

    /// Starts the slot of a grant. Nothing leads there yet.
    pub(super) fn count_anew(&mut self, id: GrantId) -> Result<(), DatapathError> {
        let Some(record) = self.ledger.grant(id) else { return Ok(()) };
        match record.stage.slot() {
            Some(slot) => self.datapath.open_slot(slot, record.limit()),
            None => Ok(()),
        }
    }

    /// Connections of grants with a limit that are over make room for those of others: some at a
    /// time, and at once again where there are more.
    pub(super) fn close_slots(&mut self) -> Option<Duration> {
        for _ in 0..CLOSES {
            let slot = self.ledger.next_closed()?;
            if let Err(error) = self.datapath.close_slot(slot) {
                tracing::warn!(slot, "{error}: its connections take room until the next start");
            }
        }
        Some(Duration::ZERO)
    }

    /// Likewise of grants that ended while no agent was running.
    pub(super) fn close_slots_of_the_past(&mut self) {
        let ledger = &self.ledger;
        let held = |slot| ledger.owner(slot).is_some();
        if let Err(error) = self.datapath.close_slots_but(&held) {
            tracing::warn!("{error}: connections of grants that are over take room");
        }
    }

    /// What the disk is to know of a grant.
    pub(super) fn life(&self, id: GrantId) -> Option<StoredLife> {
        let record = self.ledger.grant(id)?;
        let slot = record.stage.slot()?;
        let Slot { hits, limit: _, generation } = self.datapath.slot(slot);
        // Should this takeover be broken off, either version must find what the other's gate counts.
        let (slot, generation, before) = match self.carried.get(&id) {
            Some(Carried { slot, generation, before, .. }) => (*slot, *generation, *before),
            None => (slot, generation, record.hits),
        };
        Some(StoredLife {
            boot_id: self.boot_id.clone(),
            deadline: record.stage.deadline().map_or(0, |deadline| deadline.0),
            slot,
            generation,
            before,
            began: record.stage.deadline().is_some(),
            hits: record.hits.saturating_add(hits),
        })
    }

    /// The sessions of grants that were over before this run, and wanted them cut, stay so.
    pub(super) fn adopt_lingering(&mut self, now: Now) {
        for (key, entry) in &self.installed {
            self.ledger.adopt(*key, *entry, now);
        }
    }

    /// A connection was let in: of a grant with a limit the disk learns of it soon, so that a reboot
    /// does not give it back.
    pub(super) fn count(&mut self, slot: u32, now: Now) {
        let Some(id) = self.ledger.owner(slot) else { return };
        if self.ledger.grant(id).is_none_or(|record| record.grant.limit().is_none()) {
            return;
        }
        self.owed_lives.insert(id);
        self.next_floor = now.boot;
        let hits = self.datapath.slot(slot).hits;
        if let Some(id) = self.ledger.count(slot, hits, now) {
            self.record_exhausted(id, now);
            self.tell_grant("exhausted", id, "", "agent", "", now);
            tracing::info!(grant = %id, "grant used up: no more connections");
        }
    }

    /// Looks at some of the grants that have a limit: the event of a connection may have been lost.
    pub(super) fn look_at_limits(&mut self, now: Now) {
        let slots: Vec<u32> = self.ledger.limited_after(self.looked_at).take(LOOKS).collect();
        self.looked_at = if slots.len() < LOOKS { 0 } else { slots.last().copied().unwrap_or(0) };
        for slot in slots {
            let Some(record) = self.ledger.owner(slot).and_then(|id| self.ledger.grant(id)) else {
                continue;
            };
            let left = u64::from(record.limit());
            if self.datapath.slot(slot).hits >= left {
                self.count(slot, now);
            }
        }
    }

    /// Ends what a grant that has begun replaces.
    pub(super) fn replace_by(&mut self, by: GrantId, now: Now) -> Option<Replacement> {
        let hits = self.ledger.replaced_by(by).map_or(0, |old| self.hits(old));
        self.ledger.replace(by, now, hits)
    }

    /// What the kernel counted in the slot of a grant.
    pub(super) fn hits(&self, id: GrantId) -> u64 {
        let slot = self.ledger.grant(id).and_then(|held| held.stage.slot());
        slot.map_or(0, |slot| self.datapath.slot(slot).hits)
    }

    /// What was replaced is forgotten on the disk and refused from now on.
    pub(super) fn tell_replacement(&mut self, replacement: Option<Replacement>, now: Now) {
        let Some(replacement) = replacement else { return };
        let Replacement { by, ended, id, until } = replacement;
        self.owed.tombstones.push((id, until));
        self.owed.remove.push(id);
        self.next_floor = now.boot;
        self.record_replaced(&replacement, now);
        if ended {
            tracing::info!(grant = %id, %by, "grant replaced");
            self.tell_grant("replaced", id, "", "agent", &format!("by {by}"), now);
        }
    }
}

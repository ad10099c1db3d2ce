//! The state machine of grants: admit, activate, use up, replace, expire, revoke, and what the
//! kernel should hold.
//!
//! Pure: time is an argument, nothing is written anywhere. The gate persists and writes what comes
//! out, in that order, and takes an admission back ([`Ledger::forget`]) when that fails.

mod record;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jit_common::{MAX_PLACES, PortKey};
use jit_proto::{GrantId, Refusal, SourcePrefix, WallTime};

pub use record::{Admission, Change, Life, Record, Replacement, Stage, Tombstone};

use crate::rules::{
    claims::{Capacity, Claims, EXEMPT_SLOT, Held, Kind},
    clock::{BootNanos, Now, SKEW},
    grant::VerifiedGrant,
    reconcile::{Claim, Entry, EntryKey},
    refusal::Refused,
};

/// Ended grants that are remembered for `list --all`.
const MAX_ENDED: usize = 1024;
/// Tombstones of revoked ids that are held at most.
const MAX_TOMBSTONES: usize = 1 << 20;

/// How often tombstones that are over are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// By how much a clock must have been set for tombstones to follow: they have [`SKEW`] to spare.
const STEP: Duration = Duration::from_secs(1);
/// How long a grant that is used up keeps its places from others that have a limit, too: the
/// handshake of its last connection needs them.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long the kernel is told that the sessions of an ended grant are cut, on a port whose own rule
/// would let them live on. What the sockets of this host do not tell, an idle peer may still try.
const LINGER: Duration = Duration::from_secs(24 * 3600);

/// All grants that this host holds.
#[derive(Debug)]
pub struct Ledger {
    grants: HashMap<GrantId, Record>,
    ended: VecDeque<Record>,
    /// Ids that were revoked or replaced, and until when they stay refused.
    tombstones: HashMap<GrantId, Tombstone>,
    /// When tombstones that are over are next looked for.
    next_sweep: WallTime,
    claims: Claims,
    /// With the end that each was given on the wall clock.
    exemptions: Vec<(EntryKey, Held, Option<WallTime>)>,
    ends: BTreeSet<(BootNanos, GrantId)>,
    begins: BTreeSet<(WallTime, GrantId)>,
    /// Grants that are used up, and when others may have their places.
    handshakes: BTreeSet<(BootNanos, GrantId)>,
    /// Claims of grants that are over and whose sessions are cut, and how long they stay.
    lingering: HashMap<EntryKey, (BootNanos, Held)>,
    lingers: BTreeSet<(BootNanos, EntryKey)>,
    /// Oldest first: a slot rests before it is used again. May hold slots that are in use.
    free_slots: VecDeque<u32>,
    owners: HashMap<u32, GrantId>,
    /// Slots and whose they were last, newest last.
    former: VecDeque<(u32, GrantId)>,
    /// Slots of grants that have a limit and are not used up.
    limited: BTreeSet<u32>,
    /// Connections that all grants with a limit may let in together.
    places: u32,
    /// Slots of grants with a limit that are over, whose connections are still in the kernel.
    closed: Vec<u32>,
}

impl Ledger {
    /// An empty ledger; `slots` is the length of the kernel's table of slots.
    pub fn new(capacity: Capacity, slots: u32) -> Self {
        Self {
            grants: HashMap::new(),
            ended: VecDeque::new(),
            tombstones: HashMap::new(),
            next_sweep: WallTime(i64::MIN),
            claims: Claims::new(capacity),
            exemptions: Vec::new(),
            ends: BTreeSet::new(),
            begins: BTreeSet::new(),
            handshakes: BTreeSet::new(),
            lingering: HashMap::new(),
            lingers: BTreeSet::new(),
            free_slots: (EXEMPT_SLOT + 1..slots).collect(),
            owners: HashMap::new(),
            former: VecDeque::new(),
            limited: BTreeSet::new(),
            places: 0,
            closed: Vec::new(),
        }
    }

    /// Checks the id and the room (docs/grants.md, steps `id` to `room`); then the grant is in, and
    /// active if its window has begun. What it replaces is still there: that is
    /// [`Ledger::replace`]'s.
    ///
    /// Keys whose desired entry changed go to `touched`.
    pub fn admit(
        &mut self,
        grant: VerifiedGrant,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<Admission, Refused> {
        self.take_in(grant, Life::default(), now, touched)
    }

    /// Puts a stored grant back, with what an earlier run knew of it. The deadline never moves back:
    /// a wall clock that was set meanwhile may only shorten it. A grant that is over is not put back.
    pub fn restore(
        &mut self,
        grant: VerifiedGrant,
        life: Life,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<Option<Admission>, Refused> {
        let fresh = now.deadline(grant.not_after());
        let deadline = life.deadline.map_or(fresh, |stored| stored.min(fresh));
        if deadline <= now.boot {
            if life.deadline.is_some() {
                self.ended_unseen(grant, deadline, now, touched);
            }
            return Ok(None);
        }
        let id = grant.id();
        let admission = self.take_in(grant, life, now, touched)?;
        if admission == Admission::Active {
            self.activate(id, deadline, touched);
        }
        Ok(Some(admission))
    }

    /// Of a stored grant that began in this boot and is over: its sessions may be there still, and
    /// the kernel's tables may not know of it, because they are new.
    pub fn ended_unseen(
        &mut self,
        grant: VerifiedGrant,
        end: BootNanos,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) {
        let over = Record { grant: Arc::new(grant), stage: Stage::Expired, hits: 0 };
        if over.cuts() {
            self.linger_over(&over, end.min(now.boot), now, touched);
        }
    }

    fn take_in(
        &mut self,
        grant: VerifiedGrant,
        life: Life,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<Admission, Refused> {
        let id = grant.id();
        if self.tombstones.contains_key(&id) {
            let detail = "this grant was revoked, or another one replaced it";
            return Err(Refused::new(Refusal::Revoked, detail).of(id));
        }
        let known = self.grants.get(&id).map(|record| &record.grant);
        if let Some(known) =
            known.or_else(|| self.ended.iter().map(|record| &record.grant).find(|g| g.id() == id))
        {
            if known.digest() == grant.digest() {
                return Ok(Admission::Known);
            }
            let detail = "another grant with this id and other content is known";
            return Err(Refused::new(Refusal::IdConflict, detail).of(id));
        }
        let (begin, end) = (grant.not_before(), grant.not_after());
        let scheduled = begin > now.wall;
        let slot = self
            .room_for(&grant, scheduled, life.slot, touched)
            .map_err(|refused| refused.of(id))?;
        if grant.limit().is_some() {
            self.limited.insert(slot);
        }
        let stage = Stage::Scheduled { slot };
        let record = Record { grant: Arc::new(grant), stage, hits: life.hits };
        self.claim(&record, touched);
        self.owners.insert(slot, id);
        self.places += record.places();
        self.grants.insert(id, record);
        if scheduled {
            self.begins.insert((begin, id));
            return Ok(Admission::Scheduled);
        }
        self.activate(id, now.deadline(end), touched);
        Ok(Admission::Active)
    }

    /// Takes an admission back, as if it had never been.
    pub fn forget(&mut self, id: GrantId, touched: &mut Vec<EntryKey>) {
        if let Some(record) = self.grants.remove(&id) {
            self.release(&record, touched);
        }
    }

    /// Revokes one grant, known or not; says whether it ended one, and until when the id stays
    /// refused. An id that was not seen yet stays so for `unseen`: no grant may end later than that.
    pub fn revoke(
        &mut self,
        id: GrantId,
        now: Now,
        unseen: Duration,
        hits: impl FnOnce(u32) -> u64,
        touched: &mut Vec<EntryKey>,
    ) -> Result<(bool, Tombstone), Refused> {
        self.end_early(id, Stage::Revoked, now, unseen, hits, touched)
    }

    /// A grant was refused because its id is: other content than what was revoked under that id, when
    /// it ends later. It stays refused until then; returns that, if it is longer than before.
    pub fn refuse_longer(
        &mut self,
        id: GrantId,
        not_after: WallTime,
        now: Now,
    ) -> Option<Tombstone> {
        let tombstone = self.tombstones.get_mut(&id)?;
        let until = not_after + SKEW;
        until.since(tombstone.until)?;
        *tombstone = tombstone.later(Tombstone::new(until, now));
        Some(*tombstone)
    }

    /// Ends what a grant that has begun replaces, if it replaces anything and that has not been done.
    pub fn replace(
        &mut self,
        by: GrantId,
        now: Now,
        unseen: Duration,
        hits: impl FnOnce(u32) -> u64,
        touched: &mut Vec<EntryKey>,
    ) -> Option<Replacement> {
        let record = self.grants.get(&by)?;
        record.stage.deadline()?;
        let id = record.grant.replaces()?;
        self.replace_id(id, by, now, unseen, hits, touched)
    }

    /// Ends a grant, seen or not, in whose stead another began, unless it is ended already.
    pub fn replace_id(
        &mut self,
        id: GrantId,
        by: GrantId,
        now: Now,
        unseen: Duration,
        hits: impl FnOnce(u32) -> u64,
        touched: &mut Vec<EntryKey>,
    ) -> Option<Replacement> {
        if self.tombstones.contains_key(&id) && !self.grants.contains_key(&id) {
            return None;
        }
        let (ended, until) =
            self.end_early(id, Stage::Replaced, now, unseen, hits, touched).ok()?;
        Some(Replacement { by, ended, id, until })
    }

    /// Takes a replacement back, at once: the successor could not be opened. `before` is what it
    /// ended.
    pub fn take_back(
        &mut self,
        replacement: Replacement,
        before: Option<Record>,
        touched: &mut Vec<EntryKey>,
    ) {
        let id = replacement.id;
        self.tombstones.remove(&id);
        let Some(before) = before else { return };
        let Some(slot) = before.stage.slot() else { return };
        for key in before.keys() {
            self.stop_lingering(key, touched);
        }
        self.ended.retain(|record| record.grant.id() != id);
        self.owners.insert(slot, id);
        self.places += before.places();
        if before.grant.limit().is_some() {
            self.limited.insert(slot);
        }
        if let Some(deadline) = before.stage.deadline() {
            self.ends.insert((deadline, id));
        } else {
            self.begins.insert((before.grant.not_before(), id));
        }
        self.claim(&before, touched);
        self.grants.insert(id, before);
    }

    /// Puts a stored tombstone back.
    pub fn restore_tombstone(&mut self, id: GrantId, tombstone: Tombstone) {
        self.tombstones.insert(id, tombstone);
    }

    /// Revoked and replaced ids, and until when they stay refused.
    pub fn tombstones(&self) -> impl Iterator<Item = (GrantId, Tombstone)> + '_ {
        self.tombstones.iter().map(|(id, tombstone)| (*id, *tombstone))
    }

    /// Takes note of what the kernel counted in a slot. Returns the grant that has just been used up.
    pub fn count(&mut self, slot: u32, hits: u64, now: Now) -> Option<GrantId> {
        let id = *self.owners.get(&slot)?;
        let record = self.grants.get_mut(&id)?;
        let limit = record.grant.limit()?;
        let Stage::Active { deadline, slot } = record.stage else { return None };
        if record.hits.saturating_add(hits) < u64::from(limit.get()) {
            return None;
        }
        record.stage = Stage::Exhausted { aside: false, deadline, slot };
        self.limited.remove(&slot);
        self.handshakes.insert((now.boot + HANDSHAKE, id));
        Some(id)
    }

    /// A grant let in so many more than its slot tells: what remains of its limit, if it has one.
    pub fn count_elsewhere(&mut self, id: GrantId, hits: u64) -> Option<u32> {
        let record = self.grants.get_mut(&id)?;
        record.hits = record.hits.saturating_add(hits);
        record.grant.limit()?;
        Some(record.limit())
    }

    /// Lets time pass: activates what has begun, if the wall clock is trusted, and ends what is over
    /// or replaced. `hits` reads the kernel's count of a slot, `unseen` is as in [`Ledger::revoke`].
    /// The kernel has let nobody in since the deadline; this only cleans up.
    pub fn advance(
        &mut self,
        now: Now,
        trusted: bool,
        unseen: Duration,
        mut hits: impl FnMut(u32) -> u64,
        touched: &mut Vec<EntryKey>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((begin, id)) = self.begins.pop_first() {
            if begin > now.wall || !trusted {
                self.begins.insert((begin, id));
                break;
            }
            let Some(record) = self.grants.get(&id) else { continue };
            let deadline = now.deadline(record.grant.not_after());
            self.activate(id, deadline, touched);
            changes.push(Change::Activated(id));
            let replacement = self.replace(id, now, unseen, &mut hits, touched);
            changes.extend(replacement.map(Change::Replaced));
        }
        while let Some((end, id)) = self.ends.pop_first() {
            if end > now.boot {
                self.ends.insert((end, id));
                break;
            }
            if let Some(record) = self.grants.remove(&id) {
                let record = record.counted(&mut hits);
                self.release(&record, touched);
                self.linger(&record, end, now, touched);
                self.remember(Record { stage: Stage::Expired, ..record });
            }
            changes.push(Change::Expired(id));
        }
        self.settle_handshakes(now, touched);
        while let Some((until, key)) = self.lingers.first().copied() {
            if until > now.boot {
                break;
            }
            self.stop_lingering(key, touched);
        }
        if trusted && now.wall >= self.next_sweep {
            let over = self.tombstones.extract_if(|_, tombstone| tombstone.is_over(now));
            changes.extend(over.map(|(id, _)| Change::Forgotten(id)));
            self.next_sweep = now.wall + SWEEP;
        }
        changes
    }

    /// The wall clock was set: deadlines may only come nearer. Returns the grants that end sooner.
    pub fn clock_was_set(&mut self, now: Now, touched: &mut Vec<EntryKey>) -> Vec<GrantId> {
        let sooner: Vec<_> = self
            .grants
            .iter()
            .filter_map(|(id, record)| {
                let fresh = now.deadline(record.grant.not_after());
                record
                    .stage
                    .deadline()
                    .is_some_and(|deadline| fresh < deadline)
                    .then_some((*id, fresh))
            })
            .collect();
        for (id, deadline) in &sooner {
            self.activate(*id, *deadline, touched);
        }
        // Removed first, all of them: they share a slot, and two may stand at one place.
        let exemptions = std::mem::take(&mut self.exemptions);
        for (key, held, _) in &exemptions {
            self.claims.remove(*key, *held, touched);
        }
        for (key, held, until) in exemptions {
            let fresh = until.map_or(held.claim.deadline, |until| now.deadline(until));
            let held = exempt(held.claim.deadline.min(fresh));
            self.claims.add(key, held, touched);
            self.exemptions.push((key, held, until));
        }
        sooner.into_iter().map(|(id, _)| id).collect()
    }

    /// The wall clock was set: ids stay refused for as long as they were to be, also when the disk
    /// tells the next boot only what the wall clock will read then. Returns those that changed.
    pub fn tombstones_follow(&mut self, now: Now) -> Vec<(GrantId, Tombstone)> {
        let mut changed = Vec::new();
        for (id, tombstone) in &mut self.tombstones {
            let until = now.wall + now.until(tombstone.boot);
            if until.since(tombstone.until).is_some_and(|more| more > STEP) {
                tombstone.until = until;
                changed.push((*id, *tombstone));
            }
        }
        changed
    }

    /// Replaces the exemptions: sources that are let in without a grant.
    pub fn exempt(
        &mut self,
        exemptions: impl IntoIterator<Item = (PortKey, SourcePrefix, Option<WallTime>)>,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<(), Refused> {
        for (key, held, _) in std::mem::take(&mut self.exemptions) {
            self.claims.remove(key, held, touched);
        }
        for (port, source, until) in exemptions {
            let deadline = until.map_or(BootNanos(u64::MAX), |until| now.deadline(until));
            if deadline <= now.boot {
                continue;
            }
            let key = EntryKey { port, source };
            if self.claims.fits([key], []).is_err() {
                self.stop_all_lingering(touched);
            }
            self.claims.fits([key], []).map_err(|full| {
                let detail = format!("no room for exemptions: {} {}", full.most, full.table);
                Refused::new(Refusal::Capacity, detail)
            })?;
            let held = exempt(deadline);
            self.claims.add(key, held, touched);
            self.exemptions.push((key, held, until));
        }
        Ok(())
    }

    /// Where exemptions ended after one time and not after another.
    pub fn exemptions_ended(
        &self,
        after: BootNanos,
        until: BootNanos,
    ) -> impl Iterator<Item = EntryKey> + '_ {
        let ended =
            move |held: &Held| (after < held.claim.deadline) & (held.claim.deadline <= until);
        self.exemptions.iter().filter(move |(_, held, _)| ended(held)).map(|(key, ..)| *key)
    }

    /// Takes over what an earlier run left in the kernel: whose sessions were to be cut stays so.
    pub fn adopt(&mut self, key: EntryKey, entry: Entry, now: Now, touched: &mut Vec<EntryKey>) {
        let cut = entry.claims().into_iter().filter(|claim| claim.cut && claim.is_some());
        if let Some(claim) = cut.max()
            && self.claims.fits([key], []).is_ok()
        {
            self.linger_at(key, claim.deadline.min(now.boot), now, touched);
        }
    }

    /// Scheduled grants whose window has begun: [`Ledger::advance`] would activate them.
    pub fn due(&self, now: Now) -> impl Iterator<Item = &Record> {
        let begun = self.begins.iter().take_while(move |(begin, _)| *begin <= now.wall);
        begun.filter_map(|(_, id)| self.grants.get(id))
    }

    /// When [`Ledger::advance`] has something to do next; `None` when nothing is ahead.
    pub fn next_change(&self, now: Now, trusted: bool) -> Option<Duration> {
        let end = self.ends.first().map(|(end, _)| now.until(*end));
        let handshake = self.handshakes.first().map(|(over, _)| now.until(*over));
        let begin = self
            .begins
            .first()
            .filter(|_| trusted)
            .map(|(begin, _)| begin.since(now.wall).unwrap_or(Duration::ZERO));
        let ahead = self.exemptions.iter().map(|(_, held, _)| held.claim.deadline);
        let exemption = ahead.filter(|end| *end > now.boot).min().map(|end| now.until(end));
        [end, handshake, begin, exemption].into_iter().flatten().min()
    }

    /// What should stand at this key.
    pub fn desired(&self, key: &EntryKey) -> Option<Entry> {
        self.claims.desired(key)
    }

    /// Everything that should stand in the kernel.
    pub fn all_desired(&self) -> impl Iterator<Item = (EntryKey, Option<Entry>)> + '_ {
        self.claims.all()
    }

    /// Claims behind the desired state.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The grant that owns a slot.
    pub fn owner(&self, slot: u32) -> Option<GrantId> {
        self.owners.get(&slot).copied()
    }

    /// The grant that a connection in a slot was counted for: the owner, or whose it was last.
    pub fn counted_for(&self, slot: u32) -> Option<&Record> {
        let former = || self.former.iter().rev().find(|(other, _)| *other == slot);
        if let Some(id) = self.owner(slot) {
            return self.grants.get(&id);
        }
        let (_, id) = former()?;
        self.ended.iter().rev().find(|record| record.grant.id() == *id)
    }

    /// Slots behind this one of grants that have a limit and are not used up, in their order.
    pub fn limited_behind(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        self.limited.range(slot.saturating_add(1)..).copied()
    }

    /// A slot of a grant with a limit that is over, and that no other grant has got since: the
    /// kernel may forget its connections. Each is told once.
    pub fn next_closed(&mut self) -> Option<u32> {
        std::iter::from_fn(|| self.closed.pop()).find(|slot| !self.owners.contains_key(slot))
    }

    /// One live or scheduled grant.
    pub fn grant(&self, id: GrantId) -> Option<&Record> {
        self.grants.get(&id)
    }

    /// Live and scheduled grants, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Record> {
        self.grants.values()
    }

    /// Grants that are over, oldest first.
    pub fn ended(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.ended.iter()
    }

    fn end_early(
        &mut self,
        id: GrantId,
        stage: Stage,
        now: Now,
        unseen: Duration,
        hits: impl FnOnce(u32) -> u64,
        touched: &mut Vec<EntryKey>,
    ) -> Result<(bool, Tombstone), Refused> {
        let known_end = self.grants.get(&id).map(|record| record.grant.not_after());
        let until = known_end.unwrap_or(now.wall + unseen) + SKEW;
        let fresh = Tombstone::new(until, now);
        let kept = self.tombstones.get(&id).map_or(fresh, |old| old.later(fresh));
        // A known grant is always closed; only ids nobody has seen compete for room.
        if known_end.is_none()
            && self.tombstones.len() >= MAX_TOMBSTONES
            && !self.tombstones.contains_key(&id)
        {
            let detail = format!("{MAX_TOMBSTONES} revoked ids are held already");
            return Err(Refused::new(Refusal::Capacity, detail).of(id));
        }
        self.tombstones.insert(id, kept);
        let Some(record) = self.grants.remove(&id) else {
            return Ok((false, kept));
        };
        let record = record.counted(hits);
        self.release(&record, touched);
        self.linger(&record, now.boot, now, touched);
        self.remember(Record { stage, ..record });
        Ok((true, kept))
    }

    /// Takes a slot, if there is room in the tables. What is only there for sessions of the past
    /// makes room.
    fn room_for(
        &mut self,
        grant: &VerifiedGrant,
        scheduled: bool,
        slot: Option<u32>,
        touched: &mut Vec<EntryKey>,
    ) -> Result<u32, Refused> {
        if self.fits(grant, scheduled).is_err() {
            self.stop_all_lingering(touched);
        }
        self.fits(grant, scheduled)?;
        if let Some(slot) = slot.filter(|slot| !self.owners.contains_key(slot)) {
            return Ok(slot);
        }
        while let Some(slot) = self.free_slots.pop_front() {
            if !self.owners.contains_key(&slot) {
                return Ok(slot);
            }
        }
        let detail = format!("no room: {} grants are held", self.owners.len());
        Err(Refused::new(Refusal::Capacity, detail))
    }

    fn fits(&self, grant: &VerifiedGrant, scheduled: bool) -> Result<(), Refused> {
        let keys = grant.entries().map(|(port, source)| EntryKey { port, source });
        let leaves = grant.replaces().filter(|_| !scheduled).and_then(|id| self.grants.get(&id));
        let places = self.places - leaves.map_or(0, Record::places);
        if grant.limit().is_some_and(|limit| limit.get() > MAX_PLACES.saturating_sub(places)) {
            let detail = format!(
                "no room: of the {MAX_PLACES} connections that grants with a limit may have together, \
                 {places} are given out"
            );
            return Err(Refused::new(Refusal::Capacity, detail));
        }
        let leaving = leaves.into_iter().flat_map(Record::keys);
        self.claims.fits(keys, leaving).map_err(|full| {
            let detail = format!("no room: all {} {} are in use", full.most, full.table);
            Refused::new(Refusal::Capacity, detail)
        })
    }

    fn claim(&mut self, record: &Record, touched: &mut Vec<EntryKey>) {
        let Some(held) = record.held() else { return };
        for key in record.keys() {
            self.claims.add(key, held, touched);
        }
    }

    /// Gives a grant another stage; its claims follow.
    fn stage(&mut self, id: GrantId, stage: Stage, touched: &mut Vec<EntryKey>) {
        let Some(record) = self.grants.get_mut(&id) else { return };
        let old = record.held();
        record.stage = stage;
        if let (Some(old), Some(new)) = (old, record.held()) {
            for key in record.keys() {
                self.claims.exchange(key, old, new, touched);
            }
        }
    }

    /// Makes a grant active until a deadline, or gives one that has begun another.
    fn activate(&mut self, id: GrantId, deadline: BootNanos, touched: &mut Vec<EntryKey>) {
        let Some(record) = self.grants.get(&id) else { return };
        let old = record.stage.deadline();
        let stage = match record.stage {
            Stage::Exhausted { aside, slot, .. } => Stage::Exhausted { aside, deadline, slot },
            stage => match stage.slot() {
                Some(slot) => Stage::Active { deadline, slot },
                None => return,
            },
        };
        if let Some(old) = old {
            self.ends.remove(&(old, id));
        }
        self.ends.insert((deadline, id));
        self.stage(id, stage, touched);
    }

    /// Whose last handshake has had its time gives its places to others that have a limit.
    fn settle_handshakes(&mut self, now: Now, touched: &mut Vec<EntryKey>) {
        while let Some((over, id)) = self.handshakes.first().copied() {
            if over > now.boot {
                break;
            }
            self.handshakes.pop_first();
            let stage = self.grants.get(&id).map(|record| record.stage);
            if let Some(Stage::Exhausted { deadline, slot, .. }) = stage {
                self.stage(id, Stage::Exhausted { aside: true, deadline, slot }, touched);
            }
        }
    }

    /// Gives back what a grant that leaves `grants` held.
    fn release(&mut self, record: &Record, touched: &mut Vec<EntryKey>) {
        let id = record.grant.id();
        let (Some(held), Some(slot)) = (record.held(), record.stage.slot()) else { return };
        if let Some(deadline) = record.stage.deadline() {
            self.ends.remove(&(deadline, id));
        }
        self.begins.remove(&(record.grant.not_before(), id));
        for key in record.keys() {
            self.claims.remove(key, held, touched);
        }
        self.limited.remove(&slot);
        self.owners.remove(&slot);
        if self.former.len() >= MAX_ENDED {
            self.former.pop_front();
        }
        self.former.push_back((slot, id));
        self.free_slots.push_back(slot);
        self.places -= record.places();
        if record.grant.limit().is_some() {
            self.closed.push(slot);
        }
    }

    /// What a grant that ended says about the sessions that it let in: cut, they stay so; else
    /// whatever was said before about the same places is over.
    fn linger(&mut self, record: &Record, end: BootNanos, now: Now, touched: &mut Vec<EntryKey>) {
        if record.stage.deadline().is_some() {
            self.linger_over(record, end, now, touched);
        }
    }

    fn linger_over(
        &mut self,
        record: &Record,
        end: BootNanos,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) {
        for key in record.keys() {
            if record.cuts() {
                if self.claims.fits([key], []).is_ok() {
                    self.linger_at(key, end, now, touched);
                }
            } else {
                self.stop_lingering(key, touched);
            }
        }
    }

    fn linger_at(&mut self, key: EntryKey, end: BootNanos, now: Now, touched: &mut Vec<EntryKey>) {
        self.stop_lingering(key, touched);
        let claim = Claim { deadline: end, cut: true, slot: EXEMPT_SLOT };
        let held = Held { claim, kind: Kind::Unlimited };
        let until = now.boot + LINGER;
        self.claims.add(key, held, touched);
        self.lingering.insert(key, (until, held));
        self.lingers.insert((until, key));
    }

    fn stop_lingering(&mut self, key: EntryKey, touched: &mut Vec<EntryKey>) {
        if let Some((until, held)) = self.lingering.remove(&key) {
            self.lingers.remove(&(until, key));
            self.claims.remove(key, held, touched);
        }
    }

    fn stop_all_lingering(&mut self, touched: &mut Vec<EntryKey>) {
        while let Some((_, key)) = self.lingers.first().copied() {
            self.stop_lingering(key, touched);
        }
    }

    fn remember(&mut self, record: Record) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(record);
    }
}

const fn exempt(deadline: BootNanos) -> Held {
    let claim = Claim { deadline, cut: false, slot: EXEMPT_SLOT };
    Held { claim, kind: Kind::Unlimited }
}

//! The state machine of grants: admit, activate, expire, revoke, and what the kernel should hold.
//!
//! Pure: time is an argument, nothing is written anywhere. The gate persists and writes what comes
//! out, in that order, and takes an admission back ([`Ledger::forget`]) when that fails.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jit_common::PortKey;

use crate::{
    claims::{Capacity, Claims},
    clock::{BootNanos, Now, SKEW, WallTime},
    grant::{GrantId, VerifiedGrant},
    prefix::SourcePrefix,
    reconcile::{Entry, EntryKey},
    refusal::{Refusal, Refused},
};

/// Ended grants that are remembered for `list --all`.
const MAX_ENDED: usize = 1024;
/// Tombstones of revoked ids that are held at most.
const MAX_TOMBSTONES: usize = 1 << 20;

/// How often tombstones that are over are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Deadline of what has not begun: over at every time.
const NOT_YET: BootNanos = BootNanos(0);
/// Slot of exemptions, whose connections belong to no grant.
pub const EXEMPT_SLOT: u32 = 0;

/// Where a grant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Open in the kernel until the deadline.
    Active {
        /// Its end on the boot clock.
        deadline: BootNanos,
        /// Where its connections are counted.
        slot: u32,
    },
    /// Over.
    Expired,
    /// Closed before its end.
    Revoked,
    /// Its window has not begun. Its places in the kernel's tables are taken already, with a deadline
    /// that is over, so that there is room when it begins.
    Scheduled {
        /// Where its connections will be counted.
        slot: u32,
    },
}

impl Stage {
    /// Its slot and the deadline that its claims carry, while it has any.
    const fn claim(self) -> Option<Entry> {
        match self {
            Self::Active { deadline, slot } => Some(Entry { deadline, slot }),
            Self::Scheduled { slot } => Some(Entry { deadline: NOT_YET, slot }),
            Self::Expired | Self::Revoked => None,
        }
    }
}

/// A grant and where it stands.
#[derive(Clone, Debug)]
pub struct Record {
    /// The grant.
    pub grant: Arc<VerifiedGrant>,
    /// Where it stands.
    pub stage: Stage,
    /// Connections it let in, counted when it ended; while it is active the kernel knows.
    pub hits: u64,
}

/// What an admission was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is active now.
    Active,
    /// The same grant is here already; nothing changed.
    Known,
    /// Its window begins later.
    Scheduled,
}

impl Admission {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "ok",
            Self::Known => "known",
            Self::Scheduled => "scheduled",
        }
    }
}

/// A change of a grant, for the store, the record and the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Scheduled before, active now.
    Activated(GrantId),
    /// Over.
    Expired(GrantId),
}

/// All grants that this host holds.
#[derive(Debug)]
pub struct Ledger {
    grants: HashMap<GrantId, Record>,
    ended: VecDeque<Record>,
    /// Revoked ids and until when they stay refused.
    tombstones: HashMap<GrantId, WallTime>,
    /// When tombstones that are over are next looked for.
    next_sweep: WallTime,
    claims: Claims,
    /// With the end that each was given on the wall clock.
    exemptions: Vec<(EntryKey, Entry, Option<WallTime>)>,
    ends: BTreeSet<(BootNanos, GrantId)>,
    begins: BTreeSet<(WallTime, GrantId)>,
    free_slots: Vec<u32>,
    owners: HashMap<u32, GrantId>,
}

impl Ledger {
    /// An empty ledger; `slots` is the length of the kernel's table of hits.
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
            free_slots: (EXEMPT_SLOT + 1..slots).rev().collect(),
            owners: HashMap::new(),
        }
    }

    /// Steps 9 and 10: the id, and room; then the grant is in, and active if its window has begun.
    ///
    /// Keys whose desired entry changed go to `touched`.
    pub fn admit(
        &mut self,
        grant: VerifiedGrant,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<Admission, Refused> {
        let id = grant.id();
        if self.tombstones.contains_key(&id) {
            return Err(Refused::new(Refusal::Revoked, "this grant was revoked").of(id));
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
        let slot = self.room_for(&grant).map_err(|refused| refused.of(id))?;
        let (begin, end) = (grant.not_before(), grant.not_after());
        let scheduled = begin > now.wall;
        let stage = Stage::Scheduled { slot };
        for (port, source) in grant.entries() {
            let entry = Entry { deadline: NOT_YET, slot };
            self.claims.add(EntryKey { port, source }, entry, touched);
        }
        self.owners.insert(slot, id);
        self.grants.insert(id, Record { grant: Arc::new(grant), stage, hits: 0 });
        if scheduled {
            self.begins.insert((begin, id));
            return Ok(Admission::Scheduled);
        }
        self.activate(id, now.deadline(end), touched);
        Ok(Admission::Active)
    }

    /// Puts a stored grant back, with the deadline it had when it was activated in this same boot
    /// (`None` otherwise). The deadline never moves back: a wall clock that was set meanwhile may
    /// only shorten it. A grant that is over is not put back.
    pub fn restore(
        &mut self,
        grant: VerifiedGrant,
        deadline: Option<BootNanos>,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<Option<Admission>, Refused> {
        let fresh = now.deadline(grant.not_after());
        let deadline = deadline.map_or(fresh, |stored| stored.min(fresh));
        if deadline <= now.boot {
            return Ok(None);
        }
        let id = grant.id();
        let admission = self.admit(grant, now, touched)?;
        if admission == Admission::Active {
            self.activate(id, deadline, touched);
        }
        Ok(Some(admission))
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
    ) -> Result<(bool, WallTime), Refused> {
        let known_end = self.grants.get(&id).map(|record| record.grant.not_after());
        let until = known_end.unwrap_or(now.wall + unseen) + SKEW;
        let kept = self.tombstones.get(&id).copied().map_or(until, |old| old.max(until));
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
        let hits = record.stage.claim().map_or(0, |claim| hits(claim.slot));
        self.release(&record, touched);
        self.remember(Record { stage: Stage::Revoked, hits, ..record });
        Ok((true, kept))
    }

    /// Puts a stored tombstone back.
    pub fn restore_tombstone(&mut self, id: GrantId, until: WallTime) {
        self.tombstones.insert(id, until);
    }

    /// Lets time pass: activates what has begun, if the wall clock is trusted, and ends what is over. `hits` reads the kernel's
    /// count of a slot. The kernel has let nobody in since the deadline; this only cleans up.
    pub fn advance(
        &mut self,
        now: Now,
        trusted: bool,
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
        }
        while let Some((end, id)) = self.ends.pop_first() {
            if end > now.boot {
                self.ends.insert((end, id));
                break;
            }
            if let Some(record) = self.grants.remove(&id) {
                let hits = record.stage.claim().map_or(0, |claim| hits(claim.slot));
                self.release(&record, touched);
                self.remember(Record { stage: Stage::Expired, hits, ..record });
            }
            changes.push(Change::Expired(id));
        }
        if trusted && now.wall >= self.next_sweep {
            self.tombstones.retain(|_, until| *until > now.wall);
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
                matches!(record.stage, Stage::Active { deadline, .. } if fresh < deadline)
                    .then_some((*id, fresh))
            })
            .collect();
        for (id, deadline) in &sooner {
            self.activate(*id, *deadline, touched);
        }
        // Removed first, all of them: they share a slot, and two may stand at one place.
        let exemptions = std::mem::take(&mut self.exemptions);
        for (key, entry, _) in &exemptions {
            self.claims.remove(*key, entry.slot, touched);
        }
        for (key, Entry { deadline, slot }, until) in exemptions {
            let fresh = until.map_or(deadline, |until| now.deadline(until));
            let entry = Entry { deadline: deadline.min(fresh), slot };
            self.claims.add(key, entry, touched);
            self.exemptions.push((key, entry, until));
        }
        sooner.into_iter().map(|(id, _)| id).collect()
    }

    /// Replaces the exemptions: sources that are let in without a grant.
    pub fn exempt(
        &mut self,
        exemptions: impl IntoIterator<Item = (PortKey, SourcePrefix, Option<WallTime>)>,
        now: Now,
        touched: &mut Vec<EntryKey>,
    ) -> Result<(), Refused> {
        for (key, entry, _) in std::mem::take(&mut self.exemptions) {
            self.claims.remove(key, entry.slot, touched);
        }
        for (port, source, until) in exemptions {
            let deadline = until.map_or(BootNanos(u64::MAX), |until| now.deadline(until));
            if deadline <= now.boot {
                continue;
            }
            let key = EntryKey { port, source };
            self.claims.fits([key]).map_err(|full| {
                let detail = format!("no room for exemptions: {} {}", full.most, full.table);
                Refused::new(Refusal::Capacity, detail)
            })?;
            let entry = Entry { deadline, slot: EXEMPT_SLOT };
            self.claims.add(key, entry, touched);
            self.exemptions.push((key, entry, until));
        }
        Ok(())
    }

    /// Scheduled grants whose window has begun: [`Ledger::advance`] would activate them.
    pub fn due(&self, now: Now) -> impl Iterator<Item = &Record> {
        let begun = self.begins.iter().take_while(move |(begin, _)| *begin <= now.wall);
        begun.filter_map(|(_, id)| self.grants.get(id))
    }

    /// When [`Ledger::advance`] has something to do next; `None` when nothing is ahead.
    pub fn next_change(&self, now: Now, trusted: bool) -> Option<Duration> {
        let end = self.ends.first().map(|(end, _)| now.until(*end));
        let begin = self
            .begins
            .first()
            .filter(|_| trusted)
            .map(|(begin, _)| begin.since(now.wall).unwrap_or(Duration::ZERO));
        [end, begin].into_iter().flatten().min()
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

    /// One live or scheduled grant.
    pub fn grant(&self, id: GrantId) -> Option<&Record> {
        self.grants.get(&id)
    }

    /// Live and scheduled grants, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Record> {
        self.grants.values()
    }

    /// Grants that are over, oldest first.
    pub fn ended(&self) -> impl Iterator<Item = &Record> {
        self.ended.iter()
    }

    /// Takes a slot, if there is room in the tables.
    fn room_for(&mut self, grant: &VerifiedGrant) -> Result<u32, Refused> {
        let keys = grant.entries().map(|(port, source)| EntryKey { port, source });
        self.claims.fits(keys).map_err(|full| {
            let detail = format!("no room: all {} {} are in use", full.most, full.table);
            Refused::new(Refusal::Capacity, detail)
        })?;
        self.free_slots.pop().ok_or_else(|| {
            let detail = format!("no room: {} grants are held", self.owners.len());
            Refused::new(Refusal::Capacity, detail)
        })
    }

    /// Makes a grant active until a deadline, or gives an active one another.
    fn activate(&mut self, id: GrantId, deadline: BootNanos, touched: &mut Vec<EntryKey>) {
        let Some(record) = self.grants.get_mut(&id) else { return };
        let Some(Entry { deadline: old, slot }) = record.stage.claim() else { return };
        record.stage = Stage::Active { deadline, slot };
        self.ends.remove(&(old, id));
        self.ends.insert((deadline, id));
        for (port, source) in record.grant.entries() {
            let key = EntryKey { port, source };
            self.claims.remove(key, slot, touched);
            self.claims.add(key, Entry { deadline, slot }, touched);
        }
    }

    /// Gives back what a grant that leaves `grants` held.
    fn release(&mut self, record: &Record, touched: &mut Vec<EntryKey>) {
        let id = record.grant.id();
        let Some(Entry { deadline, slot }) = record.stage.claim() else { return };
        self.ends.remove(&(deadline, id));
        self.begins.remove(&(record.grant.not_before(), id));
        for (port, source) in record.grant.entries() {
            self.claims.remove(EntryKey { port, source }, slot, touched);
        }
        self.owners.remove(&slot);
        self.free_slots.push(slot);
    }

    fn remember(&mut self, record: Record) {
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(record);
    }
}

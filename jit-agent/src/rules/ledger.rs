//! The state machine of grants: admit, activate, use up, replace, expire, revoke. It also gives the
//! desired state of the kernel's tables.
//!
//! Pure: time is an argument, and nothing is written anywhere. The gate persists the result and
//! then writes it to the kernel. If that fails, it takes the admission back ([`Ledger::forget`]).
//! Keys whose desired entry changed are kept here until the gate takes them
//! ([`Ledger::take_changed`]).

mod admission;
mod ended;
mod ending;
mod exemptions;
mod floors;
mod held_grant;
mod lingering;
mod shared;
mod slots;
mod tombstones;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jit_common::PortKey;

use ended::Ended;
use exemptions::Exemptions;
use jit_proto::{GrantId, Refusal, SourcePrefix, WallTime};
use lingering::Lingering;
use shared::Shared;
use slots::Slots;
use tombstones::Tombstones;

pub use floors::{Floor, Floors};
pub use held_grant::{Admission, Change, HeldGrant, Progress, Replacement, Stage};
pub use tombstones::Tombstone;

use crate::rules::{
    claims::{Capacity, Claims},
    clock::{BootNanos, Now},
    reconcile::{Entry, EntryKey},
    refusal::Refused,
    room,
};

/// How long a grant that is used up keeps its places from other grants with a limit: the handshake
/// of its last connection needs them.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// All grants that this host holds.
#[derive(Debug)]
pub struct Ledger {
    grants: HashMap<GrantId, HeldGrant>,
    ended: Ended,
    tombstones: Tombstones,
    floors: Floors,
    claims: Claims,
    exemptions: Exemptions,
    lingering: Lingering,
    shared: Shared,
    slots: Slots,
    /// Ends of the grants that have begun, by their slots: a slot is shorter than an id.
    ends: BTreeSet<(BootNanos, u32)>,
    begins: BTreeSet<(WallTime, GrantId)>,
    /// Grants that are used up, and when others may have their places.
    handshakes: BTreeSet<(BootNanos, GrantId)>,
}

impl Ledger {
    /// An empty ledger. `slots` is the length of the kernel's table of slots; `unseen` as in
    /// [`Ledger::set_unseen`].
    pub fn new(capacity: Capacity, slots: u32, unseen: Duration) -> Self {
        Self {
            grants: HashMap::new(),
            ended: Ended::default(),
            tombstones: Tombstones::new(unseen),
            floors: Floors::default(),
            claims: Claims::new(capacity),
            exemptions: Exemptions::default(),
            lingering: Lingering::default(),
            shared: Shared::default(),
            slots: Slots::new(slots),
            ends: BTreeSet::new(),
            begins: BTreeSet::new(),
            handshakes: BTreeSet::new(),
        }
    }

    /// No grant that has not been seen yet may end later than this from now. An id that is revoked
    /// before anybody saw a grant of it stays refused for as long.
    pub const fn set_unseen(&mut self, unseen: Duration) {
        self.tombstones.set_unseen(unseen);
    }

    /// Keys whose desired entry may have changed since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<EntryKey> {
        self.claims.take_changed()
    }

    /// Takes an admission back, as if it had never happened.
    pub fn forget(&mut self, id: GrantId) {
        if let Some(held) = self.grants.remove(&id) {
            self.release(&held);
        }
    }

    /// Handles a grant that was refused because its id is refused. It may have other content than
    /// the revoked grant, and a later end. The id then stays refused until that end; returns it if
    /// it is later than before.
    pub fn refuse_longer(
        &mut self,
        id: GrantId,
        not_after: WallTime,
        now: Now,
    ) -> Option<Tombstone> {
        self.tombstones.refuse_longer(id, not_after, now)
    }

    /// Puts a stored tombstone back.
    pub fn restore_tombstone(&mut self, id: GrantId, tombstone: Tombstone) {
        self.tombstones.restore(id, tombstone);
    }

    /// Whether an id was revoked or replaced, and is refused.
    pub fn is_refused(&self, id: GrantId) -> bool {
        self.tombstones.contains(id)
    }

    /// Revoked and replaced ids, each with the end of its refusal.
    pub fn tombstones(&self) -> impl Iterator<Item = (GrantId, Tombstone)> + '_ {
        self.tombstones.iter()
    }

    /// Refuses what was signed at or before this floor and is not held. The grants that are held and
    /// fall under it are revoked one by one: [`Ledger::revoke`].
    pub fn raise_floor(&mut self, floor: Floor) {
        self.floors.raise(floor);
    }

    /// Puts stored floors back.
    pub fn restore_floors(&mut self, floors: &Floors) {
        self.floors.merge(floors);
    }

    /// The floors of revocations.
    pub const fn floors(&self) -> &Floors {
        &self.floors
    }

    /// Notes the kernel's count in a slot. Returns the grant if it has just been used up.
    pub fn count(&mut self, slot: u32, hits: u64, now: Now) -> Option<GrantId> {
        let id = self.slots.owner(slot)?;
        let held = self.grants.get_mut(&id)?;
        let limit = held.grant.limit()?;
        let Stage::Active { deadline, slot } = held.stage else { return None };
        if held.hits.saturating_add(hits) < u64::from(limit.get()) {
            return None;
        }
        held.stage = Stage::Exhausted { deadline, slot, yields_places: false };
        self.slots.used_up(slot);
        self.handshakes.insert((now.boot + HANDSHAKE, id));
        Some(id)
    }

    /// Adds connections that a grant let in and that its slot does not show. Returns the rest of
    /// its limit, if it has one.
    pub fn count_elsewhere(&mut self, id: GrantId, hits: u64) -> Option<u32> {
        let held = self.grants.get_mut(&id)?;
        held.hits = held.hits.saturating_add(hits);
        held.grant.limit()?;
        Some(held.limit())
    }

    /// Lets time pass. Activates grants that have begun, if the wall clock is trusted, and ends
    /// grants that have ended or were replaced. The kernel has let nobody in since the deadline;
    /// this only cleans up. `hits` reads the kernel's count of a slot: only the ledger knows which
    /// slots end.
    pub fn advance(&mut self, now: Now, trusted: bool, hits: impl Fn(u32) -> u64) -> Vec<Change> {
        let mut changes = if trusted { self.begin(now, &hits) } else { Vec::new() };
        changes.extend(self.expire(now, &hits));
        self.yield_places(now);
        self.lingering.stop_ended(now, &mut self.claims);
        if trusted {
            changes.extend(self.tombstones.sweep(now).into_iter().map(Change::Forgotten));
        }
        changes
    }

    fn begin(&mut self, now: Now, hits: impl Fn(u32) -> u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((begin, id)) = self.begins.first().copied() {
            if begin > now.wall {
                break;
            }
            self.begins.pop_first();
            let Some(held) = self.grants.get(&id) else { continue };
            let deadline = now.deadline(held.grant.not_after());
            self.activate(id, deadline);
            changes.push(Change::Activated(id));
            let replaced = self.replaced_by(id).and_then(|old| self.grants.get(&old));
            let hits = replaced.and_then(|old| old.stage.slot()).map_or(0, &hits);
            changes.extend(self.replace(id, now, hits).map(Change::Replaced));
        }
        changes
    }

    /// Handles a wall clock that was set: deadlines may only come nearer. Returns the grants that
    /// end sooner.
    pub fn clock_was_set(&mut self, now: Now) -> Vec<GrantId> {
        let sooner = |(id, held): (&GrantId, &HeldGrant)| {
            let fresh = now.deadline(held.grant.not_after());
            held.stage.deadline().is_some_and(|deadline| fresh < deadline).then_some((*id, fresh))
        };
        let sooner: Vec<_> = self.grants.iter().filter_map(sooner).collect();
        for (id, deadline) in &sooner {
            self.activate(*id, *deadline);
        }
        self.exemptions.clock_was_set(now, &mut self.claims);
        sooner.into_iter().map(|(id, _)| id).collect()
    }

    /// Handles a wall clock that was set: ids stay refused for the same time as before. This must
    /// hold after a reboot, too, for which the disk only has the wall time. Returns those that
    /// changed.
    pub fn tombstones_follow(&mut self, now: Now) -> Vec<(GrantId, Tombstone)> {
        self.tombstones.follow(now)
    }

    /// Replaces the exemptions: sources that are let in without a grant.
    pub fn exempt(
        &mut self,
        exemptions: impl IntoIterator<Item = (PortKey, SourcePrefix, Option<WallTime>)>,
        now: Now,
    ) -> Result<(), Refused> {
        self.exemptions.clear(&mut self.claims);
        for (port, source, until) in exemptions {
            let deadline = until.map_or(BootNanos(u64::MAX), |until| now.deadline(until));
            if deadline <= now.boot {
                continue;
            }
            let key = EntryKey { port, source };
            if self.claims.fits([key], []).is_err() {
                self.lingering.stop_all(&mut self.claims);
            }
            self.claims.fits([key], []).map_err(|full| {
                let detail = format!("no room for exemptions: {} {}", full.most, full.table);
                Refused::new(Refusal::Capacity, detail)
            })?;
            self.exemptions.add(key, deadline, until, &mut self.claims);
        }
        Ok(())
    }

    /// The places whose exemptions ended after the first time and not after the second.
    pub fn exemptions_ended(
        &self,
        after: BootNanos,
        until: BootNanos,
    ) -> impl Iterator<Item = EntryKey> + '_ {
        self.exemptions.ended(after, until)
    }

    /// Scheduled grants whose window has begun: [`Ledger::advance`] would activate them.
    pub fn due(&self, now: Now) -> impl Iterator<Item = &HeldGrant> {
        let begun = self.begins.iter().take_while(move |(begin, _)| *begin <= now.wall);
        begun.filter_map(|(_, id)| self.grants.get(id))
    }

    /// When [`Ledger::advance`] next has something to do; `None`: nothing is planned.
    pub fn next_change(&self, now: Now, trusted: bool) -> Option<Duration> {
        let end = self.ends.first().map(|(end, _)| *end);
        let handshake = self.handshakes.first().map(|(end, _)| *end);
        let ends = [end, handshake, self.exemptions.next_end(now)];
        let begin = self.begins.first().filter(|_| trusted);
        let begin = begin.map(|(begin, _)| begin.since(now.wall).unwrap_or(Duration::ZERO));
        ends.into_iter().flatten().map(|end| now.until(end)).chain(begin).min()
    }

    /// The desired entry of this key.
    pub fn desired(&self, key: &EntryKey) -> Option<Entry> {
        self.claims.desired(key)
    }

    /// All desired entries of the kernel's tables.
    pub fn all_desired(&self) -> impl Iterator<Item = (EntryKey, Option<Entry>)> + '_ {
        self.claims.all()
    }

    /// The claims that make the desired state.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The grant that owns a slot.
    pub fn owner(&self, slot: u32) -> Option<GrantId> {
        self.slots.owner(slot)
    }

    /// The grant that a connection in a slot was counted for: the owner, or the last one.
    pub fn counted_for(&self, slot: u32) -> Option<&HeldGrant> {
        if let Some(id) = self.slots.owner(slot) {
            return self.grants.get(&id);
        }
        let id = self.slots.last_owner(slot)?;
        self.ended.find(id)
    }

    /// Slots after this one of grants that have a limit and are not used up, in their order.
    pub fn limited_after(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        self.slots.limited_after(slot)
    }

    /// A slot of an ended grant with a limit, if no other grant has got it since: the kernel may
    /// forget its connections. Each slot is returned once.
    pub fn next_closed(&mut self) -> Option<u32> {
        self.slots.next_closed()
    }

    /// One live or scheduled grant.
    pub fn grant(&self, id: GrantId) -> Option<&HeldGrant> {
        self.grants.get(&id)
    }

    /// Whether a grant with this id is known to have ended: by its time, or revoked or replaced.
    pub fn has_ended(&self, id: GrantId) -> bool {
        !self.grants.contains_key(&id) && (self.tombstones.contains(id) || self.ended.contains(id))
    }

    /// Live and scheduled grants, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &HeldGrant> {
        self.grants.values()
    }

    /// Number of grants that a list can have, with those that have ended.
    pub fn listed(&self) -> usize {
        self.grants.len() + self.ended.len()
    }

    /// One grant that has ended, if it is remembered.
    pub fn ended_grant(&self, id: GrantId) -> Option<&HeldGrant> {
        self.ended.find(id)
    }

    /// Grants that have ended, oldest first.
    pub fn ended(&self) -> impl DoubleEndedIterator<Item = &HeldGrant> {
        self.ended.iter()
    }

    /// Gives back the room of grants that have ended.
    pub fn give_room_back(&mut self) {
        room::give_back(&mut self.grants);
        self.claims.give_room_back();
        self.slots.give_room_back();
        self.tombstones.give_room_back();
    }

    fn claim(&mut self, held: &HeldGrant) {
        let Some(claim) = held.claim() else { return };
        for key in held.keys() {
            self.claims.add(key, claim);
        }
    }

    /// Gives a grant another stage; its claims follow.
    fn set_stage(&mut self, id: GrantId, stage: Stage) {
        let Some(held) = self.grants.get_mut(&id) else { return };
        let old = held.claim();
        held.stage = stage;
        if let (Some(old), Some(new)) = (old, held.claim()) {
            for key in held.keys() {
                self.claims.exchange(key, old, new);
            }
        }
    }

    /// Makes a grant active until a deadline, or gives one that has begun another.
    fn activate(&mut self, id: GrantId, deadline: BootNanos) {
        let Some(held) = self.grants.get(&id) else { return };
        let old = held.stage.deadline();
        let Some(slot) = held.stage.slot() else { return };
        let stage = match held.stage {
            Stage::Exhausted { yields_places, .. } => {
                Stage::Exhausted { deadline, slot, yields_places }
            }
            _ => Stage::Active { deadline, slot },
        };
        if let Some(old) = old {
            self.ends.remove(&(old, slot));
        }
        self.ends.insert((deadline, slot));
        self.set_stage(id, stage);
    }

    /// Grants whose last handshake has had its time give their places to other grants with a limit.
    fn yield_places(&mut self, now: Now) {
        while let Some((end, id)) = self.handshakes.first().copied() {
            if end > now.boot {
                break;
            }
            self.handshakes.pop_first();
            let stage = self.grants.get(&id).map(|held| held.stage);
            if let Some(Stage::Exhausted { deadline, slot, .. }) = stage {
                self.set_stage(id, Stage::Exhausted { deadline, slot, yields_places: true });
            }
        }
    }
}

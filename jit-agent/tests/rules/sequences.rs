//! Random histories of a host: pushes, revocations, replacements, clocks that are set, restarts and
//! reboots, beside a model of the rules that is written down a second time. Never is more open than
//! the model says; while nobody sets the clock, nothing else than it says.
//!
//! The ledger alone runs ten thousand (`JIT_TEST_SEQUENCES` asks for more, `JIT_TEST_SEED` for others:
//! it is the seed of the first, so that one that failed runs again by its own), the gate with its
//! database and audit a hundred.

mod model;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use jit_agent::{
    gate::{Pusher, Target},
    kernel::datapath::memory::MemoryDatapath,
    rules::{
        claims::Capacity,
        clock::{BootNanos, Now, SKEW},
        grant::VerifiedGrant,
        ledger::{Change, Floor, Floors, Ledger, Progress, Tombstone},
        reconcile::{Entries, Entry, EntryKey, Write, plan},
    },
};
use jit_proto::{GrantId, Refusal, SourcePrefix, WallTime, v1};
use prost::Message as _;

use model::{Model, Modelled, REQUESTERS, Whose, requester_of};

use crate::{
    host::Host,
    support::{NOW, REVOKER, SSH, envelope, grant, revocation, signed_revocation, v4, verified},
};

const UNSEEN: Duration = Duration::from_secs(8 * 24 * 3600);
const IDS: u8 = 6;
const SOURCES: [&str; 5] = ["10.0.0.0/8", "10.1.2.0/24", "10.1.2.0/25", "10.1.2.3", "10.1.2.130"];
const ASKED: [&str; 4] = ["10.9.9.9", "10.1.2.3", "10.1.2.4", "10.1.2.130"];
/// All times are multiples of this, milliseconds.
const UNIT: i64 = 10_000;

/// Numbers from a seed (splitmix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.bits() >> 33).unwrap() % end
    }

    fn id(&mut self) -> u8 {
        u8::try_from(1 + self.below(IDS.into())).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Advance {
        millis: i64,
    },
    Push {
        id: u8,
        source: &'static str,
        from: i64,
        lasts: i64,
        replaces: Option<u8>,
    },
    /// The clock is set by this much.
    Set {
        millis: i64,
    },
    PushAgain {
        id: u8,
    },
    Reboot,
    Restart,
    Revoke {
        id: u8,
    },
    /// Everything, or what this requester asked for.
    RevokeUntilNow {
        requester: Option<&'static str>,
    },
    /// By a key, of what was issued until this long from now, or ago.
    RevokeSigned {
        whose: Whose,
        millis: i64,
    },
}

fn step(random: &mut Random, sets_clocks: bool, floors: bool) -> Step {
    if floors && random.below(8) == 0 {
        let whose = usize::try_from(random.below(4)).unwrap();
        return Step::RevokeUntilNow { requester: REQUESTERS.get(whose).copied() };
    }
    if floors && random.below(6) == 0 {
        let whose = match random.below(4) {
            0 => Whose::Ids(vec![random.id()]),
            1 => Whose::All,
            number => Whose::Requester(REQUESTERS.get(usize::from(number == 2)).unwrap()),
        };
        // Late ones, and some by a clock that is far ahead.
        return Step::RevokeSigned { whose, millis: (random.below(16) - 6) * UNIT };
    }
    match random.below(if sets_clocks { 19 } else { 16 }) {
        0..6 => Step::Push {
            id: random.id(),
            source: SOURCES.get(usize::try_from(random.below(5)).unwrap()).unwrap(),
            from: random.below(4) * UNIT,
            lasts: (1 + random.below(9)) * UNIT,
            replaces: (random.below(3) == 0).then(|| random.id()),
        },
        6..8 => Step::PushAgain { id: random.id() },
        8..12 => Step::Advance { millis: random.below(5) * UNIT },
        12..14 => Step::Revoke { id: random.id() },
        14 => Step::Restart,
        15 => Step::Reboot,
        16 | 17 => Step::Set { millis: (random.below(17) - 8) * UNIT },
        _ => Step::Set { millis: (random.below(3) - 1) * 3_600_000 },
    }
}

/// What a history happens to.
trait World {
    fn push(&mut self, grant: &v1::Grant, now: Now);
    fn revoke(&mut self, id: u8, now: Now);
    fn revoke_until_now(&mut self, requester: Option<&'static str>, now: Now);
    fn revoke_signed(&mut self, whose: &Whose, at: i64, now: Now);
    fn pass(&mut self, now: Now);
    fn start(&mut self, reboot: bool, now: Now);
    fn opens(&self, source: &str, now: Now) -> bool;
}

/// The ledger alone, with what the disk and the kernel hold.
struct Alone {
    ledger: Ledger,
    kernel: Entries,
    grants: BTreeMap<GrantId, VerifiedGrant>,
    /// Deadlines, and the boot that they mean.
    deadlines: BTreeMap<GrantId, (BootNanos, u32)>,
    tombstones: Vec<(GrantId, Tombstone)>,
    floors: Floors,
    boot: u32,
    floor: WallTime,
    offset: i64,
    held_back: bool,
}

impl Alone {
    fn new() -> Self {
        Self {
            ledger: empty(),
            kernel: Entries::new(),
            grants: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            tombstones: Vec::new(),
            floors: Floors::default(),
            boot: 1,
            floor: NOW.wall,
            offset: offset(NOW),
            held_back: false,
        }
    }

    fn trusts(&self, now: Now) -> bool {
        now.wall + SKEW >= self.floor
    }

    /// Writes what changed in the ledger to the kernel and to the disk.
    fn settle(&mut self) {
        let changed = self.ledger.take_changed();
        self.write(changed);
    }

    fn write(&mut self, keys: BTreeSet<EntryKey>) {
        let desired: HashMap<_, _> =
            keys.into_iter().map(|key| (key, self.ledger.desired(&key))).collect();
        for write in plan(desired, &self.kernel) {
            match write {
                Write::Remove(key) => self.kernel.remove(&key),
                Write::Set(key, entry) => self.kernel.insert(key, entry),
            };
        }
        self.tombstones = self.ledger.tombstones().collect();
        self.floors = self.ledger.floors().clone();
        for record in self.ledger.grants() {
            if let Some(deadline) = record.stage.deadline() {
                self.deadlines.insert(record.grant.id(), (deadline, self.boot));
            }
        }
    }

    fn settle_all(&mut self) {
        self.ledger.take_changed();
        let desired = self.ledger.all_desired().map(|(key, _)| key);
        self.write(desired.chain(self.kernel.keys().copied()).collect());
    }

    fn forget(&mut self, id: GrantId) {
        self.grants.remove(&id);
        self.deadlines.remove(&id);
    }

    /// Puts back what the disk has, as far as the clock allows.
    fn restore(&mut self, now: Now) {
        let trusted = self.trusts(now);
        let seen = Now { wall: now.wall.max(self.floor), ..now };
        self.held_back = false;
        let mut replaced = Vec::new();
        for (id, grant) in self.grants.clone() {
            let begun = self.deadlines.contains_key(&id);
            let stored = self.deadlines.get(&id).filter(|(_, boot)| *boot == self.boot);
            if self.ledger.grant(id).is_some() {
                continue;
            }
            if stored.is_none() && !trusted {
                self.held_back = true;
                continue;
            }
            let deadline = stored.map(|(deadline, _)| *deadline);
            let progress = Progress { deadline, ..Progress::default() };
            let begins = begun || grant.not_before() <= now.wall;
            replaced.extend(grant.replaces().filter(|_| begins).map(|old| (old, id)));
            let at = if begins { seen } else { now };
            if grant.not_after() <= seen.wall {
                self.forget(id);
                continue;
            }
            match self.ledger.restore(grant, progress, at) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.forget(id),
            }
        }
        for (old, by) in replaced {
            self.ledger.replace_id(old, by, seen, 0);
            self.forget(old);
        }
    }

    /// The clock may have become right.
    fn look(&mut self, now: Now) {
        if self.held_back && self.trusts(now) {
            self.restore(now);
            self.settle_all();
        }
    }

    fn replace(&mut self, by: GrantId, now: Now) {
        if let Some(replacement) = self.ledger.replace(by, now, 0) {
            self.forget(replacement.id);
        }
    }
}

impl World for Alone {
    fn push(&mut self, grant: &v1::Grant, now: Now) {
        self.look(now);
        if !self.trusts(now) || grant.not_after_ms <= now.wall.0 {
            return;
        }
        let grant = kept(grant);
        let id = grant.id();
        if let Err(refused) = self.ledger.admit(grant.clone(), now) {
            if refused.refusal == Refusal::Revoked {
                self.ledger.refuse_longer(id, grant.not_after(), now);
            }
        } else {
            if self.ledger.grant(id).is_some() {
                self.grants.insert(id, grant);
            }
            self.replace(id, now);
        }
        self.settle();
    }

    fn revoke(&mut self, id: u8, now: Now) {
        let id = GrantId([id; 16]);
        let seen = Now { wall: now.wall.max(self.floor), ..now };
        self.ledger.revoke(id, seen, 0).unwrap();
        self.forget(id);
        self.settle();
    }

    fn revoke_until_now(&mut self, requester: Option<&'static str>, now: Now) {
        let seen = Now { wall: now.wall.max(self.floor), ..now };
        let falls =
            |grant: &VerifiedGrant| requester.is_none_or(|name| name == grant.message().requester);
        let fallen: Vec<_> = self
            .grants
            .values()
            .filter(|grant| falls(grant))
            .map(|one| (one.id(), one.issued_at()))
            .collect();
        let latest = fallen.iter().map(|(_, issued)| *issued).max();
        for (id, _) in fallen {
            self.ledger.revoke(id, seen, 0).unwrap();
            self.forget(id);
        }
        let at = latest.map_or(seen.wall, |latest| latest.max(seen.wall));
        self.ledger.raise_floor(Floor { requester: requester.map(str::to_owned), at });
        self.settle();
    }

    fn revoke_signed(&mut self, whose: &Whose, at: i64, now: Now) {
        let seen = Now { wall: now.wall.max(self.floor), ..now };
        let requester = match whose {
            Whose::Ids(ids) => return ids.iter().for_each(|id| self.revoke(*id, now)),
            Whose::Requester(name) => Some(*name),
            Whose::All => None,
        };
        let falls = |grant: &&VerifiedGrant| {
            grant.issued_at().0 <= at && requester.is_none_or(|name| name == grant.requester())
        };
        let fallen: Vec<_> = self.grants.values().filter(falls).map(VerifiedGrant::id).collect();
        for id in fallen {
            self.ledger.revoke(id, seen, 0).unwrap();
            self.forget(id);
        }
        let at = WallTime(at).min(seen.wall + SKEW);
        self.ledger.raise_floor(Floor { requester: requester.map(str::to_owned), at });
        self.settle();
    }

    fn pass(&mut self, now: Now) {
        self.look(now);
        let trusted = self.trusts(now);
        if trusted {
            self.floor = self.floor.max(now.wall);
            if offset(now) != self.offset {
                self.offset = offset(now);
                self.ledger.clock_was_set(now);
                self.ledger.tombstones_follow(now);
            }
        }
        for change in self.ledger.advance(now, trusted, |_| 0) {
            match change {
                Change::Expired(id) => self.forget(id),
                Change::Replaced(replacement) => self.forget(replacement.id),
                Change::Activated(_) | Change::Forgotten(_) => {}
            }
        }
        self.settle();
    }

    fn start(&mut self, reboot: bool, now: Now) {
        self.ledger = empty();
        if reboot {
            self.boot += 1;
            self.kernel.clear();
        }
        for (id, tombstone) in std::mem::take(&mut self.tombstones) {
            let fresh = Tombstone::new(tombstone.until, now);
            self.ledger.restore_tombstone(id, if reboot { fresh } else { tombstone });
        }
        self.ledger.restore_floors(&std::mem::take(&mut self.floors));
        self.restore(now);
        self.offset = offset(now);
        self.settle_all();
    }

    /// As the kernel looks: the addresses first, then the longest prefix alone.
    fn opens(&self, source: &str, now: Now) -> bool {
        let host = SourcePrefix::new(v4(source), 32).unwrap();
        let entry = |length| {
            self.kernel.get(&EntryKey { port: SSH, source: host.widened(length) }).copied()
        };
        let live = |entry: Entry| entry.unlimited.deadline > now.boot;
        entry(32).is_some_and(live) || (0..32).rev().find_map(entry).is_some_and(live)
    }
}

/// The gate with its database and its audit.
struct Whole {
    host: Host,
    boot: u32,
}

impl Whole {
    fn new() -> Self {
        Self { host: Host::with(REVOKER), boot: 1 }
    }
}

impl World for Whole {
    fn push(&mut self, grant: &v1::Grant, now: Now) {
        let by = Pusher { may_revoke: true, ..Pusher::from("test") };
        drop(self.host.gate().push(vec![envelope(grant)], by, now));
    }

    fn revoke_until_now(&mut self, requester: Option<&'static str>, now: Now) {
        let target = requester.map_or(Target::All, |name| Target::Requester(name.into()));
        assert_eq!(self.host.gate().revoke(&target, "", "", now).warning, "");
    }

    fn revoke_signed(&mut self, whose: &Whose, at: i64, now: Now) {
        let base = v1::Revocation { all: false, ..revocation(at - NOW.wall.0) };
        let message = match whose {
            Whose::All => v1::Revocation { all: true, ..base },
            Whose::Ids(ids) => {
                let grant_ids = ids.iter().map(|id| vec![*id; 16].into()).collect();
                v1::Revocation { grant_ids, ..base }
            }
            Whose::Requester(name) => v1::Revocation { requester: (*name).into(), ..base },
        };
        let envelope = signed_revocation(&message);
        match self.host.gate().revoke_signed(&envelope, "", now) {
            Ok(revoked) => assert_eq!(revoked.warning, ""),
            Err(refused) => assert_eq!(refused.refusal, Refusal::NotYetValid, "{refused}"),
        }
    }

    fn revoke(&mut self, id: u8, now: Now) {
        let revoked = self.host.gate().revoke(&Target::Ids(vec![GrantId([id; 16])]), "", "", now);
        assert_eq!(revoked.warning, "");
    }

    fn pass(&mut self, now: Now) {
        self.host.gate().advance(now);
    }

    fn start(&mut self, reboot: bool, now: Now) {
        if reboot {
            self.boot += 1;
            self.host.kernel = MemoryDatapath::default();
        }
        self.host.restart(&format!("boot-{}", self.boot), now);
    }

    fn opens(&self, source: &str, now: Now) -> bool {
        self.host.kernel.opens(SSH, v4(source), now.boot)
    }
}

fn empty() -> Ledger {
    Ledger::new(Capacity { hosts: 64, prefixes: 64 }, 64, UNSEEN)
}

fn offset(now: Now) -> i64 {
    now.wall.0 - i64::try_from(now.boot.0 / 1_000_000).unwrap()
}

/// Verified once: the same few grants come again and again.
fn kept(grant: &v1::Grant) -> VerifiedGrant {
    thread_local! {
        static KEPT: std::cell::RefCell<HashMap<Vec<u8>, VerifiedGrant>> = HashMap::new().into();
    }
    KEPT.with_borrow_mut(|kept| {
        kept.entry(grant.encode_to_vec()).or_insert_with(|| verified(grant)).clone()
    })
}

/// Runs one history in a world and beside it in the model.
fn run(world: &mut impl World, seed: u64, floors: bool) {
    let mut random = Random(seed);
    let sets_clocks = random.below(2) == 0;
    let mut model = Model { floor: NOW.wall.0, ..Model::default() };
    // First content under each id, and the latest end of what was taken or refused for its id.
    let mut pushed: BTreeMap<u8, (v1::Grant, Modelled, Option<i64>)> = BTreeMap::new();
    let (mut wall, mut boot) = (NOW.wall.0, 0_i64);
    let mut steps = Vec::new();
    for _ in 0..4 + random.below(16) {
        let step = step(&mut random, sets_clocks, floors);
        steps.push(step.clone());
        let at = |wall: i64, boot: i64| Now {
            wall: WallTime(wall),
            boot: BootNanos(NOW.boot.0 + u64::try_from(boot).unwrap() * 1_000_000),
        };
        match step {
            Step::Advance { millis } => (wall, boot) = (wall + millis, boot + millis),
            Step::Set { millis } => {
                wall += millis;
                model.clock_was_set(wall, boot);
            }
            Step::Push { id, source, from, lasts, replaces } => {
                let replaces = replaces.filter(|old| *old != id);
                let (begin, end) = (wall + from, wall + from + lasts);
                // An id may be used anew when nothing under it could be replayed; nobody does.
                let last = pushed.get(&id).and_then(|(_, _, last)| *last);
                if last.is_some_and(|last| last + 60_000 <= wall.max(model.floor)) {
                    continue;
                }
                let message = v1::Grant {
                    issued_at_ms: wall,
                    not_before_ms: begin,
                    not_after_ms: end,
                    replaces: replaces.map(|old| vec![old; 16].into()).unwrap_or_default(),
                    requester: requester_of(id).into(),
                    ..grant(id, &[source])
                };
                let source = source.parse().unwrap();
                let fresh = Modelled {
                    source,
                    begin,
                    end,
                    replaces,
                    issued: wall,
                    open_until: None,
                    begun: false,
                    held_back: false,
                };
                world.push(&message, at(wall, boot));
                let counts = model.push(id, fresh.clone(), wall, boot);
                let (_, _, last) = pushed.entry(id).or_insert((message, fresh, None));
                *last = (*last).max(counts.then_some(end));
            }
            Step::PushAgain { id } => {
                if let Some((message, fresh, last)) = pushed.get_mut(&id) {
                    world.push(message, at(wall, boot));
                    let counts = model.push(id, fresh.clone(), wall, boot);
                    *last = (*last).max(counts.then_some(fresh.end));
                }
            }
            Step::Revoke { id } => {
                world.revoke(id, at(wall, boot));
                model.refused.insert(id);
                model.grants.remove(&id);
            }
            Step::RevokeUntilNow { requester } => {
                world.revoke_until_now(requester, at(wall, boot));
                model.revoke_until_now(requester, wall);
            }
            Step::RevokeSigned { whose, millis } => {
                world.revoke_signed(&whose, wall + millis, at(wall, boot));
                model.revoke_signed(&whose, wall + millis, wall);
            }
            Step::Restart => {
                model.start(false, wall, boot);
                world.start(false, at(wall, boot));
            }
            Step::Reboot => {
                model.start(true, wall, boot);
                world.start(true, at(wall, boot));
            }
        }
        world.pass(at(wall, boot));
        model.pass(wall, boot);
        for source in ASKED {
            let (opens, covered) =
                (world.opens(source, at(wall, boot)), model.covers(source, boot));
            let history = || format!("seed {seed}, {source}: {steps:?}");
            assert!(!opens || covered, "open beyond the model, {}", history());
            assert!(sets_clocks || opens == covered, "closed beyond the model, {}", history());
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn the_ledger_never_opens_more_than_the_model() {
    let (count, seed) = (number("JIT_TEST_SEQUENCES", 10_000), number("JIT_TEST_SEED", 1));
    for number in 0..count {
        // Every second history has revocations with a floor, signed ones among them.
        run(&mut Alone::new(), seed.wrapping_add(number), number % 2 == 1);
    }
    println!("{count} sequences");
}

/// What a million histories found. The first: an id that was replaced was taken again, with a content
/// that had been refused before. The second: what came back when the clock was right replaced a grant,
/// and the kernel was not written.
#[test]
fn a_history_that_went_wrong_once_stays_right() {
    for seed in [77_043_569, 900_201_457] {
        run(&mut Alone::new(), seed, false);
        run(&mut Whole::new(), seed, false);
    }
}

#[test]
fn the_gate_never_opens_more_than_the_model() {
    for seed in 0..100 {
        run(&mut Whole::new(), seed, seed % 2 == 1);
    }
}

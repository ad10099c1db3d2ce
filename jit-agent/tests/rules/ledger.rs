//! The ledger against the simple rule it stands for: a source is let in exactly while some live
//! grant covers it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jit_agent::rules::{
    claims::Capacity,
    clock::{BootNanos, Now},
    ledger::{Admission, Floor, Ledger, Progress, Stage},
    reconcile::{Entries, Entry, EntryKey, Write, plan},
};
use jit_common::Address;
use jit_proto::{GrantId, Refusal, v1};
use proptest::prelude::*;

use crate::support::{MINUTE, NOW, SSH, grant, later, v4, verified};

const UNSEEN: std::time::Duration = std::time::Duration::from_secs(8 * 24 * 3600);
const CAPACITY: Capacity = Capacity { hosts: 64, prefixes: 64 };

/// A ledger with the kernel's tables beside it.
struct World {
    ledger: Ledger,
    kernel: Entries,
}

impl World {
    fn new(capacity: Capacity) -> Self {
        Self { ledger: Ledger::new(capacity, 64, UNSEEN), kernel: Entries::new() }
    }

    fn admit(&mut self, grant: &v1::Grant, now: Now) -> Result<Admission, Refusal> {
        let result = self.ledger.admit(verified(grant), now);
        self.sync();
        result.map_err(|refused| refused.refusal)
    }

    fn revoke(&mut self, id: u8, now: Now) -> bool {
        let (ended, _) = self.ledger.revoke(GrantId([id; 16]), now, 0).unwrap();
        self.sync();
        ended
    }

    fn advance(&mut self, now: Now) {
        self.ledger.advance(now, true, |_| 0);
        self.sync();
    }

    /// Only the changed keys are written, as the gate does.
    fn sync(&mut self) {
        let changed = self.ledger.take_changed();
        let desired = changed.into_iter().map(|key| (key, self.ledger.desired(&key)));
        for write in plan(desired.collect::<HashMap<_, _>>(), &self.kernel) {
            match write {
                Write::Remove(key) => self.kernel.remove(&key),
                Write::Set(key, entry) => self.kernel.insert(key, entry),
            };
        }
    }

    /// What the kernel answers: the host table, then the longest prefix alone.
    fn opens(&self, source: &str, now: BootNanos) -> bool {
        let address = v4(source);
        let host = jit_proto::SourcePrefix::new(address, 32).unwrap();
        let entry = |length| {
            self.kernel.get(&EntryKey { port: SSH, source: host.widened(length) }).copied()
        };
        let live = |entry: Entry| entry.unlimited.deadline > now;
        entry(32).is_some_and(live) || (0..32).rev().find_map(entry).is_some_and(live)
    }
}

fn until(id: u8, source: &str, millis: i64) -> v1::Grant {
    v1::Grant { not_after_ms: NOW.wall.0 + millis, ..grant(id, &[source]) }
}

#[test]
fn an_expired_address_inside_a_live_prefix_stays_open() {
    let mut world = World::new(CAPACITY);
    world.admit(&until(1, "203.0.113.7", 1_000), NOW).unwrap();
    world.admit(&until(2, "203.0.113.0/24", 9_000), NOW).unwrap();
    world.admit(&until(3, "203.0.113.0/28", 1_000), NOW).unwrap();
    // Before the ledger cleans up, and after.
    assert!(world.opens("203.0.113.7", later(2_000).boot));
    world.advance(later(2_000));
    assert!(world.opens("203.0.113.7", later(2_000).boot));
    assert!(!world.opens("203.0.113.7", later(9_000).boot));
}

#[test]
fn of_two_grants_for_one_source_either_may_end_without_the_other() {
    for source in ["203.0.113.7", "203.0.113.0/24"] {
        let mut world = World::new(CAPACITY);
        world.admit(&until(1, source, 60_000), NOW).unwrap();
        world.admit(&until(2, source, 60_000), NOW).unwrap();
        assert!(world.revoke(1, NOW));
        assert!(world.opens("203.0.113.7", NOW.boot), "{source}");
        assert!(world.revoke(2, NOW));
        assert!(!world.opens("203.0.113.7", NOW.boot), "{source}");
        assert!(world.kernel.is_empty());
    }
}

#[test]
fn a_second_grant_never_shortens_a_first() {
    let mut world = World::new(CAPACITY);
    world.admit(&until(1, "203.0.113.7", 60_000), NOW).unwrap();
    world.admit(&until(2, "203.0.113.7", 1_000), NOW).unwrap();
    assert!(world.opens("203.0.113.7", later(59_999).boot));
    assert!(!world.opens("203.0.113.7", later(60_000).boot), "dead at the deadline itself");
}

#[test]
fn a_fifth_grant_is_refused_at_capacity_four_and_a_renewal_works() {
    let mut world = World::new(Capacity { hosts: 4, prefixes: 1 });
    for id in 1..=4 {
        world.admit(&until(id, &format!("203.0.113.{id}"), 60_000), NOW).unwrap();
    }
    assert_eq!(world.admit(&until(5, "203.0.113.5", 60_000), NOW), Err(Refusal::Capacity));
    assert!(!world.opens("203.0.113.5", NOW.boot));
    world.admit(&until(6, "203.0.113.1", 90_000), NOW).unwrap();
    assert!(world.opens("203.0.113.1", later(80_000).boot));
    assert!(world.revoke(2, NOW));
    world.admit(&until(5, "203.0.113.5", 60_000), NOW).unwrap();
    world.admit(&until(7, "198.51.100.0/24", 60_000), NOW).unwrap();
    assert_eq!(world.admit(&until(8, "192.0.2.0/24", 60_000), NOW), Err(Refusal::Capacity));
}

#[test]
fn the_same_grant_again_changes_nothing_and_another_under_its_id_is_a_conflict() {
    let mut world = World::new(CAPACITY);
    let first = until(1, "203.0.113.7", 60_000);
    assert_eq!(world.admit(&first, NOW), Ok(Admission::Active));
    assert_eq!(world.admit(&first, NOW), Ok(Admission::Known));
    let other = until(1, "203.0.113.8", 60_000);
    assert_eq!(world.admit(&other, NOW), Err(Refusal::IdConflict));
    assert!(!world.opens("203.0.113.8", NOW.boot));
}

#[test]
fn a_revoked_id_stays_refused_also_when_it_was_never_seen() {
    let mut world = World::new(CAPACITY);
    assert!(!world.revoke(1, NOW));
    assert_eq!(world.admit(&until(1, "203.0.113.7", 60_000), NOW), Err(Refusal::Revoked));
    world.admit(&until(2, "203.0.113.7", 60_000), NOW).unwrap();
    assert!(world.revoke(2, NOW));
    assert!(!world.revoke(2, NOW), "once is enough");
    assert_eq!(world.admit(&until(2, "203.0.113.7", 60_000), NOW), Err(Refusal::Revoked));
    // It is kept for as long as the grant could be replayed.
    world.advance(later(119_000));
    assert_eq!(world.admit(&until(2, "203.0.113.7", 60_000), NOW), Err(Refusal::Revoked));
}

#[test]
fn a_clock_that_is_not_trusted_begins_nothing_and_still_ends_grants() {
    let mut world = World::new(CAPACITY);
    world.admit(&until(1, "203.0.113.7", 1_000), NOW).unwrap();
    let later_grant =
        v1::Grant { not_before_ms: NOW.wall.0 + 1_000, ..until(2, "203.0.113.8", 60_000) };
    assert_eq!(world.admit(&later_grant, NOW), Ok(Admission::Scheduled));
    world.ledger.advance(later(2_000), false, |_| 0);
    world.sync();
    assert!(!world.opens("203.0.113.8", later(2_000).boot));
    assert_eq!(world.ledger.grants().count(), 1);
    assert_eq!(world.ledger.next_change(later(2_000), false), None, "nothing to wake up for");
}

#[test]
fn a_scheduled_grant_opens_when_it_begins_and_not_before() {
    let mut world = World::new(CAPACITY);
    let grant = v1::Grant {
        not_before_ms: NOW.wall.0 + MINUTE,
        not_after_ms: NOW.wall.0 + 2 * MINUTE,
        ..grant(1, &["203.0.113.7"])
    };
    assert_eq!(world.admit(&grant, NOW), Ok(Admission::Scheduled));
    assert!(!world.opens("203.0.113.7", NOW.boot));
    assert_eq!(world.ledger.next_change(NOW, true).unwrap().as_secs(), 60);
    world.advance(later(MINUTE - 1));
    assert!(!world.opens("203.0.113.7", later(MINUTE - 1).boot));
    world.advance(later(MINUTE));
    assert!(world.opens("203.0.113.7", later(MINUTE).boot));
    assert!(!world.opens("203.0.113.7", later(2 * MINUTE).boot));
}

#[test]
fn a_wall_clock_that_is_set_only_shortens() {
    let mut world = World::new(CAPACITY);
    world.admit(&until(1, "203.0.113.7", 60_000), NOW).unwrap();
    for (wall_step, ends) in [(-3_600_000, 60_000), (50_000, 10_000), (-3_600_000, 10_000)] {
        let stepped = Now { wall: jit_proto::WallTime(NOW.wall.0 + wall_step), boot: NOW.boot };
        world.ledger.clock_was_set(stepped);
        world.sync();
        assert!(world.opens("203.0.113.7", later(ends - 1).boot), "{wall_step}");
        assert!(!world.opens("203.0.113.7", later(ends).boot), "{wall_step}");
    }
}

#[test]
fn a_restored_deadline_is_never_later_than_the_stored_one() {
    let mut ledger = Ledger::new(CAPACITY, 64, UNSEEN);
    let stored = later(5_000).boot;
    let grant = verified(&until(1, "203.0.113.7", 60_000));
    let progress = |deadline| Progress { deadline: Some(deadline), ..Progress::default() };
    ledger.restore(grant, progress(stored), NOW).unwrap();
    let held = ledger.grant(GrantId([1; 16])).unwrap();
    assert!(matches!(held.stage, Stage::Active { deadline, .. } if deadline == stored));
    let ended = verified(&until(2, "203.0.113.7", 60_000));
    assert_eq!(ledger.restore(ended, progress(NOW.boot), NOW), Ok(None));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Admit {
        source: &'static str,
        from: i64,
        lasts: i64,
    },
    Advance {
        millis: i64,
    },
    Revoke {
        which: u8,
    },
    RevokeAll,
    /// A grant that was signed this long ago.
    Late {
        source: &'static str,
        signed: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let sources = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.0/25",
        "10.1.2.3",
        "10.1.2.130",
        "10.9.9.9",
        "203.0.113.0/24",
    ];
    prop_oneof![
        4 => (prop::sample::select(sources.to_vec()), 0..3_i64, 1..5_i64)
            .prop_map(|(source, from, lasts)| Step::Admit { source, from, lasts }),
        3 => (0..3_i64).prop_map(|millis| Step::Advance { millis }),
        2 => (1..20_u8).prop_map(|which| Step::Revoke { which }),
        1 => Just(Step::RevokeAll),
        1 => (prop::sample::select(sources.to_vec()), 0..3_i64)
            .prop_map(|(source, signed)| Step::Late { source, signed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// After each step the kernel's longest-prefix answer equals "some live grant covers".
    #[test]
    fn the_kernel_opens_exactly_what_a_live_grant_covers(steps in prop::collection::vec(step(), 1..24)) {
        let mut world = World::new(CAPACITY);
        let mut model: BTreeMap<u8, (&'static str, i64, i64)> = BTreeMap::new();
        let mut elapsed = 0;
        let mut floor = i64::MIN;
        let mut refused = BTreeSet::new();
        let mut next = 0_u8;
        for step in steps {
            match step {
                Step::Admit { source, from, lasts } => {
                    next += 1;
                    let (begin, end) = (elapsed + from, elapsed + from + lasts);
                    let grant = v1::Grant {
                        issued_at_ms: NOW.wall.0 + elapsed,
                        not_before_ms: NOW.wall.0 + begin,
                        not_after_ms: NOW.wall.0 + end,
                        ..grant(next, &[source])
                    };
                    let admitted = world.admit(&grant, later(elapsed));
                    let falls = elapsed <= floor || refused.contains(&next);
                    prop_assert_eq!(admitted == Err(Refusal::Revoked), falls);
                    if admitted.is_ok() {
                        model.insert(next, (source, begin, end));
                    }
                }
                Step::Late { source, signed } => {
                    next += 1;
                    let (issued, end) = (elapsed - signed, elapsed + 3);
                    let grant = v1::Grant {
                        issued_at_ms: NOW.wall.0 + issued,
                        not_before_ms: NOW.wall.0 + issued,
                        not_after_ms: NOW.wall.0 + end,
                        ..grant(next, &[source])
                    };
                    let admitted = world.admit(&grant, later(elapsed));
                    let falls = issued <= floor || refused.contains(&next);
                    prop_assert_eq!(admitted == Err(Refusal::Revoked), falls);
                    if admitted.is_ok() {
                        model.insert(next, (source, issued, end));
                    }
                }
                Step::RevokeAll => {
                    for which in std::mem::take(&mut model).into_keys() {
                        world.revoke(which, later(elapsed));
                    }
                    floor = elapsed;
                    let at = later(elapsed).wall;
                    world.ledger.raise_floor(Floor { requester: None, at });
                }
                Step::Advance { millis } => {
                    elapsed += millis;
                    world.advance(later(elapsed));
                }
                Step::Revoke { which } => {
                    world.revoke(which, later(elapsed));
                    model.remove(&which);
                    refused.insert(which);
                }
            }
            for address in ["10.0.0.1", "10.1.2.3", "10.1.2.4", "10.1.2.130", "10.9.9.9", "203.0.113.9", "192.0.2.1"] {
                let covered = model.values().any(|(source, begin, end)| {
                    let prefix: jit_proto::SourcePrefix = source.parse().unwrap();
                    let host = jit_proto::SourcePrefix::new(v4(address), 32).unwrap();
                    prefix.contains(&host) && *begin <= elapsed && elapsed < *end
                });
                prop_assert_eq!(world.opens(address, later(elapsed).boot), covered, "{}", address);
                let claims = world.ledger.claims();
                let expected = claims.covering(SSH, v4(address), later(elapsed).boot).next().is_some();
                prop_assert_eq!(expected, covered);
            }
        }
        // In the end everything is gone, and every slot is free again.
        world.advance(later(elapsed + 1_000_000));
        prop_assert!(world.kernel.is_empty());
        prop_assert_eq!(world.ledger.grants().count(), 0);
        let _: Address = v4("192.0.2.1");
    }
}

/// The oldest make room, and a replacement that is taken back leaves a gap.
#[test]
fn the_grants_that_ended_last_are_found_by_their_ids() {
    let id = |number: u16| GrantId([number.to_be_bytes(); 8].concat().try_into().unwrap());
    let mut ledger = Ledger::new(CAPACITY, 64, UNSEEN);
    let admit = |ledger: &mut Ledger, number: u16, replaces: Option<u16>| {
        let bytes = |number| id(number).0.to_vec().into();
        let replaces = replaces.map(bytes).unwrap_or_default();
        let grant = v1::Grant { id: bytes(number), replaces, ..grant(1, &["203.0.113.7"]) };
        ledger.admit(verified(&grant), NOW).unwrap();
    };
    let end = |ledger: &mut Ledger, number| {
        admit(ledger, number, None);
        ledger.revoke(id(number), NOW, 0).unwrap();
    };
    (1..700).for_each(|number| end(&mut ledger, number));
    admit(&mut ledger, 5_000, None);
    let before = ledger.grant(id(5_000)).cloned();
    admit(&mut ledger, 5_001, Some(5_000));
    let replacement = ledger.replace(id(5_001), NOW, 0).unwrap();
    (700..750).for_each(|number| end(&mut ledger, number));
    assert!(ledger.ended_grant(id(5_000)).is_some());
    ledger.take_back(replacement, before);
    assert!(ledger.ended_grant(id(5_000)).is_none());
    (750..1_500).for_each(|number| end(&mut ledger, number));
    let held: Vec<_> = ledger.ended().map(|held| held.grant.id()).collect();
    assert_eq!(held, (1_500 - 1_024..1_500).map(id).collect::<Vec<_>>());
    let found = |number: &u16| ledger.ended_grant(id(*number)).map(|held| held.grant.id());
    for number in 1..1_500 {
        assert_eq!(found(&number), held.contains(&id(number)).then(|| id(number)), "{number}");
    }
}

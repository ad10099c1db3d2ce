//! An opening that is written to the kernel's tables past an agent that does not answer: the slot
//! that counts it, and the writes that open it. Pure: what is in the tables is an argument.

use std::collections::BTreeSet;

use jit_proto::Refusal;

use crate::rules::{
    claims::{Capacity, Claims, EXEMPT_SLOT, Full, Kind, PlaceClaim},
    clock::BootNanos,
    reconcile::{Access, Entries, Entry, EntryKey, Write, plan},
    refusal::Refused,
};

/// The slots of entries, also of grants that have not begun.
pub fn slots(entries: &Entries) -> BTreeSet<u32> {
    entries.values().flat_map(|entry| entry.accesses()).map(|access| access.slot).collect()
}

/// A slot that nothing uses, searched from the last one down: an agent gives out the first ones, and
/// so not this one when it goes on. `fresh`: whether a slot never had a grant; only if there is no
/// such slot it may be one that had. `skip`: so many free ones are passed over, if there are more.
pub fn slot(
    length: u32,
    used: &BTreeSet<u32>,
    skip: usize,
    fresh: impl Fn(u32) -> bool,
) -> Option<u32> {
    let free = || (EXEMPT_SLOT + 1..length).rev().filter(|slot| !used.contains(slot));
    let mut never = free().filter(|slot| fresh(*slot)).take(skip + 1);
    never.by_ref().last().or_else(|| free().next())
}

/// The writes that open these places, closings first. Who gets in without them still gets in, and for
/// as long: the longest prefix shadows, so shorter prefixes and longer ones may change, too.
///
/// # Errors
/// There is no room, not even where grants have ended.
pub fn writes(
    entries: &Entries,
    keys: &[EntryKey],
    access: Access,
    capacity: Capacity,
    now: BootNanos,
) -> Result<Vec<Write>, Refused> {
    let mut claims = all(entries, capacity, |_| true);
    if claims.fits(keys.iter().copied(), []).is_err() {
        // Entries that are only there for sessions of ended grants make room.
        claims = all(entries, capacity, |entry| !has_ended(entry, now));
        claims.fits(keys.iter().copied(), []).map_err(|full| no_room(&full))?;
    }
    let _as_they_are = claims.take_changed();
    for key in keys {
        claims.add(*key, PlaceClaim { access, kind: Kind::Unlimited });
    }
    let mut changed = claims.take_changed();
    changed.extend(entries.keys().filter(|key| claims.desired(key).is_none()));
    Ok(plan(changed.into_iter().map(|key| (key, claims.desired(&key))), entries))
}

/// The entries as claims: an entry holds for its place what all that cover it let in.
fn all(entries: &Entries, capacity: Capacity, wanted: impl Fn(&Entry) -> bool) -> Claims {
    let mut claims = Claims::new(capacity);
    for (key, entry) in entries.iter().filter(|(_, entry)| wanted(entry)) {
        // Also without a grant: the place of one that has not begun.
        claims.add(*key, PlaceClaim { access: entry.unlimited, kind: Kind::Unlimited });
        if entry.limited.is_some() {
            claims.add(*key, PlaceClaim { access: entry.limited, kind: Kind::Limited });
        }
    }
    claims
}

fn has_ended(entry: &Entry, now: BootNanos) -> bool {
    *entry != Entry::CLOSED && entry.accesses().iter().all(|access| access.deadline <= now)
}

/// Every slot counts a grant.
pub fn no_slot() -> Refused {
    let detail =
        "no room: every place that counts connections has a grant; `jit-agent close` makes room";
    Refused::new(Refusal::Capacity, detail)
}

fn no_room(Full { most, table }: &Full) -> Refused {
    let detail = format!(
        "no room: all {most} {table} of the kernel's tables are in use; `jit-agent close` makes room"
    );
    Refused::new(Refusal::Capacity, detail)
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;

    const NOW: BootNanos = BootNanos(100);
    const ROOM: Capacity = Capacity { hosts: 2, prefixes: 4 };

    fn key(source: &str) -> EntryKey {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        EntryKey { port, source: source.parse().unwrap() }
    }

    fn until(deadline: u64, slot: u32) -> Access {
        Access { deadline: BootNanos(deadline), cut: false, slot }
    }

    fn entry(deadline: u64, slot: u32) -> Entry {
        Entry { unlimited: until(deadline, slot), ..Entry::CLOSED }
    }

    fn opens(entries: &Entries, source: &str) -> Result<Vec<Write>, Refusal> {
        writes(entries, &[key(source)], until(200, 9), ROOM, NOW).map_err(|error| error.refusal)
    }

    #[test]
    fn nobody_gets_in_shorter_and_a_longer_prefix_does_not_shadow() {
        let limited = Entry { limited: until(300, 4), ..Entry::CLOSED };
        let entries = Entries::from([
            (key("198.51.100.0/24"), entry(500, 1)),
            (key("192.0.2.16/29"), entry(50, 2)),
            (key("203.0.113.7"), entry(900, 3)),
            (key("203.0.113.8"), limited),
        ]);
        let inside = opens(&entries, "198.51.100.0/28").unwrap();
        assert_eq!(inside, [Write::Set(key("198.51.100.0/28"), entry(500, 1))]);
        let mut around = opens(&entries, "192.0.2.16/28").unwrap();
        around.sort_by_key(|write| format!("{write:?}"));
        let mut expected = [
            Write::Set(key("192.0.2.16/28"), entry(200, 9)),
            Write::Set(key("192.0.2.16/29"), entry(200, 9)),
        ];
        expected.sort_by_key(|write| format!("{write:?}"));
        assert_eq!(around, expected);
        assert_eq!(opens(&entries, "203.0.113.7").unwrap(), [], "a grant lasts longer");
        let both = Entry { unlimited: until(200, 9), ..limited };
        assert_eq!(opens(&entries, "203.0.113.8").unwrap(), [Write::Set(key("203.0.113.8"), both)]);
    }

    #[test]
    fn a_full_table_has_room_only_where_a_grant_has_ended() {
        let (first, second) = (key("192.0.2.1"), key("192.0.2.2"));
        let full = Entries::from([(first, entry(500, 1)), (second, Entry::CLOSED)]);
        assert_eq!(opens(&full, "192.0.2.3"), Err(Refusal::Capacity), "one has not begun");
        assert!(opens(&full, "192.0.2.2").is_ok(), "it has its place");
        let ended = Entries::from([(first, entry(500, 1)), (second, entry(100, 2))]);
        let expected = [Write::Remove(second), Write::Set(key("192.0.2.3"), entry(200, 9))];
        assert_eq!(opens(&ended, "192.0.2.3").unwrap(), expected);
    }

    #[test]
    fn the_slot_is_from_the_end_and_nobodys() {
        let used = [7, 5].into();
        let slot = |skip, fresh: fn(u32) -> bool| slot(8, &used, skip, fresh);
        assert_eq!(slot(0, |_| true), Some(6));
        assert_eq!(slot(1, |_| true), Some(4));
        assert_eq!(slot(99, |_| true), Some(1), "0 is that of exemptions");
        assert_eq!(slot(3, |slot| slot == 2), Some(2));
        assert_eq!(slot(0, |_| false), Some(6), "all had a grant");
        assert_eq!(super::slot(2, &[1].into(), 0, |_| true), None);
        let entries = Entries::from([(key("192.0.2.1"), entry(5, 3))]);
        assert_eq!(slots(&entries), [0, 3].into());
    }
}

//! The agent's tables on the running kernel: many entries that are written in one call are as those
//! that are written one by one.

use aya::{EbpfLoader, maps::Map};
use jit_agent::{
    kernel::datapath::{DatapathError, bpf, maps::Maps, object::OBJECT},
    rules::{
        clock::BootNanos,
        reconcile::{Access, Entry, EntryKey, Write},
    },
};
use jit_common::{PortKey, Protocol, SummarySize, map};
use jit_tests::netns;

/// `ENOTSUPP` of the kernel.
const ENOTSUPP: i32 = 524;
const ROOM: u32 = 64;

/// Empty tables of the agent, each grant table with this room.
fn maps(room: u32) -> Maps {
    let mut object = object(room);
    Maps::open(|name| {
        object.take_map(name).ok_or_else(|| DatapathError::Load(format!("no map {name}")))
    })
    .unwrap()
}

fn object(room: u32) -> aya::Ebpf {
    netns::require_root();
    let summary = SummarySize::for_grants(room, room);
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader.override_global("SUMMARY_HOSTS", &summary.hosts, true);
    loader.override_global("SUMMARY_PREFIXES", &summary.prefixes, true);
    loader.map_max_entries(map::SUMMARY, summary.words());
    for name in [map::HOST_GRANTS, map::PREFIX_GRANTS_V4, map::PREFIX_GRANTS_V6, map::SLOTS] {
        loader.map_max_entries(name, room);
    }
    loader.load(OBJECT).unwrap()
}

fn key(source: &str) -> EntryKey {
    let port = PortKey { protocol: Protocol::Tcp, port: 22 };
    EntryKey { port, source: source.parse().unwrap() }
}

fn set(source: &str, deadline: u64) -> Write {
    let limited = Access { deadline: BootNanos(deadline), cut: true, slot: 7 };
    Write::Set(key(source), Entry { limited, ..Entry::CLOSED })
}

#[test]
fn many_writes_leave_what_they_leave_one_by_one() {
    let mut writes = vec![Write::Remove(key("192.0.2.1")), set("192.0.2.2", 1)];
    for number in 0..20 {
        writes.push(set(&format!("192.0.2.{number}"), 10 + number));
        writes.push(set(&format!("2001:db8::{number}"), 10 + number));
    }
    for number in 0..20 {
        writes.push(set(&format!("10.{number}.0.0/16"), 10 + number));
    }
    for number in 0..20 {
        writes.push(set(&format!("2001:db8:{number}::/48"), 10 + number));
    }
    writes.push(Write::Remove(key("192.0.2.3")));
    // The later write of two to one place counts.
    writes.extend([set("192.0.2.4", 99), set("192.0.2.5", 99), set("192.0.2.4", 98)]);
    let (mut together, mut alone) = (maps(ROOM), maps(ROOM));
    together.write_all(&writes).unwrap();
    writes.iter().for_each(|write| alone.write(write).unwrap());
    let entries = together.entries().unwrap();
    assert_eq!(entries.len(), 79);
    assert_eq!(entries[&key("192.0.2.4")].limited.deadline, BootNanos(98));
    assert_eq!(entries, alone.entries().unwrap());
    let lacked = together.summarize(&mut entries.keys().copied()).unwrap();
    assert!(!lacked, "each entry has its bit in the summary");
}

#[test]
fn what_finds_no_room_does_not_keep_the_others_out() {
    let mut maps = maps(8);
    let mut writes: Vec<_> = (0..10).map(|number| set(&format!("192.0.2.{number}"), 5)).collect();
    // The room is for others: these are there already.
    writes.extend([set("192.0.2.0", 9), set("192.0.2.1", 9)]);
    let failures = maps.write_all(&writes).unwrap_err();
    assert_eq!(failures.at, [8, 9]);
    assert!(matches!(failures.why, DatapathError::Map { full: true, .. }), "{}", failures.why);
    let entries = maps.entries().unwrap();
    assert_eq!(entries.len(), 8);
    assert_eq!(entries[&key("192.0.2.1")].limited.deadline, BootNanos(9));

    let mut writes: Vec<_> = (0..10).map(|number| set(&format!("10.{number}.0.0/16"), 5)).collect();
    writes.push(set("10.3.0.0/16", 9));
    let failures = maps.write_all(&writes).unwrap_err();
    assert_eq!(failures.at, [8, 9]);
    assert_eq!(maps.entries().unwrap()[&key("10.3.0.0/16")].limited.deadline, BootNanos(9));
}

#[test]
fn many_slots_are_opened_as_one_is() {
    let mut maps = maps(ROOM);
    maps.open_slot(3, 5).unwrap();
    let before = maps.slot(3);
    let wanted: Vec<_> = (0..40).rev().map(|slot| (slot, slot + 1)).collect();
    maps.open_slots(&wanted).unwrap();
    let numbers: Vec<_> = wanted.iter().map(|(slot, _)| *slot).collect();
    let slots = maps.slots(&numbers);
    for ((number, limit), slot) in wanted.iter().zip(&slots) {
        assert_eq!(maps.slot(*number), *slot);
        assert_eq!((slot.hits, slot.limit), (0, *limit));
        assert_ne!(slot.generation, 0);
    }
    assert_eq!(maps.slot(3).generation, before.generation.wrapping_add(1));
    maps.open_slots(&wanted).unwrap();
    for (number, old) in numbers.iter().zip(&slots) {
        assert_eq!(maps.slot(*number).generation, old.generation.wrapping_add(1));
    }
}

#[test]
fn a_slot_outside_the_table_does_not_keep_the_others_closed() {
    let mut maps = maps(ROOM);
    let failures = maps.open_slots(&[(1, 1), (2, 1), (ROOM, 1), (3, 1)]).unwrap_err();
    assert_eq!(failures.at, [2]);
    assert!([1, 2, 3].iter().all(|slot| maps.slot(*slot).limit == 1));
    assert_eq!(maps.slots(&[3, ROOM]).len(), 2);
}

/// A kernel that cannot write a table so says it, and writes nothing.
#[test]
fn a_batch_says_how_many_entries_were_written() {
    let object = object(8);
    let slots = |name| match object.map(name) {
        Some(Map::Array(data) | Map::RingBuf(data)) => data,
        _ => panic!("another kind of table"),
    };
    let keys = [5_u32, 6, 7, 8, 9];
    let (written, result) = bpf::write_batch(slots(map::SLOTS).fd(), &keys, &[[1_u64; 2]; 5]);
    assert_eq!((written, result.unwrap_err().raw_os_error()), (3, Some(libc::E2BIG)));
    let (written, result) = bpf::write_batch(slots(map::EVENTS).fd(), &keys, &keys);
    assert_eq!((written, result.unwrap_err().raw_os_error()), (0, Some(ENOTSUPP)));
}

//! The database is cut, flipped, exchanged or lost: the gate starts with the last good state or
//! closed, and what was revoked stays revoked.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Once,
    thread,
};

use jit_agent::{
    disk::store::{Store, Stored, StoredGrant, StoredProgress, Transaction},
    gate::Target,
    rules::{
        clock::{Now, SKEW},
        ledger::{Admission, Floor, Floors, Tombstone},
    },
};
use jit_proto::{GrantId, Refusal, WallTime};
use tempfile::TempDir;

use crate::{
    host::Host,
    support::{MINUTE, NOW, envelope, grant, later},
};

const FILE: &str = "grants.redb";
/// Number of threads that try damages.
const THREADS: usize = 2;

/// A state directory in memory if there is such a place: these tests do not need the disk's syncs.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// A state directory with grants 1 and 3, and grant 2 revoked.
fn good_state() -> TempDir {
    let directory = scratch();
    let (mut store, _) = Store::open(directory.path(), NOW.wall).unwrap();
    for byte in 1..=3 {
        let id = GrantId([byte; 16]);
        let stored =
            StoredProgress { boot_id: "boot-1".into(), slot: byte.into(), ..Default::default() };
        let put = vec![(id, StoredGrant::from(envelope(&grant(byte, &["203.0.113.7"]))))];
        let progress = vec![(id, stored)];
        let boot_id = Some("boot-1".to_owned());
        store.commit(&Transaction { put, progress, boot_id, ..Transaction::default() }).unwrap();
    }
    let revoked = Transaction {
        remove: vec![GrantId([2; 16])],
        tombstones: vec![(GrantId([2; 16]), Tombstone::new(later(11 * MINUTE).wall, NOW))],
        floor: Some(NOW.wall),
        ..Transaction::default()
    };
    store.commit(&revoked).unwrap();
    directory
}

/// The stored state that the gate reads.
fn content(stored: Stored) -> String {
    let Stored { mut grants, progress, mut tombstones, boot_id, floor, .. } = stored;
    grants.sort_by_key(|(id, _)| *id);
    tombstones.sort_by_key(|(id, _)| *id);
    let progress: std::collections::BTreeMap<_, _> = progress.into_iter().collect();
    format!("{grants:?} {progress:?} {tombstones:?} {boot_id:?} {floor:?}")
}

/// Prints no panics of the library: the store catches tens of thousands of them.
fn quiet_about_the_library() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|place| place.file().contains("redb")) {
                usual(info);
            }
        }));
    });
}

/// Tries damages of a good database, in several threads: each opens with all that it had, or starts
/// empty, refuses what was issued before, and keeps the file. Returns how many opened.
fn try_all(damages: Range<usize>, damage: impl Fn(&mut Vec<u8>, usize) + Sync) -> usize {
    quiet_about_the_library();
    let state = good_state();
    let good = fs::read(state.path().join(FILE)).unwrap();
    println!("a database of {} bytes, {} damages", good.len(), damages.len());
    let expected = content(Store::open(state.path(), NOW.wall).unwrap().1);
    assert!(expected.contains("boot-1"));
    let share = damages.len().div_ceil(THREADS);
    thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS)
            .map(|part| {
                let (good, expected, damage, state) = (&good, &expected, &damage, &state);
                let first = damages.start + part * share;
                let last = (first + share).min(damages.end);
                scope.spawn(move || {
                    let mut bytes = Vec::new();
                    let directory = scratch();
                    let witness = "grants.witness";
                    fs::copy(state.path().join(witness), directory.path().join(witness)).unwrap();
                    let opened = (first..last).filter(|number| {
                        bytes.clone_from(good);
                        damage(&mut bytes, *number);
                        opens(directory.path(), &bytes, expected, *number)
                    });
                    opened.count()
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap()).sum()
    })
}

fn opens(directory: &Path, bytes: &[u8], expected: &str, number: usize) -> bool {
    fs::write(directory.join(FILE), bytes).unwrap();
    let (store, stored) = Store::open(directory, NOW.wall)
        .unwrap_or_else(|error| panic!("{number}: neither closed nor open: {error}"));
    drop(store);
    let Some(damage) = &stored.damaged else {
        assert_eq!(content(stored), expected, "{number}: neither the last good state nor damaged");
        return true;
    };
    let kept = damage.kept.as_ref().expect("the damaged file is kept");
    assert!(fs::read(kept).unwrap().len() >= bytes.len().min(1), "{number}");
    fs::remove_file(kept).unwrap();
    assert!(stored.grants.is_empty() && stored.progress.is_empty(), "{number}: closed");
    assert!(
        stored.lost_before >= Some(NOW.wall + SKEW),
        "{number}: nothing issued before is accepted"
    );
    false
}

/// Whether to leave nothing out, as `cargo xtask fuzz` asks.
fn every() -> bool {
    std::env::var_os("JIT_TEST_EVERY_CUT").is_some()
}

#[test]
fn a_database_cut_anywhere_starts_closed_or_with_its_last_good_state() {
    let length = fs::metadata(good_state().path().join(FILE)).unwrap().len();
    let length = usize::try_from(length).unwrap();
    // `cargo xtask fuzz` tries every length; here those near a page's end, and one in 17.
    let every = every();
    let near = |length: &usize| (length + 16) % 4096 < 32 || length.is_multiple_of(17);
    let lengths: Vec<_> = (0..length + 1).filter(|length| every || near(length)).collect();
    let opened = try_all(0..lengths.len(), |bytes, number| bytes.truncate(lengths[number]));
    assert!(opened >= 1, "the whole file is good");
}

#[test]
fn a_database_with_any_page_flipped_starts_closed_or_with_its_last_good_state() {
    let length = fs::metadata(good_state().path().join(FILE)).unwrap().len();
    let pages = usize::try_from(length.div_ceil(4096)).unwrap();
    let opened = try_all(0..pages * 3, |bytes, number| {
        let page = bytes.chunks_mut(4096).nth(number / 3).unwrap();
        match number % 3 {
            0 => page.iter_mut().for_each(|byte| *byte ^= 0xff),
            1 => page.fill(0),
            _ => page.fill(0xff),
        }
    });
    assert!((1..pages * 3).contains(&opened), "{opened} of {pages} pages have no effect");
}

#[test]
fn a_database_with_any_bit_flipped_starts_closed_or_with_its_last_good_state() {
    let state = good_state();
    let good = fs::read(state.path().join(FILE)).unwrap();
    // Every bit of the header. Of the used rest one bit of each third byte, or of each byte.
    let step = if every() { 1 } else { 3 };
    let used = (0..good.len()).filter(|at| *at < 512 || good[*at] != 0).step_by(step);
    let used: Vec<_> = used.collect();
    let opened = try_all(0..512 * 7 + used.len(), |bytes, number| {
        let (at, bit) = match number.checked_sub(512 * 7) {
            None => (number / 7, number % 7 + 1),
            Some(number) => (used[number], 0),
        };
        bytes[at] ^= 1 << bit;
    });
    println!("{} bits flipped, {opened} opened with the last good state", 512 * 7 + used.len());
    assert!(opened > 0);
}

#[test]
fn an_older_database_in_its_place_is_noticed() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.gate = None;
    let state = host.directory.path().join("state");
    let older = fs::read(state.join(FILE)).unwrap();
    host.restart("boot-1", NOW);
    host.gate().revoke(&Target::All, "test", "over", NOW);
    host.gate = None;
    fs::write(state.join(FILE), &older).unwrap();
    host.restart("boot-1", later(MINUTE));
    assert!(!host.opens(MINUTE));
    let problems = host.gate().status(later(MINUTE)).problems;
    assert!(problems.iter().any(|problem| problem.contains("older")), "{problems:?}");
    assert!(kept(&state).exists(), "kept for a person");
    assert_eq!(
        host.push_at(&grant(1, &["203.0.113.7"]), later(MINUTE)),
        Err(Refusal::Revoked),
        "its revocation is lost, and it is refused"
    );
}

#[test]
fn a_database_that_is_gone_is_noticed_once_something_was_revoked() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.gate().revoke(&Target::All, "test", "over", NOW);
    host.gate = None;
    let state = host.directory.path().join("state");
    fs::remove_file(state.join(FILE)).unwrap();
    host.restart("boot-1", NOW);
    assert_eq!(host.push(&grant(1, &["203.0.113.7"])), Err(Refusal::Revoked));
}

/// Nothing was ever revoked: what was open is lost all the same.
#[test]
fn an_emptied_database_closes_nothing_without_a_word() {
    for how in ["emptied", "gone", "without its witness", "an older one"] {
        let mut host = Host::start();
        host.gate().advance(NOW);
        host.gate = None;
        let state = host.directory.path().join("state");
        let older = fs::read(state.join(FILE)).unwrap();
        host.restart("boot-1", NOW);
        host.push(&grant(1, &["203.0.113.7", "203.0.113.8"])).unwrap();
        host.gate = None;
        match how {
            "emptied" => fs::write(state.join(FILE), "").unwrap(),
            "an older one" => fs::write(state.join(FILE), older).unwrap(),
            _ => fs::remove_file(state.join(FILE)).unwrap(),
        }
        if how == "without its witness" {
            fs::remove_file(state.join("grants.witness")).unwrap();
        }
        host.restart("boot-1", later(MINUTE));
        assert!(!host.opens(MINUTE), "{how}");
        let problems = host.gate().status(later(MINUTE)).problems;
        let lost = problems.iter().find(|line| line.contains("no stored grant explains"));
        let lost = lost.unwrap_or_else(|| panic!("{how}: {problems:?}"));
        assert!(lost.contains("2 open entries were closed (22/tcp 203.0.113.7"), "{how}: {lost}");
        let records = host.records();
        let record = records.iter().find(|record| record["code"] == "S014").unwrap();
        assert_eq!(record["entries"], 2, "{how}");
        let replay = host.push_at(&grant(1, &["203.0.113.7"]), later(MINUTE));
        let knows = how == "an older one";
        assert_eq!(replay.is_ok(), knows, "{how}: nothing was revoked, if that is known");
        // The next start begins with tables that its database explains.
        host.restart("boot-1", later(2 * MINUTE));
        let problems = host.gate().status(later(2 * MINUTE)).problems;
        assert!(!problems.iter().any(|line| line.contains("explains")), "{how}: {problems:?}");
        let replay = host.push_at(&grant(2, &["203.0.113.7"]), later(2 * MINUTE));
        assert_eq!(replay.is_ok(), knows, "{how}, after one more start");
    }
}

#[test]
fn a_start_with_a_whole_database_reports_no_loss() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.push(&grant(2, &["203.0.113.8"])).unwrap();
    host.gate().revoke(&Target::Ids(vec![GrantId([2; 16])]), "test", "", NOW);
    for (boot, millis) in
        [("boot-1", 0), ("boot-1", MINUTE), ("boot-1", 20 * MINUTE), ("boot-2", 0)]
    {
        host.restart(boot, later(millis));
        assert!(!host.codes().contains(&"S014".to_owned()), "{boot} {millis}");
    }
}

/// The tables that the agent of before knew, and no others.
#[test]
fn a_state_directory_from_before_there_were_floors_is_adopted() {
    let state = good_state();
    {
        let database = redb::Database::create(state.path().join(FILE)).unwrap();
        let write = database.begin_write().unwrap();
        let floors: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("floors");
        assert!(write.delete_table(floors).unwrap());
        write.commit().unwrap();
    }
    let (mut store, stored) = Store::open(state.path(), NOW.wall).unwrap();
    assert!(stored.damaged.is_none() && stored.floors.is_empty());
    assert_eq!((stored.grants.len(), stored.tombstones.len()), (2, 1));
    let mut floors = Floors::default();
    floors.raise(Floor { requester: Some("ana@example.org".into()), at: NOW.wall });
    store.commit(&Transaction { floors: floors.clone(), ..Transaction::default() }).unwrap();
    drop(store);
    assert_eq!(Store::open(state.path(), NOW.wall).unwrap().1.floors, floors);
}

/// A floor that cannot be read must not be taken for none.
#[test]
fn a_number_of_another_length_is_damage() {
    for bytes in [&[0; 7][..], &[0; 9], &[]] {
        let state = good_state();
        {
            let database = redb::Database::create(state.path().join(FILE)).unwrap();
            let write = database.begin_write().unwrap();
            let floors: redb::TableDefinition<'_, &str, &[u8]> =
                redb::TableDefinition::new("floors");
            write.open_table(floors).unwrap().insert("", bytes).unwrap();
            write.commit().unwrap();
        }
        let (_, stored) = Store::open(state.path(), NOW.wall).unwrap();
        let damage = stored.damaged.expect("damage");
        let said = format!("{damage:?}");
        assert!(said.contains(&format!("1 numbers in {} bytes", bytes.len())), "{said}");
    }
}

#[test]
fn after_a_damage_only_what_is_issued_later_opens_also_after_more_restarts() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.gate().revoke(&Target::All, "test", "over", NOW);
    host.gate = None;
    let state = host.directory.path().join("state");
    fs::write(state.join(FILE), "not a database").unwrap();
    let issued = |millis: i64, id: u8| {
        let wall = later(millis).wall.0;
        let times = (wall, wall, wall + 10 * MINUTE);
        let (issued_at_ms, not_before_ms, not_after_ms) = times;
        jit_proto::v1::Grant {
            issued_at_ms,
            not_before_ms,
            not_after_ms,
            ..grant(id, &["203.0.113.7"])
        }
    };
    for boot in ["boot-1", "boot-1", "boot-2"] {
        host.restart(boot, later(MINUTE));
        for (grant, what) in [
            (grant(1, &["203.0.113.7"]), "the revoked one"),
            (grant(2, &["203.0.113.7"]), "one that it never saw"),
            (issued(2 * MINUTE - 1, 3), "issued before, by a controller whose clock is ahead"),
        ] {
            let answer = host.push_at(&grant, later(2 * MINUTE));
            assert_eq!(answer, Err(Refusal::Revoked), "{what}");
            assert!(!host.opens(2 * MINUTE), "{what}");
        }
    }
    let fresh = issued(2 * MINUTE, 4);
    assert_eq!(host.push_at(&fresh, later(2 * MINUTE)), Ok(Admission::Active));
    assert!(host.opens(2 * MINUTE));
    assert_eq!(host.codes().iter().filter(|code| *code == "S008").count(), 1, "reported once");
}

#[test]
fn a_damaged_database_does_not_make_a_slow_clock_trusted() {
    let mut host = Host::start();
    host.gate().advance(later(60 * MINUTE));
    host.gate = None;
    let state = host.directory.path().join("state");
    fs::write(state.join(FILE), "not a database").unwrap();
    let slow = Now { wall: later(50 * MINUTE).wall, ..later(61 * MINUTE) };
    host.restart("boot-1", slow);
    let wall = slow.wall.0;
    let fresh = jit_proto::v1::Grant {
        issued_at_ms: wall,
        not_before_ms: wall,
        not_after_ms: wall + MINUTE,
        ..grant(1, &["203.0.113.7"])
    };
    assert_eq!(host.push_at(&fresh, slow), Err(Refusal::ClockUntrusted));
}

#[test]
fn a_disk_that_takes_nothing_at_start_does_not_keep_the_gate_from_closing() {
    let state = good_state();
    let refuse: jit_agent::disk::store::Opener =
        std::sync::Arc::new(|_, _| Err(std::io::Error::from_raw_os_error(28).into()));
    let (mut store, stored) = Store::open_by(state.path(), NOW.wall, refuse).unwrap();
    assert!(stored.damaged.is_none() && stored.grants.len() == 2 && stored.tombstones.len() == 1);
    let floor = Some(WallTime(NOW.wall.0 + 1));
    let error = store.commit(&Transaction { floor, ..Transaction::default() }).unwrap_err();
    assert!(error.to_string().contains("open again"), "{error}");
    // If the file cannot be read either, the agent does not start, and the file stays.
    let empty = scratch();
    let refuse: jit_agent::disk::store::Opener =
        std::sync::Arc::new(|_, _| Err(std::io::Error::from_raw_os_error(5).into()));
    Store::open_by(empty.path(), NOW.wall, refuse).unwrap_err();
}

fn kept(state: &Path) -> PathBuf {
    let files = fs::read_dir(state).unwrap().map(|file| file.unwrap().path());
    let mut kept = files.filter(|path| path.to_string_lossy().contains("redb.damaged-"));
    kept.next().expect("a file that was moved away")
}

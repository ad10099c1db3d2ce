//! A full disk: a revoked grant is closed and stays closed, also after restarts, and nothing new
//! opens.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jit_agent::{
    disk::store::Opener,
    gate::{Revoked, Target},
    rules::ledger::Admission,
};
use jit_proto::{GrantId, Refusal, v1};
use redb::{StorageBackend, backends::FileBackend};

use crate::{
    host::Host,
    support::{
        MINUTE, NOW, REVOKER, SSH, fresh_grant, grant, later, revocation, signed_revocation, v4,
    },
};

const NO_SPACE: i32 = 28;

/// The database's file on a disk that takes nothing while it is full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn has_room(&self) -> Result<(), io::Error> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(NO_SPACE));
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.has_room()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.has_room()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

/// A host with grants 1 (203.0.113.7) and 2 (203.0.113.9) on such a disk. The disk is full.
struct Filled {
    host: Host,
    full: Arc<AtomicBool>,
}

impl Filled {
    fn new() -> Self {
        Self::after(|_| {})
    }

    /// The same with a change to the state directory while no agent runs.
    fn after(change: impl FnOnce(&Path)) -> Self {
        let mut host = Host::with(REVOKER);
        host.push(&grant(1, &["203.0.113.7"])).unwrap();
        host.push(&grant(2, &["203.0.113.9"])).unwrap();
        host.gate = None;
        change(&host.directory.path().join("state"));
        let mut filled = Self { host, full: Arc::new(AtomicBool::new(true)) };
        filled.restart("boot-1");
        filled
    }

    fn restart(&mut self, boot: &str) {
        let full = Arc::clone(&self.full);
        let opener: Opener = Arc::new(move |builder, path| {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let full = Arc::clone(&full);
            builder.create_with_backend(Disk { file: FileBackend::new(file)?, full })
        });
        self.host.restart_by(boot, NOW, opener);
    }

    fn revoke(&mut self, target: &Target) -> Revoked {
        self.host.gate().revoke(target, "test", "over", NOW)
    }

    fn revoke_signed(&mut self, revocation: &v1::Revocation) -> Revoked {
        let envelope = signed_revocation(revocation);
        self.host.gate().revoke_signed(&envelope, "test", NOW).unwrap()
    }

    fn open(&self) -> [bool; 2] {
        ["203.0.113.7", "203.0.113.9"]
            .map(|source| self.host.kernel.opens(SSH, v4(source), later(MINUTE).boot))
    }

    /// Alarms of the state directory.
    fn problems(&mut self) -> String {
        let mut problems = self.host.gate().status(NOW).problems;
        problems.retain(|problem| problem.contains("database") || problem.contains("reserve"));
        problems.join("\n")
    }

    fn reserve(&self) -> PathBuf {
        self.host.directory.path().join("state/grants.reserve")
    }
}

fn one(byte: u8) -> Target {
    Target::Ids(vec![GrantId([byte; 16])])
}

#[test]
fn on_a_full_disk_a_revocation_is_durable_when_it_is_answered() {
    for (target, ended, open) in [
        (one(1), 1, [false, true]),
        (Target::Requester("ana@example.org".into()), 2, [false, false]),
        (Target::All, 2, [false, false]),
    ] {
        let mut filled = Filled::new();
        assert_eq!(filled.open(), [true, true]);
        assert_eq!(filled.host.push(&grant(3, &["203.0.113.3"])), Err(Refusal::Storage));
        let revoked = filled.revoke(&target);
        assert_eq!(revoked, Revoked { ended, changed: true, ..Revoked::default() }, "{target:?}");
        assert_eq!(filled.open(), open, "{target:?}");
        assert!(filled.problems().contains("database"), "{}", filled.problems());
        // Killed while the disk is still full, and again, and in another boot.
        for boot in ["boot-1", "boot-1", "boot-2"] {
            filled.restart(boot);
            assert_eq!(filled.open(), open, "{target:?} {boot}");
            let replay = filled.host.push(&grant(1, &["203.0.113.7"]));
            assert_eq!(replay, Err(Refusal::Revoked), "{target:?} {boot}");
            // A grant that this host never saw falls under the floor.
            if open == [false, false] {
                let unseen = filled.host.push(&grant(4, &["203.0.113.4"]));
                assert_eq!(unseen, Err(Refusal::Revoked), "{target:?} {boot}");
            }
        }
        // There is room: the database takes the revocations and new grants.
        filled.full.store(false, Ordering::Relaxed);
        filled.host.gate().advance(later(5_000));
        assert_eq!(filled.problems(), "");
        assert_eq!(filled.host.push(&fresh_grant(3, &["203.0.113.3"])), Ok(Admission::Active));
        filled.host.gate = None;
        fs::remove_file(filled.reserve()).unwrap();
        filled.restart("boot-2");
        assert_eq!(filled.open(), open, "{target:?}: by the database alone");
        let replay = filled.host.push(&grant(1, &["203.0.113.7"]));
        assert_eq!(replay, Err(Refusal::Revoked), "{target:?}");
        if open == [false, false] {
            let unseen = filled.host.push(&grant(4, &["203.0.113.4"]));
            assert_eq!(unseen, Err(Refusal::Revoked), "{target:?}");
        }
        assert_eq!(filled.host.push(&fresh_grant(3, &["203.0.113.3"])), Ok(Admission::Known));
    }
}

/// What a key orders: everything; a requester; an id that is held and one that nobody has seen. And
/// how many grants each ends, and which of the two are open then.
fn signed() -> [(v1::Revocation, u32, [bool; 2]); 3] {
    let order = || v1::Revocation { all: false, ..revocation(0) };
    let grant_ids = vec![vec![1; 16].into(), vec![4; 16].into()];
    [
        (revocation(0), 2, [false, false]),
        (v1::Revocation { requester: "ana@example.org".into(), ..order() }, 2, [false, false]),
        (v1::Revocation { grant_ids, ..order() }, 1, [false, true]),
    ]
}

#[test]
fn on_a_full_disk_a_signed_revocation_is_durable_when_it_is_answered() {
    for (order, ended, open) in signed() {
        let mut filled = Filled::new();
        let revoked = filled.revoke_signed(&order);
        assert_eq!((revoked.ended, revoked.changed), (ended, true), "{order:?}");
        assert_eq!(revoked.warning, "", "{order:?}");
        assert!(filled.problems().contains("database"), "{}", filled.problems());
        // The disk is still full, and the same envelope comes again.
        for boot in ["boot-1", "boot-1", "boot-2"] {
            filled.restart(boot);
            assert_eq!(filled.open(), open, "{order:?} {boot}");
            let again = filled.revoke_signed(&order);
            assert_eq!(
                (again.ended, again.changed, again.warning.as_str()),
                (0, false, ""),
                "{order:?} {boot}"
            );
            for id in [1, 4] {
                let late = filled.host.push(&grant(id, &["203.0.113.7"]));
                assert_eq!(late, Err(Refusal::Revoked), "{order:?} {boot} {id}");
            }
        }
        filled.full.store(false, Ordering::Relaxed);
        filled.host.gate().advance(later(5_000));
        assert_eq!(filled.problems(), "");
        filled.host.gate = None;
        fs::remove_file(filled.reserve()).unwrap();
        filled.restart("boot-2");
        assert_eq!(filled.open(), open, "{order:?}: by the database alone");
        for id in [1, 4] {
            let late = filled.host.push(&grant(id, &["203.0.113.7"]));
            assert_eq!(late, Err(Refusal::Revoked), "{order:?} {id}");
        }
        filled.host.push(&fresh_grant(3, &["203.0.113.3"])).unwrap();
    }
}

#[test]
fn without_a_reserve_a_signed_revocation_closes_and_says_each_time_that_it_is_not_durable() {
    for (order, ended, open) in signed() {
        let mut filled = Filled::after(|state| {
            fs::remove_file(state.join("grants.reserve")).unwrap();
            fs::create_dir(state.join("grants.reserve.new")).unwrap();
        });
        // Who delivers it again must not read that all is well.
        for ended in [ended, 0] {
            let revoked = filled.revoke_signed(&order);
            assert_eq!(revoked.ended, ended, "{order:?}");
            let warning = revoked.warning;
            assert!(warning.starts_with("closed, but not durable"), "{order:?}: {warning}");
            assert_eq!(filled.open(), open, "{order:?}");
        }
        fs::remove_dir(filled.reserve().with_extension("reserve.new")).unwrap();
        filled.full.store(false, Ordering::Relaxed);
        filled.host.gate().advance(later(5_000));
        assert_eq!(filled.revoke_signed(&order).warning, "", "{order:?}");
        filled.restart("boot-1");
        assert_eq!(filled.open(), open, "{order:?}");
        assert_eq!(filled.host.push(&grant(4, &["203.0.113.4"])), Err(Refusal::Revoked));
    }
}

#[test]
fn an_id_that_nobody_has_seen_is_refused_after_a_restart_on_a_full_disk() {
    let mut filled = Filled::new();
    assert_eq!(filled.revoke(&one(9)).warning, "");
    filled.restart("boot-1");
    assert_eq!(filled.host.push(&grant(9, &["203.0.113.1"])), Err(Refusal::Revoked));
    assert_eq!(filled.open(), [true, true]);
}

#[test]
fn without_a_reserve_a_full_disk_is_an_alarm_and_a_revocation_says_that_it_is_not_durable() {
    // A directory in place of the reserve. A read-only one does not help: root can write to it in a
    // test.
    let mut filled = Filled::after(|state| {
        fs::remove_file(state.join("grants.reserve")).unwrap();
        fs::create_dir(state.join("grants.reserve.new")).unwrap();
    });
    assert!(filled.problems().contains("cannot make"), "{}", filled.problems());
    for ended in [2, 0] {
        let revoked = filled.revoke(&Target::All);
        assert_eq!(revoked.ended, ended);
        let warning = revoked.warning;
        assert!(warning.starts_with("closed, but not durable"), "also again: {warning}");
        assert_eq!(filled.open(), [false, false]);
    }
    // As soon as there is room, the reserve is made.
    fs::remove_dir(filled.reserve().with_extension("reserve.new")).unwrap();
    filled.full.store(false, Ordering::Relaxed);
    filled.host.gate().advance(later(5_000));
    assert_eq!(filled.problems(), "");
    assert_eq!(fs::metadata(filled.reserve()).unwrap().len(), 256 * 1024);
    filled.restart("boot-1");
    assert_eq!(filled.open(), [false, false]);
}

#[test]
fn a_reserve_that_is_damaged_opens_nothing_and_is_moved_away() {
    let mut filled = Filled::new();
    assert_eq!(filled.revoke(&one(1)).warning, "");
    filled.host.gate = None;
    let mut bytes = fs::read(filled.reserve()).unwrap();
    bytes[4096] ^= 1;
    fs::write(filled.reserve(), bytes).unwrap();
    filled.full.store(false, Ordering::Relaxed);
    filled.host.restart("boot-1", NOW);
    assert_eq!(filled.open(), [false, false]);
    assert!(filled.problems().contains("grants.reserve is damaged"), "{}", filled.problems());
    for id in [1, 2] {
        assert_eq!(filled.host.push(&grant(id, &["203.0.113.7"])), Err(Refusal::Revoked));
    }
    let state = fs::read_dir(filled.host.directory.path().join("state")).unwrap();
    let names = state.map(|file| file.unwrap().file_name().into_string().unwrap());
    let kept: Vec<_> = names.filter(|name| name.contains(".damaged-")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

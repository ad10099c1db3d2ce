//! The agent ends at every step of a change: each write and sync of the database's file, each call
//! into the kernel's tables. After a restart the answers that were given are true. A change without
//! an answer is open for no longer than its grant.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use jit_agent::{
    disk::store::Opener,
    gate::{Gate, Target},
    kernel::datapath::memory::{Fuse, MemoryDatapath},
};
use jit_proto::{GrantId, Refusal, v1};
use redb::{StorageBackend, backends::FileBackend};

use crate::{
    host::Host,
    support::{
        MINUTE, NOW, REVOKER, SSH, envelope, fresh_grant, grant, later, revocation,
        signed_revocation, v4,
    },
};

/// What a crash loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// No write, as after kill -9.
    Kill,
    /// Every second write that was not synced, as after a power failure.
    Power,
}

/// The database's file until the fuse blows. After that nothing has an effect.
#[derive(Debug)]
struct FusedFile {
    file: FileBackend,
    path: PathBuf,
    fuse: Arc<Fuse>,
    crash: Crash,
    /// The writes that are not synced: offset, and the bytes that were there before.
    unsynced: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl FusedFile {
    fn burn(&self) -> Result<(), io::Error> {
        if self.fuse.burn() {
            return Ok(());
        }
        if self.crash == Crash::Power {
            let file = OpenOptions::new().write(true).open(&self.path).unwrap();
            let unsynced = std::mem::take(&mut *self.unsynced.lock().unwrap());
            for (offset, before) in unsynced.iter().rev().step_by(2) {
                file.write_all_at(before, *offset).unwrap();
            }
        }
        Err(ended())
    }
}

fn ended() -> io::Error {
    io::Error::other("the process has ended")
}

impl StorageBackend for FusedFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        if self.fuse.is_blown() { Err(ended()) } else { self.file.read(offset, out) }
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.burn()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.burn()?;
        self.unsynced.lock().unwrap().clear();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.burn()?;
        let length = self.file.len()?;
        let mut before = vec![0; data.len()];
        if offset + u64::try_from(data.len()).unwrap() <= length {
            self.file.read(offset, &mut before)?;
        }
        self.unsynced.lock().unwrap().push((offset, before));
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

fn opener(fuse: &Arc<Fuse>, crash: Crash) -> Opener {
    let fuse = Arc::clone(fuse);
    Arc::new(move |builder: &redb::Builder, path: &Path| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let file = FileBackend::new(file)?;
        let (path, fuse) = (path.to_owned(), Arc::clone(&fuse));
        builder.create_with_backend(FusedFile {
            file,
            path,
            fuse,
            crash,
            unsynced: Mutex::default(),
        })
    })
}

/// Ends the agent at each step of `act`, starts it again a minute later, and checks. `act` returns
/// whether there was a good answer. Returns the number of steps.
fn at_each_step(
    act: impl Fn(&mut Gate<MemoryDatapath>) -> bool,
    check: impl Fn(&mut Host, bool, &str),
) -> u64 {
    let mut most = 0;
    for crash in [Crash::Kill, Crash::Power] {
        for steps in 0.. {
            let mut host = Host::with(REVOKER);
            host.push(&first()).unwrap();
            let fuse = Fuse::new(u64::MAX);
            host.restart_by("boot-1", NOW, opener(&fuse, crash));
            host.kernel.fuse(Some(Arc::clone(&fuse)));
            fuse.set(steps);
            let answered = act(host.gate());
            let died = fuse.is_blown();
            host.gate = None;
            host.kernel.fuse(None);
            let what = format!("{crash:?} after {steps} steps");
            // The kernel ends the grants before the next start.
            for source in [FIRST, SECOND] {
                assert!(!opens(&host, source, 10 * MINUTE), "{what}: {source}");
            }
            assert!(!opens(&host, "192.0.2.1", 0), "{what}: a stranger");
            host.restart("boot-1", later(MINUTE));
            let problems = host.gate().status(later(MINUTE)).problems;
            let damage = problems.iter().find(|problem| problem.contains("database"));
            assert_eq!(damage, None, "{what}: a broken-off write is no damage");
            assert!(died || answered, "{what}: refused though nothing happened");
            check(&mut host, answered && !died, &what);
            for source in [FIRST, SECOND] {
                assert!(!opens(&host, source, 10 * MINUTE), "{what}: {source} after the restart");
            }
            if !died {
                most = steps;
                break;
            }
        }
    }
    most
}

const FIRST: &str = "203.0.113.7";
const SECOND: &str = "198.51.100.0";

fn first() -> v1::Grant {
    grant(1, &[FIRST])
}

fn second() -> v1::Grant {
    grant(2, &["198.51.100.0/24"])
}

fn opens(host: &Host, source: &str, millis: i64) -> bool {
    host.kernel.opens(SSH, v4(source), later(millis).boot)
}

#[test]
fn an_admission_that_is_cut_short_anywhere_is_true_if_it_was_answered() {
    let steps = at_each_step(
        |gate| gate.push(vec![envelope(&second())], "test", NOW).remove(0).is_ok(),
        |host, answered, what| {
            assert!(opens(host, FIRST, MINUTE), "{what}: answered long before");
            assert!(!answered || opens(host, SECOND, 10 * MINUTE - 1), "{what}: answered");
            // A client without an answer asks again.
            let again = host.push_at(&second(), later(MINUTE));
            assert!(again.is_ok() && opens(host, SECOND, MINUTE), "{what}: {again:?}");
        },
    );
    assert!(steps >= 8, "{steps}");
}

#[test]
fn a_revocation_that_is_cut_short_anywhere_is_true_if_it_was_answered() {
    let target = || Target::Ids(vec![GrantId([1; 16])]);
    let steps = at_each_step(
        |gate| gate.revoke(&target(), "test", "", NOW).warning.is_empty(),
        |host, answered, what| {
            if answered {
                assert!(!opens(host, FIRST, MINUTE), "{what}: answered");
                let replay = host.push_at(&first(), later(MINUTE));
                assert_eq!(replay, Err(Refusal::Revoked), "{what}");
            }
            let again = host.gate().revoke(&target(), "test", "", later(MINUTE));
            assert_eq!(again.warning, "", "{what}");
            assert!(!opens(host, FIRST, MINUTE), "{what}: asked again");
        },
    );
    assert!(steps >= 6, "{steps}");
}

/// A grant that was signed before and that this host never saw.
#[test]
fn a_floor_that_is_cut_short_anywhere_holds_if_it_was_answered() {
    let steps = at_each_step(
        |gate| gate.revoke(&Target::All, "test", "", NOW).warning.is_empty(),
        |host, answered, what| {
            if answered {
                assert!(!opens(host, FIRST, MINUTE), "{what}: answered");
                let unseen = host.push_at(&second(), later(MINUTE));
                assert_eq!(unseen, Err(Refusal::Revoked), "{what}");
            }
        },
    );
    assert!(steps >= 6, "{steps}");
}

/// Also when it comes again, as it does from everybody who has it.
#[test]
fn a_signed_revocation_that_is_cut_short_anywhere_holds_if_it_was_answered() {
    let of_one = v1::Revocation {
        all: false,
        grant_ids: vec![vec![1; 16].into(), vec![2; 16].into()],
        ..revocation(0)
    };
    for order in [revocation(0), of_one] {
        let envelope = signed_revocation(&order);
        let good = |gate: &mut Gate<MemoryDatapath>, now| {
            gate.revoke_signed(&envelope, "test", now).is_ok_and(|done| done.warning.is_empty())
        };
        let steps = at_each_step(
            |gate| good(gate, NOW),
            |host, answered, what| {
                for again in [false, true] {
                    if again {
                        assert!(good(host.gate(), later(MINUTE)), "{what}: again");
                    } else if !answered {
                        continue;
                    }
                    assert!(!opens(host, FIRST, MINUTE), "{what}: closed");
                    for grant in [first(), second()] {
                        let late = host.push_at(&grant, later(MINUTE));
                        assert_eq!(late, Err(Refusal::Revoked), "{what}");
                    }
                }
                let after = host.push_at(&fresh_grant(3, &["203.0.113.9"]), later(MINUTE));
                assert!(after.is_ok(), "{what}: signed after it, {after:?}");
            },
        );
        assert!(steps >= 6, "{steps}");
    }
}

#[test]
fn a_replacement_that_is_cut_short_anywhere_leaves_the_old_grant_or_the_new_one() {
    let new = || v1::Grant { replaces: vec![1; 16].into(), ..second() };
    at_each_step(
        |gate| gate.push(vec![envelope(&new())], "test", NOW).remove(0).is_ok(),
        |host, answered, what| {
            let (old, new) = (opens(host, FIRST, MINUTE), opens(host, SECOND, MINUTE));
            assert!(old != new, "{what}: old {old}, new {new}");
            assert!(new || !answered, "{what}: answered");
        },
    );
}

#[test]
fn an_expiry_that_is_cut_short_anywhere_still_closes() {
    at_each_step(
        |gate| {
            gate.advance(later(10 * MINUTE));
            true
        },
        |host, _, what| {
            host.restart("boot-1", later(10 * MINUTE));
            assert!(!opens(host, FIRST, 0), "{what}: not even by a clock of before");
        },
    );
}

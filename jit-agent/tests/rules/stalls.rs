//! A disk that hangs: the database's file, the audit, or both. What would open is refused, what
//! closes is closed at once, and nobody waits for long. When the disk answers again, everything is
//! written.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jit_agent::{
    disk::store::Opener,
    gate::{GateHandle, Revoked, Target, channel, journal::Journal},
    rules::clock::Now,
};
use jit_proto::{GrantId, Refusal};
use redb::{StorageBackend, backends::FileBackend};

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, envelope, grant, later, v4},
};

/// The longest wait of the gate for a disk, and room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
const ROOM: Duration = Duration::from_secs(4);
const IDS: u8 = 8;

/// Whether a disk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    Yes,
    /// Its calls hang.
    No,
    /// The process has ended: nothing has an effect any more.
    Ended,
}

/// The valve of one disk; clones share it.
#[derive(Clone, Debug)]
struct Valve(Arc<(Mutex<Answers>, Condvar, AtomicBool)>);

impl Valve {
    fn open() -> Self {
        Self(Arc::new((Mutex::new(Answers::Yes), Condvar::new(), AtomicBool::new(false))))
    }

    fn set(&self, answers: Answers) {
        *self.0.0.lock().unwrap() = answers;
        self.0.1.notify_all();
    }

    /// Waits until a call hangs.
    fn wait_for_a_call(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.0.2.load(Ordering::Relaxed) {
            assert!(Instant::now() < end, "no call comes");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn pass(&self) -> Result<(), io::Error> {
        let state = self.0.0.lock().unwrap();
        self.0.2.fetch_or(*state == Answers::No, Ordering::Relaxed);
        let state = self.0.1.wait_while(state, |state| *state == Answers::No).unwrap();
        match *state {
            Answers::Ended => Err(io::Error::other("the process has ended")),
            _ => Ok(()),
        }
    }
}

/// The database's file on such a disk.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    valve: Valve,
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.valve.pass()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.valve.pass()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.valve.pass()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

/// A host whose disks can hang.
struct Hanging {
    host: Host,
    valve: Valve,
    /// The pipe in place of the audit's head: to open it hangs until somebody reads.
    pipe: Option<PathBuf>,
}

impl Hanging {
    fn start() -> Self {
        let mut hanging = Self { host: Host::start(), valve: Valve::open(), pipe: None };
        hanging.restart();
        hanging
    }

    /// As after kill -9.
    fn restart(&mut self) {
        self.valve.set(Answers::Ended);
        self.free_audit();
        self.host.gate = None;
        self.valve = Valve::open();
        let valve = self.valve.clone();
        let opener: Opener = Arc::new(move |builder, path| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
            let valve = valve.clone();
            builder.create_with_backend(Disk { file: FileBackend::new(file)?, valve })
        });
        self.host.restart_by("boot-1", NOW, opener);
    }

    fn hang_audit(&mut self) {
        let head = self.host.directory.path().join("state/audit/audit.head");
        fs::rename(&head, kept(&head)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&head).status();
        assert!(made.unwrap().success());
        self.pipe = Some(head);
    }

    fn free_audit(&mut self) {
        if let Some(head) = self.pipe.take() {
            // A reader lets the writer go on. It cannot write a head into a pipe; the next one can.
            let reader = OpenOptions::new().read(true).write(true).open(&head).unwrap();
            fs::rename(kept(&head), head).unwrap();
            thread::sleep(Duration::from_millis(50));
            drop(reader);
        }
    }

    fn push(&mut self, id: u8, now: Now) -> Result<(), Refusal> {
        self.host.push_at(&grant(id, &[&source(id)]), now).map(drop)
    }

    fn revoke(&mut self, target: &Target) -> Revoked {
        self.host.gate().revoke(target, "test", "over", NOW)
    }

    fn opens(&self, id: u8) -> bool {
        self.host.kernel.opens(SSH, v4(&source(id)), later(MINUTE).boot)
    }

    /// Problems of the disks.
    fn problems(&mut self) -> String {
        let mut problems = self.host.gate().status(NOW).problems;
        problems.retain(|problem| problem.contains("database") || problem.contains("audit"));
        problems.join("\n")
    }

    /// Lets time pass until the disks have everything.
    fn settle(&mut self) {
        // What failed is tried again after two seconds.
        for seconds in 1..=15 {
            self.host.gate().advance(later(3_000 * seconds));
            if self.problems().is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(400));
        }
        panic!("{}", self.problems());
    }
}

/// The place of the audit's head while a pipe has its name.
fn kept(head: &Path) -> PathBuf {
    head.with_extension("kept")
}

fn source(id: u8) -> String {
    format!("203.0.113.{id}")
}

fn one(id: u8) -> Target {
    Target::Ids(vec![GrantId([id; 16])])
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (act(), began.elapsed())
}

#[test]
fn while_the_database_hangs_nothing_opens_and_a_revocation_closes() {
    let mut hanging = Hanging::start();
    hanging.push(1, NOW).unwrap();
    hanging.push(2, NOW).unwrap();
    hanging.valve.set(Answers::No);
    let (refused, took) = timed(|| hanging.push(3, NOW));
    assert_eq!(refused, Err(Refusal::Storage));
    assert!(!hanging.opens(3) && took >= PATIENCE && took < PATIENCE + ROOM, "{took:?}");
    // It hangs still: the next ones do not wait.
    let (refused, took) = timed(|| hanging.push(4, NOW));
    assert_eq!(refused, Err(Refusal::Storage));
    assert!(took < PATIENCE / 2, "{took:?}");
    let (revoked, took) = timed(|| hanging.revoke(&one(1)));
    assert!(!hanging.opens(1) && hanging.opens(2));
    assert!(took < PATIENCE / 2, "{took:?}");
    assert!(revoked.warning.starts_with("closed, but not durable"), "{}", revoked.warning);
    assert!(hanging.problems().contains("the disk does not answer"), "{}", hanging.problems());
    // What was refused stays refused, and what was revoked stays revoked.
    hanging.valve.set(Answers::Yes);
    hanging.settle();
    hanging.restart();
    assert_eq!([1, 2, 3, 4].map(|id| hanging.opens(id)), [false, true, false, false]);
    assert_eq!(hanging.push(1, NOW), Err(Refusal::Revoked));
    hanging.push(3, NOW).unwrap();
    hanging.restart();
    assert!(hanging.opens(3));
}

#[test]
fn while_the_audit_hangs_nothing_opens_and_a_revocation_is_durable() {
    let mut hanging = Hanging::start();
    hanging.push(1, NOW).unwrap();
    hanging.hang_audit();
    let (refused, took) = timed(|| hanging.push(2, NOW));
    assert_eq!(refused, Err(Refusal::Storage));
    assert!(!hanging.opens(2) && took < PATIENCE + ROOM, "{took:?}");
    let (revoked, took) = timed(|| hanging.revoke(&one(1)));
    assert_eq!(revoked.warning, "");
    assert!(!hanging.opens(1) && took < ROOM, "{took:?}");
    assert!(hanging.problems().contains("cannot write the audit"), "{}", hanging.problems());
    hanging.free_audit();
    hanging.settle();
    let codes = hanging.host.codes();
    for code in ["G004", "G006"] {
        assert!(codes.contains(&code.to_owned()), "{code} happened meanwhile: {codes:?}");
    }
}

/// Both files are synced at the same time: the database may have what the audit does not take.
#[test]
fn a_grant_that_the_audit_does_not_take_is_not_stored_either() {
    let mut hanging = Hanging::start();
    hanging.hang_audit();
    assert_eq!(hanging.push(1, NOW), Err(Refusal::Storage));
    hanging.restart();
    assert!(!hanging.opens(1));
    hanging.push(1, NOW).unwrap();
    hanging.restart();
    assert!(hanging.opens(1));
}

/// Served by its loop, as in the agent: who waits for the gate ends its wait for the disk.
#[test]
fn a_revocation_waits_a_moment_only_for_a_push_that_waits_for_the_disk() {
    let mut hanging = Hanging::start();
    let (handle, serving) = serve(&mut hanging);
    let pushing = handle.clone();
    let push = thread::spawn(move || {
        let outcomes =
            runtime().block_on(pushing.push(vec![envelope(&grant(2, &[&source(2)]))], "".into()));
        (outcomes.unwrap().remove(0), Instant::now())
    });
    hanging.valve.wait_for_a_call();
    let began = Instant::now();
    let watched = hanging.host.kernel.clone();
    let closed = thread::spawn(move || {
        while watched.opens(SSH, v4(&source(1)), later(MINUTE).boot) {
            assert!(began.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    });
    let revoked = runtime().block_on(handle.revoke(one(1), "", "")).unwrap();
    let closed = closed.join().unwrap();
    assert!(closed < Duration::from_secs(1), "{closed:?}");
    assert!(revoked.warning.contains("not durable"), "{revoked:?}");
    let (outcome, answered) = push.join().unwrap();
    assert_eq!(outcome.unwrap_err().refusal, Refusal::Storage);
    assert!(answered.duration_since(began) < PATIENCE, "the push is refused sooner");
    hanging.valve.set(Answers::Yes);
    drop(handle);
    serving.join().unwrap();
}

/// A busy disk: it answers, but later than a revocation lets a push wait.
#[test]
fn a_revocation_that_ends_the_wait_of_a_push_is_durable_when_the_disk_answers_soon() {
    let mut hanging = Hanging::start();
    let (handle, serving) = serve(&mut hanging);
    let pushing = handle.clone();
    let push = thread::spawn(move || {
        let envelopes = vec![envelope(&grant(2, &[&source(2)]))];
        runtime().block_on(pushing.push(envelopes, "".into())).unwrap().remove(0)
    });
    hanging.valve.wait_for_a_call();
    let valve = hanging.valve.clone();
    let answering = thread::spawn(move || {
        thread::sleep(Duration::from_millis(600));
        valve.set(Answers::Yes);
    });
    let revoked = runtime().block_on(handle.revoke(one(1), "", "")).unwrap();
    assert_eq!(revoked, Revoked { ended: 1, changed: true, ..Revoked::default() });
    assert_eq!(push.join().unwrap().unwrap_err().refusal, Refusal::Storage);
    answering.join().unwrap();
    drop(handle);
    serving.join().unwrap();
    hanging.restart();
    assert!(!hanging.opens(1) && !hanging.opens(2));
}

/// Admits a grant, and lets the gate's loop serve while the database does not answer.
fn serve(hanging: &mut Hanging) -> (GateHandle, thread::JoinHandle<()>) {
    hanging.push(1, NOW).unwrap();
    // The turn that is due after a start: the next call is that of a push.
    hanging.host.gate().advance(NOW);
    let (handle, requests) = channel(Arc::new(Journal::new("test".into())));
    let gate = hanging.host.gate.take().unwrap();
    let serving = thread::spawn(move || runtime().block_on(gate.run(requests, || NOW, || ())));
    hanging.valve.set(Answers::No);
    (handle, serving)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// What a history knows about one grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    accepted: bool,
    revoked: bool,
    /// The answer did not say that the disk has the revocation.
    not_durable: bool,
}

/// Random histories with disks that hang: nothing opens that was refused, nothing that was accepted
/// is missing after a restart, and what was revoked is closed at once.
#[test]
fn no_history_with_disks_that_hang_opens_what_was_refused_or_loses_what_was_accepted() {
    let seeds: Vec<_> = (1..=12).map(|seed| thread::spawn(move || history(seed))).collect();
    for seed in seeds {
        seed.join().unwrap();
    }
}

fn history(seed: u64) {
    let mut random = seed;
    let mut below = |end: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut hanging = Hanging::start();
    let mut all: BTreeMap<_, _> = (1..=IDS).map(|id| (id, Known::default())).collect();
    let mut steps = Vec::new();
    for _ in 0..20 {
        let id = u8::try_from(1 + below(IDS.into())).unwrap();
        let step = below(12);
        steps.push((step, id));
        let known = all.get_mut(&id).unwrap();
        match step {
            0..5 => {
                let pushed = hanging.push(id, NOW);
                assert!(pushed.is_err() || !known.revoked, "seed {seed}: {steps:?}");
                known.accepted |= pushed.is_ok();
            }
            5..8 => {
                let warned = !hanging.revoke(&one(id)).warning.is_empty();
                known.revoked = true;
                known.not_durable |= warned;
            }
            8 => hanging.valve.set(Answers::No),
            9 if hanging.pipe.is_none() => hanging.hang_audit(),
            _ => {
                hanging.valve.set(Answers::Yes);
                hanging.free_audit();
                hanging.settle();
                all.values_mut().for_each(|known| known.not_durable = false);
                if step == 11 {
                    hanging.restart();
                }
            }
        }
        for (id, Known { accepted, revoked, .. }) in &all {
            let expected = *accepted && !revoked;
            assert_eq!(hanging.opens(*id), expected, "seed {seed}, grant {id}: {steps:?}");
        }
    }
    // Killed while a disk may hang: what was answered without a warning is true.
    hanging.restart();
    for (id, Known { accepted, revoked, not_durable }) in all {
        if !not_durable {
            assert!(!revoked || !hanging.opens(id), "seed {seed}, grant {id}: {steps:?}");
        }
        assert!(!accepted || revoked || hanging.opens(id), "seed {seed}, grant {id}: {steps:?}");
    }
}

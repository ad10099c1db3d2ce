//! The start: the gate goes up first.
//!
//! What the gate itself needs (capabilities, the kernel's tables, a configuration) can end the start.
//! What only the control plane, the audit or a person needs cannot: it fails by itself, and is tried
//! again. Where the file on the disk cannot be used, the last good configuration is.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use jit_proto::WallTime;

use crate::{
    app::{
        AppError, audit_settings,
        reload::{Beginning, Past, PastEnd, Stamps},
        watchers,
    },
    config::{Config, Glimpse, Loaded},
    disk::{
        audit::Audit,
        host_id::KeptId,
        last_good::LastGood,
        trial::{Standing, StoredTrial},
    },
    gate::{
        Gate,
        database::Waiting,
        faults::Faults,
        journal::Journal,
        trial::{Trial, lapsed_text},
    },
    kernel::{
        datapath::{
            kernel::{KernelDatapath, KernelEvents, Loader, loader},
            pins::Pins,
        },
        netlink::watch::LinkWatch,
    },
    rules::problem::ProblemKind,
    system::sys,
};

/// The longest wait for the disk of the database. The gate then goes up without it.
const DISK: Duration = Duration::from_secs(5);

/// An agent whose gate is in force. It serves nobody yet.
pub(super) struct Bound {
    pub(super) beginning: Beginning,
    pub(super) parts: Parts,
    pub(super) faults: Faults,
    /// The host's id as it was found last.
    pub(super) identity: Option<KeptId>,
}

/// The gate, and what the kernel reports.
pub(super) struct Parts {
    pub(super) gate: Gate<KernelDatapath>,
    pub(super) journal: Arc<Journal>,
    pub(super) kernel: KernelEvents,
    pub(super) links: Option<LinkWatch>,
}

/// Puts the gate in force: by the file, or by the last good configuration.
pub(super) fn build(path: &Path, debug: bool, faults: Faults) -> Result<Bound, AppError> {
    sys::check_capabilities()?;
    let prepared = loader();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let tried = Stamps::of(std::iter::once(path.as_path()));
    let glimpse = Glimpse::of(&path);
    let Found { last, trial, identity, unusable } = Found::look(&glimpse, &path);
    let kept = last.as_ref().map(|last| last.keys.clone()).unwrap_or_default();
    let (trial, past) = stand(last.as_ref(), trial);
    if let (Some(last), Some(trial)) = (&last, trial)
        && let Some(bound) = resume(&path, last, trial, (&tried, debug, &faults), &identity)?
    {
        return Ok(bound);
    }
    let read = Loaded::read(&path, &kept);
    let unconfirmed = match (&read, &past, &last) {
        (Ok(loaded), Some(past), Some(last))
            if past.end == PastEnd::Lapsed && past.trial.is_of(&loaded.text) =>
        {
            last.load().is_ok()
        }
        _ => false,
    };
    let (file, why) = match read {
        Ok(_) if unconfirmed => {
            let begun = past.as_ref().map_or(0, |past| past.trial.begun_ms);
            let why = lapsed_text(true, WallTime(begun));
            (why.clone(), why)
        }
        Ok(loaded) => {
            match put_in_force(prepared, (&loaded.config, None), debug, (&faults, &identity)) {
                Ok(parts) => {
                    let mut bound = by_file(path, loaded, last, tried, parts, (faults, identity));
                    bound.set_past(past, false);
                    return Ok(bound);
                }
                Err(error) if error.is_of_the_configuration() => {
                    let why = error.to_string();
                    (why.clone(), why)
                }
                Err(error) => return Err(error),
            }
        }
        Err(error) => (error.to_string(), error.brief().to_owned()),
    };
    let Some(last) = last else {
        return Err(unprotected(file, &glimpse, &unusable));
    };
    let loaded = last.load().map_err(|second| AppError::NoGood {
        file,
        last: second.to_string(),
        gate: gate_now(&glimpse.paths.pins),
    })?;
    let mut parts = put_in_force(loader(), (&loaded.config, None), debug, (&faults, &identity))?;
    parts.gate.set_origin(&path, last.since(), Some(&why), sys::now());
    let beginning = Beginning {
        path,
        loaded,
        kept: last,
        unwritten: false,
        refused: true,
        trial: None,
        past: None,
        tried,
    };
    let mut bound = Bound { beginning, parts, faults, identity };
    bound.set_past(past, unconfirmed);
    Ok(bound)
}

/// What the state directories have about the configuration.
struct Found {
    last: Option<LastGood>,
    trial: Option<StoredTrial>,
    identity: Option<KeptId>,
    /// What cannot be used.
    unusable: Vec<String>,
}

impl Found {
    /// A disk that hangs is not waited for.
    fn look(glimpse: &Glimpse, path: &Path) -> Self {
        let (states, path) = (glimpse.states.clone(), path.to_owned());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let (last, unusable) = LastGood::find(&states, &path);
            let trial = StoredTrial::find(&states, &path);
            let (identity, unread) = KeptId::find(&states, &path);
            if identity.is_none() && last.is_some() {
                unread.iter().for_each(|why| tracing::error!("the host's id: {why}"));
            }
            // The start may have gone on without it.
            let _late = sender.send(Self { last, trial, identity, unusable });
        });
        let unusable = || vec![format!("the disk does not answer within {DISK:?}")];
        let late = || Self { last: None, trial: None, identity: None, unusable: unusable() };
        receiver.recv_timeout(DISK).unwrap_or_else(|_| late())
    }
}

/// The trial that goes on, or the one that has ended.
fn stand(
    last: Option<&LastGood>,
    trial: Option<StoredTrial>,
) -> (Option<StoredTrial>, Option<Past>) {
    let (Some(last), Some(trial)) = (last, trial) else { return (None, None) };
    let boot_id = sys::boot_id().unwrap_or_default();
    let end = match trial.standing(last, &boot_id, sys::now().boot) {
        Standing::Live => return (Some(trial), None),
        Standing::Lapsed => PastEnd::Lapsed,
        Standing::Gone if last.path == trial.path && trial.is_of(last.text()) => PastEnd::Confirmed,
        Standing::Gone => PastEnd::Replaced,
    };
    (None, Some(Past { trial, end, refused: false }))
}

/// The start in a trial: it goes on, to the same end. `None`: this version does not take what is on
/// trial.
fn resume(
    path: &Path,
    last: &LastGood,
    stored: StoredTrial,
    (tried, debug, faults): (&Stamps, bool, &Faults),
    identity: &Option<KeptId>,
) -> Result<Option<Bound>, AppError> {
    let (Ok(loaded), Ok(good)) = (stored.load(), last.load()) else { return Ok(None) };
    let trial = Trial {
        config: loaded.config.clone(),
        before: good.config,
        before_since: last.since(),
        until: stored.until(),
        begun: WallTime(stored.begun_ms),
        of_file: stored.of_file,
        by: "agent".into(),
    };
    let board = (faults, identity);
    let mut parts = match put_in_force(loader(), (&loaded.config, Some(&trial)), debug, board) {
        Ok(parts) => parts,
        Err(error) if error.is_of_the_configuration() => return Ok(None),
        Err(error) => return Err(error),
    };
    parts.gate.set_origin(path, trial.begun, None, sys::now());
    tracing::warn!("ON TRIAL: the trial that began at {} goes on", trial.begun);
    let beginning = Beginning {
        path: path.to_owned(),
        loaded,
        kept: last.clone(),
        unwritten: false,
        refused: false,
        trial: Some(stored),
        past: None,
        tried: tried.clone(),
    };
    Ok(Some(Bound { beginning, parts, faults: faults.clone(), identity: identity.clone() }))
}

impl Bound {
    /// Notes a trial that ended before this start. The disk is not touched here: the reloader does it,
    /// and a start before the network leaves it to the agent. `refused`: its file is still on the disk.
    fn set_past(&mut self, past: Option<Past>, refused: bool) {
        let Some(past) = past else { return };
        if past.end == PastEnd::Lapsed {
            let (of_file, begun) = (past.trial.of_file, WallTime(past.trial.begun_ms));
            self.parts.gate.note_lapsed(of_file, begun, sys::now());
        }
        self.beginning.past = Some(Past { refused, ..past });
    }
}

/// The start with the file on the disk.
fn by_file(
    path: PathBuf,
    loaded: Loaded,
    last: Option<LastGood>,
    tried: Stamps,
    mut parts: Parts,
    (faults, identity): (Faults, Option<KeptId>),
) -> Bound {
    let now = sys::now();
    let kept = LastGood::new(&path, &loaded, now.wall).since_as(last.as_ref());
    let before = last.as_ref().filter(|last| last.since() != kept.since());
    if let Some(Ok(before)) = before.map(LastGood::load) {
        parts.gate.record_openings_since(&before.config, now);
    }
    parts.gate.set_origin(&path, kept.since(), None, now);
    let unwritten = last.as_ref() != Some(&kept);
    let beginning =
        Beginning { path, loaded, kept, unwritten, refused: false, trial: None, past: None, tried };
    Bound { beginning, parts, faults, identity }
}

fn put_in_force(
    loader: Loader,
    (config, trial): (&Config, Option<&Trial>),
    debug: bool,
    (faults, identity): (&Faults, &Option<KeptId>),
) -> Result<Parts, AppError> {
    let config = &with_id(config, identity.as_ref());
    // This takes the lock on the pins: from here on no other agent runs this gate. It also finds out
    // how the programs read the boot clock.
    let pins = config.paths.pins.clone();
    let (datapath, kernel) = KernelDatapath::load(loader, pins, config.limits, debug)?;
    let now = sys::now();
    let boot_id = sys::boot_id().unwrap_or_else(|error| {
        let text = format!("{error}: ends of grants follow the wall clock after a restart");
        tracing::error!("{text}");
        faults.set(ProblemKind::BootId, Some(text));
        // No stored deadline is of this boot.
        format!("unknown-{}", now.boot.0)
    });
    let (stored, waiting) = match Waiting::open(&config.paths.state, DISK) {
        Ok(stored) => (stored, None),
        Err(waiting) => (waiting.stand_in(), Some(waiting)),
    };
    let audit = Audit::closed(&config.paths.state, audit_settings(config), now);
    let links = watchers::open_links(faults);
    let journal = Arc::new(Journal::new(format!("{:x}", now.wall.0)));
    let boards = (Arc::clone(&journal), faults.clone());
    let config = (config.clone(), trial);
    let mut gate = Gate::start_on_trial(config, datapath, stored, audit, boards, boot_id, now)?;
    if let Some(waiting) = waiting {
        gate.await_database(waiting, now);
    }
    Ok(Parts { gate, journal, kernel, links })
}

/// The configuration with the host's id as it was found last, where the file has none. Nobody waits for
/// the network.
fn with_id(config: &Config, identity: Option<&KeptId>) -> Config {
    let mut config = config.clone();
    if let Some(kept) = identity.filter(|_| config.auto_host) {
        config.host.clone_from(&kept.found.id);
        config.host_source = Some(kept.found.source);
    }
    config
}

/// The very first start with a file that cannot be used.
fn unprotected(file: String, glimpse: &Glimpse, unusable: &[String]) -> AppError {
    let mut looked = glimpse.states.iter().take(2).map(|state| state.display().to_string());
    let looked = looked.by_ref().collect::<Vec<_>>().join(", ");
    let unusable: String = unusable.iter().map(|why| format!("; {why}")).collect();
    AppError::NoGood {
        file,
        last: format!("there is none in {looked}{unusable}"),
        gate: gate_now(&glimpse.paths.pins),
    }
}

/// What holds without an agent.
fn gate_now(pins: &Path) -> &'static str {
    let pins = Pins::new(pins);
    let empty = pins.is_empty().map_err(|error| io::Error::other(error.to_string()));
    match empty {
        Ok(false) => "the gate that an earlier run pinned stays in force, without an agent",
        Ok(true) | Err(_) => "nothing is protected: every port is open",
    }
}

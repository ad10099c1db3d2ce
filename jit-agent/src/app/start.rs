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

use crate::{
    app::{
        AppError, audit_settings,
        reload::{Beginning, Stamps},
        watchers,
    },
    config::{Config, Glimpse, Loaded},
    disk::{audit::Audit, last_good::LastGood},
    gate::{Gate, database::Waiting, faults::Faults, journal::Journal},
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
    let (last, unusable) = find_last_good(&glimpse, &path);
    let kept = last.as_ref().map(|last| last.keys.clone()).unwrap_or_default();
    let (error, why) = match Loaded::read(&path, &kept) {
        Ok(loaded) => match put_in_force(prepared, &loaded.config, debug, &faults) {
            Ok(parts) => return Ok(by_file(path, loaded, last, tried, parts, faults)),
            Err(error) if error.is_of_the_configuration() => {
                let why = error.to_string();
                (error, why)
            }
            Err(error) => return Err(error),
        },
        Err(error) => {
            let why = error.brief().to_owned();
            (error.into(), why)
        }
    };
    let Some(last) = last else {
        return Err(unprotected(error, &glimpse, &unusable));
    };
    let loaded = last.load().map_err(|second| AppError::NoGood {
        file: error.to_string(),
        last: second.to_string(),
        gate: gate_now(&glimpse.paths.pins),
    })?;
    let mut parts = put_in_force(loader(), &loaded.config, debug, &faults)?;
    parts.gate.set_origin(&path, last.since(), Some(&why), sys::now());
    let beginning = Beginning { path, loaded, kept: last, unwritten: false, refused: true, tried };
    Ok(Bound { beginning, parts, faults })
}

/// The copy of the last good configuration, and what cannot be used. A disk that hangs is not waited
/// for.
fn find_last_good(glimpse: &Glimpse, path: &Path) -> (Option<LastGood>, Vec<String>) {
    let (states, path) = (glimpse.states.clone(), path.to_owned());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(LastGood::find(&states, &path)));
    let late = || (None, vec![format!("the disk does not answer within {DISK:?}")]);
    receiver.recv_timeout(DISK).unwrap_or_else(|_| late())
}

/// The start with the file on the disk.
fn by_file(
    path: PathBuf,
    loaded: Loaded,
    last: Option<LastGood>,
    tried: Stamps,
    mut parts: Parts,
    faults: Faults,
) -> Bound {
    let now = sys::now();
    let kept = LastGood::new(&path, &loaded, now.wall).since_as(last.as_ref());
    let before = last.as_ref().filter(|last| last.since() != kept.since());
    if let Some(Ok(before)) = before.map(LastGood::load) {
        parts.gate.record_openings_since(&before.config, now);
    }
    parts.gate.set_origin(&path, kept.since(), None, now);
    let unwritten = last.as_ref() != Some(&kept);
    let beginning = Beginning { path, loaded, kept, unwritten, refused: false, tried };
    Bound { beginning, parts, faults }
}

fn put_in_force(
    loader: Loader,
    config: &Config,
    debug: bool,
    faults: &Faults,
) -> Result<Parts, AppError> {
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
    let mut gate = Gate::start(config.clone(), datapath, stored, audit, boards, boot_id, now)?;
    if let Some(waiting) = waiting {
        gate.await_database(waiting, now);
    }
    Ok(Parts { gate, journal, kernel, links })
}

/// The very first start with a file that cannot be used.
fn unprotected(error: AppError, glimpse: &Glimpse, unusable: &[String]) -> AppError {
    let mut looked = glimpse.states.iter().take(2).map(|state| state.display().to_string());
    let looked = looked.by_ref().collect::<Vec<_>>().join(", ");
    let unusable: String = unusable.iter().map(|why| format!("; {why}")).collect();
    AppError::NoGood {
        file: error.to_string(),
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

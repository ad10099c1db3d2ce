//! Takes the configuration again: at SIGHUP, and while the file on the disk or a key in it could not
//! be used, whenever they change. Keeps the copy of the last good configuration.
//!
//! A file that is being written is not taken half: a changed one is read when it has not changed for
//! a second more. (At SIGHUP it is read at once.)

mod trial;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::Signal,
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use crate::{
    app::control::Wanted,
    config::{KeyFault, Loaded, MetricsAddress},
    disk::{last_good::LastGood, trial::StoredTrial},
    gate::{GateHandle, faults::Faults, trial::TrialRequest},
    rules::problem::ProblemKind,
    system::sys::{self, FileError},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Name of the fault: the copy cannot be written.
const UNKEPT: ProblemKind = ProblemKind::LastGood;

/// What shows that a file may have changed: its place, size and times. `None`: it cannot be found.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Stamps of the configuration and of the keys that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Stamp)>);

impl Stamps {
    pub(super) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(paths.map(|path| (path.to_owned(), stamp(path))).collect())
    }

    fn again(&self) -> Self {
        Self::of(self.0.iter().map(|(path, _)| path.as_path()))
    }
}

fn stamp(path: &Path) -> Stamp {
    // An open as the reader makes it: a directory above it may be closed to the agent.
    let metadata = fs::File::open(path).and_then(|file| file.metadata()).ok()?;
    let changed =
        metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), changed))
}

/// Whether changed files are read now: they differ from those that were tried, and did not change
/// since the last look.
fn settled(tried: &Stamps, seen: &Stamps, now: &Stamps) -> bool {
    tried != now && seen == now
}

/// The keeper of the configuration.
pub(super) struct Reloader {
    path: PathBuf,
    state: PathBuf,
    gate: GateHandle,
    faults: Faults,
    wanted: watch::Sender<Arc<Wanted>>,
    metrics: watch::Sender<Option<MetricsAddress>>,
    /// The configuration in force.
    kept: LastGood,
    /// It is not in the state directory as it is in force.
    unwritten: bool,
    writing: Option<JoinHandle<Result<(), FileError>>>,
    /// The file on the disk is not in force.
    refused: bool,
    /// What is in force until it is confirmed. The good one is `kept` meanwhile.
    trial: Option<StoredTrial>,
    /// A trial of an earlier run whose end is to be written down.
    past: Option<Past>,
    trials: mpsc::Receiver<TrialRequest>,
    /// Ids of the signers whose file cannot be used.
    unusable: Vec<String>,
    /// The files as they were when they were read last, and when they were looked at last.
    tried: Stamps,
    seen: Stamps,
}

/// A trial of an earlier run that has ended.
pub(super) struct Past {
    pub(super) trial: StoredTrial,
    pub(super) end: PastEnd,
    /// Its file is still on the disk, and must not come into force at a later start either.
    pub(super) refused: bool,
}

/// How a trial of an earlier run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PastEnd {
    /// The disk had the confirmation.
    Confirmed,
    /// Nobody confirmed it in time.
    Lapsed,
    /// Another configuration took its place.
    Replaced,
}

/// How the configuration came into force at the start.
pub(super) struct Beginning {
    /// The file of the configuration.
    pub(super) path: PathBuf,
    /// What is in force.
    pub(super) loaded: Loaded,
    /// The same for the state directory.
    pub(super) kept: LastGood,
    /// The copy in the state directory is another one.
    pub(super) unwritten: bool,
    /// The file on the disk could not be used.
    pub(super) refused: bool,
    /// A trial of an earlier run that goes on. `loaded` is on trial then, and `kept` the good one.
    pub(super) trial: Option<StoredTrial>,
    /// A trial of an earlier run that has ended.
    pub(super) past: Option<Past>,
    /// The files before they were read.
    pub(super) tried: Stamps,
}

impl Reloader {
    /// Also returns what controllers need.
    pub(super) fn new(
        beginning: Beginning,
        gate: GateHandle,
        faults: Faults,
        metrics: watch::Sender<Option<MetricsAddress>>,
        trials: mpsc::Receiver<TrialRequest>,
    ) -> (Self, watch::Receiver<Arc<Wanted>>) {
        let Beginning { path, loaded, kept, unwritten, refused, trial, past, tried } = beginning;
        let (wanted, receiver) = watch::channel(Arc::new(Wanted::of(&loaded.config, loaded.lines)));
        let state = loaded.config.paths.state.clone();
        let seen = tried.clone();
        let mut reloader = Self {
            path,
            state,
            gate,
            faults,
            wanted,
            metrics,
            kept,
            unwritten,
            writing: None,
            refused,
            trial,
            past,
            trials,
            unusable: Vec::new(),
            tried,
            seen,
        };
        reloader.set_key_faults(&loaded.faults);
        (reloader, receiver)
    }

    /// Serves SIGHUP for as long as the agent runs.
    pub(super) async fn run(mut self, mut hangup: Option<Signal>) {
        self.settle_past().await;
        self.keep().await;
        loop {
            let asked = async {
                match &mut hangup {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            let waits = self.refused || self.trial.is_some() || !self.unusable.is_empty();
            let works = !waits && !self.unwritten && self.writing.is_none();
            tokio::select! {
                _ = asked => self.reload().await,
                Some(request) = self.trials.recv() => self.serve_trial(request).await,
                // An agent with nothing to mend sleeps.
                () = sleep(LOOK), if !works => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        self.keep().await;
        self.notice_end_of_trial().await;
        if !self.refused && self.unusable.is_empty() {
            return;
        }
        let now = self.tried.again();
        let due = settled(&self.tried, &self.seen, &now);
        self.seen = now;
        if due {
            tracing::info!("the configuration or a key that it names has changed");
            self.reload().await;
        }
    }

    /// Reads the file and takes it, or says why not.
    async fn reload(&mut self) {
        let (path, keys) = (self.path.clone(), self.kept.keys.clone());
        // Before it is read: a later change is then seen.
        self.tried = Stamps::of(std::iter::once(path.as_path()));
        self.seen = self.tried.clone();
        let read = spawn_blocking(move || Loaded::read(&path, &keys)).await;
        let loaded = match read {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => return self.refuse(error.brief().to_owned()).await,
            Err(error) => return self.refuse(error.to_string()).await,
        };
        self.tried = self.stamps(&loaded.faults);
        self.seen = self.tried.clone();
        self.notice_end_of_trial().await;
        if self.trial.is_some() && loaded.text == self.kept.text() {
            return tracing::info!("reload: the file is as before; the trial goes on");
        }
        if let Some(within) = self.needs_trial(&loaded) {
            return self.try_file(loaded, within).await;
        }
        let fresh = LastGood::new(&self.path, &loaded, sys::now().wall);
        let fresh = fresh.since_as(Some(&self.kept));
        match self.gate.reconfigure(loaded.config.clone(), fresh.since()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                self.refused = true;
                return;
            }
            Err(gone) => return tracing::error!("reload: {gone}"),
        }
        self.refused = false;
        self.unwritten |= fresh != self.kept;
        self.kept = fresh;
        self.forget_trial().await;
        self.serve(&loaded).await;
        self.keep().await;
        tracing::info!("reloaded");
    }

    /// What is around the gate follows this configuration.
    async fn serve(&mut self, loaded: &Loaded) {
        self.set_key_faults(&loaded.faults);
        self.metrics.send_if_modified(|served| {
            let changed = *served != loaded.config.metrics;
            served.clone_from(&loaded.config.metrics);
            changed
        });
        let wanted = Arc::new(Wanted::of(&loaded.config, loaded.lines));
        self.wanted.send_replace(Arc::clone(&wanted));
        wanted.taken().await;
    }

    async fn refuse(&mut self, why: String) {
        self.refused = true;
        if let Err(gone) = self.gate.refuse_configuration(why).await {
            tracing::error!("reload: {gone}");
        }
    }

    fn stamps(&self, faults: &[KeyFault]) -> Stamps {
        let keys = faults.iter().map(|fault| fault.path.as_path());
        Stamps::of(std::iter::once(self.path.as_path()).chain(keys))
    }

    /// Reports the keys that cannot be used, and no others.
    fn set_key_faults(&mut self, faults: &[KeyFault]) {
        let name = |id: &str| ProblemKind::Signer.of(id);
        for id in std::mem::take(&mut self.unusable) {
            if faults.iter().all(|fault| fault.id != id) {
                self.faults.set(name(&id), None);
            }
        }
        for fault in faults {
            let text = fault.text();
            if self.faults.set(name(&fault.id), Some(text.clone())) {
                tracing::error!("{text}");
            }
            self.unusable.push(fault.id.clone());
        }
        if !faults.is_empty() {
            self.tried = self.stamps(faults);
            self.seen = self.tried.clone();
        }
    }

    /// Writes the copy of the configuration in force. A disk that hangs holds up nothing else.
    async fn keep(&mut self) {
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            let written = writing.await.map_err(|error| error.to_string());
            let written = written.and_then(|done| done.map_err(|error| error.to_string()));
            self.unwritten |= written.is_err();
            let text = written.err().map(|why| {
                format!("the configuration in force cannot be kept for a start without it: {why}")
            });
            if self.faults.set(UNKEPT, text.clone())
                && let Some(text) = text
            {
                tracing::error!("{text}");
            }
        }
        if self.unwritten && self.writing.is_none() {
            self.unwritten = false;
            let (kept, state) = (self.kept.clone(), self.state.clone());
            self.writing = Some(spawn_blocking(move || kept.write(&state)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_when_it_changes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, "[host").unwrap();
        let tried = Stamps::of(std::iter::once(path.as_path()));
        assert!(!settled(&tried, &tried, &tried.again()), "nothing changed");
        fs::write(&path, "[host]\nid =").unwrap();
        let half = tried.again();
        assert!(!settled(&tried, &tried, &half), "it may be half");
        fs::write(&path, "[host]\nid = \"web-1\"\n").unwrap();
        let whole = tried.again();
        assert!(!settled(&tried, &half, &whole));
        assert!(settled(&tried, &whole, &tried.again()));
        fs::remove_file(&path).unwrap();
        assert!(tried.again() != whole, "gone is a change, too");
    }
}

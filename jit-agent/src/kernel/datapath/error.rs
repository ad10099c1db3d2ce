//! What can go wrong between the agent and the kernel's tables and programs.

use std::{io, path::PathBuf};

use crate::system::sys::FileError;

/// Why something could not be done on the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A link could not be made.
    #[error("cannot attach the gate to {interface} ({hook}): {cause}")]
    Attach {
        /// Interface.
        interface: String,
        /// Hook that was tried.
        hook: &'static str,
        /// Why.
        cause: String,
    },
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another agent holds the pins.
    #[error("another jit-agent holds {}: one gate has one agent; stop the other first", .0.display())]
    Locked(PathBuf),
    /// The kernel refuses the object.
    #[error("cannot load the kernel programs: {0}")]
    Load(String),
    /// A map operation.
    #[error("cannot {verb} the table {table}: {cause}")]
    Map {
        /// What was tried.
        verb: &'static str,
        /// On which table.
        table: &'static str,
        /// Why.
        cause: String,
        /// The kernel had no room for another entry.
        full: bool,
    },
    /// Not a BPF file system.
    #[error(
        "{} is not on a BPF file system: what is pinned must outlive the agent; \
         mount one with `mount -t bpf bpf /sys/fs/bpf`",
        .0.display()
    )]
    NoBpffs(PathBuf),
    /// The kernel attaches XDP programs only so that any tool can take them off.
    #[error(
        "this kernel has no XDP links (Linux 5.9 and newer have them): any tool could take the gate \
         off an interface, so nothing is attached; update the kernel"
    )]
    NoXdpLinks,
    /// A pin that is not ours.
    #[error("pinned table {}: {what}; `jit-agent detach` removes what an earlier version left", path.display())]
    Pin {
        /// Which.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A call that should not fail.
    #[error("cannot {verb}: {error}")]
    Sys {
        /// What was tried.
        verb: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// What failed of many things that were all tried.
#[derive(Debug)]
pub struct Failures {
    /// Their places among all, in order.
    pub at: Vec<usize>,
    /// Why the first of them failed.
    pub why: DatapathError,
}

impl Failures {
    /// Tries all, one by one.
    pub(super) fn of<T>(
        all: &[T],
        mut one: impl FnMut(&T) -> Result<(), DatapathError>,
    ) -> Result<(), Self> {
        let mut result = Ok(());
        for (place, item) in all.iter().enumerate() {
            Self::note(&mut result, place, one(item));
        }
        result
    }

    /// Adds the result of one of them.
    pub(super) fn note(
        results: &mut Result<(), Self>,
        place: usize,
        result: Result<(), DatapathError>,
    ) {
        match (results, result) {
            (_, Ok(())) => {}
            (Err(failures), Err(_)) => failures.at.push(place),
            (results, Err(why)) => *results = Err(Self { at: vec![place], why }),
        }
    }

    /// Adds the results of some of them, of which the first has this place.
    pub(super) fn note_all(results: &mut Result<(), Self>, first: usize, some: Result<(), Self>) {
        let Err(Self { at, why }) = some else { return };
        let at = at.into_iter().map(|place| first + place);
        match results {
            Err(failures) => failures.at.extend(at),
            Ok(()) => *results = Err(Self { at: at.collect(), why }),
        }
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

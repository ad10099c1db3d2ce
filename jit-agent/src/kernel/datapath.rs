//! The kernel side, seen from user space: tables, programs, links.
//!
//! [`Datapath`] is what the gate needs of it. `kernel` is the real one; `memory` a twin for tests.

pub mod attach;
pub mod bpf;
pub mod cut;
pub mod guard;
pub mod kernel;
pub mod ladder;
pub mod maps;
pub mod memory;
pub mod object;
pub mod pins;
pub mod programs;
pub mod readback;
pub mod rtnetlink;
pub mod selftest;
pub mod view;

use std::{collections::BTreeMap, io, path::PathBuf};

use jit_common::{COUNTERS, Counter, PortCounters, PortKey, PortRule, Reason, Settings, Slot};

use cut::{Cut, Sessions};
use guard::GuardState;
use jit_proto::{Hook, WallTime};
use selftest::Probe;

use crate::{
    config::{HookChoice, InterfaceFilter},
    rules::{
        clock::BootNanos,
        reconcile::{Entries, Write},
    },
    system::sys::FileError,
};

/// What the gate asks of the kernel.
pub trait Datapath: Send {
    /// Everything that stands in the grant tables.
    fn entries(&mut self) -> Result<Entries, DatapathError>;
    /// Carries out one write.
    fn write(&mut self, write: &Write) -> Result<(), DatapathError>;
    /// Makes exactly these ports protected.
    fn protect(&mut self, rules: &BTreeMap<PortKey, PortRule>) -> Result<(), DatapathError>;
    /// Settings of the whole gate.
    fn settings(&mut self, settings: Settings) -> Result<(), DatapathError>;
    /// What is counted in a slot; all zero when it cannot be read.
    fn slot(&self, slot: u32) -> Slot;
    /// What the tables of other versions of the agent, whose gate may be in force still, count of a
    /// grant that they know by this slot and generation.
    fn elsewhere(&self, _slot: u32, _generation: u32) -> Elsewhere {
        Elsewhere::Nowhere
    }
    /// Lets the grant in a slot have so many connections instead of those that it was opened for.
    fn set_limit(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError>;
    /// Counts a slot from zero, for its next grant: with at most so many connections. Zero is none for
    /// a grant with a limit; of others nothing is counted against it.
    fn open_slot(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError>;
    /// Forgets the connections of a slot's grant, which is over: others need their places.
    fn close_slot(&mut self, slot: u32) -> Result<(), DatapathError>;
    /// The same for all slots but these: what ended while no agent was running.
    fn close_slots_but(&mut self, held: &dyn Fn(u32) -> bool) -> Result<(), DatapathError>;
    /// Connections that were let in and of which no event told, since this was last asked: by this
    /// run of the agent or by another.
    fn take_untold(&mut self) -> Result<u64, DatapathError>;
    /// All counters.
    fn counters(&self) -> Result<Counters, DatapathError>;
    /// Brings the programs onto every interface that the filter names, and tells what is where.
    fn cover(&mut self, want: &Coverage) -> Result<Vec<InterfaceState>, DatapathError>;
    /// What is not as the last [`Datapath::cover`] left it, by the kernel's word; changes nothing.
    fn drift(&self) -> Result<Vec<Drift>, DatapathError>;
    /// Tries the loaded programs on frames, over the tables in force, and tells each wrong answer.
    /// Nothing is counted.
    fn self_test(&mut self, probes: &[Probe]) -> Vec<String>;
    /// Pins tables again whose pins are gone, and tells which.
    fn keep_tables(&mut self) -> Result<Vec<&'static str>, DatapathError>;
    /// Brings the socket guard into force, or takes it off, and tells what is there.
    fn guard(&mut self, want: bool) -> GuardState;
    /// Removes what another version of the agent pinned, where ours is in force in its place.
    fn retire(&mut self) -> Result<(), DatapathError>;
    /// Ends the sessions among these that are over, so that both ends hear it.
    fn cut(&mut self, among: &Sessions, now: BootNanos) -> Cut;
}

/// What is counted in another version's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// There are none.
    Nowhere,
    /// There are some, and none that can be read knows the grant.
    Unknown,
    /// So many connections.
    Counted(u64),
}

/// Which interfaces are to be gated, and how.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// Which.
    pub filter: InterfaceFilter,
    /// How.
    pub hook: HookChoice,
}

/// One interface and what guards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// The hook that our program is on, read back from the kernel; `None`: it is not gated.
    pub hook: Option<Hook>,
    /// Since when.
    pub since: Option<WallTime>,
    /// Why the hook is not better, or what is wrong.
    pub note: String,
    /// Somebody else's program runs before ours and may let packets pass it by.
    pub behind: bool,
    /// What happened to it since the last [`Datapath::cover`], in this order.
    pub changes: Vec<LinkChange>,
}

impl InterfaceState {
    /// Of an interface without a program of ours, and why.
    pub(crate) fn without(name: &str, index: u32, note: &str) -> Self {
        Self {
            name: name.to_owned(),
            index,
            hook: None,
            since: None,
            note: note.to_owned(),
            behind: false,
            changes: Vec::new(),
        }
    }
}

/// An attachment that somebody changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Name of the interface, or what else it is.
    pub what: String,
    /// The interface's index; zero: it is none.
    pub index: u32,
    /// Our program is in force all the same.
    pub gated: bool,
    /// What is wrong.
    pub why: String,
}

/// What happened to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// A pinned link of an earlier run carries the new program.
    Adopted,
    /// A new link.
    Attached,
    /// It was gone, though we had attached it.
    Lost,
    /// It was gone and is back.
    Restored,
    /// It is by a worse hook than the best one, or by none.
    SteppedDown,
}

impl LinkChange {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Attached => "attached",
            Self::Lost => "lost",
            Self::Restored => "restored",
            Self::SteppedDown => "stepped_down",
        }
    }
}

/// All counters of the data plane.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By [`Counter::index`].
    pub totals: [u64; COUNTERS as usize],
    /// By port.
    pub ports: BTreeMap<PortKey, PortCounters>,
}

impl Counters {
    /// One total.
    pub fn total(&self, counter: Counter) -> u64 {
        usize::try_from(counter.index())
            .ok()
            .and_then(|index| self.totals.get(index))
            .copied()
            .unwrap_or(0)
    }

    /// Packets with reasons that drop, each with its count.
    pub fn drops(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL
            .into_iter()
            .filter(|reason| reason.drops())
            .map(|reason| (reason, self.total(Counter::Reason(reason))))
    }
}

/// What can go wrong with the kernel side.
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

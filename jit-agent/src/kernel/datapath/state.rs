//! Values that the datapath hands to the gate: interfaces, changes, drift, counters.

use std::collections::BTreeMap;

use jit_common::{COUNTERS, Counter, PortCounters, PortKey, Reason};
use jit_proto::{Hook, WallTime};

use crate::rules::reconcile::{Entry, EntryKey};

/// One interface and its gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The hook that our program is on, read back from the kernel; `None`: it is not gated.
    pub hook: Option<Hook>,
    /// Wall time at which it was attached.
    pub since: Option<WallTime>,
    /// Why the hook is not better, or what is wrong.
    pub note: String,
    /// Another owner's program runs before ours and may let packets bypass it.
    pub foreign_first: bool,
    /// The configuration leaves it out, for this reason; empty: it gives none. `None`: it is to be
    /// gated.
    pub left_out: Option<String>,
    /// What happened to it since the programs were last attached, in this order.
    pub changes: Vec<LinkChange>,
}

impl InterfaceState {
    /// An interface without a program of ours; `note` says why.
    pub(crate) fn without(name: &str, index: u32, note: &str) -> Self {
        Self {
            name: name.to_owned(),
            index,
            hook: None,
            since: None,
            note: note.to_owned(),
            foreign_first: false,
            left_out: None,
            changes: Vec::new(),
        }
    }
}

/// How far the grant tables have been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Number of tables that were read to their ends.
    pub(super) tables: usize,
    /// Where the next entries begin in the table after them; `None`: at its beginning.
    pub(super) from: Option<Vec<u8>>,
}

/// Some entries of the grant tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// The entries.
    pub entries: Vec<(EntryKey, Entry)>,
    /// Entries of a form that the agent never writes. They were removed.
    pub odd: Vec<String>,
    /// These were the last.
    pub ended: bool,
}

/// An attachment that somebody changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The name of the interface, or of the other thing that was changed.
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
    /// It was gone, although we had attached it.
    Lost,
    /// It was gone and is back.
    Restored,
    /// The program is attached by a worse hook than the best one, or not at all.
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
    /// The counters of the whole gate, by [`Counter::index`].
    pub totals: [u64; COUNTERS as usize],
    /// The counters of each protected port.
    pub ports: BTreeMap<PortKey, PortCounters>,
}

impl Counters {
    /// One counter of the whole gate.
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

/// The count of another version's tables for a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// There are no such tables.
    Nowhere,
    /// There are such tables, but none that can be read knows the grant.
    Unknown,
    /// The number of connections.
    Counted(u64),
}

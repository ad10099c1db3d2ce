//! The trait [`Datapath`]: all that the gate asks of the kernel. `kernel` is the real one; `memory` is
//! a twin for tests.

use std::collections::BTreeMap;

use jit_common::{Flow, PortKey, PortRule, Settings, Slot};

use crate::{
    config::{HookChoice, InterfaceFilter},
    kernel::datapath::{
        cut::{Cut, CutScope},
        error::{DatapathError, Failures},
        guard::GuardState,
        probe::Probe,
        state::{Counters, Cursor, Drift, Elsewhere, InterfaceState, ReadBack},
        verdict::{Answers, Question},
    },
    rules::{
        clock::BootNanos,
        reconcile::{EntryKey, Write},
    },
};

/// Which interfaces are to have a program, and by which hook.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The interfaces.
    pub filter: InterfaceFilter,
    /// The hook.
    pub hook: HookChoice,
}

/// The gate's calls to the kernel.
pub trait Datapath: Send {
    /// Makes `sys::now` give the boot clock that the programs compare deadlines with. Returns by
    /// how much it was wrong, nanoseconds.
    fn align_clock(&mut self) -> Result<i64, DatapathError>;
    /// Whether this run found no table, also none of another version: no gate was in the kernel.
    fn is_new(&self) -> bool {
        false
    }
    /// Reads about `most` entries of the grant tables, from the cursor on, and moves the cursor. At
    /// the end it is at the beginning again. What no agent has written by its form is removed.
    fn read_back(&mut self, cursor: &mut Cursor, most: usize) -> Result<ReadBack, DatapathError>;
    /// The protected ports with their rules, and the settings, as the programs see them.
    fn policy(&self) -> Result<(BTreeMap<PortKey, PortRule>, Settings), DatapathError>;
    /// Carries out one write. The summary has the bit of an entry before the entry is there.
    fn write(&mut self, write: &Write) -> Result<(), DatapathError>;
    /// Carries out many writes, in their order. All are tried.
    fn write_all(&mut self, writes: &[Write]) -> Result<(), Failures> {
        Failures::of(writes, |write| self.write(write))
    }
    /// Takes the bits out of the summary that none of these entries needs: all that are there. Returns
    /// whether it lacked one.
    fn summarize(
        &mut self,
        keys: &mut dyn Iterator<Item = EntryKey>,
    ) -> Result<bool, DatapathError>;
    /// Makes exactly these ports protected.
    fn protect(&mut self, rules: &BTreeMap<PortKey, PortRule>) -> Result<(), DatapathError>;
    /// Writes the settings of the whole gate.
    fn settings(&mut self, settings: Settings) -> Result<(), DatapathError>;
    /// An nftables chain that translates sources of packets for this host itself, as the kernel
    /// has it now.
    fn source_chain(&self) -> Result<Option<String>, DatapathError> {
        Ok(None)
    }
    /// Makes these the TCP connections that the host translates to itself: each as it stands on the
    /// wire, with its socket's own addresses and ports.
    fn translate(&mut self, flows: &BTreeMap<Flow, Flow>) -> Result<(), DatapathError>;
    /// The counts of a slot; all zero when they cannot be read.
    fn slot(&self, slot: u32) -> Slot;
    /// The same for many slots, in their order.
    fn slots(&self, slots: &[u32]) -> Vec<Slot> {
        slots.iter().map(|slot| self.slot(*slot)).collect()
    }
    /// What the tables of other versions of the agent count for the grant with this slot and
    /// generation. Their gate may still be in force.
    fn elsewhere(&self, _slot: u32, _generation: u32) -> Elsewhere {
        Elsewhere::Nowhere
    }
    /// Sets the largest number of connections for the grant in a slot.
    fn set_limit(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError>;
    /// Counts a slot from zero, for its next grant, which has at most `limit` connections. A grant
    /// with a limit of zero has none; for a grant without a limit the number is not used.
    fn open_slot(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError>;
    /// The same for many slots, each with its limit. All are tried.
    fn open_slots(&mut self, slots: &[(u32, u32)]) -> Result<(), Failures> {
        Failures::of(slots, |(slot, limit)| self.open_slot(*slot, *limit))
    }
    /// Forgets the connections of a slot's grant, which has ended: others need their places.
    fn close_slot(&mut self, slot: u32) -> Result<(), DatapathError>;
    /// The same for all slots but these: their grants ended while no agent was running.
    fn close_slots_but(&mut self, held: &dyn Fn(u32) -> bool) -> Result<(), DatapathError>;
    /// The number of connections that were let in without an event since this was last asked, by
    /// this run of the agent or by another.
    fn take_unreported(&mut self) -> Result<u64, DatapathError>;
    /// All counters.
    fn counters(&self) -> Result<Counters, DatapathError>;
    /// Attaches a program to every interface that the filter names, and reports what is where.
    fn attach(&mut self, wanted: &Wanted) -> Result<Vec<InterfaceState>, DatapathError>;
    /// Attaches a program to one interface if it is new and wanted. `None`: it is not, or it is
    /// gone.
    fn attach_new(
        &mut self,
        index: u32,
        wanted: &Wanted,
    ) -> Result<Option<InterfaceState>, DatapathError>;
    /// Reads back from the kernel what differs from the last [`Datapath::attach`]. Changes nothing.
    fn drift(&self) -> Result<Vec<Drift>, DatapathError>;
    /// Runs the loaded programs on frames, with the tables in force, and returns each wrong answer.
    /// Nothing is counted.
    fn self_test(&mut self, probes: &[Probe]) -> Vec<String>;
    /// Asks the loaded programs on these interfaces about a connection, and the guard if it is
    /// attached. Nothing is counted.
    fn ask(
        &mut self,
        question: Question,
        interfaces: &[InterfaceState],
        guarded: bool,
        now: BootNanos,
    ) -> Result<Answers, DatapathError>;
    /// Pins tables again whose pins are gone, and names them.
    fn keep_tables(&mut self) -> Result<Vec<&'static str>, DatapathError>;
    /// Brings the socket guard into force, or takes it off, and reports what is there.
    fn guard(&mut self, want: bool) -> GuardState;
    /// Removes the pins of another version of the agent where ours is in force in its place.
    fn retire(&mut self) -> Result<(), DatapathError>;
    /// Cuts the sessions among these whose grants have ended, so that both ends hear it.
    fn cut(&mut self, among: &CutScope, now: BootNanos) -> Cut;
}

//! A datapath in memory, for tests and comparisons. It decides as the kernel does, over tables in
//! memory, and attaches nothing.

mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jit_common::{
    Address, ConnectionKey, Decision, Flow, Frame, GrantEntry, Handshake, HostKey, Link, PortKey,
    PortRule, Protocol, Reason, Settings, Slot, SummarySize, decide,
};
use jit_proto::prefix::bits;

pub use tables::MemoryTables;

use crate::{
    kernel::{
        datapath::{
            contract::{Datapath, Wanted},
            cut::{Cut, CutScope, Fate},
            error::DatapathError,
            guard::GuardState,
            probe::{Probe, Syn},
            state::{Counters, Cursor, Drift, Elsewhere, InterfaceState, ReadBack},
            summary::Summary,
            verdict::{Answers, Question, Verdict, Way},
        },
        netlink::sock_diag::DiagError,
    },
    rules::{
        clock::BootNanos,
        reconcile::{Entries, EntryKey, Write},
    },
};

/// A datapath in memory, shared with the test that made it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDatapath {
    inner: Arc<Mutex<Inner>>,
}

/// A summary that is short, so that entries share bits.
fn few_words() -> Summary {
    Summary::empty(SummarySize { hosts: 2, prefixes: 2 })
}

struct Bytes(Vec<u8>);

impl Frame for Bytes {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

/// Decides about a SYN.
fn judged(syn: &Syn, tables: &MemoryTables, now: BootNanos) -> Decision {
    let packet = syn.packet();
    let link = Link::of_ip(packet.first().copied().unwrap_or_default());
    decide(&Bytes(packet), link, tables, || now.0)
}

/// Calls until everything ends, as when the process is killed: later ones have no effect.
#[derive(Debug)]
pub struct Fuse(AtomicU64);

impl Fuse {
    /// Blows after this number of calls.
    pub fn new(calls: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(calls.saturating_add(1))))
    }

    /// Blows after this number of calls from now on.
    pub fn set(&self, calls: u64) {
        self.0.store(calls.saturating_add(1), Ordering::Relaxed);
    }

    /// Counts a call; false when there are no more.
    pub fn burn(&self) -> bool {
        let left = |left: u64| Some(left.saturating_sub(1));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok_and(|left| left > 1)
    }

    /// Whether a call came that had no effect.
    pub fn is_blown(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[derive(Debug, Default)]
struct Inner {
    fuse: Option<Arc<Fuse>>,
    entries: Entries,
    /// `None`: there are no entries yet.
    summary: Option<Summary>,
    rules: BTreeMap<PortKey, PortRule>,
    settings: Settings,
    translated: BTreeMap<Flow, Flow>,
    slots: BTreeMap<u32, Slot>,
    connections: BTreeMap<ConnectionKey, Handshake>,
    taken: BTreeMap<(u32, u32), u32>,
    writes: Vec<Write>,
    refuse: Option<bool>,
    refuse_openings: bool,
    /// Sockets of sessions: peer, its port, port here.
    sockets: BTreeSet<(Address, u16, u16)>,
    keeps_sockets: bool,
    /// The slots of another version whose tables are there; inside `None` where they cannot be read.
    elsewhere: Option<Option<BTreeMap<u32, Slot>>>,
    hits_elsewhere: u64,
    unreported: u64,
    /// SYNs that come while ours is being attached, and the number of them that got in.
    comes_meanwhile: Vec<(Syn, BootNanos)>,
    let_in_meanwhile: u32,
    /// The number of cuts since the test asked last, and the time that each takes.
    cuts: u32,
    cut_takes: Duration,
    /// The interfaces and the guard that the test wants to be there.
    interfaces: Vec<InterfaceState>,
    guard: Option<GuardState>,
    /// By how much the agent's boot clock is off, and entries of an odd form.
    clock_off: i64,
    odd: Vec<String>,
}

impl Inner {
    fn refused(&self) -> Result<(), DatapathError> {
        let blown = self.fuse.as_ref().is_some_and(|fuse| !fuse.burn());
        let Some(full) = self.refuse.or(blown.then_some(false)) else { return Ok(()) };
        let cause = "refused by the test".to_owned();
        Err(DatapathError::Map { verb: "write to", table: "entries", cause, full })
    }
}

impl MemoryDatapath {
    /// Everything that was written since the last call.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.lock().writes)
    }

    /// What the kernel would decide about a SYN: the decision itself over these entries. Nothing is
    /// counted.
    pub fn opens(&self, port: PortKey, source: Address, now: BootNanos) -> bool {
        let syn = Syn { source, source_port: 40_000, port, sequence: 1 };
        judged(&syn, &self.tables(), now).reason == Reason::Granted
    }

    /// Decides about a SYN, counts it as the kernel does, and returns whether it got in.
    pub fn connect(&self, syn: &Syn, now: BootNanos) -> bool {
        let tables = self.tables();
        let Decision { reason, slot, fresh, .. } = judged(syn, &tables, now);
        let mut inner = self.lock();
        inner.connections = tables.connections.into_inner();
        inner.taken = tables.taken.into_inner();
        if reason == Reason::Granted && fresh {
            inner.slots.entry(slot).or_default().hits += 1;
        }
        reason == Reason::Granted
    }

    /// From now on writes fail, as in a full table (`Some(true)`) or otherwise (`Some(false)`).
    pub fn refuse(&self, full: Option<bool>) {
        self.lock().refuse = full;
    }

    /// From now on writes count towards the end of everything.
    pub fn fuse(&self, fuse: Option<Arc<Fuse>>) {
        self.lock().fuse = fuse;
    }

    /// From now on entries that are not there yet do not fit, as in a full table.
    pub fn refuse_openings(&self, refuse: bool) {
        self.lock().refuse_openings = refuse;
    }

    /// There is the socket of a session: peer, its port, port here.
    pub fn open_socket(&self, peer: Address, peer_port: u16, port: u16) {
        self.lock().sockets.insert((peer, peer_port, port));
    }

    /// The sockets of sessions that are still there.
    pub fn sockets(&self) -> BTreeSet<(Address, u16, u16)> {
        self.lock().sockets.clone()
    }

    /// From now on no socket can be destroyed, as by a kernel that was built without.
    pub fn keep_sockets(&self, keep: bool) {
        self.lock().keeps_sockets = keep;
    }

    /// From now on each cut takes this time.
    pub fn cuts_take(&self, time: Duration) {
        self.lock().cut_takes = time;
    }

    /// The number of cuts since the last call.
    pub fn take_cuts(&self) -> u32 {
        std::mem::take(&mut self.lock().cuts)
    }

    /// The tables become another version's, whose layout is known or not: new ones are empty.
    pub fn change_layout(&self, known: bool) {
        let mut inner = self.lock();
        let slots = std::mem::take(&mut inner.slots);
        inner.elsewhere = Some(known.then_some(slots));
        inner.entries.clear();
        inner.summary = None;
        inner.connections.clear();
        inner.taken.clear();
    }

    /// Until ours is attached the other version's gate lets in this number more, and counts them.
    pub fn count_elsewhere(&self, hits: u64) {
        self.lock().hits_elsewhere = hits;
    }

    /// This one comes when ours is attached and the other version's may be in force as well.
    pub fn come_meanwhile(&self, syn: Syn, now: BootNanos) {
        self.lock().comes_meanwhile.push((syn, now));
    }

    /// The number of those that got in.
    pub fn let_in_meanwhile(&self) -> u32 {
        self.lock().let_in_meanwhile
    }

    /// This number of connections was let in without an event.
    pub fn let_in_unreported(&self, connections: u64) {
        self.lock().unreported += connections;
    }

    /// There are these interfaces, and this guard instead of the one that is wanted.
    pub fn has(&self, interfaces: Vec<InterfaceState>, guard: Option<GuardState>) {
        let mut inner = self.lock();
        (inner.interfaces, inner.guard) = (interfaces, guard);
    }

    /// The agent's boot clock is off by this, nanoseconds, until it is aligned.
    pub fn clock_is_off(&self, nanos: i64) {
        self.lock().clock_off = nanos;
    }

    /// There is an entry that the agent never writes by its form.
    pub fn add_odd(&self, text: &str) {
        self.lock().odd.push(text.to_owned());
    }

    /// Counts connections in a slot.
    pub fn count(&self, slot: u32, hits: u64) {
        self.lock().slots.entry(slot).or_default().hits += hits;
    }

    /// The settings of the whole gate.
    pub fn settings_in_force(&self) -> Settings {
        self.lock().settings
    }

    /// The entries as the decision sees them.
    pub fn tables(&self) -> MemoryTables {
        let inner = self.lock();
        let mut tables = MemoryTables {
            ports: inner.rules.clone(),
            summary: inner.summary.clone(),
            translated: inner.translated.clone(),
            translates_sources: inner.settings.translates_sources != 0,
            slots: inner.slots.clone(),
            connections: inner.connections.clone().into(),
            taken: inner.taken.clone().into(),
            ..MemoryTables::default()
        };
        for (EntryKey { port, source }, entry) in &inner.entries {
            let entry = GrantEntry::from(*entry);
            if source.is_host() {
                tables.hosts.insert(HostKey::new(source.address(), *port), entry);
            } else {
                tables.prefixes.insert((*port, source.address(), source.length()), entry);
            }
        }
        tables
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Datapath for MemoryDatapath {
    fn align_clock(&mut self) -> Result<i64, DatapathError> {
        Ok(std::mem::take(&mut self.lock().clock_off))
    }

    fn read_back(&mut self, cursor: &mut Cursor, _: usize) -> Result<ReadBack, DatapathError> {
        let mut inner = self.lock();
        *cursor = Cursor::default();
        let entries = inner.entries.iter().map(|(key, entry)| (*key, *entry)).collect();
        Ok(ReadBack { entries, odd: std::mem::take(&mut inner.odd), ended: true })
    }

    fn policy(&self) -> Result<(BTreeMap<PortKey, PortRule>, Settings), DatapathError> {
        let inner = self.lock();
        Ok((inner.rules.clone(), inner.settings))
    }

    fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        inner.refused()?;
        if let Write::Set(key, _) = write
            && inner.refuse_openings
            && !inner.entries.contains_key(key)
        {
            let cause = "refused by the test".to_owned();
            let table = "entries";
            return Err(DatapathError::Map { verb: "write to", table, cause, full: true });
        }
        if let Write::Set(key, _) = write
            && inner.summary.get_or_insert_with(few_words).cover(key).is_some()
        {
            // Everything may end between the two writes.
            inner.refused()?;
        }
        inner.writes.push(*write);
        match *write {
            Write::Remove(key) => inner.entries.remove(&key),
            Write::Set(key, entry) => inner.entries.insert(key, entry),
        };
        Ok(())
    }

    fn summarize(
        &mut self,
        keys: &mut dyn Iterator<Item = EntryKey>,
    ) -> Result<bool, DatapathError> {
        let mut inner = self.lock();
        let mut summary = inner.summary.clone().unwrap_or_else(few_words);
        let rebuilt = summary.rebuild(keys);
        for _ in rebuilt.words {
            inner.refused()?;
        }
        inner.summary = Some(summary);
        Ok(rebuilt.lacked)
    }

    fn protect(&mut self, rules: &BTreeMap<PortKey, PortRule>) -> Result<(), DatapathError> {
        self.lock().rules.clone_from(rules);
        Ok(())
    }

    fn settings(&mut self, settings: Settings) -> Result<(), DatapathError> {
        self.lock().settings = settings;
        Ok(())
    }

    fn translate(&mut self, flows: &BTreeMap<Flow, Flow>) -> Result<(), DatapathError> {
        self.lock().translated.clone_from(flows);
        Ok(())
    }

    fn slot(&self, slot: u32) -> Slot {
        self.lock().slots.get(&slot).copied().unwrap_or_default()
    }

    fn elsewhere(&self, slot: u32, generation: u32) -> Elsewhere {
        let inner = self.lock();
        let Some(elsewhere) = &inner.elsewhere else { return Elsewhere::Nowhere };
        match elsewhere.as_ref().and_then(|slots| slots.get(&slot)) {
            Some(counted) if counted.generation == generation => Elsewhere::Counted(counted.hits),
            _ => Elsewhere::Unknown,
        }
    }

    fn set_limit(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        inner.refused()?;
        inner.slots.entry(slot).or_default().limit = limit;
        Ok(())
    }

    fn open_slot(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        inner.refused()?;
        // Tables of another layout have other generations.
        let foreign = inner.elsewhere.is_some();
        let counted = inner.slots.entry(slot).or_default();
        let first = if foreign { 1000 } else { 0 };
        let generation = counted.generation.max(first).wrapping_add(1);
        *counted = Slot { hits: 0, limit, generation };
        inner.connections.retain(|key, _| key.slot != slot);
        inner.taken.retain(|(other, _), _| *other != slot);
        Ok(())
    }

    fn close_slot(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.close_slots_but(&|other| other != slot)
    }

    fn close_slots_but(&mut self, held: &dyn Fn(u32) -> bool) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        inner.refused()?;
        inner.connections.retain(|key, _| held(key.slot));
        inner.taken.retain(|(slot, _), _| held(*slot));
        Ok(())
    }

    fn take_unreported(&mut self) -> Result<u64, DatapathError> {
        Ok(std::mem::take(&mut self.lock().unreported))
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(Counters::default())
    }

    fn attach(&mut self, _: &Wanted) -> Result<Vec<InterfaceState>, DatapathError> {
        let come = std::mem::take(&mut self.lock().comes_meanwhile);
        let opened = come.iter().filter(|(syn, now)| self.connect(syn, *now)).count();
        let mut inner = self.lock();
        inner.let_in_meanwhile = u32::try_from(opened).unwrap_or(u32::MAX);
        let more = std::mem::take(&mut inner.hits_elsewhere);
        for slot in inner.elsewhere.iter_mut().flatten().flat_map(BTreeMap::values_mut) {
            slot.hits += more;
        }
        Ok(inner.interfaces.clone())
    }

    fn attach_new(&mut self, _: u32, _: &Wanted) -> Result<Option<InterfaceState>, DatapathError> {
        Ok(None)
    }

    fn self_test(&mut self, probes: &[Probe]) -> Vec<String> {
        let tables = self.tables();
        let judged = |probe: &Probe| {
            let dropped =
                decide(&Bytes(probe.frame()), Link::Ethernet, &tables, || 0).reason.drops();
            probe.wrong("the decision", dropped)
        };
        probes.iter().filter_map(judged).collect()
    }

    fn ask(
        &mut self,
        Question { source, port }: Question,
        interfaces: &[InterfaceState],
        _: bool,
        now: BootNanos,
    ) -> Result<Answers, DatapathError> {
        let syn = Syn { source, source_port: 40_000, port, sequence: 1 };
        let reason = judged(&syn, &self.tables(), now).reason;
        let verdict = Verdict { open: !reason.drops(), reason: Some(reason) };
        let ways = interfaces.iter().map(|state| Way {
            interface: state.name.clone(),
            hook: state.hook,
            left_out: state.left_out.clone(),
            gate: state.hook.map(|_| verdict),
            guard: None,
            note: String::new(),
        });
        Ok(Answers { ways: ways.collect(), ..Answers::default() })
    }

    fn keep_tables(&mut self) -> Result<Vec<&'static str>, DatapathError> {
        Ok(Vec::new())
    }

    fn drift(&self) -> Result<Vec<Drift>, DatapathError> {
        Ok(Vec::new())
    }

    fn guard(&mut self, want: bool) -> GuardState {
        let there = GuardState { wanted: want, attached: want, ..GuardState::default() };
        self.lock().guard.clone().unwrap_or(there)
    }

    fn retire(&mut self) -> Result<(), DatapathError> {
        self.lock().elsewhere = None;
        Ok(())
    }

    fn cut(&mut self, among: &CutScope, now: BootNanos) -> Cut {
        let tables = self.tables();
        let mut inner = self.lock();
        inner.cuts += 1;
        let mut cut = Cut { took: inner.cut_takes, ..Cut::default() };
        let keeps = inner.keeps_sockets;
        inner.sockets.retain(|(peer, _, number)| {
            let Some(rule) = among.rule(*peer, *number, false) else { return true };
            let port = PortKey { protocol: Protocol::Tcp, port: *number };
            let host = tables.hosts.get(&HostKey::new(*peer, port));
            let prefix = tables.longest(port, *peer, bits(peer.family));
            let fate = Fate::of([host, prefix], rule, now);
            let ends = fate == Fate::Ended && !keeps;
            if fate != Fate::Covered && !among.half_open {
                let counts = if ends { &mut cut.ended } else { &mut cut.open };
                *counts.entry((*peer, *number)).or_default() += 1;
            }
            !ends
        });
        if keeps {
            cut.problem = Some(DiagError::NoDestroy.into());
        }
        cut
    }
}

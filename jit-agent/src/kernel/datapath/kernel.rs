//! The real datapath: loads the object, adopts or creates the pinned tables, attaches.

use std::{collections::BTreeMap, path::PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
};
use jit_common::{Flow, PortKey, PortRule, Settings, Slot, map};

use crate::{
    config::Limits,
    kernel::{
        datapath::{
            attach::Links,
            blind,
            boot_clock::BootClock,
            bpf::{self, Logger},
            contract::{Datapath, Wanted},
            cut::{Cut, CutScope},
            destroy,
            error::{DatapathError, Failures, chain},
            guard::GuardState,
            layout::layouts,
            maps::{ForeignSlots, Maps},
            meanwhile::Meanwhile,
            object::OBJECT,
            pins::{Pins, Table},
            probe::Probe,
            programs::Programs,
            selftest::{SHARED, Twin},
            socket_guard::Guard,
            state::{Counters, Cursor, Drift, Elsewhere, InterfaceState, ReadBack},
            verdict::{self, Answers, Question},
        },
        netlink::netfilter,
    },
    rules::{
        clock::BootNanos,
        reconcile::{EntryKey, Write},
    },
    system::sys::{self, DirectoryLock},
};

const CLOCK: &str = "read the boot clock as the kernel programs see it";
/// `aya_log`'s number of the level debug, and of nothing at all.
const LOG_DEBUG: u8 = 4;
const LOG_OFF: u8 = 0;

/// The loaded programs with their tables and links.
pub struct KernelDatapath {
    /// The kernel verifies the first of them while the tables are filled.
    programs: Meanwhile<Verified>,
    maps: Maps,
    links: Links,
    guard: Guard,
    /// For the self-test; made when it is first run.
    twin: Option<Twin>,
    /// `None`: the kernel refused it; it is tried again.
    boot_clock: Option<BootClock>,
    limits: Limits,
    debug: bool,
    pins: Pins,
    /// No table was pinned before, also none of another version.
    is_new: bool,
    /// The slots of other versions.
    foreign: Vec<ForeignSlots>,
    /// The pinned tables, by name.
    tables: Vec<Table>,
    lock: DirectoryLock,
}

/// The channels on which the kernel programs speak.
pub struct KernelEvents {
    /// [`jit_common::Event`] records.
    pub events: RingBuf<MapData>,
    /// Debug lines, when they are on.
    pub log: Option<Logger>,
}

/// A loader without settings. To make it takes a moment: the kernel is asked what it can do.
pub type Loader = Meanwhile<EbpfLoader<'static>>;

/// Begins to make a loader.
pub fn loader() -> Loader {
    Meanwhile::begin((), |()| {
        let _known = aya::features();
        new_loader()
    })
}

impl KernelDatapath {
    /// Checks the pins, makes the tables over them, attaches nothing. Whether the kernel takes the
    /// programs is known at the first attachment.
    pub fn load(
        loader: Loader,
        pins: PathBuf,
        limits: Limits,
        debug: bool,
    ) -> Result<(Self, KernelEvents), DatapathError> {
        let boot_clock = aligned_boot_clock();
        let pins = Pins::new(&pins);
        let lock = pins.lock()?;
        pins.prepare()?;
        pins.check(limits)?;
        let has_tables = layouts(limits).iter().any(|layout| pins.map(layout.name).exists());
        let names = layouts(limits).map(|layout| layout.name);
        let mut object = load_object(loader.take(), &pins, limits, debug, &names)?;
        let take = |object: &mut Ebpf, name| {
            object.take_map(name).ok_or_else(|| DatapathError::Load(format!("no map {name}")))
        };
        let mut maps = Maps::open(|name| take(&mut object, name))?;
        let events = RingBuf::try_from(take(&mut object, map::EVENTS)?)
            .map_err(|error| DatapathError::Load(chain(&error)))?;
        let log = debug
            .then(|| aya_log::EbpfLogger::init(&mut object))
            .transpose()
            .map_err(|error| DatapathError::Load(chain(&error)))?;
        let guard = Guard::new(pins.clone());
        let programs = Meanwhile::begin(Programs::new(object), Verified::new);
        let tables = pins.hold_tables(limits)?;
        let others = pins.others()?;
        let is_new = !has_tables && others.is_empty();
        others.iter().for_each(|other| maps.carry_opened_here(other));
        let foreign = others.into_iter().map(ForeignSlots::open).collect();
        let links = Links::new(pins.clone());
        let datapath = Self {
            programs,
            maps,
            links,
            guard,
            twin: None,
            boot_clock,
            limits,
            debug,
            pins,
            is_new,
            foreign,
            tables,
            lock,
        };
        Ok((datapath, KernelEvents { events, log }))
    }
}

/// Programs of which the kernel has verified the first.
struct Verified {
    programs: Programs,
    /// Why none of them can be used.
    refused: Option<DatapathError>,
}

impl Verified {
    /// If the kernel refuses one program, another is tried.
    fn new(mut programs: Programs) -> Self {
        let refused = match programs.xdp() {
            Ok(program) if !bpf::has_xdp_links(&program.fd) => Some(DatapathError::NoXdpLinks),
            Ok(_) => None,
            Err(cause) => programs.tc().err().map(|_| DatapathError::Load(cause)),
        };
        Self { programs, refused }
    }

    /// The programs. If the kernel refused all, this fails at the first attachment, and so ends the
    /// start.
    fn usable(&mut self) -> Result<&mut Programs, DatapathError> {
        self.refused.take().map_or(Ok(&mut self.programs), Err)
    }
}

impl KernelDatapath {
    /// Loads the twin, if it is not. A test with tables that are not in force would prove nothing:
    /// `None`: their pins are gone.
    fn make_twin(&mut self) -> Result<(), Option<DatapathError>> {
        let Self { twin, pins, tables, limits, debug, .. } = self;
        if twin.is_some() {
            return Ok(());
        }
        let unpinned = || !pins.missing(tables).is_empty();
        if unpinned() {
            return Err(None);
        }
        match load_object(new_loader(), pins, *limits, *debug, &SHARED) {
            Ok(object) if shares(&object, tables) => *twin = Some(Twin::new(object)),
            Ok(_) => return Err(None),
            Err(_) if unpinned() => return Err(None),
            Err(error) => return Err(Some(error)),
        }
        Ok(())
    }
}

impl Datapath for KernelDatapath {
    fn align_clock(&mut self) -> Result<i64, DatapathError> {
        let clock = match self.boot_clock.take() {
            Some(clock) => Ok(clock),
            None => BootClock::load(),
        };
        let clock = clock.map(|clock| self.boot_clock.insert(clock));
        let aligned = clock.and_then(|clock| clock.align());
        aligned.map_err(|error| DatapathError::Sys { verb: CLOCK, error })
    }

    fn is_new(&self) -> bool {
        self.is_new
    }

    fn read_back(&mut self, cursor: &mut Cursor, most: usize) -> Result<ReadBack, DatapathError> {
        self.maps.read_back(cursor, most)
    }

    fn policy(&self) -> Result<(BTreeMap<PortKey, PortRule>, Settings), DatapathError> {
        Ok((self.maps.protected()?, self.maps.settings()?))
    }

    fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        self.maps.write(write)
    }

    fn write_all(&mut self, writes: &[Write]) -> Result<(), Failures> {
        self.maps.write_all(writes)
    }

    fn summarize(
        &mut self,
        keys: &mut dyn Iterator<Item = EntryKey>,
    ) -> Result<bool, DatapathError> {
        self.maps.summarize(keys)
    }

    fn protect(&mut self, rules: &BTreeMap<PortKey, PortRule>) -> Result<(), DatapathError> {
        self.maps.protect(rules)
    }

    fn settings(&mut self, settings: Settings) -> Result<(), DatapathError> {
        self.maps.set_settings(settings)
    }

    fn source_chain(&self) -> Result<Option<String>, DatapathError> {
        let verb = "list the chains of nftables";
        netfilter::source_chain().map_err(|error| DatapathError::Sys { verb, error })
    }

    fn translate(&mut self, flows: &BTreeMap<Flow, Flow>) -> Result<(), DatapathError> {
        self.maps.translate(flows)
    }

    fn slot(&self, slot: u32) -> Slot {
        self.maps.slot(slot)
    }

    fn slots(&self, slots: &[u32]) -> Vec<Slot> {
        self.maps.slots(slots)
    }

    fn elsewhere(&self, slot: u32, generation: u32) -> Elsewhere {
        let counted = self.foreign.iter().map(|foreign| foreign.counted(slot, generation));
        counted.fold(Elsewhere::Nowhere, |known, more| match (known, more) {
            (Elsewhere::Counted(known), Elsewhere::Counted(more)) => {
                Elsewhere::Counted(known.saturating_add(more))
            }
            (known @ Elsewhere::Counted(_), _) | (known, Elsewhere::Nowhere) => known,
            (_, more) => more,
        })
    }

    fn set_limit(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError> {
        self.maps.set_limit(slot, limit)
    }

    fn open_slot(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError> {
        self.maps.open_slot(slot, limit)
    }

    fn open_slots(&mut self, slots: &[(u32, u32)]) -> Result<(), Failures> {
        self.maps.open_slots(slots)
    }

    fn close_slot(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.maps.close_slot(slot)
    }

    fn close_slots_but(&mut self, held: &dyn Fn(u32) -> bool) -> Result<(), DatapathError> {
        self.maps.close_slots_but(held)
    }

    fn take_unreported(&mut self) -> Result<u64, DatapathError> {
        self.maps.take_unreported()
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        self.maps.counters()
    }

    fn attach(&mut self, wanted: &Wanted) -> Result<Vec<InterfaceState>, DatapathError> {
        self.links.attach(wanted, self.programs.ready().usable()?)
    }

    fn attach_new(
        &mut self,
        index: u32,
        wanted: &Wanted,
    ) -> Result<Option<InterfaceState>, DatapathError> {
        self.links.attach_new(index, wanted, self.programs.ready().usable()?)
    }

    fn self_test(&mut self, probes: &[Probe]) -> Vec<String> {
        match self.make_twin() {
            Ok(()) => {}
            // Tables without pins are reported and pinned again elsewhere.
            Err(None) => return Vec::new(),
            Err(Some(error)) => return vec![format!("the programs cannot be tried: {error}")],
        }
        let Some(twin) = &mut self.twin else { return Vec::new() };
        let Verified { programs, .. } = self.programs.ready();
        programs
            .loaded()
            .flat_map(|program| twin.judge(program.name, program.tag, probes))
            .collect()
    }

    fn ask(
        &mut self,
        question: Question,
        interfaces: &[InterfaceState],
        guarded: bool,
        now: BootNanos,
    ) -> Result<Answers, DatapathError> {
        self.make_twin().map_err(|error| {
            error.unwrap_or_else(|| {
                DatapathError::Load("the pins of the tables are gone; ask again in a moment".into())
            })
        })?;
        let Self { twin: Some(twin), programs, maps, .. } = self else {
            return Err(DatapathError::Load("they cannot be loaded a second time".into()));
        };
        let Verified { programs, .. } = programs.ready();
        let in_force = |name: &str, tag| {
            // The guard is read back by its id, elsewhere.
            let mut loaded = programs.loaded().filter(|program| program.name == name).peekable();
            loaded.peek().is_none() || loaded.any(|program| program.tag == tag)
        };
        verdict::ask(twin, maps, question, (interfaces, guarded), now, &in_force)
    }

    fn keep_tables(&mut self) -> Result<Vec<&'static str>, DatapathError> {
        let restored = self.pins.restore_tables(&self.tables)?;
        // If the directory was made again, another agent would find no lock in it.
        let root = self.pins.root();
        if !self.lock.is_on(root) {
            self.lock =
                sys::lock_directory(root)?.ok_or_else(|| DatapathError::Locked(root.to_owned()))?;
        }
        Ok(restored)
    }

    fn drift(&self) -> Result<Vec<Drift>, DatapathError> {
        let mut drifts = self.links.drift()?;
        if !self.pins.missing(&self.tables).is_empty() {
            drifts.push(Drift {
                what: "the tables".into(),
                index: 0,
                gated: true,
                why: "their pins are gone: a start of the agent would begin with empty ones".into(),
            });
        }
        drifts.extend(self.guard.drift());
        Ok(drifts)
    }

    fn guard(&mut self, want: bool) -> GuardState {
        self.guard.keep(want, self.programs.ready().programs.object_mut())
    }

    fn retire(&mut self) -> Result<(), DatapathError> {
        self.pins.retire()
    }

    fn cut(&mut self, among: &CutScope, now: BootNanos) -> Cut {
        destroy::cut(&self.maps, among, now)
    }
}

/// The object once more over these pins, for a process that is no agent.
pub(super) fn lone_twin(pins: &Pins, limits: Limits) -> Result<Twin, DatapathError> {
    load_object(new_loader(), pins, limits, false, &SHARED).map(Twin::new)
}

/// Whether the tables that a self-test needs are those in force, not new ones because a pin was
/// gone.
fn shares(object: &Ebpf, tables: &[Table]) -> bool {
    SHARED.iter().all(|name| {
        let in_force = tables.iter().find(|table| table.name == *name).map(|table| table.id);
        let shared = match object.map(name) {
            Some(Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data)) => data.info().ok(),
            _ => None,
        };
        let shared = shared.map(|info| info.id());
        shared.is_some() && shared == in_force
    })
}

/// The programs' boot clock, by which the agent reads its own from now on.
fn aligned_boot_clock() -> Option<BootClock> {
    let boot_clock = BootClock::load();
    match boot_clock.as_ref().map(BootClock::align) {
        Ok(Ok(0)) => {}
        Ok(Ok(off)) => tracing::info!(
            "this is a time namespace: its boot clock is {} ms off and is not used",
            off / 1_000_000
        ),
        // The self-test reports it for as long as it is so.
        Ok(Err(error)) => tracing::warn!("cannot {CLOCK}: {error}"),
        Err(error) => tracing::warn!("cannot {CLOCK}: {error}"),
    }
    boot_clock.ok()
}

fn new_loader() -> EbpfLoader<'static> {
    let mut loader = blind::without_files(EbpfLoader::new);
    // The programs read none of the kernel's structs (a test of the object). If its types were read
    // all the same, they are dropped before anything else is made.
    loader.btf(None);
    loader
}

/// Loads the object with these pinned tables; it makes the others itself.
fn load_object(
    loader: EbpfLoader<'_>,
    pins: &Pins,
    limits: Limits,
    debug: bool,
    pinned: &[&str],
) -> Result<Ebpf, DatapathError> {
    if OBJECT.is_empty() {
        return Err(DatapathError::Load(
            "this binary was built without them (AYA_BUILD_SKIP=1); build it again without".into(),
        ));
    }
    let level = if debug { LOG_DEBUG } else { LOG_OFF };
    let summary = limits.summary();
    // It refers to these three, so it goes first.
    let mut loader = loader;
    loader.override_global("AYA_LOG_LEVEL", &level, true);
    loader.override_global("SUMMARY_HOSTS", &summary.hosts, true);
    loader.override_global("SUMMARY_PREFIXES", &summary.prefixes, true);
    for layout in layouts(limits) {
        if !pinned.contains(&layout.name) {
            continue;
        }
        loader.map_pin_path(layout.name, pins.map(layout.name));
        loader.map_max_entries(layout.name, layout.entries);
    }
    loader.load(OBJECT).map_err(|error| DatapathError::Load(chain(&error)))
}

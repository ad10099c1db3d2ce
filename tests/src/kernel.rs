//! Runs the gate's programs in the running kernel over single frames. They are loaded from the
//! object that the agent embeds. Their tables are filled from the in-memory tables that the host's
//! decision reads.
//!
//! A test spends most of its time in the verifier. So the next test uses the same loaded programs,
//! with empty tables. Nothing is pinned: everything ends with the process.

mod fill;

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    ops::{Deref, DerefMut},
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf,
        lpm_trie::LpmTrie,
    },
    programs::{
        Program, ProgramFd, ProgramInfo, SkLookup, TestRun, TestRunOptions, TestRunResult, Xdp,
        XdpMode,
        links::{FdLink, LinkType},
        tc::{self, TcAttachType},
    },
    util::nr_cpus,
};
use jit_agent::kernel::datapath::object::{
    OBJECT, PROGRAM_GUARD, PROGRAM_GUARD_LEGACY, PROGRAM_TC, PROGRAM_TC_L3, PROGRAM_XDP,
    PROGRAM_XDP_FRAGS,
};
use jit_common::{
    Budget, COUNTERS, ConnectionKey, Counter, Event, Flow, GrantEntry, HostKey, LastCounted,
    LastHere, Lookup, PlaceKey, PortCounters, PortKey, PortRule, PrefixV4, PrefixV6, Reason,
    Settings, Slot, SummarySize, map,
};

use crate::{guard_run, lacks, netns};

/// The entry points that judge Ethernet frames, which must never differ in their answer.
const PROGRAMS: [&str; 3] = [PROGRAM_XDP, PROGRAM_XDP_FRAGS, PROGRAM_TC];
/// The entry point for frames without an Ethernet header, and the socket guards.
const OTHER_PROGRAMS: [&str; 3] = [PROGRAM_TC_L3, PROGRAM_GUARD, PROGRAM_GUARD_LEGACY];

/// The entry points for Ethernet frames that the running kernel takes: all, unless the kernel is
/// known to lack something.
pub fn programs() -> impl Iterator<Item = &'static str> {
    require_object();
    PROGRAMS.into_iter().filter(|name| has(name))
}

/// The entry points of [`programs`] that attach by XDP.
pub fn xdp_programs() -> impl Iterator<Item = &'static str> {
    programs().filter(|name| *name != PROGRAM_TC)
}

/// All programs of the object that the running kernel takes.
pub fn all_programs() -> impl Iterator<Item = &'static str> {
    programs().chain(OTHER_PROGRAMS.into_iter().filter(|name| has(name)))
}

/// The socket guards that the running kernel takes.
pub fn guards() -> impl Iterator<Item = &'static str> {
    require_object();
    [PROGRAM_GUARD, PROGRAM_GUARD_LEGACY].into_iter().filter(|name| has(name))
}

/// Panics if the kernel programs were not built: a test must not pass because it ran no program.
fn require_object() {
    assert!(!OBJECT.is_empty(), "built without the kernel programs (AYA_BUILD_SKIP)");
}

fn has(program: &str) -> bool {
    let needs = match program {
        PROGRAM_XDP_FRAGS => lacks::FRAGS,
        PROGRAM_GUARD => lacks::INGRESS_IFINDEX,
        _ => return true,
    };
    !lacks::kernel_lacks(needs)
}

/// The shortest frame that the kernel runs a program over: an Ethernet header.
pub const MIN_FRAME: usize = 14;
/// Whether the kernel runs a program over a frame. XDP takes every frame with an Ethernet header.
/// TC also needs a byte after it, and the whole network header that the ethertype announces
/// (`bpf_prog_test_run_skb` in `net/bpf/test_run.c`).
pub fn runs(program: &str, frame: &[u8]) -> bool {
    let more = match frame.get(12..MIN_FRAME) {
        None => return false,
        Some(_) if program != PROGRAM_TC => 0,
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        Some(_) => 1,
    };
    frame.len() >= MIN_FRAME + more
}

/// Entries in each grant table and in the table of hits.
pub const CAPACITY: u32 = 4096;

/// `XDP_DROP` and `XDP_PASS` of `linux/bpf.h`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// `TC_ACT_SHOT` of `linux/pkt_cls.h`, and `TC_ACT_UNSPEC` (-1): go on.
const TC_DROP: u32 = 2;
const TC_NEXT: u32 = u32::MAX;

/// The packet counters, by [`Counter::index`].
pub type Counters = [u64; COUNTERS as usize];

/// Result of one run over one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The reason whose counter went up.
    pub reason: Reason,
    /// The program answered XDP_DROP.
    pub dropped: bool,
    /// The counter of what observe mode let pass went up.
    pub observed: bool,
}

/// Programs that no test uses at the moment.
static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// The loaded programs with their maps, for one test.
pub struct Kernel(Option<Loaded>);

impl Kernel {
    /// All programs with empty tables: no port is protected, there are no events, all counters are
    /// zero.
    pub fn load() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(idle.unwrap_or_else(|| Loaded::new(CAPACITY))))
    }

    /// The same with room for another number of entries. No other test uses them afterwards.
    pub fn sized(entries: u32) -> Self {
        Self(Some(Loaded::new(entries)))
    }
}

impl Deref for Kernel {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        self.0.as_ref().expect("there until dropped")
    }
}

impl DerefMut for Kernel {
    fn deref_mut(&mut self) -> &mut Loaded {
        self.0.as_mut().expect("there until dropped")
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // No test uses the programs of a failed test.
        let usual = |loaded: &Loaded| loaded.entries == CAPACITY && !thread::panicking();
        if let Some(mut loaded) = self.0.take().filter(usual) {
            loaded.reset();
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(loaded);
        }
    }
}

/// The loaded programs with their maps.
pub struct Loaded {
    ebpf: Ebpf,
    budget: PerCpuArray<MapData, Budget>,
    connections: HashMap<MapData, ConnectionKey, u32>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    first_ports: PerCpuArray<MapData, PortCounters>,
    hosts: HashMap<MapData, HostKey, GrantEntry>,
    in_use: Array<MapData, u32>,
    last_counted: HashMap<MapData, ConnectionKey, LastCounted>,
    last_here: PerCpuArray<MapData, LastHere>,
    opened_here: HashMap<MapData, Flow, u64>,
    places: HashMap<MapData, PlaceKey, Flow>,
    port_counters: PerCpuHashMap<MapData, u32, PortCounters>,
    port_rules: Array<MapData, PortRule>,
    prefixes_v4: LpmTrie<MapData, PrefixV4, GrantEntry>,
    prefixes_v6: LpmTrie<MapData, PrefixV6, GrantEntry>,
    protected: Array<MapData, u64>,
    settings: Array<MapData, Settings>,
    slots: Array<MapData, Slot>,
    summary: Array<MapData, u64>,
    summary_size: SummarySize,
    translated: HashMap<MapData, Flow, Flow>,
    /// Entries in each grant table.
    entries: u32,
    /// The protected ports, with the places of their counters.
    filled: BTreeMap<PortKey, u32>,
    /// Words of the summary that are not zero.
    summarized: Vec<u32>,
    /// Slots that grants were counted in.
    counted: BTreeSet<u32>,
}

impl Loaded {
    fn new(entries: u32) -> Self {
        netns::require_root();
        require_object();
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &0_u8, true);
        for name in [
            map::CONNECTIONS,
            map::HOST_GRANTS,
            map::PLACES,
            map::PREFIX_GRANTS_V4,
            map::PREFIX_GRANTS_V6,
            map::SLOTS,
        ] {
            loader.map_max_entries(name, entries);
        }
        let summary = SummarySize::for_grants(entries, entries);
        loader.map_max_entries(map::SUMMARY, summary.words());
        loader.override_global("SUMMARY_HOSTS", &summary.hosts, true);
        loader.override_global("SUMMARY_PREFIXES", &summary.prefixes, true);
        let mut ebpf = loader.load(OBJECT).expect("the object loads");
        for name in all_programs() {
            let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("program {name}"));
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                Program::SkLookup(program) => program.load(),
                _ => panic!("{name}: an unknown kind of program"),
            };
            loaded.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let mut take = |name| ebpf.take_map(name).unwrap_or_else(|| panic!("map {name}"));
        Self {
            budget: take(map::EVENT_BUDGET).try_into().expect("per-CPU array"),
            connections: take(map::CONNECTIONS).try_into().expect("hash"),
            counters: take(map::COUNTERS).try_into().expect("per-CPU array"),
            events: take(map::EVENTS).try_into().expect("ring buffer"),
            first_ports: take(map::FIRST_PORTS).try_into().expect("per-CPU array"),
            hosts: take(map::HOST_GRANTS).try_into().expect("hash"),
            in_use: take(map::IN_USE).try_into().expect("array"),
            last_counted: take(map::LAST_COUNTED).try_into().expect("hash"),
            last_here: take("LAST_HERE").try_into().expect("per-CPU array"),
            opened_here: take(map::OPENED_HERE).try_into().expect("hash"),
            places: take(map::PLACES).try_into().expect("hash"),
            port_counters: take(map::PORT_COUNTERS).try_into().expect("per-CPU hash"),
            port_rules: take(map::PORT_RULES).try_into().expect("array"),
            prefixes_v4: take(map::PREFIX_GRANTS_V4).try_into().expect("trie"),
            prefixes_v6: take(map::PREFIX_GRANTS_V6).try_into().expect("trie"),
            protected: take(map::PROTECTED).try_into().expect("array"),
            settings: take(map::SETTINGS).try_into().expect("array"),
            slots: take(map::SLOTS).try_into().expect("array"),
            summary: take(map::SUMMARY).try_into().expect("array"),
            summary_size: summary,
            translated: take(map::TRANSLATED).try_into().expect("hash"),
            entries,
            filled: BTreeMap::new(),
            summarized: Vec::new(),
            counted: BTreeSet::new(),
            ebpf,
        }
    }

    /// Number of connections that the host is known to have opened.
    pub fn opened_here(&self) -> usize {
        self.opened_here.keys().filter_map(Result::ok).count()
    }

    /// Writes the settings of the whole gate.
    pub fn set(&mut self, settings: Settings) {
        self.settings.set(0, settings, 0).expect("write the settings");
    }

    /// Runs a program over a frame and returns its answer, true for a drop. `program` is one of
    /// [`PROGRAMS`].
    pub fn drops(&self, program: &str, frame: &[u8]) -> bool {
        let (result, drop, pass) = self.test_run(program, frame, 1);
        match result.return_value {
            answer if answer == drop => true,
            answer if answer == pass => false,
            other => panic!("the gate answered {other}"),
        }
    }

    /// Whether a socket guard refuses a look-up. `program` is one of [`guards`].
    pub fn refuses(&self, program: &str, lookup: &Lookup) -> bool {
        match self.ebpf.program(program).expect("program") {
            Program::SkLookup(guard) => {
                guard_run::refuses(guard.fd().expect("loaded").as_fd(), lookup)
            }
            _ => panic!("{program} is no socket guard"),
        }
    }

    /// Nanoseconds a run of a program takes over a frame, the mean of `repeat` runs.
    pub fn nanos(&self, program: &str, frame: &[u8], repeat: u32) -> f64 {
        let (result, ..) = self.test_run(program, frame, repeat);
        result.duration.as_secs_f64() * 1e9
    }

    /// What the program answered, and its answers for a drop and a pass.
    fn test_run(&self, program: &str, frame: &[u8], repeat: u32) -> (TestRunResult, u32, u32) {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        let failed = |error| panic!("BPF_PROG_TEST_RUN over {} bytes: {error:?}", frame.len());
        match self.ebpf.program(program).expect("program") {
            Program::Xdp(program) => {
                (program.test_run(options).unwrap_or_else(failed), XDP_DROP, XDP_PASS)
            }
            Program::SchedClassifier(program) => {
                (program.test_run(options).unwrap_or_else(failed), TC_DROP, TC_NEXT)
            }
            _ => panic!("{program} does not judge frames"),
        }
    }

    /// Gives a slot to the next grant.
    pub fn reslot(&mut self, slot: u32, counted: Slot) {
        self.counted.insert(slot);
        self.slots.set(slot, counted, 0).expect("write a slot");
    }

    /// The loaded socket guard.
    pub fn guard(&self) -> &ProgramFd {
        let name = if has(PROGRAM_GUARD) { PROGRAM_GUARD } else { PROGRAM_GUARD_LEGACY };
        let program: &SkLookup =
            self.ebpf.program(name).expect("program").try_into().expect("a socket guard");
        program.fd().expect("a loaded program")
    }

    /// The XDP program without multi-buffer support.
    pub fn xdp(&self) -> &ProgramFd {
        let program: &Xdp =
            self.ebpf.program(PROGRAM_XDP).expect("program").try_into().expect("an XDP program");
        program.fd().expect("a loaded program")
    }

    /// Forgets the connections that were counted a short time ago, so that they count again.
    pub fn forget_counted(&mut self) {
        let keys: Vec<_> = self.last_counted.keys().collect::<Result<_, _>>().expect("read keys");
        for key in keys {
            self.last_counted.remove(&key).expect("forget what was counted");
        }
        self.change_last_here(|last| *last = LastHere::default());
    }

    /// Changes what each CPU remembers of the flow that it was last asked about.
    fn change_last_here(&mut self, change: impl Fn(&mut LastHere)) {
        let values = self.last_here.get(&0, 0).expect("read it");
        let mut values: Vec<_> = values.iter().copied().collect();
        values.iter_mut().for_each(change);
        let values = PerCpuValues::try_from(values).expect("as many values as CPUs");
        self.last_here.set(0, values, 0).expect("write it back");
    }

    /// Makes every count older by this number of nanoseconds.
    pub fn age_counted(&mut self, nanos: u64) {
        let counted: Vec<_> = self.last_counted.iter().collect::<Result<_, _>>().expect("read it");
        for (key, last) in counted {
            let last = LastCounted { time: last.time.wrapping_sub(nanos), ..last };
            self.last_counted.insert(key, last, 0).expect("write it back");
        }
        self.change_last_here(|last| {
            last.counted.time = last.counted.time.wrapping_sub(nanos);
        });
    }

    /// Runs a program over a frame and returns the reason for its answer.
    pub fn run(&self, program: &str, frame: &[u8]) -> Outcome {
        let before = self.counters();
        let dropped = self.drops(program, frame);
        let moved = difference(&before, &self.counters());
        let reasons: Vec<Reason> = Reason::ALL
            .into_iter()
            .filter(|reason| moved.get(Counter::Reason(*reason).index() as usize) == Some(&1))
            .collect();
        let [reason] = reasons[..] else {
            panic!("one packet moved the counters of {reasons:?}: {moved:?}");
        };
        let observed = moved.get(Counter::Observed.index() as usize) == Some(&1);
        Outcome { reason, dropped, observed }
    }

    /// The counters, summed over CPUs.
    pub fn counters(&self) -> Counters {
        let mut sums = [0; COUNTERS as usize];
        for (index, sum) in (0..).zip(&mut sums) {
            let values = self.counters.get(&index, 0).expect("read a counter");
            *sum = values.iter().sum();
        }
        sums
    }

    /// The counters of one protected port, summed over CPUs.
    pub fn port_counters(&self, port: PortKey) -> PortCounters {
        let mut sum = PortCounters::default();
        let values = match self.filled.get(&port).expect("a protected port") {
            0 => self.port_counters.get(&port.index(), 0),
            place => self.first_ports.get(place, 0),
        };
        let values = values.expect("counters of a protected port");
        for value in values.iter() {
            for (total, packets) in sum.packets.iter_mut().zip(value.packets) {
                *total += packets;
            }
            sum.observed += value.observed;
        }
        sum
    }

    /// Connections let in under the grants of this slot.
    pub fn hits(&self, slot: u32) -> u64 {
        self.slots.get(&slot, 0).expect("a slot below the capacity").hits
    }

    /// Takes all events out of the ring buffer.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(record) = self.events.next() {
            events.push(Event::from_bytes(&record).expect("a whole event"));
        }
        events
    }

    /// Attaches a program by bpf_link to an interface of the calling thread's network namespace.
    /// The gate is in force until the returned link is dropped.
    pub fn attach(&mut self, program: &str, interface: u32, mode: XdpMode) -> FdLink {
        let program = xdp(&mut self.ebpf, program);
        // The driver frees the resources of a detached program a moment later (RCU).
        let mut attempts = 0;
        let id = loop {
            match program.attach_to_if_index(interface, mode) {
                Ok(id) => break id,
                Err(_) if attempts < 20 => {
                    attempts += 1;
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("attach to interface {interface}: {error:?}"),
            }
        };
        let link = program.take_link(id).expect("just attached");
        let link = FdLink::try_from(link).expect("a bpf_link, not a netlink attachment");
        let kind = link.info().expect("link info").link_type().expect("link type");
        assert!(matches!(kind, LinkType::Xdp), "{kind:?}");
        link
    }

    /// Attaches the TC program for devices with an Ethernet header to the ingress of an interface
    /// of the calling thread's network namespace: by bpf_link, or by netlink where the kernel lacks
    /// that. It is in force until what is returned is dropped.
    pub fn attach_tc(&mut self, interface: &str) -> Box<dyn Any + Send> {
        let by_netlink = lacks::kernel_lacks(lacks::TCX);
        if by_netlink {
            tc::qdisc_add_clsact(interface).expect("a clsact qdisc");
        }
        let program = self.ebpf.program_mut(PROGRAM_TC).expect("the TC program");
        let Program::SchedClassifier(program) = program else {
            panic!("{PROGRAM_TC} is no classifier");
        };
        let id = program
            .attach(interface, TcAttachType::Ingress)
            .unwrap_or_else(|error| panic!("attach to {interface}: {error:?}"));
        let link = program.take_link(id).expect("just attached");
        if by_netlink {
            return Box::new(link);
        }
        Box::new(FdLink::try_from(link).expect("a bpf_link, not a netlink attachment"))
    }

    /// Attaches a socket guard to the calling thread's network namespace. `program` is one of
    /// [`guards`].
    pub fn attach_guard(&mut self, program: &str) -> FdLink {
        let guard = self.ebpf.program_mut(program).expect("the guard");
        let Program::SkLookup(guard) = guard else { panic!("{program} is no socket guard") };
        let here = File::open("/proc/thread-self/ns/net").expect("this network namespace");
        let id = guard.attach(here).unwrap_or_else(|error| panic!("attach {program}: {error:?}"));
        guard.take_link(id).expect("just attached").into()
    }

    /// Number of instructions that the kernel's verifier processed to accept a program. `None`: the
    /// kernel does not say (before 5.16).
    pub fn verified_instructions(&self, program: &str) -> Option<u32> {
        self.info(program).verified_instruction_count()
    }

    /// What the kernel says about a program.
    pub fn info(&self, program: &str) -> ProgramInfo {
        let info = match self.ebpf.program(program).expect("program") {
            Program::Xdp(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            Program::SkLookup(program) => program.info(),
            _ => panic!("an unknown kind of program"),
        };
        info.expect("program info")
    }

    /// Puts everything into the state after loading.
    fn reset(&mut self) {
        fn zero<T: aya::Pod + Default>(map: &mut PerCpuArray<MapData, T>) {
            for index in 0..map.len() {
                let nothing = std::iter::repeat_with(T::default).take(cpus()).collect::<Vec<_>>();
                let nothing = PerCpuValues::try_from(nothing).expect("as many values as CPUs");
                map.set(index, nothing, 0).expect("clear an entry");
            }
        }
        self.clear();
        for slot in std::mem::take(&mut self.counted).range(..CAPACITY) {
            self.slots.set(*slot, Slot::default(), 0).expect("clear a slot");
        }
        self.set(Settings::default());
        zero(&mut self.budget);
        zero(&mut self.counters);
        self.forget_counted();
        while self.events.next().is_some() {}
    }
}

/// The difference between `after` and `before`.
pub fn difference(before: &Counters, after: &Counters) -> Counters {
    let mut moved = *after;
    for (after, before) in moved.iter_mut().zip(before) {
        *after -= before;
    }
    moved
}

/// CLOCK_BOOTTIME in nanoseconds: the clock of deadlines.
pub fn boot_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("not before boot");
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("not negative")
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("program {name}"));
    program.try_into().expect("an XDP program")
}

fn cpus() -> usize {
    nr_cpus().expect("read the number of possible CPUs")
}

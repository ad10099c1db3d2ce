//! The maps, and the decision's view of them. `record` writes the counters and events.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    cty::c_void,
    helpers::{
        bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key,
    },
};
use jit_common::{
    Admission, Budget, COUNTERS as COUNTER_COUNT, ConnectionKey, EventKind,
    FIRST_PORTS as FIRST_PORTS_ENTRIES, Family, Flow, GrantEntry, Handshake, HostKey, InUse,
    LAST_COUNTED as LAST_COUNTED_ENTRIES, LastCounted, LastHere, Lookup, NO_PREALLOC,
    OPENED_HERE as OPENED_HERE_ENTRIES, PROTECTED_WORDS, Place, PlaceKey, PortCounters, PortKey,
    PortRule, PrefixV4, PrefixV6, Protocol, RING_BYTES, RULE_SLOTS, Segment, Session, Settings,
    Slot, SummarySize, TRANSLATED as TRANSLATED_ENTRIES, Tables,
};

const BPF_NOEXIST: u64 = 1;
/// Number of places that are tried for a connection of a grant with a limit: other CPUs may have
/// taken places without having counted them yet. A connection that finds no place is denied; its
/// SYN is sent again.
const ATTEMPTS: u32 = 4;
/// States of the kernel's `net/tcp_states.h`. A connected UDP socket has that of an established
/// connection.
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_LISTEN: u32 = 10;
const TCP_NEW_SYN_RECV: u32 = 12;
/// No state of a socket: there is none.
const NO_SOCKET: u32 = u32::MAX;

#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
pub(crate) static EVENT_BUDGET: PerCpuArray<Budget> =
    PerCpuArray::with_max_entries(EventKind::COUNT, 0);
// The agent sets the sizes of these at load, from its configuration.
#[map]
static CONNECTIONS: HashMap<ConnectionKey, Handshake> =
    HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static HOST_GRANTS: HashMap<HostKey, GrantEntry> = HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static QUESTION: PerCpuArray<Question> = PerCpuArray::with_max_entries(1, 0);
/// Scratch for one key: it does not fit on the 512-byte stack.
#[map]
static CONNECTION_KEY: PerCpuArray<ConnectionKey> = PerCpuArray::with_max_entries(1, 0);
/// The flow that this CPU was last asked about, of grants without a limit.
#[map]
pub(crate) static LAST_HERE: PerCpuArray<LastHere> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static LAST_COUNTED: LruHashMap<ConnectionKey, LastCounted> =
    LruHashMap::with_max_entries(LAST_COUNTED_ENTRIES, 0);
/// Scratch for one key, for the same reason.
#[map]
static FLOW: PerCpuArray<Flow> = PerCpuArray::with_max_entries(1, 0);
#[map]
static OPENED_HERE: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(OPENED_HERE_ENTRIES, 0);
#[map]
static PLACES: HashMap<PlaceKey, Flow> = HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static IN_USE: Array<u32> = Array::with_max_entries(InUse::COUNT, 0);
#[map]
pub(crate) static FIRST_PORTS: PerCpuArray<PortCounters> =
    PerCpuArray::with_max_entries(FIRST_PORTS_ENTRIES, 0);
#[map]
pub(crate) static PORT_COUNTERS: PerCpuHashMap<u32, PortCounters> =
    PerCpuHashMap::with_max_entries(RULE_SLOTS, NO_PREALLOC);
#[map]
pub(crate) static PORT_RULES: Array<PortRule> = Array::with_max_entries(RULE_SLOTS, 0);
#[map]
static PREFIX_V4: LpmTrie<PrefixV4, GrantEntry> = LpmTrie::with_max_entries(1024, NO_PREALLOC);
#[map]
static PREFIX_V6: LpmTrie<PrefixV6, GrantEntry> = LpmTrie::with_max_entries(1024, NO_PREALLOC);
#[map]
static PROTECTED: Array<u64> = Array::with_max_entries(PROTECTED_WORDS, 0);
#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SLOTS: Array<Slot> = Array::with_max_entries(1024, 0);
#[map]
static SUMMARY: Array<u64> = Array::with_max_entries(1, 0);
/// Lengths of the two parts of [`SUMMARY`] in words. The agent sets them together with the table's.
#[unsafe(no_mangle)]
static SUMMARY_HOSTS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static SUMMARY_PREFIXES: Global<u32> = Global::new(1);
/// This CPU's last time, and the tick in which it was asked for.
#[map]
static LATELY: PerCpuArray<Lately> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TRANSLATED: HashMap<Flow, Flow> = HashMap::with_max_entries(TRANSLATED_ENTRIES, NO_PREALLOC);

/// The question for a session that this CPU asks the kernel.
///
/// Where there is no session the kernel goes on to the listening sockets and runs the socket guard
/// for that, inside the call. The guard must not count it, nor take a place: nothing has been let
/// in. So the packet gate leaves the ports of its question here. The guard compares them with those
/// of the look-up and answers that nobody listens, which to the packet gate is the same as a
/// listener.
///
/// A guard run for another packet may come in between: where the packet gate runs in a process's
/// context (a test run), or under PREEMPT_RT. That run takes the question for its own only if its
/// packet has the same ports, and then refuses: the peer hears RST. Nothing is let in by mistake.
#[repr(C)]
struct Question {
    /// [`ports_asked`]; zero: nothing is asked.
    ports: u64,
    /// A `bpf_sock_tuple`.
    tuple: [u32; 9],
    /// The answer on its way through memory: [`Question::answer_with`].
    answer: u32,
}

/// A time, and the tick in which it was asked for.
#[repr(C)]
struct Lately {
    tick: u64,
    time: u64,
}

/// CLOCK_BOOTTIME in nanoseconds.
#[inline(always)]
pub(crate) fn boot_nanos() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The kernel's ticks (`jiffies`), which stand still in suspend. The kernel puts the load of the
/// variable in the place of the call.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}

/// The kernel's implementation of the decision's questions.
pub(crate) struct KernelTables {
    ctx: *mut c_void,
}

impl KernelTables {
    /// The tables as seen by this invocation.
    #[inline(always)]
    pub(crate) fn new(ctx: &impl EbpfContext) -> Self {
        Self { ctx: ctx.as_ptr() }
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn protected(&self, port: PortKey) -> bool {
        let (word, bit) = port.word_and_bit();
        PROTECTED.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn rule(&self, port: PortKey) -> PortRule {
        PORT_RULES.get(port.index()).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn summarized(&self, place: Place) -> bool {
        let size = SummarySize { hosts: SUMMARY_HOSTS.load(), prefixes: SUMMARY_PREFIXES.load() };
        let (word, bit) = place.word_and_bit(size);
        // What cannot be read says nothing.
        SUMMARY.get(word).is_none_or(|bits| bits & bit != 0)
    }

    /// Asks the clock once in a tick (1 to 10 ms).
    #[inline(always)]
    fn lately(&self) -> Option<u64> {
        let lately = LATELY.get_ptr_mut(0)?;
        let tick = ticks();
        // SAFETY: a valid, aligned pointer to this CPU's own memory. The time is written before its
        // tick: a run for another packet in between finds the older tick, and asks the clock.
        unsafe {
            if (&raw const (*lately).tick).read_volatile() != tick {
                (&raw mut (*lately).time).write_volatile(boot_nanos());
                (&raw mut (*lately).tick).write_volatile(tick);
            }
            Some((&raw const (*lately).time).read_volatile())
        }
    }

    #[inline(always)]
    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
        // SAFETY: entries are replaced whole, never changed in place, and the memory of one that is
        // removed meanwhile stays mapped until the program ends (RCU).
        unsafe { HOST_GRANTS.get(key) }
    }

    #[inline(always)]
    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry> {
        PREFIX_V4.get(Key::new(PrefixV4::HEAD_BITS + 32, data))
    }

    #[inline(always)]
    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry> {
        PREFIX_V6.get(Key::new(PrefixV6::HEAD_BITS + 128, data))
    }

    /// Most segments find their session at once. Only what would be dropped is asked about twice.
    #[inline(always)]
    fn session(&self, segment: &Segment) -> Session {
        let Some(question) = QUESTION.get_ptr_mut(0) else {
            return Session::None;
        };
        // SAFETY: a valid, aligned pointer to this CPU's own memory.
        let question = unsafe { &mut *question };
        let Segment { source, destination, source_port, port, .. } = segment;
        let bytes = match source.family {
            Family::V4 => {
                let ([source, ..], [destination, ..]) = (source.words, destination.words);
                question.fill(([source], [destination]), *source_port, port.port)
            }
            Family::V6 => question.fill((source.words, destination.words), *source_port, port.port),
        };
        if matches!(port.protocol, Protocol::Udp) {
            // SAFETY: the question has this number of bytes.
            return unsafe { self.ask_udp(question, bytes, ports_asked(*source_port, *port)) };
        }
        // SAFETY: the question has this number of bytes.
        let state = unsafe { self.ask_tcp(question, bytes, ports_asked(*source_port, *port)) };
        if is_none(state) {
            self.ask_translated(question, segment);
        } else if state == TCP_SYN_SENT
            && let Some(flow) = flow_of(segment)
        {
            use_table(InUse::OpenedHere);
            // If the table has no room, the connection counts as the peer's.
            let _ = OPENED_HERE.insert(flow, boot_nanos(), 0);
        }
        if is_none(question.answer()) { Session::None } else { Session::Established }
    }

    #[inline(always)]
    fn opened_here(&self, segment: &Segment) -> bool {
        flow_of(segment).is_some_and(|flow| OPENED_HERE.get_ptr(&*flow).is_some())
    }

    #[inline(always)]
    fn translates_sources(&self) -> bool {
        SETTINGS.get(0).is_some_and(|settings| settings.translates_sources != 0)
    }

    #[inline(always)]
    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission {
        let Some(connection) = Connection::of(slot, segment) else {
            return Admission::Refused;
        };
        if let Some(handshake) = connection.handshake() {
            if !segment.opens {
                *handshake = handshake.answered();
                return Admission::Known;
            }
            if handshake.repeats(segment.sequence) {
                return Admission::Known;
            }
        }
        if !segment.opens {
            return Admission::Refused;
        }
        connection.take_place(Handshake::of_syn(segment.sequence))
    }

    #[inline(always)]
    fn admit_lookup(&self, slot: u32, segment: &Segment, fresh: bool) -> Admission {
        let Some(connection) = Connection::of(slot, segment) else {
            return Admission::Refused;
        };
        if fresh {
            return connection.take_place(Handshake::of_lookup());
        }
        let Some(handshake) = connection.handshake() else {
            return Admission::Refused;
        };
        let Some(more) = handshake.with_lookup() else {
            return Admission::Refused;
        };
        *handshake = more;
        Admission::Known
    }

    /// Most segments find nothing: only the first one after a handshake takes the table's lock.
    #[inline(always)]
    fn handshake_done(&self, slot: u32, segment: &Segment) {
        if let Some(connection) = Connection::of(slot, segment) {
            if connection.handshake().is_some() {
                // What is gone already is as good.
                let _ = CONNECTIONS.remove(connection.key);
            }
        }
    }
}

impl KernelTables {
    /// Asks for the session of a connection that this host translates to itself, if it does. Else the
    /// answer stays what it was.
    #[inline(always)]
    fn ask_translated(&self, question: &mut Question, segment: &Segment) {
        if !is_used(InUse::Translated) {
            return;
        }
        let Some(flow) = flow_of(segment) else {
            return;
        };
        let Some(socket) = TRANSLATED.get_ptr(&*flow) else {
            return;
        };
        // SAFETY: entries are never changed in place, and the memory of one that is removed
        // meanwhile stays mapped until the program ends (RCU).
        let socket = unsafe { &*socket };
        let (source_port, port) = (socket.source_port, socket.port);
        let bytes = match segment.source.family {
            Family::V4 => {
                let ([source, ..], [destination, ..]) = (socket.source, socket.destination);
                question.fill(([source], [destination]), source_port, port)
            }
            Family::V6 => {
                // BPF copies a whole array byte by byte.
                let ([a, b, c, d], [e, f, g, h]) = (socket.source, socket.destination);
                question.fill(([a, b, c, d], [e, f, g, h]), source_port, port)
            }
        };
        let port = PortKey { protocol: Protocol::Tcp, port };
        // SAFETY: the question has this number of bytes.
        let _state = unsafe { self.ask_tcp(question, bytes, ports_asked(source_port, port)) };
    }

    /// State of the TCP socket that the question is about, or [`NO_SOCKET`].
    ///
    /// # Safety
    /// The question's tuple is filled for this number of bytes.
    #[inline(always)]
    unsafe fn ask_tcp(&self, question: &mut Question, bytes: u32, ports: u64) -> u32 {
        let asked = &raw mut question.ports;
        let tuple = question.tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
        // SAFETY: the question is this CPU's; the verifier checks that the socket is compared with
        // null and released on every path.
        unsafe {
            asked.write_volatile(ports);
            let socket: *mut bpf_sock =
                bpf_skc_lookup_tcp(self.ctx, tuple, bytes, BPF_F_CURRENT_NETNS as u64, 0);
            asked.write_volatile(0);
            if socket.is_null() {
                question.answer_with(NO_SOCKET);
            } else {
                let state = (*socket).state;
                bpf_sk_release(socket.cast());
                question.answer_with(state);
            }
        }
        question.answer()
    }

    /// Whether a UDP socket is connected to the sender of the datagram that the question is about.
    /// One that is not connected may be a service's.
    ///
    /// # Safety
    /// As for `ask_tcp`.
    #[inline(always)]
    unsafe fn ask_udp(&self, question: &mut Question, bytes: u32, ports: u64) -> Session {
        let asked = &raw mut question.ports;
        let tuple = question.tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
        // SAFETY: as in `ask_tcp`.
        unsafe {
            asked.write_volatile(ports);
            let socket: *mut bpf_sock =
                bpf_sk_lookup_udp(self.ctx, tuple, bytes, BPF_F_CURRENT_NETNS as u64, 0);
            asked.write_volatile(0);
            if socket.is_null() {
                return Session::None;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            if state == TCP_ESTABLISHED { Session::Established } else { Session::None }
        }
    }
}

impl Question {
    /// The verifier follows a number's range through registers and the stack, but not through a
    /// map: so all that follows is verified once, whatever the answer was. Linux 5.10 gives up
    /// otherwise.
    #[inline(always)]
    fn answer_with(&mut self, answer: u32) {
        // SAFETY: a valid, aligned pointer to this CPU's own memory.
        unsafe { (&raw mut self.answer).write_volatile(answer) };
    }

    #[inline(always)]
    fn answer(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const self.answer).read_volatile() }
    }

    /// Writes the addresses of source and destination, and their ports. Returns the length, bytes.
    #[inline(always)]
    fn fill<const N: usize>(
        &mut self,
        (source, destination): ([u32; N], [u32; N]),
        source_port: u16,
        port: u16,
    ) -> u32 {
        let ports = u32::from(source_port) << 16 | u32::from(port);
        self.tuple[..N].copy_from_slice(&source);
        self.tuple[N..2 * N].copy_from_slice(&destination);
        self.tuple[2 * N] = ports.to_be();
        (8 * N + 4) as u32
    }
}

/// Whether the state is that of no session: no socket, a listening one, or a half-open request.
#[inline(always)]
const fn is_none(state: u32) -> bool {
    matches!(state, TCP_LISTEN | TCP_NEW_SYN_RECV | NO_SOCKET)
}

/// The segment's connection, as a key.
#[inline(always)]
fn flow_of(segment: &Segment) -> Option<&'static mut Flow> {
    let flow = FLOW.get_ptr_mut(0)?;
    // SAFETY: a valid, aligned pointer to this CPU's own memory, which nothing else writes to while
    // the key is in use.
    let flow = unsafe { &mut *flow };
    flow.fill(segment);
    Some(flow)
}

/// A connection that the peer opens is none that this host opened before, between the same ports.
#[inline(always)]
pub(crate) fn peer_opens(segment: &Segment) {
    if !is_used(InUse::OpenedHere) {
        return;
    }
    if let Some(flow) = flow_of(segment) {
        // Nearly always there is nothing to remove.
        let _ = OPENED_HERE.remove(flow);
    }
}

/// Whether a table may have entries.
#[inline(always)]
fn is_used(table: InUse) -> bool {
    IN_USE.get(table as u32).is_none_or(|used| *used != 0)
}

/// Notes that a table has entries from now on.
#[inline(always)]
fn use_table(table: InUse) {
    if let Some(used) = IN_USE.get_ptr_mut(table as u32) {
        // SAFETY: a valid, aligned pointer into the map. All programs write the same.
        unsafe { used.write_volatile(1) };
    }
}

/// Whether a look-up is the packet gate's own question for a session: [`Question`].
#[inline(always)]
pub(crate) fn asked_by_the_packet_gate(lookup: &Lookup) -> bool {
    let Some(question) = QUESTION.get_ptr(0) else {
        return false;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own memory.
    let asked = unsafe { (&raw const (*question).ports).read_volatile() };
    asked == ports_asked(lookup.source_port, lookup.port)
}

/// One number for both ports of a look-up. It is never zero.
#[inline(always)]
fn ports_asked(source_port: u16, port: PortKey) -> u64 {
    (port.protocol as u64) << 32 | (source_port as u64) << 16 | port.port as u64
}

/// A connection of a grant with a limit.
pub(crate) struct Connection {
    pub(crate) counted: *mut Slot,
    pub(crate) key: &'static ConnectionKey,
}

impl Connection {
    /// The segment's connection, as this slot's grant would count it.
    #[inline(always)]
    pub(crate) fn of(slot: u32, segment: &Segment) -> Option<Self> {
        let counted = SLOTS.get_ptr_mut(slot)?;
        // SAFETY: a valid pointer into the map. Limit and generation are written by the agent
        // before the entry that leads here.
        let generation = unsafe { (*counted).generation };
        let key = CONNECTION_KEY.get_ptr_mut(0)?;
        // SAFETY: a valid, aligned pointer to this CPU's own memory, which nothing else writes to
        // while the connection is in use.
        let key = unsafe { &mut *key };
        key.fill(slot, generation, segment);
        Some(Self { counted, key })
    }

    /// The connection's handshake, if it has not ended.
    #[inline(always)]
    fn handshake(&self) -> Option<&'static mut Handshake> {
        let handshake = CONNECTIONS.get_ptr_mut(self.key)?;
        // SAFETY: a value of four bytes is read and written whole, and its memory stays mapped
        // until the program ends (RCU). Two CPUs at once may lose one of two notes: it is one
        // look-up more.
        Some(unsafe { &mut *handshake })
    }

    /// Takes a place by an insertion, which fails where another CPU was faster. (An atomic counter
    /// that returns its old value needs Linux 5.12.) Gives the place back if there is no room for
    /// its handshake.
    #[inline(always)]
    fn take_place(&self, handshake: Handshake) -> Admission {
        let Self { counted, key } = *self;
        // SAFETY: as in `of`.
        let Slot { hits, limit, generation } = unsafe { *counted };
        for attempt in 0..ATTEMPTS {
            let number = hits as u32 + attempt;
            if number >= limit {
                break;
            }
            let place = PlaceKey { slot: key.slot, generation, number };
            if PLACES.insert(place, &key.flow, BPF_NOEXIST).is_ok() {
                if CONNECTIONS.insert(key, handshake, 0).is_err() {
                    let _ = PLACES.remove(place);
                    break;
                }
                // SAFETY: a valid pointer, aligned to 8 bytes; `hits` is the first field.
                unsafe { atomic_increment(counted.cast()) };
                return Admission::Fresh;
            }
        }
        Admission::Refused
    }
}

/// Adds one across CPUs (BPF_ATOMIC | BPF_ADD). `AtomicU64::fetch_add` does not exist for this
/// target: its default CPU has no compare-and-swap.
///
/// # Safety
/// `counter` points to a readable and writable, 8-byte aligned u64 that outlives the call.
#[inline(always)]
pub(crate) unsafe fn atomic_increment(counter: *mut u64) {
    // SAFETY: the caller's promise; the verifier checks the pointer again.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1_u64) };
}

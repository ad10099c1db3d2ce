//! The maps, and the decision's view of them.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    cty::c_void,
    helpers::{bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key,
    },
};
use jit_common::{
    Budget, COUNTERS as COUNTER_COUNT, ConnectionKey, Counter, Decision, Event, EventKind, Family,
    Flow, GrantEntry, Handshake, HostKey, LAST_COUNTED as LAST_COUNTED_ENTRIES, LastCounted,
    Lookup, PROTECTED_WORDS, PlaceKey, PortCounters, PortKey, PortRule, PrefixV4, PrefixV6,
    Protocol, RULE_SLOTS, Reason, Segment, Session, Settings, Slot, Tables, Ticket,
};

const NO_PREALLOC: u32 = 1;
const BPF_NOEXIST: u64 = 1;
/// How many places of a grant with a limit are tried: others may be taken by other CPUs whose count
/// is not seen yet. Whoever finds none is denied, and sends the SYN again.
const ATTEMPTS: u32 = 4;
const SECOND: u64 = 1_000_000_000;
/// `TCP_LISTEN` and `TCP_NEW_SYN_RECV` of the kernel's `net/tcp_states.h`.
const TCP_LISTEN: u32 = 10;
const TCP_NEW_SYN_RECV: u32 = 12;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
#[map]
static EVENT_BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(EventKind::COUNT, 0);
// The agent sets the sizes of these at load, from its configuration.
#[map]
static CONNECTIONS: HashMap<ConnectionKey, Handshake> =
    HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static HOST_GRANTS: HashMap<HostKey, GrantEntry> = HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static QUESTION: PerCpuArray<Question> = PerCpuArray::with_max_entries(1, 0);
/// Room for one key, which the stack (512 bytes) has not.
#[map]
static CONNECTION_KEY: PerCpuArray<ConnectionKey> = PerCpuArray::with_max_entries(1, 0);
/// Room for one value, likewise.
#[map]
static COUNTED_NOW: PerCpuArray<LastCounted> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LAST_COUNTED: LruHashMap<ConnectionKey, LastCounted> =
    LruHashMap::with_max_entries(LAST_COUNTED_ENTRIES, 0);
#[map]
static PLACES: HashMap<PlaceKey, Flow> = HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static PORT_COUNTERS: PerCpuHashMap<u32, PortCounters> =
    PerCpuHashMap::with_max_entries(RULE_SLOTS, NO_PREALLOC);
#[map]
static PORT_RULES: Array<PortRule> = Array::with_max_entries(RULE_SLOTS, 0);
#[map]
static PREFIX_V4: LpmTrie<PrefixV4, GrantEntry> = LpmTrie::with_max_entries(1024, NO_PREALLOC);
#[map]
static PREFIX_V6: LpmTrie<PrefixV6, GrantEntry> = LpmTrie::with_max_entries(1024, NO_PREALLOC);
#[map]
static PROTECTED: Array<u64> = Array::with_max_entries(PROTECTED_WORDS, 0);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1024, 0);

/// What this CPU asks the kernel for a session by.
///
/// Where there is no session the kernel goes on to the listening sockets and runs the socket guard
/// for that, inside the call. The guard must not count it, nor take a place: nothing has been let in.
/// So it is told that it is asked by the packet gate, and by whose ports, and answers that nobody
/// listens, which to the packet gate is the same as a listener.
///
/// A guard run for another packet may come in between: where the packet gate runs in a process's
/// context (a test run), or under PREEMPT_RT. It takes itself for asked only if that packet has the same
/// ports, and then refuses: the peer hears RST. Nothing is let in by mistake.
#[repr(C)]
struct Question {
    /// [`ports_asked`]; zero: nothing is asked.
    ports: u64,
    /// A `bpf_sock_tuple`.
    tuple: [u8; 36],
    reserved: [u8; 4],
}

/// CLOCK_BOOTTIME in nanoseconds.
#[inline(always)]
pub(crate) fn boot_nanos() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
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

    #[inline(always)]
    fn session(&self, segment: &Segment) -> Session {
        let Some(question) = QUESTION.get_ptr_mut(0) else {
            return Session::None;
        };
        // SAFETY: a valid, aligned pointer to this CPU's own memory.
        let tuple = unsafe { &mut (*question).tuple };
        let sport = segment.source_port.to_be_bytes();
        let dport = segment.port.port.to_be_bytes();
        let bytes: u32 = match segment.source.family {
            Family::V4 => {
                tuple[0..4].copy_from_slice(&segment.source.first_four());
                tuple[4..8].copy_from_slice(&segment.destination.first_four());
                tuple[8..10].copy_from_slice(&sport);
                tuple[10..12].copy_from_slice(&dport);
                12
            }
            Family::V6 => {
                tuple[0..16].copy_from_slice(&segment.source.bytes);
                tuple[16..32].copy_from_slice(&segment.destination.bytes);
                tuple[32..34].copy_from_slice(&sport);
                tuple[34..36].copy_from_slice(&dport);
                36
            }
        };
        // SAFETY: the question is this CPU's, its tuple as long as `bytes` says; the verifier checks
        // that the socket is compared with null and released on every path.
        unsafe {
            let asked = &raw mut (*question).ports;
            asked.write_volatile(ports_asked(segment.source_port, segment.port));
            let socket: *mut bpf_sock = bpf_skc_lookup_tcp(
                self.ctx,
                tuple.as_mut_ptr().cast::<bpf_sock_tuple>(),
                bytes,
                BPF_F_CURRENT_NETNS as u64,
                0,
            );
            asked.write_volatile(0);
            if socket.is_null() {
                return Session::None;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            match state {
                TCP_LISTEN | TCP_NEW_SYN_RECV => Session::None,
                _ => Session::Established,
            }
        }
    }

    #[inline(always)]
    fn ticket(&self, slot: u32, segment: &Segment) -> Ticket {
        let Some(connection) = Connection::of(slot, segment) else {
            return Ticket::Refused;
        };
        if let Some(handshake) = connection.handshake() {
            if !segment.opens {
                *handshake = handshake.answered();
                return Ticket::Known;
            }
            if handshake.repeats(segment.sequence) {
                return Ticket::Known;
            }
        }
        if !segment.opens {
            return Ticket::Refused;
        }
        connection.take(Handshake::of_syn(segment.sequence))
    }

    #[inline(always)]
    fn look(&self, slot: u32, segment: &Segment, fresh: bool) -> Ticket {
        let Some(connection) = Connection::of(slot, segment) else {
            return Ticket::Refused;
        };
        if fresh {
            return connection.take(Handshake::of_look());
        }
        let Some(handshake) = connection.handshake() else {
            return Ticket::Refused;
        };
        let Some(looked) = handshake.looked() else {
            return Ticket::Refused;
        };
        *handshake = looked;
        Ticket::Known
    }

    /// Most segments find nothing: only the first one behind a handshake takes the table's lock.
    #[inline(always)]
    fn settle(&self, slot: u32, segment: &Segment) {
        if let Some(connection) = Connection::of(slot, segment) {
            if connection.handshake().is_some() {
                // What is gone already is as good.
                let _ = CONNECTIONS.remove(connection.key);
            }
        }
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

/// A number for both ports of a look-up, never zero.
#[inline(always)]
fn ports_asked(source_port: u16, port: PortKey) -> u64 {
    (port.protocol as u64) << 32 | (source_port as u64) << 16 | port.port as u64
}

/// A connection among those of a grant with a limit.
struct Connection {
    counted: *mut Slot,
    key: &'static ConnectionKey,
}

impl Connection {
    /// The segment's, as this slot's grant would count it.
    #[inline(always)]
    fn of(slot: u32, segment: &Segment) -> Option<Self> {
        let counted = SLOTS.get_ptr_mut(slot)?;
        // SAFETY: a valid pointer into the map. Limit and generation are written by the agent before
        // the entry that leads here.
        let generation = unsafe { (*counted).generation };
        let key = CONNECTION_KEY.get_ptr_mut(0)?;
        // SAFETY: a valid, aligned pointer to this CPU's own memory, which nothing else writes to
        // while the connection is in use.
        let key = unsafe { &mut *key };
        // Field by field: a whole key would be made on the stack first.
        key.flow.source = segment.source.bytes;
        key.flow.destination = segment.destination.bytes;
        key.flow.source_port = segment.source_port;
        key.flow.port = segment.port.port;
        key.flow.family = segment.source.family as u8;
        key.slot = slot;
        key.generation = generation;
        Some(Self { counted, key })
    }

    /// What is known of its handshake.
    #[inline(always)]
    fn handshake(&self) -> Option<&'static mut Handshake> {
        let handshake = CONNECTIONS.get_ptr_mut(self.key)?;
        // SAFETY: a value of four bytes is read and written whole, and its memory stays mapped until
        // the program ends (RCU). Two CPUs at once may lose one of two notes: it is one look-up more.
        Some(unsafe { &mut *handshake })
    }

    /// A place is taken by an insertion that fails where another CPU was faster. (An atomic counter
    /// that tells its old value needs Linux 5.12.) One that finds no room for its handshake is given
    /// back.
    #[inline(always)]
    fn take(&self, handshake: Handshake) -> Ticket {
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
                return Ticket::Fresh;
            }
        }
        Ticket::Refused
    }
}

/// Counts a decision, tells the agent about it, and says whether the packet is dropped: in observe
/// mode it is not.
#[inline(always)]
pub(crate) fn record(decision: &Decision, interface: u32) -> bool {
    let Decision { reason, segment, slot, fresh, counted } = decision;
    count(Counter::Reason(*reason));
    let Some(segment) = segment else {
        let observed = reason.drops() && gate_observes();
        if observed {
            count(Counter::Observed);
        }
        return reason.drops() && !observed;
    };
    let observed = reason.drops() && (gate_observes() || port_observes(segment.port));
    count_port(segment.port, *reason, observed);
    if reason.drops() {
        if observed {
            count(Counter::Observed);
        }
        tell(EventKind::Drop, interface, observed, *slot, *reason, segment);
    } else if *counted || *fresh && !counted_lately(segment, *slot, LastCounted::SYN, true) {
        tell(EventKind::Connection, interface, false, *slot, *reason, segment);
    }
    reason.drops() && !observed
}

/// Counts what the socket guard decided, and says whether it refuses. What observe mode lets pass
/// was counted where the packet was seen.
#[inline(always)]
pub(crate) fn record_guard(decision: &Decision, interface: u32) -> bool {
    let Decision { reason, segment, slot, fresh, counted } = decision;
    let Some(segment) = segment else {
        return false;
    };
    if *counted || *fresh && !counted_lately(segment, *slot, LastCounted::LOOK, false) {
        tell(EventKind::Connection, interface, false, *slot, *reason, segment);
    }
    if !reason.drops() {
        return false;
    }
    count(Counter::Guard);
    if gate_observes() || port_observes(segment.port) {
        return false;
    }
    count(Counter::Reason(*reason));
    count_port(segment.port, *reason, false);
    tell(EventKind::Drop, interface, false, 0, *reason, segment);
    true
}

/// Counts what a grant without a limit lets in, unless that was done a moment ago: a SYN that is sent
/// again, or that comes by two devices of a stack (a bridge and its port), is one connection, and so
/// is its look-up; a UDP flow is told once a minute.
#[inline(always)]
fn counted_lately(segment: &Segment, slot: u32, within: u64, same_sequence: bool) -> bool {
    let Some(connection) = Connection::of(slot, segment) else {
        return false;
    };
    let Some(this) = COUNTED_NOW.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own memory.
    let this = unsafe { &mut *this };
    this.time = boot_nanos();
    this.sequence = segment.sequence;
    this.protocol = segment.port.protocol as u8;
    if let Some(last) = LAST_COUNTED.get_ptr(connection.key) {
        // SAFETY: a valid, aligned pointer into the map. Should the entry become another's meanwhile,
        // one connection is told twice or not at all.
        let last = unsafe { &*last };
        let datagram = this.protocol == Protocol::Udp as u8;
        let within = if datagram { LastCounted::DATAGRAM } else { within };
        if last.protocol == this.protocol
            && this.time.wrapping_sub(last.time) < within
            && (!same_sequence || last.sequence == this.sequence)
        {
            return true;
        }
    }
    // Where it finds no room it is told again.
    let _ = LAST_COUNTED.insert(connection.key, &*this, 0);
    // SAFETY: a valid pointer into the map, aligned to 8 bytes; `hits` is the first field.
    unsafe { atomic_increment(connection.counted.cast()) };
    false
}

#[inline(always)]
fn settings() -> Settings {
    SETTINGS.get(0).copied().unwrap_or_default()
}

#[inline(always)]
fn gate_observes() -> bool {
    settings().observe != 0
}

#[inline(always)]
fn port_observes(port: PortKey) -> bool {
    PORT_RULES.get(port.index()).is_some_and(|rule| rule.observe != 0)
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(packets) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: a valid, aligned pointer to this CPU's own counter.
        unsafe { *packets += 1 };
    }
}

#[inline(always)]
fn count_port(port: PortKey, reason: Reason, observed: bool) {
    let Some(counters) = PORT_COUNTERS.get_ptr_mut(port.index()) else {
        return;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own counters.
    let counters = unsafe { &mut *counters };
    if let Some(packets) = counters.packets.get_mut(reason as usize) {
        *packets += 1;
    }
    if observed {
        counters.observed += 1;
    }
}

/// Sends an event if this second's budget allows it. The packet's fate is settled before: no drop
/// depends on an event being delivered.
#[inline(always)]
fn tell(
    kind: EventKind,
    interface: u32,
    observed: bool,
    slot: u32,
    reason: Reason,
    segment: &Segment,
) {
    let now = boot_nanos();
    let Settings { drop_events, grant_events, .. } = settings();
    let allowed = match kind {
        EventKind::Drop => drop_events,
        EventKind::Connection => grant_events,
    };
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(kind as u32) else {
        return;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own budget.
    let budget = unsafe { &mut *budget };
    if now.wrapping_sub(budget.window) >= SECOND {
        *budget = Budget { window: now, used: 0 };
    }
    if budget.used >= u64::from(allowed) {
        untold(kind);
        return count(Counter::EventsSuppressed);
    }
    budget.used += 1;
    match EVENTS.reserve::<Event>(0) {
        Some(mut event) => {
            event.write(Event::new(now, interface, observed, slot, reason, segment));
            event.submit(0);
        }
        None => {
            untold(kind);
            count(Counter::EventsLost);
        }
    }
}

/// What is dropped is counted elsewhere; a connection that was let in must not go unnoticed.
#[inline(always)]
fn untold(kind: EventKind) {
    if matches!(kind, EventKind::Connection) {
        count(Counter::Untold);
    }
}

/// Adds one across CPUs (BPF_ATOMIC | BPF_ADD). `AtomicU64::fetch_add` does not exist for this
/// target: its default CPU has no compare-and-swap.
///
/// # Safety
/// `counter` points to a readable and writable, 8-byte aligned u64 that outlives the call.
#[inline(always)]
unsafe fn atomic_increment(counter: *mut u64) {
    // SAFETY: the caller's promise; the verifier checks the pointer again.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1_u64) };
}

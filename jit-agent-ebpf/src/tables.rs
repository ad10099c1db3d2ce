//! The maps, and the decision's view of them.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    cty::c_void,
    helpers::{bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key},
};
use jit_common::{
    Budget, COUNTERS as COUNTER_COUNT, ConnectionKey, Counter, Decision, Event, EventKind, Family,
    Flow, GrantEntry, HostKey, LastCounted, PROTECTED_WORDS, PlaceKey, PortCounters, PortKey,
    PortRule, PrefixV4, PrefixV6, RULE_SLOTS, Reason, Segment, Session, Settings, Slot, Tables,
    Ticket,
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
static CONNECTIONS: HashMap<ConnectionKey, u32> = HashMap::with_max_entries(1024, NO_PREALLOC);
#[map]
static HOST_GRANTS: HashMap<HostKey, GrantEntry> = HashMap::with_max_entries(1024, NO_PREALLOC);
/// Room for a `bpf_sock_tuple`, and for one key, which the stack (512 bytes) has not.
#[map]
static TUPLE: PerCpuArray<[u8; 36]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static CONNECTION_KEY: PerCpuArray<ConnectionKey> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LAST_COUNTED: PerCpuArray<LastCounted> = PerCpuArray::with_max_entries(1, 0);
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
        let Some(tuple) = TUPLE.get_ptr_mut(0) else {
            return Session::None;
        };
        // SAFETY: a valid pointer to this CPU's own memory.
        let tuple = unsafe { &mut *tuple };
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
        // SAFETY: the tuple is on the stack and as long as `bytes` says; the verifier checks that
        // the socket is compared with null and released on every path.
        unsafe {
            let socket: *mut bpf_sock = bpf_skc_lookup_tcp(
                self.ctx,
                tuple.as_mut_ptr().cast::<bpf_sock_tuple>(),
                bytes,
                BPF_F_CURRENT_NETNS as u64,
                0,
            );
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

    /// A place is taken by an insertion that fails where another CPU was faster. (An atomic counter
    /// that tells its old value needs Linux 5.12.)
    #[inline(always)]
    fn ticket(&self, slot: u32, segment: &Segment) -> Ticket {
        let Some(counted) = SLOTS.get_ptr_mut(slot) else {
            return Ticket::Refused;
        };
        // SAFETY: a valid pointer into the map. Limit and generation are written by the agent before
        // the entry that leads here.
        let Slot { hits, limit, generation } = unsafe { *counted };
        let Some(key) = CONNECTION_KEY.get_ptr_mut(0) else {
            return Ticket::Refused;
        };
        // SAFETY: a valid, aligned pointer to this CPU's own memory.
        let key = unsafe { &mut *key };
        *key = ConnectionKey { flow: Flow::of(segment), slot, generation };
        // SAFETY: a value of four bytes is read whole.
        if let Some(sequence) = unsafe { CONNECTIONS.get(&*key) } {
            if !segment.opens || *sequence == segment.sequence {
                return Ticket::Known;
            }
        }
        if !segment.opens {
            return Ticket::Refused;
        }
        for attempt in 0..ATTEMPTS {
            let number = hits as u32 + attempt;
            if number >= limit {
                break;
            }
            let place = PlaceKey { slot, generation, number };
            if PLACES.insert(place, &key.flow, BPF_NOEXIST).is_ok() {
                // SAFETY: a valid pointer, aligned to 8 bytes; `hits` is the first field.
                unsafe { atomic_increment(counted.cast()) };
                let kept = CONNECTIONS.insert(&*key, segment.sequence, 0).is_ok();
                return if kept { Ticket::Fresh } else { Ticket::Refused };
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
    } else if *counted {
        tell(EventKind::Connection, interface, false, *slot, *reason, segment);
    } else if *fresh && !counted_just_now(segment, *slot) {
        if let Some(counted) = SLOTS.get_ptr_mut(*slot) {
            // SAFETY: a valid pointer into the map, aligned to 8 bytes; `hits` is the first field.
            unsafe { atomic_increment(counted.cast()) };
        }
        tell(EventKind::Connection, interface, false, *slot, *reason, segment);
    }
    reason.drops() && !observed
}

/// Counts what the socket guard decided, and says whether it refuses. What observe mode lets pass,
/// and what a grant without a limit lets in, was counted where the packet was seen.
#[inline(always)]
pub(crate) fn record_guard(decision: &Decision, interface: u32) -> bool {
    let Decision { reason, segment, slot, counted, .. } = decision;
    let Some(segment) = segment else {
        return false;
    };
    if *counted {
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

/// Whether this CPU counted the same SYN last: one that is sent again, or that comes by two devices
/// of a stack (a bridge and its port), is one connection.
#[inline(always)]
fn counted_just_now(segment: &Segment, slot: u32) -> bool {
    let Some(last) = LAST_COUNTED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own memory.
    let last = unsafe { &mut *last };
    if last.slot == slot && last.sequence == segment.sequence && last.flow.owns(segment) {
        return true;
    }
    last.flow = Flow::of(segment);
    last.slot = slot;
    last.sequence = segment.sequence;
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
        return count(Counter::EventsSuppressed);
    }
    budget.used += 1;
    match EVENTS.reserve::<Event>(0) {
        Some(mut event) => {
            event.write(Event::new(now, interface, observed, slot, reason, segment));
            event.submit(0);
        }
        None => count(Counter::EventsLost),
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

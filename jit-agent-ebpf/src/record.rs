//! Records a decision: counters, and events to the agent as far as the rate limit allows. Nothing
//! here changes a decision, except observe mode.

use jit_common::{
    Counter, Decision, Event, EventKind, LastCounted, PortKey, PortRule, Protocol, Reason, Segment,
    Settings,
};

use crate::tables::{
    COUNTERS, EVENT_BUDGET, EVENTS, FIRST_PORTS, LAST_COUNTED, LAST_HERE, PORT_COUNTERS,
    PORT_RULES, SETTINGS, SLOTS, atomic_increment, boot_nanos, peer_opens, ticks,
};

const SECOND: u64 = 1_000_000_000;

/// Counts a decision, reports it to the agent, and returns whether the packet is dropped. Observe
/// mode drops nothing.
#[inline(always)]
pub(crate) fn record(decision: &Decision, interface: u32) -> bool {
    let Decision { reason, segment, slot, fresh, counted, time } = decision;
    count(Counter::Reason(*reason));
    let Some(segment) = segment else {
        let observed = reason.drops() && observes(None, *time);
        if observed {
            count(Counter::Observed);
        }
        return reason.drops() && !observed;
    };
    let rule = rule(segment.port);
    let observed = reason.drops() && observes(Some(&rule), *time);
    count_port(segment.port, rule, *reason, observed);
    if segment.opens && (observed || !reason.drops()) {
        peer_opens(segment);
    }
    if reason.drops() {
        if observed {
            count(Counter::Observed);
        }
        report(EventKind::Drop, interface, observed, *slot, *reason, segment, *time);
    } else if *counted || *fresh && !counted_lately(segment, *slot, LastCounted::SYN, true, *time) {
        report(EventKind::Connection, interface, false, *slot, *reason, segment, *time);
    }
    reason.drops() && !observed
}

/// Counts the socket guard's decision, and returns whether the look-up is refused. In observe mode
/// the packet gate has already counted the packet.
#[inline(always)]
pub(crate) fn record_guard(decision: &Decision, interface: u32) -> bool {
    let Decision { reason, segment, slot, fresh, counted, time } = decision;
    let Some(segment) = segment else {
        return false;
    };
    if *counted || *fresh && !counted_lately(segment, *slot, LastCounted::LOOKUP, false, *time) {
        report(EventKind::Connection, interface, false, *slot, *reason, segment, *time);
    }
    if !reason.drops() {
        return false;
    }
    count(Counter::Guard);
    let rule = rule(segment.port);
    if observes(Some(&rule), *time) {
        return false;
    }
    count(Counter::Reason(*reason));
    count_port(segment.port, rule, *reason, false);
    report(EventKind::Drop, interface, false, 0, *reason, segment, *time);
    true
}

/// Counts a connection that a grant without a limit lets in, unless it was counted a moment ago. A
/// SYN that is sent again, or that comes by two devices of a stack (a bridge and its port), is one
/// connection, together with its look-up. A UDP flow is reported once a minute.
///
/// What this CPU was last asked about is compared first: datagrams of a flow, and a SYN by the next
/// device of a stack, mostly come to the same CPU.
#[inline(always)]
fn counted_lately(
    segment: &Segment,
    slot: u32,
    within: u64,
    same_sequence: bool,
    time: u64,
) -> bool {
    let (Some(counted), Some(here)) = (SLOTS.get_ptr_mut(slot), LAST_HERE.get_ptr_mut(0)) else {
        return false;
    };
    // SAFETY: a valid, aligned pointer to this CPU's own memory.
    let here = unsafe { &mut *here };
    // SAFETY: a valid pointer into the map. The agent writes the generation before the entry that
    // leads here.
    let generation = unsafe { (*counted).generation };
    let protocol = segment.port.protocol;
    let within = if matches!(protocol, Protocol::Udp) { LastCounted::DATAGRAM } else { within };
    let is_this = |last: &LastCounted| {
        last.protocol == protocol as u8
            && time.wrapping_sub(last.time) < within
            && (!same_sequence || last.sequence == segment.sequence)
    };
    if here.key.slot == slot
        && here.key.generation == generation
        && is_this(&here.counted)
        && here.key.flow.owns(segment)
    {
        return true;
    }
    here.key.fill(slot, generation, segment);
    here.counted.sequence = segment.sequence;
    here.counted.protocol = protocol as u8;
    if let Some(last) = LAST_COUNTED.get_ptr(&here.key) {
        // SAFETY: a valid, aligned pointer into the map. Should the entry become another's
        // meanwhile, one connection is reported twice or not at all.
        let last = unsafe { &*last };
        if is_this(last) {
            here.counted.time = last.time;
            return true;
        }
    }
    here.counted.time = time;
    // If the table has no room, the connection is reported again.
    let _ = LAST_COUNTED.insert(&here.key, &here.counted, 0);
    // SAFETY: a valid pointer into the map, aligned to 8 bytes; `hits` is the first field.
    unsafe { atomic_increment(counted.cast()) };
    false
}

#[inline(always)]
fn settings() -> Settings {
    SETTINGS.get(0).copied().unwrap_or_default()
}

/// Whether a packet that would be dropped passes.
#[inline(always)]
fn observes(rule: Option<&PortRule>, time: u64) -> bool {
    match SETTINGS.get(0) {
        Some(settings) => settings.observes(rule, || at(time)),
        None => false,
    }
}

/// The time that the decision asked for, or that of now.
#[inline(always)]
fn at(time: u64) -> u64 {
    if time == 0 { boot_nanos() } else { time }
}

#[inline(always)]
fn rule(port: PortKey) -> PortRule {
    PORT_RULES.get(port.index()).copied().unwrap_or_default()
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(packets) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: a valid, aligned pointer to this CPU's own counter.
        unsafe { *packets += 1 };
    }
}

#[inline(always)]
fn count_port(port: PortKey, rule: PortRule, reason: Reason, observed: bool) {
    let counters = if rule.counters != 0 {
        FIRST_PORTS.get_ptr_mut(rule.counters)
    } else {
        PORT_COUNTERS.get_ptr_mut(port.index())
    };
    let Some(counters) = counters else {
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

/// Sends an event if this second's budget allows it. The decision about the packet is made before:
/// no drop depends on the event.
#[inline(always)]
fn report(
    kind: EventKind,
    interface: u32,
    observed: bool,
    slot: u32,
    reason: Reason,
    segment: &Segment,
    time: u64,
) {
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
    let tick = ticks();
    let full = budget.used >= u64::from(allowed);
    if full && budget.tick == tick {
        count_unreported(kind);
        return count(Counter::EventsSuppressed);
    }
    let now = at(time);
    budget.tick = tick;
    if now.wrapping_sub(budget.window) >= SECOND {
        budget.window = now;
        budget.used = 0;
    }
    if budget.used >= u64::from(allowed) {
        count_unreported(kind);
        return count(Counter::EventsSuppressed);
    }
    budget.used += 1;
    match EVENTS.reserve::<Event>(0) {
        Some(mut event) => {
            event.write(Event::new(now, interface, observed, slot, reason, segment));
            event.submit(0);
        }
        None => {
            count_unreported(kind);
            count(Counter::EventsLost);
        }
    }
}

/// Dropped packets are counted elsewhere. This counts connections that were let in without an
/// event.
#[inline(always)]
fn count_unreported(kind: EventKind) {
    if matches!(kind, EventKind::Connection) {
        count(Counter::Unreported);
    }
}

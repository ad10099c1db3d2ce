//! The kernel tables: their names, sizes and flags, and the values that belong to the whole gate.
//!
//! All structures in the tables are `repr(C)`, made of integers and byte arrays, with padding named
//! and sizes asserted; a change of any layout raises [`ABI_VERSION`], which is part of the pin
//! path. Sizes and flags stand here once, for the object that makes the tables and for the agent
//! that checks them.

use crate::PortRule;

/// Version of the layouts of all tables and of [`crate::Event`]; part of the pin path.
pub const ABI_VERSION: u32 = if cfg!(jit_next_abi) { 8 } else { 7 };

/// Map names: of the statics in the object, of the pins, and in `bpftool map`.
pub mod map {
    /// Hash [`crate::ConnectionKey`] -> [`crate::Handshake`]: connections that grants with a limit
    /// let in, until each is a session.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// Per-CPU array by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU array of [`crate::Budget`], one for each [`crate::EventKind`].
    pub const EVENT_BUDGET: &str = "EVENT_BUDGET";
    /// Hash [`crate::HostKey`] -> [`crate::GrantEntry`].
    pub const HOST_GRANTS: &str = "HOST_GRANTS";
    /// LRU hash [`crate::ConnectionKey`] -> [`crate::LastCounted`]: connections that grants without
    /// a limit have just let in.
    pub const LAST_COUNTED: &str = "LAST_COUNTED";
    /// LRU hash [`crate::Flow`] -> u64, CLOCK_BOOTTIME nanoseconds: TCP connections that this host
    /// opened from a protected port of its own, as the answers to them name them.
    pub const OPENED_HERE: &str = "OPENED_HERE";
    /// Hash [`crate::PlaceKey`] -> [`crate::Flow`]: the connections in the places of grants with a
    /// limit.
    pub const PLACES: &str = "PLACES";
    /// Per-CPU array of [`crate::PortCounters`] by [`crate::PortRule::counters`].
    pub const FIRST_PORTS: &str = "FIRST_PORTS";
    /// Array of u32 by [`crate::InUse`]: zero if a table has no entries.
    pub const IN_USE: &str = "IN_USE";
    /// Per-CPU hash [`crate::PortKey`] index -> [`crate::PortCounters`]: of ports that are not in the
    /// table of the first ports.
    pub const PORT_COUNTERS: &str = "PORT_COUNTERS";
    /// Array of [`crate::PortRule`] by [`crate::PortKey::index`].
    pub const PORT_RULES: &str = "PORT_RULES";
    /// Trie [`crate::PrefixV4`] -> [`crate::GrantEntry`].
    pub const PREFIX_GRANTS_V4: &str = "PREFIX_V4";
    /// Trie [`crate::PrefixV6`] -> [`crate::GrantEntry`].
    pub const PREFIX_GRANTS_V6: &str = "PREFIX_V6";
    /// Array of u64: a bit for each port and protocol, by [`crate::PortKey::word_and_bit`].
    pub const PROTECTED: &str = "PROTECTED";
    /// Array of one [`crate::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of [`crate::Slot`]: connections that each grant let in, and its limit.
    pub const SLOTS: &str = "SLOTS";
    /// Array of u64: a bit for each [`crate::Place`] that an entry of a grant table may have.
    pub const SUMMARY: &str = "SUMMARY";
    /// Hash [`crate::Flow`] -> [`crate::Flow`]: TCP connections that this host translates to itself
    /// (NAT): as they stand on the wire, and as their sockets have them.
    pub const TRANSLATED: &str = "TRANSLATED";
}

/// Entries in [`map::OPENED_HERE`].
pub const OPENED_HERE: u32 = 16_384;
/// Entries in [`map::TRANSLATED`].
pub const TRANSLATED: u32 = 65_536;

/// Bytes of the ring buffer of events.
pub const RING_BYTES: u32 = 256 * 1024;
/// Flag of a table whose entries get their memory when they are inserted (`BPF_F_NO_PREALLOC` of
/// `linux/bpf.h`). A trie requires it.
pub const NO_PREALLOC: u32 = 1;

/// A table that is nearly always empty: a packet is not looked up there then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InUse {
    /// [`map::TRANSLATED`].
    Translated = 0,
    /// [`map::OPENED_HERE`].
    OpenedHere = 1,
}

impl InUse {
    /// Number of such tables.
    pub const COUNT: u32 = 2;
}

/// Settings of the whole gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Not zero: the gate counts what it would drop and drops nothing.
    pub observe: u32,
    /// Events a second and CPU for dropped packets; zero: none.
    pub drop_events: u32,
    /// Events a second and CPU for connections let in; zero: none.
    pub grant_events: u32,
    /// Not zero: this host translates the sources of packets that come in for itself. So an own
    /// address does not show that a packet is the host's own.
    pub translates_sources: u32,
    /// Not zero: the whole gate enforces on trial, and observed before. Before `trial_until`, so
    /// that a write which is seen half does not end a trial that is confirmed.
    pub trial: u32,
    /// Always zero.
    pub reserved: u32,
    /// CLOCK_BOOTTIME nanoseconds. From then on, what enforces on trial observes.
    pub trial_until: u64,
}
const _: () = assert!(size_of::<Settings>() == 32);

impl Settings {
    /// Whether a packet that would be dropped passes: the gate or its port is only observed. `rule`:
    /// of the port, where the packet is for a protected one.
    ///
    /// The clock is asked only where something is on trial, and so the kernel itself ends the trial:
    /// an agent that is dead or hangs shuts nobody out for longer.
    #[inline(always)]
    pub fn observes(&self, rule: Option<&PortRule>, now: impl FnOnce() -> u64) -> bool {
        if self.observe != 0 || rule.is_some_and(|rule| rule.observe != 0) {
            return true;
        }
        let on_trial = self.trial != 0 || rule.is_some_and(|rule| rule.trial != 0);
        on_trial && now() >= self.trial_until
    }
}

/// State of a rate limit, for each CPU and kind of event. Its window is one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Budget {
    /// CLOCK_BOOTTIME nanoseconds at which the window began.
    pub window: u64,
    /// Number of events sent in the window.
    pub used: u64,
    /// The kernel's ticks (`jiffies`) when the clock was last asked. Within one tick a window that
    /// is used up stays so: the clock need not be asked.
    pub tick: u64,
}
const _: () = assert!(size_of::<Budget>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_trial_enforces_until_its_end_and_observes_from_then_on() {
        let trial = Settings { trial_until: 1_000, ..Settings::default() };
        let enforced = PortRule::default();
        let on_trial = PortRule { trial: 1, ..enforced };
        let observed = PortRule { observe: 1, ..enforced };
        for (settings, rule, before, after) in [
            (trial, Some(&enforced), false, false),
            (trial, None, false, false),
            (trial, Some(&observed), true, true),
            (trial, Some(&on_trial), false, true),
            (Settings { trial: 1, ..trial }, Some(&enforced), false, true),
            (Settings { trial: 1, ..trial }, None, false, true),
            (Settings { observe: 1, ..trial }, Some(&enforced), true, true),
            (Settings::default(), Some(&on_trial), true, true),
        ] {
            assert_eq!(settings.observes(rule, || 999), before, "{settings:?} {rule:?}");
            assert_eq!(settings.observes(rule, || 1_000), after, "{settings:?} {rule:?}");
        }
    }

    #[test]
    fn the_clock_is_asked_only_for_what_is_on_trial() {
        let clock = || panic!("it was asked");
        let rule = PortRule::default();
        assert!(!Settings::default().observes(Some(&rule), clock));
        assert!(!Settings::default().observes(None, clock));
        let observe = Settings { observe: 1, trial: 1, ..Settings::default() };
        assert!(observe.observes(Some(&PortRule { trial: 1, ..rule }), clock));
    }
}

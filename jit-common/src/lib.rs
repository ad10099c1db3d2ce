//! What the kernel programs and the agent share: table layouts, events, the packet parser and the
//! decision.
//!
//! The crate is `no_std`, has no dependencies by default, and never reads a clock, a map or a
//! packet by itself: bytes come through [`Frame`], tables through [`Tables`], time through an
//! argument. The same [`decide`] is compiled for BPF and for the host, so what is unit-tested,
//! fuzzed and compared is the code that runs in the kernel.
#![no_std]

mod address;
mod decide;
mod event;
mod guard;
mod headers;
#[cfg(feature = "aya")]
mod pod;
mod reason;
mod tables;

pub use address::{Address, Family};
pub use decide::{Decision, Link, Segment, Session, Tables, Ticket, decide, session_is_over};
pub use event::{EVENT_BYTES, Event, EventKind};
pub use guard::{Lookup, guard};
pub use headers::{Frame, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS};
pub use reason::Reason;
pub use tables::{
    ABI_VERSION, Budget, COUNTERS, Claim, ConnectionKey, Counter, Flow, GrantEntry, Handshake,
    HostKey, LAST_COUNTED, LastCounted, MAX_CONNECTIONS, MAX_PLACES, PROTECTED_WORDS, PlaceKey,
    PortCounters, PortKey, PortRule, PrefixV4, PrefixV6, Protocol, RULE_SLOTS, Settings, Slot, map,
};

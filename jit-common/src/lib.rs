//! What the kernel programs and the agent share: table layouts, events, the packet parser and the
//! decision.
//!
//! The crate is `no_std`, has no dependencies by default, and never reads a clock, a map or a
//! packet by itself: bytes come through [`Frame`], tables through [`Tables`], time through an
//! argument. The same [`decide`] is compiled for BPF and for the host, so what is unit-tested,
//! fuzzed and compared is the code that runs in the kernel.
#![no_std]

mod address;
mod connection;
mod counter;
mod decide;
mod event;
mod grant_entry;
mod guard;
mod headers;
#[cfg(feature = "aya")]
mod pod;
mod port;
mod reason;
mod segment;
mod session;
mod summary;
mod tables;

pub use address::{Address, Family};
pub use connection::{
    ConnectionKey, Flow, Handshake, LAST_COUNTED, LastCounted, LastHere, MAX_CONNECTIONS,
    MAX_PLACES, PlaceKey, Slot,
};
pub use counter::{COUNTERS, Counter, FIRST_PORTS, PortCounters};
pub use decide::{Admission, Decision, LATELY, Tables, decide};
pub use event::{EVENT_BYTES, Event, EventKind};
pub use grant_entry::{Claim, GrantEntry, HostKey, PrefixV4, PrefixV6};
pub use guard::{Lookup, guard};
pub use headers::{Frame, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS};
pub use port::{PROTECTED_WORDS, PortKey, PortRule, Protocol, RULE_SLOTS};
pub use reason::Reason;
pub use segment::{Link, Segment};
pub use session::{Session, session_has_ended};
pub use summary::{Place, SummarySize};
pub use tables::{
    ABI_VERSION, Budget, InUse, NO_PREALLOC, OPENED_HERE, RING_BYTES, Settings, TRANSLATED, map,
};

//! The kernel side, seen from user space: tables, programs, links.
//!
//! `ladder` chooses a hook, `attach` and `attachment` make it, `observe` reads back what is on an
//! interface, `pins` keeps it over restarts, `maps` reads and writes the tables. [`Datapath`] is the
//! gate's view of all this: [`kernel`] is the real one, [`memory`] a twin for tests.

pub mod attach;
mod attachment;
mod blind;
pub mod boot_clock;
pub mod bpf;
pub mod closed;
mod contract;
pub mod cut;
mod destroy;
mod error;
pub mod features;
pub mod guard;
pub mod kernel;
pub mod ladder;
mod layout;
pub mod maps;
pub mod meanwhile;
pub mod memory;
pub mod need;
pub mod object;
pub mod observe;
pub mod opening;
pub mod pins;
pub mod probe;
pub mod programs;
pub mod rtnetlink;
pub mod selftest;
pub mod socket_guard;
mod state;
pub mod summary;
pub mod verdict;
pub mod view;

pub use contract::{Datapath, Wanted};
pub use error::{DatapathError, Failures, chain};
pub use state::{Counters, Cursor, Drift, Elsewhere, InterfaceState, LinkChange, ReadBack};

//! The kernel side, seen from user space: tables, programs, links. This file is a table of
//! contents.
//!
//! [`Datapath`] is the gate's view of it. [`kernel`] is the real one; [`memory`] is a twin for
//! tests.

pub mod attach;
mod attachment;
pub mod bpf;
mod contract;
pub mod cut;
mod destroy;
mod error;
pub mod guard;
pub mod kernel;
pub mod ladder;
mod layout;
pub mod maps;
pub mod memory;
pub mod object;
pub mod observe;
pub mod pins;
pub mod probe;
pub mod programs;
pub mod rtnetlink;
pub mod selftest;
pub mod socket_guard;
mod state;
pub mod view;

pub use contract::{Datapath, Wanted};
pub use error::{DatapathError, chain};
pub use state::{Counters, Drift, Elsewhere, InterfaceState, LinkChange};

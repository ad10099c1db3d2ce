//! The harness of the tests from outside. They use the real kernel, real processes and real network
//! namespaces.
//!
//! The tests themselves are in `tests/`. On an error everything here panics with the cause. Drop
//! cleans up. Nothing is skipped.

pub mod agent;
pub mod browser;
pub mod checkpoints;
pub mod controller;
pub mod disk;
pub mod figures;
pub mod filters;
pub mod frames;
pub mod fwknop;
mod genetlink;
mod guard_run;
pub mod kernel;
pub mod lacks;
pub mod live;
pub mod netns;
pub mod peers;
pub mod perf;
pub mod process;
pub mod programs;
pub mod python;
pub mod random;
pub mod raw;
pub mod revoker;
pub mod sockets;
pub mod sys;
pub mod team;
pub mod terminal;
pub mod tun;
pub mod wireguard;

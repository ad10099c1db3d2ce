//! The harness of the tests from outside: real kernel, real processes, real network namespaces.
//!
//! The tests themselves are in `tests/`. Everything here panics with what went wrong and cleans up
//! when dropped; nothing is skipped.

pub mod agent;
pub mod disk;
pub mod frames;
mod guard_run;
pub mod kernel;
pub mod lacks;
pub mod netns;
pub mod programs;
pub mod random;
pub mod raw;
pub mod sockets;
pub mod sys;
pub mod tun;
pub mod wireguard;

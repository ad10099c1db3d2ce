//! The operating system, for every layer but the rules: clocks, files that are trusted only after a
//! check, locks, users, local ports.

pub mod local_ports;
pub mod owner;
pub mod sys;

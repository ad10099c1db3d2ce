//! The operating system, for every layer but the rules: clocks, files that are trusted only after a
//! check, locks, users, addresses.

pub mod addresses;
pub mod owner;
pub mod sys;

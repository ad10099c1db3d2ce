//! The operating system, for every layer but the rules: clocks, files that are trusted only after a
//! check, locks, users.

pub mod files;
pub mod owner;
pub mod sys;

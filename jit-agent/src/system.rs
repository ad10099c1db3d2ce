//! What the operating system gives every layer above the rules: clocks, files that are trusted only
//! after a check, locks, users, exit codes.

pub mod owner;
pub mod sys;

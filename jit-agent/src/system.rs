//! The operating system, for every layer but the rules: clocks, files that are trusted only after a
//! check, locks, users, addresses, local ports, the log, the allocator, the service
//! manager.

pub mod addresses;
pub mod files;
pub mod local_ports;
pub mod log;
pub mod memory;
pub mod owner;
pub mod service_manager;
pub mod sys;

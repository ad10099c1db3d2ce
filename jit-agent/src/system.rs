//! The operating system, for every layer but the rules: clocks, files that are trusted only after a
//! check, files of an image, locks, users, addresses, local ports, processes, other programs, network devices, directories
//! that change, files that are replaced, the services that say which machine this is, the log, the meters, what peers do too often, the allocator, core dumps, what a thread or process gives up, the service manager.

pub mod addresses;
pub mod core_dumps;
pub mod directory_watch;
pub mod ethtool;
pub mod files;
pub mod image;
pub mod landlock;
pub mod local_ports;
pub mod log;
pub mod memory;
pub mod metadata;
pub(crate) mod meters;
pub mod ntp;
pub mod owner;
pub mod processes;
pub mod readable;
pub(crate) mod replacement;
pub(crate) mod reports;
pub mod sandbox;
pub mod service_manager;
pub mod sys;
pub mod tool;

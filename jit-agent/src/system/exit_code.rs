//! Exit codes of sysexits.h, which scripts rely on.

/// Usage errors.
pub const USAGE: u8 = 64;
/// Something that is needed is not there now.
pub const UNAVAILABLE: u8 = 69;
/// Permission denied.
pub const PERMISSION: u8 = 77;
/// The configuration, or a file that it names.
pub const CONFIGURATION: u8 = 78;

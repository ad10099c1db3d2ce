//! The kernel side, seen from user space.

pub mod memory;
pub mod object;

//! What the kernel tells and does over netlink.

pub mod message;
pub mod sock_diag;
pub mod watch;

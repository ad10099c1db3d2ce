//! What the kernel tells and does over netlink.

pub mod sock_diag;

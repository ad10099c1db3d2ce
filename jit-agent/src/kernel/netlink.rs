//! Changes of links, and TCP sockets, over netlink.

pub mod message;
pub mod sock_diag;
pub mod watch;

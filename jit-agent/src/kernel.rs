//! The kernel's side: tables and programs (`datapath`), links and sockets (`netlink`), and a wall
//! clock that somebody sets (`clock_watch`). Decides nothing about grants.

pub mod clock_watch;
pub mod datapath;
pub mod netlink;

//! Messages about links, and TCP sockets by sock_diag. Requests to rtnetlink are in
//! `datapath/rtnetlink`.

pub mod message;
pub mod sock_diag;
pub mod watch;

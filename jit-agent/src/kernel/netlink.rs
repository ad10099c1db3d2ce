//! Messages about links, TCP sockets by sock_diag, and what is translated (NAT) by netfilter.
//! Requests to rtnetlink are in `datapath/rtnetlink`.

pub mod message;
pub mod nat_watch;
pub mod netfilter;
pub mod sock_diag;
pub mod watch;

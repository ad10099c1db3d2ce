//! Ways to drop a flood of SYNs to port 22, each as its documentation says to use it: the gate's own
//! programs, and the peers that it is compared with. This file is a table of contents.

mod filter;
mod ipset;
pub mod nftables;
mod own;
mod xdp;
mod xdp_filter;

pub use filter::{Filter, Granted, LASTS};
pub use ipset::ipset;
pub use own::{Hook, gate};
pub use xdp::{drop_all, parse_and_drop};
pub use xdp_filter::xdp_filter;

//! What the benches compare the gate with: XDP programs of others, loaded from Debian's packages or
//! from their instructions. Nothing is pinned: everything ends with the process.

mod small;
mod xdp_filter;

pub use small::Small;
pub(crate) use small::XDP_DROP;
pub use xdp_filter::{XDP_FILTER, XdpFilter};

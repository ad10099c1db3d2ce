//! What the benches compare the gate with: XDP programs of others, loaded from Debian's packages or
//! from their instructions. Nothing is pinned: everything ends with the process.

mod instructions;
mod raw_program;
mod xdp_filter;

pub use instructions::{DROP, PARSE_AND_DROP, PASS};
pub use raw_program::RawProgram;
pub use xdp_filter::{XDP_FILTER, XdpFilter};

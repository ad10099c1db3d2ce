//! jit-agent: ports closed in the kernel, opened by signed, time-limited grants.

pub mod datapath;
pub mod envelope;

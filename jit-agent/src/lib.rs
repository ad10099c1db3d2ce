//! jit-agent: ports closed in the kernel, opened by signed, time-limited grants.

pub mod claims;
pub mod clock;
pub mod datapath;
pub mod envelope;
pub mod grant;
pub mod keyring;
pub mod ledger;
pub mod policy;
pub mod prefix;
pub mod reconcile;
pub mod refusal;

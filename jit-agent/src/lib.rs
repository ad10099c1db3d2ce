//! jit-agent: ports closed in the kernel, opened by signed, time-limited grants.

pub mod app;
pub mod audit;
pub mod claims;
pub mod client;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod envelope;
pub mod gate;
pub mod grant;
pub mod host_key;
pub mod journal;
pub mod keyring;
pub mod ledger;
pub mod mandate;
pub mod offline;
pub mod policy;
pub mod prefix;
pub mod printable;
pub mod reconcile;
pub mod refusal;
pub mod server;
pub mod status;
pub mod store;
pub mod sys;
pub mod tls;

//! How a machine becomes a host that is believed: by what its cloud has signed.
//!
//! Everything here is decided without a network: what a machine sends, the configuration, the store
//! and a time are arguments.

pub mod attest;
pub mod proof;

//! The signer's real process, with real keys: files, SoftHSM, ssh-agent, programs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected panics"
)]

mod authority;
mod backends;
mod clouds;
mod freshness;
#[path = "../bus/ports.rs"]
mod ports;
mod process;
mod revocations;
mod world;

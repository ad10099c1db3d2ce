//! The bus with three real servers on loopback, which run with the configuration files that ship:
//! only ports, paths and public keys are filled in.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected panics"
)]

mod cluster;
mod delivery;
mod failures;
mod far;
mod letters;
mod permissions;
mod ports;
mod reports;
mod resync;

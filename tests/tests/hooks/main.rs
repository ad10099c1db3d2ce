//! The hook of the gate on each interface, the foreign programs beside it, and what happens when
//! somebody takes the gate off.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod devices;
mod drift;
mod foreign;
mod kernels;
mod review;
mod rungs;
mod selftest;
mod tunnels;

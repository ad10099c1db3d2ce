//! By which hook the gate is on an interface, beside whose programs, and what happens when somebody
//! takes it off.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod drift;
mod foreign;
mod kernels;
mod rungs;
mod selftest;
mod tunnels;

//! The socket guard: its decision against the loaded program's, the ways that it closes and no
//! program on an interface sees, and its link on the network namespace of the host.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod link;
mod refusals;
mod ways;

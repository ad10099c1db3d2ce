//! The socket guard: its decision against the loaded program's, what it closes that no program on an
//! interface sees, and its life on the host's network namespace.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod life;
mod refusals;
mod ways;

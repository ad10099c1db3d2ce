//! The controller's fleet with real agents: what is delivered, what is noticed, how policies roll.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected panics"
)]

mod closings;
mod delivery;
mod desk;
mod ended;
mod many;
mod watched;
mod waves;
mod yard;

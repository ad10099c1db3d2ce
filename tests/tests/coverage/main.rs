//! Every interface is gated, whatever its kind and whenever it appears: with a real agent, closed
//! without a grant, open with one, over both families. Each way is first shown to be open without
//! an agent.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod forwarded;
mod links;
mod moves;
mod own;
mod path;
mod storm;
mod translated;
mod ways;

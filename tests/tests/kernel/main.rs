//! The loaded programs on the running kernel, without the agent: single frames, real sessions, raw
//! frames over veth, and a million generated frames against the host's decision.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic fails the test, which is what a test is for"
)]

mod batches;
mod cases;
mod collateral;
mod comparison;
mod counted;
mod covers;
mod features;
mod fixture;
mod frame_table;
mod generate;
mod grants;
mod hook;
mod limited;
mod oracle;
mod own;
mod sessions;
mod verifier;
mod wire;

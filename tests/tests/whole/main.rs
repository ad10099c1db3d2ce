//! The controller as a whole: real controllers with their signers, real agents, real people's tools.
//! What is asked and agreed to opens, and nothing else does, also when something dies, is stolen, forged
//! or wrong.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod asked;
mod databases;
mod defender;
mod forged;
mod histories;
mod killed;
mod pages;
mod passkeys;
mod releases;
mod report;
mod rollouts;
mod several;
mod stolen;
mod words;

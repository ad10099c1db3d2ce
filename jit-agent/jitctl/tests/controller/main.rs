//! `jitctl` against a controller over real HTTPS that answers what a test wants: what it sends, what it
//! shows, and its exit codes.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected panics")]

mod asking;
mod defender;
mod login;
mod revocations;
mod rollouts;
mod server;
mod ssh;
mod terminal;
mod things;

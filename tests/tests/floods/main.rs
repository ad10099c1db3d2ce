//! Floods against a real agent: by strangers, by holders of a certificate without a name, and by a
//! controller gone bad. During each of them a good controller and root's revocation are served, and
//! memory and descriptors stay bounded. Afterwards both are about what they were.
//!
//! With `JIT_TEST_FLOODS_AT` in the environment some of them run against an agent elsewhere.
//!
//! The short form has smaller numbers. `JIT_TEST_FLOODS=long` in the environment runs the long one.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod bytes;
mod connections;
mod elsewhere;
mod handshakes;
mod http2;
mod memory;
mod questions;
mod scene;
mod streams;

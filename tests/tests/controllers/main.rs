//! Controllers against a real agent over mutual TLS: `jitctl`, and implementations that share no
//! code with it (Python, openssl) and follow docs/signing.md.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected panics")]

mod controlled;
mod independent_client;
mod jitctl;
mod junk_signatures;
mod many;
mod passkeys;
mod policies;
mod revocations;

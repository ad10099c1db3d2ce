//! `[host] id = "auto"` with the real agent: the metadata services are played as documented, at
//! their real addresses, in the host's own network namespace. They are good, absent, slow, lying,
//! redirecting and too large, and the gate is in force all the time. And how a machine becomes a
//! host: it enrols at a real controller, and is opened over the connection that it makes with its
//! certificate.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod another;
mod bad;
mod enrolled;
mod good;
mod renewed;
mod service;

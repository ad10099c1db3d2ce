//! The rules: what a grant is, whether it is accepted, and what it opens.
//!
//! Pure: time is an argument. Nothing here reads a clock, a file, a socket or the kernel.

mod approvals;
pub mod ceiling;
pub mod checkpoint;
pub mod claims;
pub mod clock;
pub mod commit;
pub(crate) mod denials;
pub mod envelope;
pub mod everybody;
pub(crate) mod few;
pub mod freshness;
pub mod grant;
pub mod impact;
pub mod keyring;
pub mod ledger;
pub mod mandate;
pub mod opening;
pub mod policy;
pub mod problem;
pub mod proposal;
pub mod reconcile;
pub mod refusal;
pub(crate) mod refused_pushes;
pub mod revocation;
pub(crate) mod room;

//! The rules of grants.md from outside the library: verification, ledger, gate. No root needed.

mod gate;
mod ledger;
mod support;
mod verification;

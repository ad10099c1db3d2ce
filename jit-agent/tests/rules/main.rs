//! The rules of docs/grants.md from outside the library: verification, ledger, gate. Without root.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected panics")]

mod architecture;
mod audit;
mod ceiling;
mod checkpoints;
mod closed_database;
mod commit;
mod crashes;
mod documentation;
mod enforcing;
mod events;
mod floors;
mod full;
mod gate;
mod host;
mod impact;
mod ledger;
mod limits;
mod man_pages;
mod mistakes;
mod passkeys;
mod policies;
mod policies_applied;
mod policies_confirmed;
mod policy_host;
mod replaced;
mod review;
mod revocations;
mod revocations_joined;
mod screens;
mod sequences;
mod sessions;
mod signers;
mod slices;
mod stalls;
mod status;
mod storage;
mod support;
mod threat_model;
mod time;
mod trials;
mod verification;
mod wycheproof;

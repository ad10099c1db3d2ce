//! The controller with a real database: each test runs on SQLite and on Postgres.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected panics"
)]

#[macro_use]
mod databases;

mod access;
mod api;
mod audit;
mod commands;
mod crowded;
mod desk;
mod enrolment;
mod filled;
mod forward;
mod histories;
mod messages;
mod migrations;
mod open_page;
mod portal;
#[path = "../bus/ports.rs"]
mod ports;
mod report;
mod serve;
mod signers;
mod store;
mod uplinks;
mod words;

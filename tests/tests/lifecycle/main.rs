//! The agent's life cycle with real processes, namespaces and connections: open and closed, killed
//! and restarted, and every way in which it must refuse to start.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

mod audit;
mod break_glass;
mod broken_surroundings;
mod check;
mod clock;
mod close;
mod colours;
mod connections;
mod controllers;
mod crashes;
mod cut;
mod dead;
mod denials;
mod doctor;
mod doctor_ways;
mod early;
mod floors;
mod forged;
mod front;
mod handshakes;
mod hub;
mod init;
mod installed;
mod journal;
mod limits;
mod live_view;
mod local;
mod metrics;
mod past;
mod privilege;

mod questions;
mod refusals;
mod restarts;
mod sandbox;
mod secrets;
mod sessions;
mod spare;
mod stalled;
mod storage;
mod time_namespace;
mod trial;
mod trial_race;
mod trial_returns;
mod trial_shown;
mod trial_slow_disk;
mod trial_terminal;
mod upgrades;
mod uplink;
mod why;
mod withheld;

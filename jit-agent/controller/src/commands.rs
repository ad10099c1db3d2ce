//! What a person runs. Each command is a file; it prints for a person, or JSON for a script.

pub mod access;
pub mod accounts;
pub mod backup;
pub mod check;
pub mod export;
mod failure;
mod files;
pub mod health;
pub mod init;
mod manifest;
mod output;
mod progress;
pub mod report;
pub mod restore;
pub mod verify;

pub use failure::Failure;
pub use output::complain;

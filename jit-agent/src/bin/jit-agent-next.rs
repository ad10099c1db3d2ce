//! The agent as it will be after a change of the tables' layouts, with all else the same: a test
//! upgrades to it and back, under attempts to get in.

use std::process::ExitCode;

#[path = "../main.rs"]
mod agent;

fn main() -> ExitCode {
    agent::main()
}

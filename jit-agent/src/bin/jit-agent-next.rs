//! The agent with other layouts of the tables, and no other change: a test upgrades to it and back,
//! while others try to get in.

use std::process::ExitCode;

#[path = "../main.rs"]
mod agent;

fn main() -> ExitCode {
    agent::main()
}

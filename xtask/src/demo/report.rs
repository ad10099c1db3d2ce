//! The lines that the demo prints: what was tried, and what happened. Decides nothing.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    time::Instant,
};

use anyhow::{Error, Result};

/// Writes one line for each step.
pub(super) struct Report {
    started: Instant,
    colour: bool,
    terminal: bool,
}

impl Report {
    pub(super) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && env::var_os("NO_COLOR").is_none();
        Self { started: Instant::now(), colour, terminal }
    }

    /// Runs one step. A failure names the step.
    pub(super) fn step(&self, what: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        self.step_with(what, || Ok((work()?, ()))).map(drop)
    }

    /// Runs one step whose value later steps need.
    pub(super) fn step_with<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<(String, T)>,
    ) -> Result<T> {
        if self.terminal {
            print!("… {what}");
            io::stdout().flush().ok();
        }
        let done = work();
        if self.terminal {
            print!("\r\x1b[K");
        }
        match done {
            Ok((happened, value)) => {
                println!("{} {what}: {happened}", self.mark(true));
                Ok(value)
            }
            Err(error) => {
                println!("{} {what}: {error:#}", self.mark(false));
                Err(Error::msg(format!("the demo failed at \"{what}\"")))
            }
        }
    }

    /// Prints a line that is no step.
    pub(super) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// Seconds since the first line.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn mark(&self, good: bool) -> &'static str {
        match (self.colour, good) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (true, false) => "\x1b[31m✗\x1b[0m",
            (false, true) => "✓",
            (false, false) => "✗",
        }
    }
}

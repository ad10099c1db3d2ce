//! Shows a person how far the machines are. A terminal has a moving line for each machine. Each
//! check that has ended gets a line, with or without a terminal.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The lines of all machines.
pub(super) struct Progress {
    bars: MultiProgress,
    terminal: bool,
}

impl Progress {
    /// No machine runs yet.
    pub(super) fn new() -> Self {
        Self { bars: MultiProgress::new(), terminal: io::stdout().is_terminal() }
    }

    /// A machine starts.
    pub(super) fn machine(&self, label: &str) -> ProgressBar {
        if !self.terminal {
            println!("{label:>6}  starts");
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{prefix:>6}  {spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// Prints lines that stay.
    pub(super) fn say(&self, bar: &ProgressBar, text: &str) {
        if self.terminal {
            bar.suspend(|| println!("{text}"));
        } else {
            println!("{text}");
        }
    }
}

//! What a person sees while machines run: on a terminal a line that moves for each of them, and in
//! any case a line for each check that ended.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// All machines.
pub(super) struct Progress {
    bars: MultiProgress,
    terminal: bool,
}

impl Progress {
    /// Nothing to see yet.
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

    /// Lines that stay.
    pub(super) fn say(&self, bar: &ProgressBar, text: &str) {
        if self.terminal {
            bar.suspend(|| println!("{text}"));
        } else {
            println!("{text}");
        }
    }
}

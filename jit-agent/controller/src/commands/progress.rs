//! A bar on standard error for long work, if a person is there to see it.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar. It goes away with the value.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins one. `what`: what is done, as in `writing rows`.
    pub(super) fn begin(what: &'static str, total: u64) -> Self {
        if !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style =
            ProgressStyle::with_template("{msg} [{wide_bar}] {human_pos}/{human_len} {eta}");
        let bar = ProgressBar::new(total).with_message(what);
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// This much is done.
    pub(super) fn at(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

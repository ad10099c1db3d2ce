//! The front's lines in the log: cleaned, and so few that a false front cannot fill it.

use std::time::Duration;

use jit_proto::printable;

use crate::{control::link::Logged, rules::clock::BootNanos};

/// The most lines within a span.
const MOST: u64 = 120;
const SPAN: Duration = Duration::from_secs(60);
/// The most letters of a line.
const LONGEST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Lines {
    began: BootNanos,
    written: u64,
    dropped: u64,
}

impl Lines {
    pub(super) fn write(&mut self, line: &Logged, now: BootNanos) {
        let (writes, more) = self.admits(now);
        if more > 0 {
            tracing::warn!(more, "lines of the process that talks to the network were dropped");
        }
        if !writes {
            return;
        }
        let text = printable::clean(&line.text, LONGEST);
        match line.level {
            0 => tracing::error!("{text}"),
            1 => tracing::warn!("{text}"),
            _ => tracing::info!("{text}"),
        }
    }

    /// Whether a line is written now, and the number of those before that were not.
    fn admits(&mut self, now: BootNanos) -> (bool, u64) {
        let mut more = 0;
        if now >= self.began + SPAN {
            more = self.dropped;
            *self = Self { began: now, written: 0, dropped: 0 };
        }
        if self.written < MOST {
            self.written += 1;
            return (true, more);
        }
        self.dropped = self.dropped.saturating_add(1);
        (false, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_writes_few_lines_and_the_others_are_counted() {
        let (mut lines, now) = (Lines::default(), BootNanos(1_000_000_000_000));
        let written = (0..10_000).filter(|_| lines.admits(now).0).count();
        assert_eq!(written, 120);
        assert_eq!(lines.admits(now + SPAN), (true, 9_880));
    }
}

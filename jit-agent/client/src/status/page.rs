//! What text is written on: a terminal of some size, or a pipe without an end.

use std::io::IsTerminal as _;

use terminal_size::{Height, Width, terminal_size_of};

/// Lines of a terminal that stay free: the shell's prompt may take two.
const PROMPT: u16 = 2;
/// Grants that `status` shows where there is no screen to fill.
const MOST_GRANTS: usize = 20;

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// ANSI colours.
    Colour,
    /// No escape sequences.
    Plain,
}

impl Style {
    /// Colour on a terminal, unless `NO_COLOR` is set (no-color.org) or the terminal is `dumb`.
    pub fn of_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if !plain && std::io::stdout().is_terminal() { Self::Colour } else { Self::Plain }
    }

    /// The text in an ANSI colour (SGR code), where colour is wanted.
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// Where text goes, and how much of it there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Whether it has colours.
    pub style: Style,
    /// The most columns of a line; `None`: any number, and no sentence is folded.
    pub width: Option<usize>,
    /// The most lines; `None`: any number.
    pub height: Option<usize>,
    /// The most grants that `status` shows; `None`: all that fit.
    pub grants: Option<usize>,
}

impl Page {
    /// Standard output: a screen of the terminal, or any length in a pipe with the first grants.
    pub fn of_stdout(style: Style) -> Self {
        let stdout = std::io::stdout();
        let size = if stdout.is_terminal() { terminal_size_of(stdout) } else { None };
        match size {
            Some((Width(wide), Height(high))) if wide > 0 && high > 0 => {
                Self::screen(style, wide, high)
            }
            _ => Self { grants: Some(MOST_GRANTS), ..Self::endless(style) },
        }
    }

    /// A terminal of this size.
    pub fn screen(style: Style, wide: u16, high: u16) -> Self {
        let high = high.saturating_sub(PROMPT).max(1);
        Self { style, width: Some(wide.into()), height: Some(high.into()), grants: None }
    }

    /// Any number of lines of any width: nothing is cut.
    pub const fn endless(style: Style) -> Self {
        Self { style, width: None, height: None, grants: None }
    }
}

//! Standard output and standard error of the on-call commands.

use std::io::{self, ErrorKind, Write as _};

use clap::{Args, ColorChoice};
use jit_client::status::{Page, Style};
use jit_proto::printable;
use serde::Serialize;

/// The option of every command that has colours.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Colours {
    /// Colours: `auto` has them on a terminal, unless NO_COLOR is set or TERM is dumb.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

impl Colours {
    /// Whether text on standard output has colours.
    pub(super) fn style(self) -> Style {
        match self.color {
            ColorChoice::Always => Style::Colour,
            ColorChoice::Auto => Style::of_stdout(),
            ColorChoice::Never => Style::Plain,
        }
    }

    /// The same, with the size of what standard output is.
    pub(super) fn page(self) -> Page {
        Page::of_stdout(self.style())
    }
}

/// Prints to standard output. A reader that has closed it (`| head`) is not an error: the command
/// goes on without it, and its exit code means the same.
pub(super) fn print(text: &str) -> io::Result<()> {
    print_while_open(text).map(drop)
}

/// The same. Returns whether the reader is still there: a command that prints without end stops
/// when it is not.
pub(super) fn print_while_open(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritten(error)),
    }
}

/// Says that standard output was the cause.
pub(super) fn unwritten(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => error,
        kind => io::Error::new(kind, format!("cannot write to standard output: {error}")),
    }
}

/// Prints JSON on several lines.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(&format!("{}\n", printable::json_pretty(value)))
}

/// Prints a sentence to standard error. If nobody can read it, there is nowhere to say so.
pub fn complain(text: &str) {
    let _gone = writeln!(io::stderr(), "jit-agent: {}", printable::clean_lines(text));
}

/// A reader that has closed standard output is not an error.
///
/// # Errors
/// Every other error.
pub fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

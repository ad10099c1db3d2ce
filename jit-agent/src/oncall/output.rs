//! Standard output and standard error of the on-call commands.

use std::io::{self, ErrorKind, Write as _};

use clap::ColorChoice;
use jit_client::status::{Page, Style};
use jit_proto::printable;
use serde::Serialize;

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
        Err(error) => {
            let text = format!("cannot write to standard output: {error}");
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// What standard output is, and whether text on it has colours.
pub(super) fn page(colour: ColorChoice) -> Page {
    Page::of_stdout(match colour {
        ColorChoice::Always => Style::Colour,
        ColorChoice::Auto => Style::of_stdout(),
        ColorChoice::Never => Style::Plain,
    })
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
pub(super) fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

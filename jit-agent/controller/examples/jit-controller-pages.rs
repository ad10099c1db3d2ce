//! Writes the man pages and shell completions of `jit-controller` into a directory: the first argument.

use std::{io, path::PathBuf};

use clap::CommandFactory as _;
use jit_controller::cli::Cli;

#[path = "../../packaging/pages.rs"]
mod pages;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("no directory is given"))?;
    pages::write(Cli::command(), "8", &directory)
}

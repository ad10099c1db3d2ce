//! Writes the man pages and shell completions of `jit-agent` into a directory: the first argument.

use std::{io, path::PathBuf};

use clap::CommandFactory as _;
use jit_agent::cli::Arguments;

#[path = "../packaging/pages.rs"]
mod pages;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("no directory is given"))?;
    pages::write(Arguments::command().name("jit-agent"), "8", &directory)
}

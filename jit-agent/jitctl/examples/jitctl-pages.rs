//! Writes the man pages and shell completions of `jitctl` into a directory: the first argument.

use std::{io, path::PathBuf};

#[path = "../../packaging/pages.rs"]
mod pages;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("no directory is given"))?;
    pages::write(jitctl::command(), "1", &directory)
}

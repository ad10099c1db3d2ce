//! `cargo xtask pages`: man pages and shell completions, made from the command lines themselves.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{setup, shell};

/// The examples that write the pages, each of its own program.
const WRITERS: [&str; 2] = ["jit-agent-pages", "jitctl-pages"];

/// Where to.
#[derive(Args)]
pub(crate) struct Options {
    /// Directory of `man` and `completions`; without it `pages` in cargo's target directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes the pages and prints where they are.
pub(crate) fn run(options: Options) -> Result<()> {
    setup::ensure(setup::Purpose::Build)?;
    let out = options.out.unwrap_or_else(|| shell::target().join("pages"));
    let out = std::path::absolute(out)?;
    write(&out, false)?;
    println!("{0}/man\n{0}/completions", out.display());
    Ok(())
}

/// Writes them below a directory. `built`: by what an earlier build of all targets has left.
pub(crate) fn write(out: &Path, built: bool) -> Result<()> {
    if !built {
        let mut build = shell::cargo(["build", "--quiet", "--package", "jit-agent"]);
        build.args(["--package", "jitctl"]);
        shell::visible(build.args(WRITERS.iter().flat_map(|name| ["--example", name])))?;
    }
    for name in WRITERS {
        let writer = std::path::absolute(shell::target().join("debug/examples").join(name))?;
        ensure!(writer.is_file(), "{} does not exist: run `cargo xtask pages`", writer.display());
        shell::visible(shell::program(writer, [out]).current_dir(shell::root()))?;
    }
    Ok(())
}

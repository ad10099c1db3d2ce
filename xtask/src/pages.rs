//! `cargo xtask pages`: man pages and shell completions, made from the command lines themselves.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{setup, shell};

/// The programs that have pages. The example `NAME-pages` of each writes them.
const PROGRAMS: [&str; 3] = ["jit-agent", "jit-controller", "jitctl"];

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
    write(&out, &PROGRAMS, false)?;
    println!("{0}/man\n{0}/completions", out.display());
    Ok(())
}

/// Writes those of these programs below a directory. `built`: by what an earlier build of all targets has
/// left.
pub(crate) fn write(out: &Path, programs: &[&str], built: bool) -> Result<()> {
    let writers: Vec<_> = programs.iter().map(|name| format!("{name}-pages")).collect();
    if !built {
        let mut build = shell::cargo(["build", "--quiet"]);
        build.args(programs.iter().flat_map(|name| ["--package", name]));
        shell::visible(build.args(writers.iter().flat_map(|name| ["--example", name])))?;
    }
    for name in writers {
        let writer = std::path::absolute(shell::target().join("debug/examples").join(&name))?;
        ensure!(writer.is_file(), "{} does not exist: run `cargo xtask pages`", writer.display());
        shell::visible(shell::program(writer, [out]).current_dir(shell::root()))?;
    }
    Ok(())
}

//! `cargo xtask pages`: man pages and shell completions, made from the command lines themselves.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::{setup, shell};

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
    write(&out)?;
    println!("{0}/man\n{0}/completions", out.display());
    Ok(())
}

/// Writes them below a directory.
pub(crate) fn write(out: &Path) -> Result<()> {
    for package in ["jit-agent", "jitctl"] {
        let mut write = shell::cargo(["run", "--quiet", "--package", package]);
        write.args(["--example", "pages", "--"]).arg(out);
        shell::visible(&mut write)?;
    }
    Ok(())
}

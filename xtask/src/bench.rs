//! `cargo xtask bench`: measures speed, memory and size, as root, with optimised programs. Ratios
//! compare with a peer in the same run. It is never part of the tests.

use anyhow::Result;
use clap::Args;

use crate::{setup, shell};

/// This task has no options.
#[derive(Args)]
pub(crate) struct Options {}

/// Measures and prints a table.
pub(crate) fn run(Options {}: Options) -> Result<()> {
    setup::ensure(setup::Purpose::Test)?;
    let build = ["bench", "--package", "jit-tests", "--bench", "figures", "--bench", "ledger"];
    shell::visible(&mut shell::cargo([&build[..], &["--no-run"]].concat()))?;
    let reason = "the figures are taken on this machine's kernel, in network namespaces";
    shell::visible(&mut shell::as_root(reason, shell::cargo(build))?)
}

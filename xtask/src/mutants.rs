//! `cargo xtask mutants`: changes the header walk and the decision in every small way, and checks
//! that a test notices. `jit-agent/docs/testing.md` gives the reason for each mutant that survives.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{setup, shell};

/// This task has no options.
#[derive(Args)]
pub(crate) struct Options {}

/// The files whose comparisons decide who gets in.
const FILES: [&str; 7] = [
    "jit-common/src/address.rs",
    "jit-common/src/decide.rs",
    "jit-common/src/grant_entry.rs",
    "jit-common/src/guard.rs",
    "jit-common/src/headers.rs",
    "jit-common/src/segment.rs",
    "jit-common/src/session.rs",
];
/// The document with a reason for each survivor. It names them as cargo-mutants does, without line
/// and column.
const EXPLAINED: &str = "jit-agent/docs/testing.md";

/// Runs all mutants. Fails if one survives without a reason in [`EXPLAINED`].
pub(crate) fn run(Options {}: Options) -> Result<()> {
    setup::ensure(setup::Purpose::Mutants)?;
    let output = shell::target().join("mutants");
    let mut mutants = shell::cargo(["mutants", "--package", "jit-common", "--colors", "never"]);
    for file in FILES {
        mutants.args(["--file", file]);
    }
    mutants.args(["--timeout", "60", "--output"]).arg(&output);
    // Survivors make this command fail; they are judged below.
    let ended = shell::long("every mutant of the decision", &mut mutants);
    let list = |name: &str| {
        let path = output.join("mutants.out").join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let (Ok(missed), Ok(caught)) = (list("missed.txt"), list("caught.txt")) else {
        return ended;
    };
    let explained = fs::read_to_string(shell::root().join(EXPLAINED)).context(EXPLAINED)?;
    let mut unexplained = 0_usize;
    for mutant in missed.lines() {
        let known = explained.contains(&format!("`{}`", without_position(mutant)));
        unexplained += usize::from(!known);
        println!("{} {mutant}", if known { "- known:   " } else { "✗ survives:" });
    }
    let timeouts = list("timeout.txt")?.lines().count();
    println!(
        "{} caught, {timeouts} timed out, {} survived",
        caught.lines().count(),
        missed.lines().count()
    );
    if unexplained > 0 {
        bail!(
            "{unexplained} mutants survive without a reason in {EXPLAINED}: write a test that fails"
        );
    }
    Ok(())
}

/// `file.rs:1:2: replace ...` without the position, which changes with every edit.
fn without_position(mutant: &str) -> &str {
    mutant.splitn(4, ':').nth(3).unwrap_or(mutant).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_known_wherever_it_stands() {
        let mutant = "jit-common/src/headers.rs:93:28: replace && with || in ethernet";
        assert_eq!(without_position(mutant), "replace && with || in ethernet");
    }
}

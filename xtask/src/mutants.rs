//! `cargo xtask mutants`: changes the header walk and the decision in every small way there is, and
//! sees whether a test notices. Those that live on are argued in `jit-agent/docs/testing.md`.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{setup, shell};

/// Nothing to choose.
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
/// Where survivors are argued, each as cargo-mutants names it, without line and column.
const ARGUED: &str = "jit-agent/docs/testing.md";

/// Runs all mutants; fails when one lives that is not argued.
pub(crate) fn run(Options {}: Options) -> Result<()> {
    setup::ensure(setup::Purpose::Mutants)?;
    let output = shell::target().join("mutants");
    let mut mutants = shell::cargo(["mutants", "--package", "jit-common", "--colors", "never"]);
    for file in FILES {
        mutants.args(["--file", file]);
    }
    mutants.args(["--timeout", "60", "--output"]).arg(&output);
    // Survivors make it fail; they are judged below.
    let ended = shell::long("every mutant of the decision", &mut mutants);
    let list = |name: &str| {
        let path = output.join("mutants.out").join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let (Ok(missed), Ok(caught)) = (list("missed.txt"), list("caught.txt")) else {
        return ended;
    };
    let argued = fs::read_to_string(shell::root().join(ARGUED)).context(ARGUED)?;
    let mut unargued = 0_usize;
    for mutant in missed.lines() {
        let known = argued.contains(&format!("`{}`", without_position(mutant)));
        unargued += usize::from(!known);
        println!("{} {mutant}", if known { "- argued:" } else { "✗ lives: " });
    }
    let timeouts = list("timeout.txt")?.lines().count();
    println!(
        "{} caught, {timeouts} by never ending, {} alive",
        caught.lines().count(),
        missed.lines().count()
    );
    if unargued > 0 {
        bail!("{unargued} mutants live and are not argued in {ARGUED}: write the test that fails");
    }
    Ok(())
}

/// `file.rs:1:2: replace ...` without what moves with every edit.
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

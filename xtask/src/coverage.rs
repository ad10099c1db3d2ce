//! `cargo xtask coverage`: the lines that the tests without root reach, and the bounds for them.
//!
//! Code that only root can reach (loading, attaching, sockets) is tested from outside, in `tests/`.
//! This measurement does not see those tests. So the bounds are for the shared crate and the
//! modules without IO.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{setup, shell};

/// This task has no options.
#[derive(Args)]
pub(crate) struct Options {}

/// Beginnings of paths below the workspace (a file, a directory, or a module with its parts), and
/// the smallest part of their lines that must be reached, in percent.
const BOUNDS: &[(&str, f64)] = &[
    ("jit-common/src/", 98.0),
    ("jit-agent/src/disk/audit/chain.rs", 90.0),
    ("jit-agent/src/rules/claims.rs", 90.0),
    ("jit-agent/src/rules/clock.rs", 90.0),
    ("jit-agent/src/config", 90.0),
    ("jit-agent/src/rules/envelope.rs", 90.0),
    ("jit-agent/src/gate/looks.rs", 90.0),
    ("jit-agent/src/rules/grant.rs", 90.0),
    ("jit-agent/src/rules/keyring.rs", 90.0),
    ("jit-agent/src/rules/ledger.rs", 90.0),
    ("jit-agent/src/kernel/netlink/message.rs", 90.0),
    ("jit-agent/src/rules/policy.rs", 90.0),
    ("proto/src/prefix.rs", 90.0),
    ("jit-agent/src/rules/reconcile.rs", 90.0),
    ("proto/src/refusal.rs", 90.0),
    ("jit-agent/client/src/status", 90.0),
];

#[derive(Clone, Copy, Default)]
struct Lines {
    all: u64,
    reached: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "lines of a source file")]
        let part = 100.0 * self.reached as f64 / self.all as f64;
        part
    }
}

/// Measures and prints a table. Fails when a file is below its bound.
pub(crate) fn run(Options {}: Options) -> Result<()> {
    setup::ensure(setup::Purpose::Coverage)?;
    let report = shell::target().join("coverage.json");
    let mut coverage = shell::cargo(["llvm-cov", "test", "--json", "--summary-only"]);
    coverage.args(["--package", "jit-common", "--package", "jit-agent", "--package", "jit-client"]);
    coverage.args(["--package", "jit-proto", "--features"]);
    coverage.args(["jit-common/aya", "--output-path"]).arg(&report);
    // The kernel programs are not measured: they do not compile with the code that counts lines.
    coverage.env("AYA_BUILD_SKIP", "1");
    if let Some(directory) = llvm()? {
        coverage.env("LLVM_COV", directory.join("llvm-cov"));
        coverage.env("LLVM_PROFDATA", directory.join("llvm-profdata"));
    }
    shell::long("the tests without root, counting lines", &mut coverage)?;
    let text = std::fs::read_to_string(&report)
        .with_context(|| format!("reading {}", report.display()))?;
    let files = lines_by_file(&serde_json::from_str(&text).context("llvm-cov's report")?)?;
    let mut below = 0_usize;
    for (path, least) in BOUNDS {
        let mut lines = Lines::default();
        for (file, Lines { all, reached }) in &files {
            if file.starts_with(path) {
                lines.all += all;
                lines.reached += reached;
            }
        }
        ensure!(lines.all > 0, "{path} is not in the report: was it moved?");
        let good = lines.percent() >= *least;
        below += usize::from(!good);
        let mark = if good { "✓" } else { "✗" };
        println!(
            "{mark} {:5.1} % of {:5} lines (at least {least:.0} %)  {path}",
            lines.percent(),
            lines.all
        );
    }
    if below > 0 {
        bail!("{below} below their bound: `cargo llvm-cov report --html` shows the lines");
    }
    Ok(())
}

fn lines_by_file(report: &Value) -> Result<BTreeMap<String, Lines>> {
    let files = report.pointer("/data/0/files").and_then(Value::as_array);
    let mut lines = BTreeMap::new();
    for file in files.context("llvm-cov's report has no files")? {
        let name = file.pointer("/filename").and_then(Value::as_str).unwrap_or_default();
        let number = |of: &str| file.pointer(of).and_then(Value::as_u64).unwrap_or_default();
        let Ok(path) = Path::new(name).strip_prefix(shell::root()) else { continue };
        let of_file = Lines {
            all: number("/summary/lines/count"),
            reached: number("/summary/lines/covered"),
        };
        lines.insert(path.display().to_string(), of_file);
    }
    Ok(lines)
}

/// The directory of Debian's tools for the compiler's LLVM. `None`: they are not installed, and
/// cargo-llvm-cov finds rustup's tools by itself.
fn llvm() -> Result<Option<PathBuf>> {
    let said =
        shell::answer(&mut shell::program("rustc", ["-vV"])).context("rustc does not run")?;
    let version = said.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next()).unwrap_or_default();
    let directory = PathBuf::from(format!("/usr/lib/llvm-{major}/bin"));
    Ok(directory.join("llvm-cov").is_file().then_some(directory))
}

//! Checks of the sources, without running the product: format, lints, licences, and what each crate
//! depends on.

use std::{env, path::Path};

use anyhow::{Context as _, Error, Result, bail};

use crate::{crates, outside, shell, test_programs::HOST};

type Check = fn() -> Result<()>;

/// What the checks found.
pub(crate) struct Findings {
    /// The failures.
    pub(crate) wrong: Vec<String>,
    /// What could not be checked here. The summary shows it.
    pub(crate) notes: Vec<String>,
}

/// Runs all checks.
pub(crate) fn run() -> Findings {
    let checks: [(&str, Check); 6] = [
        ("format", format),
        ("clippy", clippy),
        ("licences and sources", outside::licences),
        ("what crates depend on", crates::check),
        ("unused dependencies", unused_dependencies),
        ("the operator's tool, without a BPF toolchain", operators_tool),
    ];
    let mut wrong = Vec::new();
    for (heading, check) in checks {
        shell::heading(heading);
        if let Err(error) = check() {
            wrong.push(shown(&error));
        }
    }
    shell::heading("known vulnerabilities and withdrawn crates");
    let mut notes = Vec::new();
    match outside::advisories() {
        Ok(note) => notes.extend(note),
        Err(error) => wrong.push(shown(&error)),
    }
    notes.iter().for_each(|note| println!("! {note}"));
    Findings { wrong, notes }
}

/// Prints an error where it happened, and returns it for the summary.
pub(crate) fn shown(error: &Error) -> String {
    println!("✗ {error:#}");
    format!("{error:#}")
}

fn format() -> Result<()> {
    shell::visible(&mut shell::cargo(["fmt", "--all", "--", "--check"]))
}

/// Also fails on warnings of the kernel programs' compiler: the agent's build script passes them
/// on, and cargo shows them each time. Clippy does not read the kernel programs: they compile for
/// no other target, and Debian's compiler for them has no clippy.
fn clippy() -> Result<()> {
    let lint = ["--all-targets", "--", "--deny", "warnings"];
    let mut clippy = shell::cargo(["clippy"].iter().chain(&HOST).chain(&lint));
    let mut kernel_warnings = 0_usize;
    let ended_well = shell::stream(&mut clippy, |line| {
        let passed_on = line.split_once("jit-agent@").is_some_and(|(_, said)| {
            said.split_once(": ").is_some_and(|(_, said)| said.starts_with("warning: "))
        });
        kernel_warnings += usize::from(passed_on);
    })?;
    if !ended_well {
        bail!("clippy found something");
    }
    if kernel_warnings > 0 {
        bail!("the kernel programs were built with warnings");
    }
    Ok(())
}

/// A dependency that no source uses costs time in every build and every review.
fn unused_dependencies() -> Result<()> {
    shell::visible(&mut shell::program("cargo-machete", ["--skip-target-dir", "."]))
}

/// A person who only pushes grants needs neither bpf-linker nor the compiler of the kernel
/// programs.
fn operators_tool() -> Result<()> {
    let rustc = shell::answer(&mut shell::program("rustc", ["--print", "sysroot"]));
    let compiler = Path::new(&rustc.context("rustc does not say where it is")?).join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    // The directory with bpf-linker also has rustup's `cargo` and `rustc`. So the compiler's own
    // directory replaces it.
    let without =
        env::split_paths(&path).filter(|directory| !directory.join("bpf-linker").exists());
    let path = env::join_paths([compiler].into_iter().chain(without)).context("the PATH")?;
    // Its build scripts run, and its code is checked with no other features than its own. What it is
    // compiled to comes from the build of everything.
    let mut build = shell::cargo(["check", "--package", "jitctl"]);
    shell::visible(build.env("PATH", path).env_remove("AYA_BUILD_SKIP"))
}

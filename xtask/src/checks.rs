//! Checks of the sources, without running the product: format, lints, licences, and what each crate
//! depends on.

use std::{env, path::Path};

use anyhow::{Context as _, Error, Result, bail};

use crate::{crates, shell, test_programs::HOST};

type Check = fn() -> Result<()>;

/// Runs all checks and returns the failures.
pub(crate) fn run() -> Vec<String> {
    let checks: [(&str, Check); 6] = [
        ("format", format),
        ("clippy", clippy),
        ("licences and sources", licences),
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
    wrong
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

fn licences() -> Result<()> {
    if shell::find("cargo-deny").is_none() {
        println!("  cargo-deny is not installed: not checked");
        return Ok(());
    }
    let offline = ["deny", "--offline", "check", "bans", "licenses", "sources"];
    shell::visible(&mut shell::cargo(offline))
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
    let mut build = shell::cargo(["build", "--package", "jitctl"]);
    shell::visible(build.env("PATH", path).env_remove("AYA_BUILD_SKIP"))
}

//! Builds the test programs, and knows the source of each. Runs none of them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// The package whose tests need root, namespaces and the kernel.
pub(crate) const ROOT_PACKAGE: &str = "jit-tests";
/// The crates for the host: all except the kernel programs, which the agent's build script builds.
pub(crate) const HOST: [&str; 3] = ["--workspace", "--exclude", "jit-agent-ebpf"];

/// A test program.
pub(crate) struct TestProgram {
    /// The package that it tests.
    pub(crate) package: String,
    /// The program.
    pub(crate) executable: PathBuf,
    /// The directory of that package.
    pub(crate) directory: PathBuf,
    /// The root file of its source.
    pub(crate) source: PathBuf,
    /// The target's kind by cargo: `test` for a program of a package's directory `tests`.
    pub(crate) kind: String,
}

/// Builds all programs and all test programs, and returns the test programs.
pub(crate) fn build() -> Result<Vec<TestProgram>> {
    build_with(shell::cargo(["build"].iter().chain(&HOST).chain(&["--all-targets"])))
}

/// Builds one test program of the tests that need root, with what it needs. Returns the program.
pub(crate) fn build_root_test(name: &str) -> Result<PathBuf> {
    let build = shell::cargo(["test", "--no-run", "--package", ROOT_PACKAGE, "--test", name]);
    let mut programs = build_with(build)?.into_iter();
    let program = programs.next().context("cargo names no test program")?;
    Ok(program.executable)
}

/// Builds the programs that the tests need root for. Returns their directory.
pub(crate) fn build_programs() -> Result<PathBuf> {
    let packages = ["jit-agent", "jitctl", "jit-controller", ROOT_PACKAGE];
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    shell::visible(&mut shell::cargo(["build", "--bins"].into_iter().chain(packages)))?;
    std::path::absolute(shell::target().join("debug")).context("where cargo builds")
}

fn build_with(mut build: Command) -> Result<Vec<TestProgram>> {
    build.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = build.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo's output is a pipe")?;
    let mut programs = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what cargo says")?;
        programs.extend(serde_json::from_str(&line).ok().and_then(|said| test_program(&said)));
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("it does not build: cargo ended with {status}");
    }
    programs.sort_by(|one: &TestProgram, other| {
        (&one.package, &one.source).cmp(&(&other.package, &other.source))
    });
    Ok(programs)
}

/// Builds the agent with the next version of the tables' layouts. `tests/src/programs.rs` says
/// where that agent is put.
pub(crate) fn build_next() -> Result<()> {
    let target = std::path::absolute(shell::target()).context("where cargo builds")?;
    // With the packages and the kind of target of [`build`], so that dependencies keep the features
    // that they have there: only the crates that differ are compiled.
    let differs = ["--bin", "jit-agent", "--example", "jit-agent-pages"];
    let mut build = shell::cargo(["build"].iter().chain(&HOST).chain(&differs));
    build.args(["--config", "tests/next-abi.toml"]);
    build.arg("--config").arg(format!("build.build-dir={:?}", target.display().to_string()));
    build.arg("--target-dir").arg(target.join("next-abi"));
    shell::visible(&mut build)
}

fn test_program(said: &Value) -> Option<TestProgram> {
    if !said.pointer("/profile/test")?.as_bool()? {
        return None;
    }
    let text = |pointer: &str| said.pointer(pointer)?.as_str().map(str::to_owned);
    if text("/target/kind/0")? == "bench" {
        return None;
    }
    let directory = PathBuf::from(text("/manifest_path")?).parent()?.to_owned();
    let manifest = fs::read_to_string(directory.join("Cargo.toml")).ok()?;
    let package = manifest.lines().find_map(|line| line.strip_prefix("name = \""))?;
    Some(TestProgram {
        package: package.trim_end_matches('"').to_owned(),
        executable: text("/executable")?.into(),
        source: text("/target/src_path")?.into(),
        kind: text("/target/kind/0")?,
        directory,
    })
}

/// Whether the source of this program has tests. For a library, and for a program without a
/// library, all files of its directory count as modules.
pub(crate) fn holds_tests(program: &TestProgram) -> bool {
    let sources = program.directory.join("src");
    let (library, main) = (sources.join("lib.rs"), sources.join("main.rs"));
    let alone = program.source.parent() == Some(&sources)
        && program.source != library
        && (program.source != main || library.exists());
    let mut files = Vec::new();
    match program.source.parent() {
        Some(directory) if program.kind != "test" && !alone => rust_files(directory, &mut files),
        _ => files.push(program.source.clone()),
    }
    files
        .iter()
        .filter(|file| program.source != library || **file != main)
        .any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("#[test]")))
}

/// Rust files below a directory, without those of other programs (`bin`).
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "bin") {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

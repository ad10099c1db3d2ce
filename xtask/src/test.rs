//! `cargo xtask test`: formatting, lints, licences, then every test, those in `tests/` as root, the
//! fuzz targets for a moment, and what matters there on other kernels.
//!
//! One `cargo build --all-targets` makes all programs, and each test program is run from here:
//! nothing is compiled twice, only the tests that need root get it, and a program that should hold
//! tests and ran none is a failure. Nothing is skipped: what cannot run, fails.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{fuzz, setup, shell, test_output::Tally, vm};

/// The package whose tests need root, namespaces and the kernel.
pub(crate) const ROOT_PACKAGE: &str = "jit-tests";
/// What is built for the host: all but the kernel programs, which the agent's build script makes.
const HOST: [&str; 3] = ["--workspace", "--exclude", "jit-agent-ebpf"];

/// What to check.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out what needs root; says so, and ends as a failure
    #[arg(long)]
    no_root: bool,
    /// Only tests, no formatting, lints or licences
    #[arg(long)]
    only_tests: bool,
    /// Leave out the virtual machines and the fuzz targets; says so, and ends as a failure
    #[arg(long)]
    no_machines: bool,
    /// Only tests with this in their name
    name: Option<String>,
}

/// A program full of tests.
pub(crate) struct TestProgram {
    /// The package that it tests.
    pub(crate) package: String,
    /// The program.
    pub(crate) executable: PathBuf,
    directory: PathBuf,
    /// The file that its tests begin in.
    pub(crate) source: PathBuf,
    /// `test` for those of a package's directory `tests`.
    pub(crate) kind: String,
}

/// Checks everything; fails when anything is not as it should be.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { no_root, only_tests, no_machines, name } = options;
    let started = Instant::now();
    setup::ensure(setup::Purpose::Test)?;

    let mut wrong = Vec::new();
    if !only_tests {
        checks(&mut wrong);
    }

    heading("build");
    let programs = build()?;
    if !no_root {
        build_next()?;
    }
    let (root_only, plain): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| program.package == ROOT_PACKAGE);

    let mut total = Tally::default();
    heading("tests without root");
    for program in plain {
        run_program(program, name.as_deref(), false, &mut total, &mut wrong)?;
    }
    if name.is_none() {
        run_documentation(&mut total, &mut wrong)?;
    }
    if no_root {
        wrong.push(format!("the tests of {ROOT_PACKAGE} were left out (--no-root)"));
    } else {
        heading("tests as root, on this kernel");
        for program in root_only {
            run_program(program, name.as_deref(), true, &mut total, &mut wrong)?;
        }
    }

    if no_machines {
        wrong.push("virtual machines and fuzz targets were left out (--no-machines)".to_owned());
    } else if name.is_none() {
        heading("other kernels, in virtual machines");
        match vm::reduced(&programs) {
            Ok((tally, amiss)) => {
                total.add(tally);
                wrong.extend(amiss);
            }
            Err(error) => keep(&mut wrong, Err(error.context("other kernels"))),
        }
        heading("fuzz targets");
        keep(&mut wrong, fuzz::smoke().context("fuzz targets"));
    }

    heading("summary");
    for failure in &total.failures {
        println!("✗ test {failure}");
    }
    if total.skipped > 0 && name.is_none() {
        wrong.push(format!("{} tests did not run", total.skipped));
    }
    for what in &wrong {
        println!("✗ {what}");
    }
    println!("  {:.0} s in all", started.elapsed().as_secs_f64());
    let skipped = if name.is_none() { total.skipped } else { 0 };
    println!("{} passed, {} failed, {skipped} skipped", total.passed, total.failed);
    if total.failed > 0 || !wrong.is_empty() {
        bail!("not everything is as it should be: see the summary above");
    }
    Ok(())
}

/// What is checked without running the product.
fn checks(wrong: &mut Vec<String>) {
    heading("format");
    keep(wrong, shell::visible(&mut shell::cargo(["fmt", "--all", "--", "--check"])));

    heading("clippy");
    let lint = ["--all-targets", "--", "--deny", "warnings"];
    keep(wrong, lint_host(&mut shell::cargo(["clippy"].iter().chain(&HOST).chain(&lint))));

    heading("licences and sources");
    if shell::find("cargo-deny").is_some() {
        let offline = ["deny", "--offline", "check", "bans", "licenses", "sources"];
        keep(wrong, shell::visible(&mut shell::cargo(offline)));
    } else {
        println!("  cargo-deny is not installed: not checked");
    }
}

/// Runs clippy, and fails too on what the compiler of the kernel programs warned about: the
/// agent's build script passes it on, and cargo shows it each time. Clippy itself does not read
/// those programs: Debian's compiler comes without one, and they compile for no other target.
fn lint_host(clippy: &mut Command) -> Result<()> {
    let mut kernel_warnings = 0_usize;
    let ended_well = stream(clippy, |line| {
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

/// Builds the agent with the next version of the tables' layouts: `tests/src/programs.rs` says where
/// it comes to be.
fn build_next() -> Result<()> {
    let target = std::path::absolute(shell::target()).context("where cargo builds")?;
    let mut build = shell::cargo(["build", "--package", "jit-agent", "--bin", "jit-agent"]);
    // With the tests' package, so that dependencies have the features that they have for it.
    build.args(["--package", ROOT_PACKAGE, "--config", "tests/next-abi.toml"]);
    build.arg("--config").arg(format!("build.build-dir={:?}", target.display().to_string()));
    build.arg("--target-dir").arg(target.join("next-abi"));
    shell::visible(&mut build)
}

/// Builds all programs and all test programs, and lists the latter.
pub(crate) fn build() -> Result<Vec<TestProgram>> {
    let mut build =
        shell::cargo(["build"].iter().chain(&HOST).chain(&["--all-targets", "--message-format"]));
    build.arg("json-render-diagnostics").stdout(Stdio::piped());
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

fn run_program(
    program: &TestProgram,
    name: Option<&str>,
    root: bool,
    total: &mut Tally,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let source = program.source.strip_prefix(shell::root()).unwrap_or(&program.source);
    let shown = source.display();
    let mut command = Command::new(&program.executable);
    command
        .current_dir(&program.directory)
        .env("CARGO_MANIFEST_DIR", &program.directory)
        .env("JIT_AGENT_PROGRAMS", shell::target().join("debug"))
        .env("JIT_CLIENT_PYTHON", setup::client_python())
        .args(name)
        .args(if io::stdout().is_terminal() {
            ["--color", "always"]
        } else {
            ["--color", "never"]
        });
    if root {
        command = shell::as_root("these tests make namespaces and load programs", command)?;
    }
    println!("\n{shown}");
    let mut tally = Tally::default();
    let ended_well = stream(command.stdin(Stdio::null()), |line| tally.read(line))?;
    if tally.closed == 0 {
        wrong.push(format!("{shown}: died before its last test"));
    } else if !ended_well && tally.failed == 0 {
        wrong.push(format!("{shown}: ended as a failure though no test failed"));
    }
    if tally.known() == 0 && holds_tests(program) {
        wrong.push(format!("{shown}: holds tests, and ran none"));
    }
    total.add(tally);
    Ok(())
}

fn run_documentation(total: &mut Tally, wrong: &mut Vec<String>) -> Result<()> {
    println!("\nexamples in the documentation");
    let mut cargo = shell::cargo(["test"].iter().chain(&HOST).chain(&["--doc"]));
    let mut tally = Tally::default();
    let ended_well = stream(&mut cargo, |line| tally.read(line))?;
    if !ended_well && tally.failed == 0 {
        wrong.push("examples in the documentation: could not be run".to_owned());
    }
    total.add(tally);
    Ok(())
}

/// Whether the source of this program has tests. A library's modules, and those of a program
/// without a library beside it, are taken to be all files of its directory.
fn holds_tests(program: &TestProgram) -> bool {
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

/// Rust files below a directory, other programs' (`bin`) apart.
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

/// Runs a program with its output on this terminal and, line by line, in this closure.
fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let shown = shell::show(command);
    let output = shell::merged_output(command)?;
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    // The command holds the writing end of the pipe, which must close for the reading to end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("reading what `{shown}` prints"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        each(&line);
    }
    Ok(child.wait().with_context(|| format!("waiting for `{shown}`"))?.success())
}

fn keep(wrong: &mut Vec<String>, result: Result<()>) {
    if let Err(error) = result {
        println!("✗ {error:#}");
        wrong.push(format!("{error:#}"));
    }
}

fn heading(text: &str) {
    let plain = env::var_os("NO_COLOR").is_some() || !io::stdout().is_terminal();
    let (bold, normal) = if plain { ("", "") } else { ("\x1b[1m", "\x1b[0m") };
    println!("\n{bold}== {text} =={normal}");
}

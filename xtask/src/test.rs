//! `cargo xtask test`: formatting, lints, dependencies, then every test, those in `tests/` as root, the
//! fuzz targets for a moment, and what matters there on other kernels.
//!
//! One `cargo build --all-targets` makes all programs, and each test program is run from here:
//! nothing is compiled twice, only the tests that need root get it, and a program that should hold
//! tests and ran none is a failure. Nothing is skipped: what cannot run, fails.

use std::{
    io::{self, IsTerminal as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    checks, fuzz, setup, shell,
    test_output::Tally,
    test_programs::{self, ROOT_PACKAGE, TestProgram},
    vm,
};

/// What to check.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out what needs root; says so, and ends as a failure
    #[arg(long)]
    no_root: bool,
    /// Only tests, no formatting, lints or dependencies
    #[arg(long)]
    only_tests: bool,
    /// Leave out the virtual machines and the fuzz targets; says so, and ends as a failure
    #[arg(long)]
    no_machines: bool,
    /// Only tests with this in their name
    name: Option<String>,
}

/// What the tests came to so far.
#[derive(Default)]
struct Outcome {
    total: Tally,
    /// What is not as it should be, beside tests that failed.
    wrong: Vec<String>,
}

/// Checks everything; fails when anything is not as it should be.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { no_root, only_tests, no_machines, name } = options;
    let name = name.as_deref();
    let started = Instant::now();
    setup::ensure(setup::Purpose::Test)?;

    let mut outcome = Outcome::default();
    if !only_tests {
        outcome.wrong = checks::run();
    }
    shell::heading("build");
    let programs = test_programs::build()?;
    if !no_root {
        test_programs::build_next()?;
    }
    let (root_only, plain): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| program.package == ROOT_PACKAGE);

    shell::heading("tests without root");
    for program in plain {
        outcome.run_program(program, name, false)?;
    }
    if name.is_none() {
        outcome.run_documentation()?;
    }
    if no_root {
        outcome.wrong.push(format!("the tests of {ROOT_PACKAGE} were left out (--no-root)"));
    } else {
        shell::heading("tests as root, on this kernel");
        for program in root_only {
            outcome.run_program(program, name, true)?;
        }
    }
    if no_machines {
        let left_out = "virtual machines and fuzz targets were left out (--no-machines)";
        outcome.wrong.push(left_out.to_owned());
    } else if name.is_none() {
        outcome.run_elsewhere(&programs);
    }
    outcome.summary(name.is_some(), started.elapsed())
}

impl Outcome {
    fn run_program(&mut self, program: &TestProgram, name: Option<&str>, root: bool) -> Result<()> {
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
        let ended_well = shell::stream(command.stdin(Stdio::null()), |line| tally.read(line))?;
        if tally.closed == 0 {
            self.wrong.push(format!("{shown}: died before its last test"));
        } else if !ended_well && tally.failed == 0 {
            self.wrong.push(format!("{shown}: ended as a failure though no test failed"));
        }
        if tally.known() == 0 && test_programs::holds_tests(program) {
            self.wrong.push(format!("{shown}: holds tests, and ran none"));
        }
        self.total.add(tally);
        Ok(())
    }

    fn run_documentation(&mut self) -> Result<()> {
        println!("\nexamples in the documentation");
        let mut cargo = shell::cargo(["test"].iter().chain(&test_programs::HOST).chain(&["--doc"]));
        let mut tally = Tally::default();
        let ended_well = shell::stream(&mut cargo, |line| tally.read(line))?;
        if !ended_well && tally.failed == 0 {
            self.wrong.push("examples in the documentation: could not be run".to_owned());
        }
        self.total.add(tally);
        Ok(())
    }

    /// What matters on other kernels there, and the fuzz targets for a moment.
    fn run_elsewhere(&mut self, programs: &[TestProgram]) {
        shell::heading("other kernels, in virtual machines");
        match vm::reduced(programs) {
            Ok((tally, amiss)) => {
                self.total.add(tally);
                self.wrong.extend(amiss);
            }
            Err(error) => self.wrong.push(checks::shown(&error.context("other kernels"))),
        }
        shell::heading("fuzz targets");
        if let Err(error) = fuzz::smoke().context("fuzz targets") {
            self.wrong.push(checks::shown(&error));
        }
    }

    /// The last lines; with `chosen`, tests were chosen by name, and the others need not have run.
    fn summary(mut self, chosen: bool, took: Duration) -> Result<()> {
        shell::heading("summary");
        for failure in &self.total.failures {
            println!("✗ test {failure}");
        }
        let skipped = if chosen { 0 } else { self.total.skipped };
        if skipped > 0 {
            self.wrong.push(format!("{skipped} tests did not run"));
        }
        for what in &self.wrong {
            println!("✗ {what}");
        }
        println!("  {:.0} s in all", took.as_secs_f64());
        let Tally { passed, failed, .. } = self.total;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 || !self.wrong.is_empty() {
            bail!("not everything is as it should be: see the summary above");
        }
        Ok(())
    }
}

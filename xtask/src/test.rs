//! `cargo xtask test`: checks formatting, lints and dependencies, then runs every test (those in
//! `tests/` as root), the fuzz targets for a moment, and the tests that matter on other kernels
//! there.
//!
//! One `cargo build --all-targets` makes all programs, and this task runs each test program. So
//! nothing is compiled twice, and only the tests that need root get it. A program that should have
//! tests but ran none is a failure. No test is skipped: a test that cannot run fails.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
    num::NonZero,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
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

/// Options of the check.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out what needs root; the task then says so and fails
    #[arg(long)]
    no_root: bool,
    /// Only tests, no formatting, lints or dependencies
    #[arg(long)]
    only_tests: bool,
    /// Leave out the virtual machines and the fuzz targets; the task then says so and fails
    #[arg(long)]
    no_machines: bool,
    /// Only tests with this in their name
    name: Option<String>,
}

/// The test program that runs beside the virtual machines: it takes five minutes, and little of a
/// processor.
const BESIDE: &str = "soak";

/// Test programs whose tests wait most of the time: for a kernel that removes namespaces, for clocks,
/// for timeouts. They get twice as many threads as there are processors. Those that measure do not.
const WAIT: [&str; 5] = ["controllers", "coverage", "hooks", "identity", "lifecycle"];

/// Results so far.
#[derive(Default)]
struct Outcome {
    total: Tally,
    /// Failures other than failed tests.
    wrong: Vec<String>,
    /// What could not be checked here, and is no failure.
    notes: Vec<String>,
}

/// Checks everything. Fails if anything is wrong.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { no_root, only_tests, no_machines, name } = options;
    let name = name.as_deref();
    let started = Instant::now();
    setup::ensure(setup::Purpose::Test)?;

    let mut outcome = Outcome::default();
    if !only_tests {
        let checks::Findings { wrong, notes } = checks::run();
        (outcome.wrong, outcome.notes) = (wrong, notes);
    }
    shell::heading("build");
    let programs = test_programs::build()?;
    if !no_root {
        test_programs::build_next()?;
    }
    let (root_only, plain): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| program.package == ROOT_PACKAGE);

    // The tests leave processors idle: what is compiled for later takes that time, at the lowest
    // priority.
    let ahead = (!no_machines && name.is_none()).then(|| thread::spawn(fuzz::build_ahead));
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
            if no_machines || name.is_some() || !is_beside(program) {
                outcome.run_program(program, name, true)?;
            }
        }
    }
    if no_machines {
        let left_out = "virtual machines and fuzz targets were left out (--no-machines)";
        outcome.wrong.push(left_out.to_owned());
    } else if name.is_none() {
        let beside = programs.iter().filter(|program| !no_root && is_beside(program));
        let beside = beside.map(Beside::start).collect::<Result<Vec<_>>>()?;
        // The machines need the processors for themselves.
        if let Some(ahead) = ahead {
            println!(
                "\n  {}",
                ahead.join().unwrap_or_else(|_| "the fuzz targets: a panic".to_owned())
            );
        }
        outcome.run_elsewhere(&programs);
        for one in beside {
            outcome.end(one)?;
        }
    }
    outcome.summary(name.is_some(), started.elapsed())
}

/// A test program that runs while other things do. What it writes is shown at its end.
struct Beside<'a> {
    program: &'a TestProgram,
    child: Child,
    output: PathBuf,
}

impl<'a> Beside<'a> {
    fn start(program: &'a TestProgram) -> Result<Self> {
        let output = shell::target().join(format!("{BESIDE}.log"));
        let file = File::create(&output).with_context(|| format!("making {}", output.display()))?;
        let other = file.try_clone().context("a second descriptor of the output")?;
        let mut command = command(program, None, true)?;
        command.stdin(Stdio::null()).stdout(file).stderr(other);
        let child = command.spawn().context("cannot start a test program")?;
        println!("\n{} runs beside what follows", shown(program));
        Ok(Self { program, child, output })
    }
}

fn is_beside(program: &TestProgram) -> bool {
    program.package == ROOT_PACKAGE && program.source.file_stem().is_some_and(|stem| stem == BESIDE)
}

/// The number of threads for a program whose tests wait.
fn threads(program: &TestProgram) -> Option<usize> {
    let directory = program.source.parent().and_then(Path::file_name)?;
    let waits = program.package == ROOT_PACKAGE && WAIT.iter().any(|name| directory == *name);
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    waits.then_some(2 * processors)
}

fn shown(program: &TestProgram) -> String {
    let source = program.source.strip_prefix(shell::root()).unwrap_or(&program.source);
    source.display().to_string()
}

fn command(program: &TestProgram, name: Option<&str>, root: bool) -> Result<Command> {
    let colour = if io::stdout().is_terminal() { "always" } else { "never" };
    let is_chosen = std::env::var_os("RUST_TEST_THREADS").is_some();
    let threads = threads(program).filter(|_| !is_chosen);
    let mut command = Command::new(&program.executable);
    command
        .current_dir(&program.directory)
        .env("CARGO_MANIFEST_DIR", &program.directory)
        .env("JIT_AGENT_PROGRAMS", shell::target().join("debug"))
        .env("JIT_CLIENT_PYTHON", setup::client_python())
        .env("JIT_NATS_SERVER", setup::nats_server())
        .env("JIT_NODE", setup::node_program())
        .env("JIT_NODE_MODULES", setup::node_modules())
        .env("JIT_PROMTOOL", setup::promtool())
        .args(name)
        .args(["--color", colour])
        .args(threads.map(|count| format!("--test-threads={count}")));
    if root {
        return shell::as_root("these tests make namespaces and load programs", command);
    }
    Ok(command)
}

impl Outcome {
    fn run_program(&mut self, program: &TestProgram, name: Option<&str>, root: bool) -> Result<()> {
        let mut command = command(program, name, root)?;
        println!("\n{}", shown(program));
        let mut tally = Tally::default();
        let ended_well = shell::stream(command.stdin(Stdio::null()), |line| tally.read(line))?;
        self.count(program, tally, ended_well);
        Ok(())
    }

    /// Waits for a test program that was started before.
    fn end(&mut self, beside: Beside<'_>) -> Result<()> {
        let Beside { program, mut child, output } = beside;
        let ended = child.wait().context("waiting for a test program")?;
        println!("\n{}", shown(program));
        let written = fs::read_to_string(&output);
        let written = written.with_context(|| format!("reading {}", output.display()))?;
        let mut tally = Tally::default();
        for line in written.lines() {
            println!("{line}");
            tally.read(line);
        }
        self.count(program, tally, ended.success());
        Ok(())
    }

    fn count(&mut self, program: &TestProgram, tally: Tally, ended_well: bool) {
        let shown = shown(program);
        if tally.closed == 0 {
            self.wrong.push(format!("{shown}: died before its last test"));
        } else if !ended_well && tally.failed == 0 {
            self.wrong.push(format!("{shown}: failed, although no test failed"));
        }
        if tally.known() == 0 && test_programs::holds_tests(program) {
            self.wrong.push(format!("{shown}: has tests, but ran none"));
        }
        self.total.add(tally);
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

    /// Runs the reduced matrix of other kernels, and the fuzz targets for a moment.
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

    /// Prints the summary. `chosen`: tests were chosen by name, so the others need not have run.
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
        for what in &self.notes {
            println!("! {what}");
        }
        println!("  {:.0} s in all", took.as_secs_f64());
        let Tally { passed, failed, .. } = self.total;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 || !self.wrong.is_empty() {
            bail!("the check failed: see the summary above");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_whose_tests_wait_get_more_threads() {
        let of = |package: &str, source: &str| TestProgram {
            package: package.to_owned(),
            executable: PathBuf::new(),
            directory: PathBuf::new(),
            source: PathBuf::from(source),
            kind: "test".to_owned(),
        };
        for name in WAIT {
            let source = format!("tests/tests/{name}/main.rs");
            assert!(shell::root().join(&source).is_file(), "there is no {source}");
            assert!(threads(&of(ROOT_PACKAGE, &source)).is_some_and(|count| count > 1));
            assert_eq!(threads(&of("jit-agent", &source)), None);
        }
        for measures in ["floods/main.rs", "fleet/main.rs", "whole/main.rs", "soak.rs"] {
            assert_eq!(threads(&of(ROOT_PACKAGE, &format!("tests/tests/{measures}"))), None);
        }
    }
}

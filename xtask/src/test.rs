//! `cargo xtask test`: checks formatting, lints and dependencies, then runs every test (those in
//! `tests/` as root), the fuzz targets for a moment, and the tests that matter on other kernels
//! there.
//!
//! One `cargo build --all-targets` makes all programs, and this task runs each test program. So
//! nothing is compiled twice, and only the tests that need root get it. A program that should have
//! tests but ran none is a failure. No test is skipped: a test that cannot run fails. `test_lanes`
//! says which programs run side by side.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
    num::NonZero,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    checks, fuzz, setup, shell,
    test_lanes::{self, Lane},
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

    // The tests leave processors idle: what is compiled for later takes that time, at the lowest
    // priority.
    let ahead = (!no_machines && name.is_none()).then(|| thread::spawn(fuzz::build_ahead));
    let mut chosen: Vec<_> =
        programs.iter().filter(|program| !(no_root && needs_root(program))).collect();
    if no_root {
        outcome.wrong.push(format!("the tests of {ROOT_PACKAGE} were left out (--no-root)"));
    }
    if name.is_some() {
        // Few tests, and somebody who looks on: one program after the other.
        shell::heading("tests");
        if !no_root {
            test_programs::build_next()?;
        }
        for program in &chosen {
            outcome.run_program(program, name)?;
        }
    } else {
        chosen.sort_by_key(|program| test_lanes::rank(program));
        let of = |wanted: Lane| {
            let is_there = |program: &&&TestProgram| lane(program, no_machines) == wanted;
            chosen.iter().filter(is_there).copied().collect::<Vec<_>>()
        };
        shell::heading("tests, side by side");
        outcome.run_lanes(of(Lane::Computes), of(Lane::Waits))?;
        shell::heading("tests that measure, alone");
        for program in of(Lane::Alone) {
            outcome.run_program(program, name)?;
        }
    }
    if no_machines {
        let left_out = "virtual machines and fuzz targets were left out (--no-machines)";
        outcome.wrong.push(left_out.to_owned());
    } else if name.is_none() {
        let beside = chosen.iter().filter(|program| lane(program, no_machines) == Lane::Machines);
        let beside = beside.map(|program| Beside::start(program)).collect::<Result<Vec<_>>>()?;
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

/// What a lane does.
enum Work<'a> {
    Program(&'a TestProgram),
    /// The examples in the documentation.
    Documentation,
}

/// What came of a piece of work in a lane.
struct Done<'a> {
    work: Work<'a>,
    tally: Tally,
    ended_well: Result<bool>,
}

/// A test program that runs while other things do. What it writes is shown at its end.
struct Beside<'a> {
    program: &'a TestProgram,
    child: Child,
    output: PathBuf,
}

impl<'a> Beside<'a> {
    fn start(program: &'a TestProgram) -> Result<Self> {
        let output = shell::target().join("beside.log");
        let file = File::create(&output).with_context(|| format!("making {}", output.display()))?;
        let other = file.try_clone().context("a second descriptor of the output")?;
        let mut command = command(program, None)?;
        command.stdin(Stdio::null()).stdout(file).stderr(other);
        let child = command.spawn().context("cannot start a test program")?;
        println!("\n{} runs beside what follows", shown(program));
        Ok(Self { program, child, output })
    }
}

fn needs_root(program: &TestProgram) -> bool {
    program.package == ROOT_PACKAGE
}

/// The lane of a program. Without virtual machines, what runs beside them runs alone.
fn lane(program: &TestProgram, no_machines: bool) -> Lane {
    match test_lanes::lane(program) {
        Lane::Machines if no_machines => Lane::Alone,
        lane => lane,
    }
}

/// The number of threads for a program whose tests wait.
fn threads(program: &TestProgram) -> Option<usize> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    (test_lanes::lane(program) == Lane::Waits).then_some(2 * processors)
}

fn shown(program: &TestProgram) -> String {
    let source = program.source.strip_prefix(shell::root()).unwrap_or(&program.source);
    source.display().to_string()
}

fn command(program: &TestProgram, name: Option<&str>) -> Result<Command> {
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
    if needs_root(program) {
        return shell::as_root("these tests make namespaces and load programs", command);
    }
    Ok(command)
}

impl<'a> Done<'a> {
    /// Does the work, and shows at once what was written.
    fn of(work: Work<'a>) -> Self {
        let shown = work.shown();
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut written = String::new();
        let ended_well = work.command().and_then(|mut command| {
            shell::lines(command.stdin(Stdio::null()), |line| {
                if line.contains(" has been running for over ") {
                    println!("  {shown}: {line}");
                }
                written += line;
                written.push('\n');
                tally.read(line);
            })
        });
        print!("\n{shown} ({} s)\n{written}", started.elapsed().as_secs());
        Self { work, tally, ended_well }
    }
}

impl Work<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Program(program) => shown(program),
            Self::Documentation => "examples in the documentation".to_owned(),
        }
    }

    fn command(&self) -> Result<Command> {
        match self {
            Self::Program(program) => command(program, None),
            Self::Documentation => {
                Ok(shell::cargo(["test"].iter().chain(&test_programs::HOST).chain(&["--doc"])))
            }
        }
    }
}

impl Outcome {
    /// Runs the programs of both lanes, and the examples in the documentation. What a program writes
    /// is shown at its end, and before that only which test runs for long.
    fn run_lanes(&mut self, computes: Vec<&TestProgram>, waits: Vec<&TestProgram>) -> Result<()> {
        // Made when the first program may need it: one lane compiles, the other one tests.
        let next = OnceLock::new();
        if computes.iter().chain(&waits).any(|program| needs_root(program)) {
            shell::ask_for_root("the tests make namespaces and load programs")?;
        }
        let last = [Work::Documentation];
        let computes = computes.into_iter().map(Work::Program).chain(last).collect();
        let waits = waits.into_iter().map(Work::Program).collect();
        let all = test_lanes::both([computes, waits], |work| {
            if matches!(work, Work::Program(program) if needs_root(program)) {
                next.get_or_init(test_programs::build_next);
            }
            Done::of(work)
        });
        for Done { work, tally, ended_well } in all {
            let ended_well = ended_well.unwrap_or_else(|error| {
                self.wrong.push(checks::shown(&error));
                false
            });
            match work {
                Work::Program(program) => self.count(program, tally, ended_well),
                Work::Documentation => self.count_documentation(tally, ended_well),
            }
        }
        if let Some(Err(error)) = next.into_inner() {
            self.wrong.push(checks::shown(&error.context("the next layouts")));
        }
        Ok(())
    }

    fn run_program(&mut self, program: &TestProgram, name: Option<&str>) -> Result<()> {
        let mut command = command(program, name)?;
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

    fn count_documentation(&mut self, tally: Tally, ended_well: bool) {
        if !ended_well && tally.failed == 0 {
            self.wrong.push("examples in the documentation: could not be run".to_owned());
        }
        self.total.add(tally);
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

    fn of(source: &str) -> TestProgram {
        TestProgram {
            package: String::new(),
            executable: PathBuf::new(),
            directory: PathBuf::new(),
            source: shell::root().join(source),
            kind: "test".to_owned(),
        }
    }

    #[test]
    fn only_programs_whose_tests_wait_get_more_threads() {
        for waits in ["tests/tests/lifecycle/main.rs", "tests/tests/hooks/main.rs"] {
            assert!(threads(&of(waits)).is_some_and(|count| count > 1), "{waits}");
        }
        for other in ["tests/tests/floods/main.rs", "tests/tests/soak.rs", "proto/src/lib.rs"] {
            assert_eq!(threads(&of(other)), None, "{other}");
        }
    }

    #[test]
    fn without_machines_nothing_is_left_out() {
        let soak = of("tests/tests/soak.rs");
        assert_eq!(lane(&soak, false), Lane::Machines);
        assert_eq!(lane(&soak, true), Lane::Alone);
    }
}

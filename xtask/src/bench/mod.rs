//! `cargo xtask bench`: measures the gate beside its peers, as root, with optimised programs. What
//! belongs to one row is measured in turns in one run: ratios mean something, absolute times differ
//! between machines.
//!
//! The benches are programs of the crate `jit-tests`. Each appends its figures to one file, and this
//! task makes a report of it: `target/bench/report.json`, the same as Markdown, and bar charts.

use std::{
    env, fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::report::Report;
use crate::{
    build, setup, shell,
    test_programs::{self, HOST},
};

mod chart;
mod compare;
mod goals;
mod machine;
mod markdown;
mod report;

/// Where optimised programs are, below the directory for what is built. The first that has a program counts: an
/// older controller may stand in the other one.
const PROGRAMS: [&str; 2] = ["quick", "release"];

/// Options of the measurement.
#[derive(Args)]
pub(crate) struct Options {
    /// Few short rounds of programs that are not optimised: that it runs matters, not the figures
    #[arg(long)]
    quick: bool,
    /// With --quick: take the programs and benches that `cargo xtask test` has built
    #[arg(long, requires = "quick")]
    built: bool,
    /// Also print what became slower or faster since that report; exit code 1 if something is slower
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Only this bench; can be given more than once
    #[arg(long, value_name = "BENCH")]
    only: Vec<Bench>,
    /// The number of rounds, in place of each bench's own
    #[arg(long)]
    rounds: Option<NonZeroUsize>,
    /// At the end print the report as JSON, not as tables
    #[arg(long)]
    json: bool,
}

/// A program that measures.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Time for a packet, by BPF_PROG_TEST_RUN
    Packets,
    /// Drop rates of live frames
    Frames,
    /// Connections during floods
    Attack,
    /// Pushes, start, memory
    Control,
    /// Requests to a controller with real hosts, its lists, pages and memory, and a fleet that
    /// dials it or hubs of a bus
    Controller,
    /// Single steps of the agent
    Micro,
}

impl Bench {
    /// The profile that it is built with. The simulated agents of the controller's bench are thousands, and
    /// what they take themselves the controller does not have.
    const fn profile(self) -> &'static str {
        match self {
            Self::Controller => "quick-bench",
            _ => "bench",
        }
    }

    /// Its name, for cargo and for a person.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Measures, writes the report and prints it.
pub(crate) fn run(options: Options) -> Result<()> {
    // Read first: a wrong path must not be noticed only after the measurement.
    let old = options.compare.as_deref().map(read).transpose()?;
    if old.as_ref().is_some_and(|old| old.quick != options.quick) {
        bail!("a report with --quick and one without cannot be compared: measure both in one form");
    }
    setup::ensure(setup::Purpose::Bench)?;
    let directory = std::path::absolute(shell::target().join("bench"))?;
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let figures = directory.join("figures.jsonl");
    // Also for root, who appends to it: it stays the caller's file.
    fs::write(&figures, "").with_context(|| format!("emptying {}", figures.display()))?;

    let failed = measure(&options, &figures)?;
    let lines = fs::read_to_string(&figures)
        .with_context(|| format!("reading what was measured: {}", figures.display()))?;
    let report = Report {
        machine: machine::describe(),
        quick: options.quick,
        failed,
        tables: report::merge(&lines)?,
    };
    let shown = write(&report, &directory, options.json)?;
    println!("\n{shown}");
    println!("written to {}: report (JSON, Markdown), charts (SVG)", directory.display());
    let slower = old.is_some_and(|old| {
        let changes = compare::changes(&old, &report);
        println!("\n{}", compare::shown(&changes));
        changes.iter().any(|change| change.slower)
    });
    if !report.failed.is_empty() {
        bail!("these benches failed, see above: {}", report.failed.join(", "));
    }
    if slower {
        bail!("something became slower, see above");
    }
    Ok(())
}

/// Runs the benches one after another. Returns the names of those that failed.
fn measure(options: &Options, figures: &Path) -> Result<Vec<String>> {
    if !options.built {
        shell::heading("build");
        build_programs(options.quick)?;
    }
    let directories: &[&str] = if options.quick { &["debug"] } else { &PROGRAMS };
    let directories = directories.iter().map(|directory| shell::target().join(directory));
    let directories = env::join_paths(directories).context("a path with a colon")?;
    // Of all packages, dependencies have the features of the build of everything, and no others.
    let packages: &[&str] =
        if options.built { &HOST } else { &["--package", test_programs::ROOT_PACKAGE] };
    let chosen: Vec<_> = Bench::value_variants()
        .iter()
        .filter(|bench| options.only.is_empty() || options.only.contains(bench))
        .collect();
    let mut failed = Vec::new();
    for (number, bench) in (1..).zip(&chosen) {
        let name = bench.name();
        shell::heading(&format!("{name} ({number} of {})", chosen.len()));
        let profile = if options.quick { "dev" } else { bench.profile() };
        let arguments = ["bench", "--profile", profile, "--bench", &name];
        let arguments = || arguments.iter().chain(packages);
        // Without root, so that what cargo builds stays the caller's.
        let mut build = shell::cargo(arguments().chain(&["--no-run"]));
        let mut bench = shell::cargo(arguments());
        bench
            .env("JIT_BENCH_FIGURES", figures)
            .env("JIT_AGENT_PROGRAMS", &directories)
            .env("JIT_NATS_SERVER", setup::nats_server())
            .envs(options.quick.then_some(("JIT_BENCH_QUICK", "1")))
            .envs(options.rounds.map(|rounds| ("JIT_BENCH_ROUNDS", rounds.to_string())));
        let reason = "the figures are taken on this machine's kernel, in network namespaces";
        let ran = shell::long("build", &mut build)
            .and_then(|()| shell::long("measure", &mut shell::as_root(reason, bench)?));
        if let Err(error) = ran {
            println!("✗ bench {name}: {error:#}");
            failed.push(name);
        }
    }
    Ok(failed)
}

/// Builds what some benches start: the agent, the operator's tool and the controller.
fn build_programs(quick: bool) -> Result<()> {
    // Together with jit-tests, so that dependencies keep the features that it asks for. The controller
    // by itself: its features must not make the agent larger, whose size is measured.
    for packages in [&["jit-agent", "jitctl", "jit-tests"][..], &["jit-controller"]] {
        let profile = packages.first().map_or("dev", |first| build::optimised(first));
        let profile = if quick { "dev" } else { profile };
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        let build = ["build", "--bins", "--profile", profile];
        let mut build = shell::cargo(build.into_iter().chain(packages));
        shell::long("programs under test", &mut build)?;
    }
    Ok(())
}

/// Writes all forms of the report. Returns the one to show, JSON or Markdown.
fn write(report: &Report, directory: &Path, as_json: bool) -> Result<String> {
    let text = markdown::render(report);
    let json = serde_json::to_string_pretty(report).context("the report as JSON")? + "\n";
    let shown = if as_json { json.clone() } else { text.clone() };
    let charts = report.tables.iter().flat_map(chart::of_table);
    let report = |extension| format!("report.{extension}");
    let files = [(report("json"), json), (report("md"), text)];
    for (name, contents) in files.into_iter().chain(charts) {
        let path = directory.join(name);
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(shown)
}

/// An earlier report.
fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("reading the report to compare with: {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no report.json of `cargo xtask bench`", path.display()))
}

//! `cargo xtask vm-test`: tests the gate on other kernels than this machine's, in virtual machines
//! that are emulated in software. It needs no rights. It writes only below `target/vm-test`:
//! kernels, consoles, and the table of results. With `--systemd` it tests the packages instead.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    checks::Step,
    kernels::{CHOICES, Choice, Kernel},
    progress::Progress,
    report::Machine,
};
use crate::{
    debian::Archives,
    setup, shell,
    test_output::Tally,
    test_programs::{self, TestProgram},
};

mod checks;
mod console;
mod image;
mod kernels;
mod machine;
mod modules;
mod packages;
mod progress;
mod report;
mod systemd;

/// Longest time from a machine's start to power-off.
const LIMIT: Duration = Duration::from_secs(1_200);

/// Options: kernels and checks.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this kernel; may be given more than once
    #[arg(long, value_parser = CHOICES.map(|choice| choice.label))]
    kernel: Vec<String>,
    /// The reduced matrix, which `cargo xtask test` also runs
    #[arg(long, conflicts_with = "kernel")]
    quick: bool,
    /// Only this check, or with --systemd this step; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Test the packages in a machine with a real systemd instead: install, reboot, upgrade, removal
    #[arg(long, conflicts_with_all = ["kernel", "quick"])]
    systemd: bool,
    /// With --systemd: all steps, one boot for each fault
    #[arg(long, requires = "systemd")]
    long: bool,
    /// With --systemd: the folder with the packages, in place of target/dist
    #[arg(long, requires = "systemd", value_name = "FOLDER")]
    packages: Option<PathBuf>,
    /// With --systemd: the built program of the tests `floods`
    #[arg(long, requires = "systemd", hide = true)]
    floods: Option<PathBuf>,
}

/// The checks to run in each machine.
struct Steps {
    /// Only these. Empty: all.
    only: Vec<String>,
    /// The checks of the reduced run.
    reduced: bool,
}

impl Steps {
    fn of(&self, version: &str) -> Vec<Step> {
        let mut steps = checks::steps(version, self.reduced && self.only.is_empty());
        steps.retain(|step| self.only.is_empty() || self.only.iter().any(|name| name == step.name));
        steps
    }
}

/// Builds the programs, fetches the kernels, boots them, and reports the results.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { kernel, quick, only, systemd, long, packages, floods } = options;
    let known = if systemd { systemd::names() } else { checks::names() };
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        let (what, other) = if systemd { ("step", "") } else { ("check", ", without --systemd") };
        bail!("--only {unknown}: there is no such {what}{other}; there are: {}", known.join(", "));
    }
    if systemd {
        return systemd::run(systemd::Run { long, only, packages, floods });
    }
    let chosen = CHOICES.into_iter().filter(|choice| {
        if kernel.is_empty() {
            !quick || choice.quick
        } else {
            kernel.iter().any(|label| label == choice.label)
        }
    });
    setup::ensure(setup::Purpose::VirtualMachines)?;
    let machines = matrix(chosen, &Steps { only, reduced: quick }, &test_programs::build()?)?;
    let failed = machines.iter().filter(|machine| !machine.wrong().is_empty()).count();
    if failed > 0 {
        bail!("{failed} of {} kernels failed", machines.len());
    }
    Ok(())
}

/// Runs the reduced matrix for `cargo xtask test`, with the programs that it has built. Returns the
/// results of the tests in the machines, and all failures.
pub(crate) fn reduced(programs: &[TestProgram]) -> Result<(Tally, Vec<String>)> {
    setup::ensure(setup::Purpose::VirtualMachines)?;
    let quick = CHOICES.into_iter().filter(|choice| choice.quick);
    let machines = matrix(quick, &Steps { only: Vec::new(), reduced: true }, programs)?;
    let mut total = Tally::default();
    let mut wrong = Vec::new();
    for machine in &machines {
        total.add(machine.tests());
        wrong.extend(machine.wrong().iter().map(|what| format!("{}: {what}", machine.label)));
    }
    Ok((total, wrong))
}

fn matrix(
    chosen: impl Iterator<Item = Choice>,
    steps: &Steps,
    programs: &[TestProgram],
) -> Result<Vec<Machine>> {
    let scratch = shell::target().join("vm-test");
    fs::create_dir_all(&scratch).context("making target/vm-test")?;
    let archives =
        Archives::find().context("the kernels of the matrix come from Debian's archive")?;
    let kernels = chosen
        .map(|choice: Choice| kernels::provide(choice, &archives, &scratch))
        .collect::<Result<Vec<_>>>()?;
    let base = image::base(&inside(programs), &scratch)?;
    let machines = boot_all(&kernels, steps, &base, &scratch)?;
    let result = scratch.join("result.json");
    let text = serde_json::to_string_pretty(&report::json(&machines)).context("writing JSON")?;
    fs::write(&result, text + "\n").context("writing the result")?;
    println!("\n{}", report::table(&machines));
    println!("  consoles and result.json are below {}", scratch.display());
    Ok(machines)
}

/// Boots each kernel, one for each processor at a time, and shows the progress.
fn boot_all(
    kernels: &[Kernel],
    steps: &Steps,
    base: &Path,
    scratch: &Path,
) -> Result<Vec<Machine>> {
    let at_once = thread::available_parallelism().map_or(1, NonZero::get).min(kernels.len());
    let progress = Progress::new();
    let waiting = Mutex::new(kernels.iter());
    let next = || waiting.lock().ok()?.next();
    let mut machines = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    while let Some(kernel) = next() {
                        done.push(boot(kernel, steps, base, scratch, &progress)?);
                    }
                    Ok(done)
                })
            })
            .collect();
        let mut machines = Vec::new();
        for worker in workers {
            let done: Result<Vec<Machine>> =
                worker.join().unwrap_or_else(|_| bail!("the run of a machine panicked"));
            machines.extend(done?);
        }
        anyhow::Ok(machines)
    })?;
    machines.sort_by_key(|machine| CHOICES.iter().position(|one| one.label == machine.label));
    Ok(machines)
}

fn boot(
    kernel: &Kernel,
    steps: &Steps,
    base: &Path,
    scratch: &Path,
    progress: &Progress,
) -> Result<Machine> {
    let Kernel { label, version, image, .. } = kernel;
    let directory = scratch.join("machines").join(label);
    fs::create_dir_all(&directory).context("making a directory for a machine")?;
    let steps = steps.of(version);
    let initramfs = image::complete(base, kernel, &steps, &directory)?;
    let bar = progress.machine(label);
    let mut shown = 0;
    let run = machine::run(image, &initramfs, &directory.join("console"), LIMIT, |reported| {
        for name in reported.order.iter().skip(shown) {
            if let Some(ended) = reported.checks.get(name) {
                progress.say(&bar, &format!("{label:>6}  {}", report::sentence(name, ended)));
            }
        }
        shown = reported.order.len();
        bar.set_message(reported.running.clone().unwrap_or_default());
    })?;
    bar.finish_and_clear();
    let machine = Machine {
        label,
        version: version.clone(),
        took: run.took,
        steps,
        reported: run.reported,
        broke_off: run.wrong,
    };
    let wrong = machine.wrong();
    if !wrong.is_empty() {
        let mut text = String::new();
        let broke_off = machine.broke_off.is_some();
        let console = broke_off.then_some(("the end of its console", &run.tail));
        for (name, lines) in machine.failed().chain(console) {
            text += &format!("{label:>6}  {name}:\n");
            lines.iter().for_each(|line| text += &format!("        | {line}\n"));
        }
        wrong.iter().for_each(|what| text += &format!("{label:>6}  ✗ {what}\n"));
        progress.say(&bar, text.trim_end());
    }
    Ok(machine)
}

/// The built programs that run inside the machines.
fn inside(programs: &[TestProgram]) -> Vec<(PathBuf, String)> {
    let tests = programs
        .iter()
        .filter(|program| program.package == test_programs::ROOT_PACKAGE && program.kind == "test")
        .filter_map(|program| {
            let directory = program.source.parent()?.file_name()?;
            let name = directory.to_str()?.to_owned();
            let runs = ["guard", "hooks", "kernel", "lifecycle"].contains(&name.as_str());
            runs.then(|| (program.executable.clone(), name))
        });
    let product = ["jit-agent", "jitctl"]
        .map(|name| (shell::target().join("debug").join(name), name.to_owned()));
    tests.chain(product).collect()
}

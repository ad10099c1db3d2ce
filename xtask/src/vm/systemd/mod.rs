//! `cargo xtask vm-test --systemd`: the packages in a machine with a real systemd, from `apt install`
//! to purge, with reboots. A stranger tries to get in from before the kernel starts until the end.
//!
//! The machine is Debian with its own kernel, emulated in software. Its only link ends in a network
//! namespace of this host. It needs root for that, and for making the machine's disk.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use self::{
    link::Link, machine::Machine, packages::Packages, probe::Probe, scene::Scene, steps::Step,
};
use crate::{setup, shell, test_programs};

mod link;
mod machine;
mod packages;
mod probe;
mod report;
mod root;
mod scene;
mod session;
mod steps;

/// The file of the result, beside the console.
const RESULT: &str = "result.txt";

/// The names of all steps.
pub(super) fn names() -> Vec<&'static str> {
    steps::names()
}

/// What to run, from the command line.
pub(super) struct Run {
    /// All steps.
    pub(super) long: bool,
    /// These steps and what they build on. Empty: those of the short form.
    pub(super) only: Vec<String>,
    /// A folder with the packages, in place of what `cargo xtask dist` made.
    pub(super) packages: Option<PathBuf>,
    /// The program of the floods, if it is built.
    pub(super) floods: Option<PathBuf>,
}

/// Makes the machine and takes the steps.
pub(super) fn run(run: Run) -> Result<()> {
    let Run { long, only, packages, floods } = run;
    let steps = steps::chosen(long, &only);
    setup::ensure(setup::Purpose::SystemdMachine)?;
    if steps.iter().any(|step| step.name == "ansible") {
        setup::ensure_ansible()?;
    }
    let packages = packages.unwrap_or_else(|| shell::target().join("dist"));
    let floods = match floods {
        None if steps.iter().any(|step| step.name == "floods") => {
            Some(test_programs::build_root_test("floods")?)
        }
        floods => floods,
    };
    if !shell::is_root() {
        let mut again = Command::new(std::env::current_exe().context("where this program is")?);
        again.args(["vm-test", "--systemd", "--packages"]).arg(&packages);
        again.args(long.then_some("--long")).args(only.iter().flat_map(|name| ["--only", name]));
        if let Some(floods) = floods {
            again.arg("--floods").arg(floods);
        }
        let reason = "the machine's link is a network namespace, and its disk has owners";
        return Err(shell::as_root(reason, again)?.exec()).context("starting sudo");
    }
    let scratch = shell::target().join("vm-test/systemd");
    fs::create_dir_all(&scratch).context("making target/vm-test/systemd")?;
    let scratch = scratch.canonicalize().context("where the machine's files are")?;
    let started = Instant::now();
    let mut taken = take(&steps, &packages, floods.as_deref(), &scratch)?;
    if taken.aborted {
        // qemu 7.2 with a thread for each processor aborts now and then while the machine boots
        // (`iotlb_to_section`). One thread for both takes almost twice as long, so: once more.
        println!("      the emulator has aborted: all steps once more");
        taken = take(&steps, &packages, floods.as_deref(), &scratch)?;
    }
    let results = taken.results;
    let table = report::table(&results);
    fs::write(scratch.join(RESULT), &table).context("writing the result")?;
    let failed = results.iter().filter(|result| result.seen.is_err()).count();
    println!(
        "\n{table}\n  {} steps, {failed} failed, in {} s; console and {RESULT} are below {}",
        results.len(),
        started.elapsed().as_secs(),
        scratch.display()
    );
    ensure!(failed == 0, "{failed} of {} steps failed", results.len());
    Ok(())
}

/// What became of a run.
struct Taken {
    results: Vec<report::Result>,
    /// The emulator ended in the middle of it.
    aborted: bool,
}

fn take(steps: &[&Step], packages: &Path, floods: Option<&Path>, scratch: &Path) -> Result<Taken> {
    let root = root::provide(scratch)?;
    // Not below /tmp: the machine's disk is larger than some have memory for.
    let directory = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(scratch)
        .context("a folder for the run")?;
    let files = directory.path().join("files");
    let keys = directory.path().join("keys");
    for folder in [&files, &keys] {
        fs::create_dir(folder).context("making a folder of the run")?;
    }
    let packages = Packages::gather(packages, &files, directory.path())?;
    let link = Link::new()?;
    // The stranger is there first.
    let probe = Probe::start(&link)?;
    let machine = Machine::start(&link, &root, &files, directory.path())?;
    let mut scene = Scene {
        probe,
        machine,
        packages,
        floods: floods.map(Path::to_owned),
        scratch: keys,
        closed_since: None,
        session: None,
        link,
    };
    let results = scene.make_keys().map(|()| play(steps, &mut scene));
    let kept = fs::copy(directory.path().join("console"), scratch.join("console"));
    kept.context("keeping the console")?;
    Ok(Taken { results: results?, aborted: scene.machine.has_ended() })
}

fn play(steps: &[&Step], scene: &mut Scene) -> Vec<report::Result> {
    let mut results: Vec<report::Result> = Vec::new();
    for step in steps {
        println!("      {:<20} {}", step.name, step.what);
        let started = Instant::now();
        let failed =
            |name: &&&str| results.iter().any(|one| one.seen.is_err() && one.name == **name);
        let seen = match step.on.iter().find(failed) {
            Some(on) => Err(format!("not taken: it builds on {on}, which failed")),
            None => (step.run)(scene).map_err(|error| format!("{error:#}")),
        };
        let result = report::Result { name: step.name, took: started.elapsed(), seen };
        println!("{}", result.line());
        let failed = result.seen.as_ref().is_err_and(|why| !why.starts_with("not taken"));
        results.push(result);
        if scene.machine.has_ended() {
            break;
        }
        if failed {
            println!("      the end of the console:\n{}", scene.machine.console_end());
            println!("{}", scene.agent_log());
        }
    }
    println!("      the stranger has tried {} times", scene.probe.attempts());
    results
}

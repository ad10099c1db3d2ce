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
    link::Link,
    machine::Machine,
    packages::Packages,
    probe::Probe,
    scene::Scene,
    steps::{STEPS, Step},
};
use crate::{setup, shell};

mod link;
mod machine;
mod packages;
mod probe;
mod report;
mod root;
mod scene;
mod steps;

/// The names of all steps.
pub(super) fn names() -> Vec<&'static str> {
    steps::names()
}

/// Makes the machine and takes the steps. `long`: all of them. `only`: the foundations and these.
/// `packages`: a folder with the packages, in place of what `cargo xtask dist` made.
pub(super) fn run(long: bool, only: &[String], packages: Option<PathBuf>) -> Result<()> {
    setup::ensure(setup::Purpose::SystemdMachine)?;
    let packages = packages.unwrap_or_else(|| shell::target().join("dist"));
    if !shell::is_root() {
        let mut again = Command::new(std::env::current_exe().context("where this program is")?);
        again.args(["vm-test", "--systemd", "--packages"]).arg(&packages);
        again.args(long.then_some("--long")).args(only.iter().flat_map(|name| ["--only", name]));
        let reason = "the machine's link is a network namespace, and its disk has owners";
        return Err(shell::as_root(reason, again)?.exec()).context("starting sudo");
    }
    let chosen = |step: &Step| match only {
        [] => long || !step.long,
        only => step.foundation || only.iter().any(|name| name == step.name),
    };
    let steps: Vec<_> = STEPS.iter().filter(|step| chosen(step)).collect();
    let scratch = shell::target().join("vm-test/systemd");
    fs::create_dir_all(&scratch).context("making target/vm-test/systemd")?;
    let started = Instant::now();
    let results = take(&steps, &packages, &scratch)?;
    let table = report::table(&results);
    fs::write(scratch.join("result.txt"), &table).context("writing the result")?;
    let failed = results.iter().filter(|result| result.seen.is_err()).count();
    let all = steps.len();
    println!(
        "\n{table}\n  {} of {all} steps, {failed} failed, in {} s; console and result.txt are \
              below {}",
        results.len(),
        started.elapsed().as_secs(),
        scratch.display()
    );
    ensure!(failed == 0, "{failed} of {all} steps failed");
    ensure!(results.len() == all, "only {} of {all} steps were taken", results.len());
    Ok(())
}

fn take(steps: &[&Step], packages: &Path, scratch: &Path) -> Result<Vec<report::Result>> {
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
    let mut scene =
        Scene { probe, machine, packages, scratch: keys, closed_since: None, session: None, link };
    let results = scene.make_keys().map(|()| play(steps, &mut scene));
    let kept = fs::copy(directory.path().join("console"), scratch.join("console"));
    kept.context("keeping the console")?;
    results
}

fn play(steps: &[&Step], scene: &mut Scene) -> Vec<report::Result> {
    let mut results = Vec::new();
    for step in steps {
        println!("      {:<20} {}", step.name, step.what);
        let started = Instant::now();
        let seen = (step.run)(scene).map_err(|error| format!("{error:#}"));
        let result = report::Result { name: step.name, took: started.elapsed(), seen };
        println!("{}", result.line());
        let failed = result.seen.is_err();
        results.push(result);
        if failed {
            println!("      the end of the console:\n{}", scene.machine.console_end());
            println!("{}", scene.agent_log());
            if step.foundation {
                break;
            }
        }
    }
    println!("      the stranger has tried {} times", scene.probe.attempts());
    results
}

//! `cargo xtask fuzz`: runs the fuzz targets and the long comparisons for as long as you say.
//!
//! A target's new inputs stay in `target/fuzz`. An input that fails becomes a file of the committed
//! corpus, which the ordinary tests replay. The ordinary compiler builds the fuzzed programs,
//! without a sanitizer: they have hardly any unsafe code, and the task looks for panics.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{setup, shell};

/// What to run, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// One of the targets, or `frames`: generated frames through the host's decision and every
    /// loaded program (as root), or `sequences`: random histories of the ledger compared with a
    /// model, and the database damaged everywhere. Without it: all of them
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Frames to compare
    #[arg(long, default_value_t = 10_000_000)]
    frames: u32,
    /// Histories of the ledger
    #[arg(long, default_value_t = 1_000_000)]
    sequences: u32,
    /// Two seconds a target, and neither frames nor sequences: the tests have enough of them
    #[arg(long, conflicts_with_all = ["seconds", "frames", "sequences"])]
    smoke: bool,
}

/// A fuzz target: `<krate>/fuzz/fuzz_targets/<name>.rs`.
struct Target {
    krate: &'static str,
    name: String,
}

/// The build profile of the targets.
#[derive(Clone, Copy)]
enum Profile {
    /// Optimised, for long runs.
    Optimised,
    /// Quick to build. This profile checks arithmetic; the other one does not.
    Quick,
}

/// The crates with fuzz targets.
const CRATES: [&str; 2] = ["jit-common", "jit-agent"];
/// The names that are no targets of libFuzzer.
const FRAMES: &str = "frames";
const SEQUENCES: &str = "sequences";
/// Most memory of one target, MiB. A page of the database whose size field is damaged costs the
/// library up to 4 GiB.
const MEMORY: u32 = 6 * 1024;

/// Runs every target for a moment, for `cargo xtask test`.
pub(crate) fn smoke() -> Result<()> {
    run(Options { target: None, seconds: 0, frames: 0, sequences: 0, smoke: true })
}

/// Builds what [`smoke`] runs, at the lowest priority, and says how that ended. After a failure
/// [`smoke`] builds it again, and reports the failure.
pub(crate) fn build_ahead() -> String {
    let started = Instant::now();
    let built = setup::ensure(setup::Purpose::Fuzz).and_then(|()| {
        CRATES.iter().try_for_each(|krate| {
            let mut build = shell::lowest_priority(&building(krate, Profile::Quick));
            shell::quiet(&mut build).map(|_| ())
        })
    });
    let took = started.elapsed().as_secs();
    match built {
        Ok(()) => format!("the fuzz targets were built beside the tests, in {took} s"),
        Err(_) => format!("the fuzz targets could not be built beside the tests, after {took} s"),
    }
}

/// Runs the targets one after the other. Ends with the first input that fails.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { target: wanted, seconds, frames, sequences, smoke } = options;
    let seconds = if smoke { 2 } else { seconds };
    let mut targets = Vec::new();
    for krate in CRATES {
        targets.extend(targets_of(krate)?);
    }
    let wants = |name| !smoke && wanted.as_deref().is_none_or(|wanted| wanted == name);
    let (compares, histories) = (wants(FRAMES), wants(SEQUENCES));
    if let Some(name) = &wanted {
        let names: Vec<_> = targets.iter().map(|target| target.name.clone()).collect();
        ensure!(
            compares || histories || names.contains(name),
            "there is no target {name:?}; there are {FRAMES}, {SEQUENCES}, {}",
            names.join(", ")
        );
        targets.retain(|target| target.name == *name);
    }
    setup::ensure(if compares { setup::Purpose::Test } else { setup::Purpose::Build })?;
    if !targets.is_empty() {
        setup::ensure(setup::Purpose::Fuzz)?;
    }

    // An optimised build takes minutes: too long for a run of two seconds.
    let profile = if smoke { Profile::Quick } else { Profile::Optimised };
    for krate in CRATES {
        let of_it: Vec<_> = targets.iter().filter(|target| target.krate == krate).collect();
        if !of_it.is_empty() {
            build(krate, &of_it, profile)?;
        }
    }
    for target in &targets {
        target.run(seconds, profile)?;
    }
    if histories {
        live(sequences)?;
    }
    if compares {
        compare(frames)?;
    }
    println!("nothing found in {} targets of {seconds} s each", targets.len());
    Ok(())
}

/// The targets of a crate, by their files.
fn targets_of(krate: &'static str) -> Result<Vec<Target>> {
    let directory = fuzz_directory(krate).join("fuzz_targets");
    let shown = directory.display();
    let mut names = Vec::new();
    for file in fs::read_dir(&directory).with_context(|| format!("reading {shown}"))? {
        let path = file.with_context(|| format!("reading {shown}"))?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names.into_iter().map(|name| Target { krate, name }).collect())
}

fn build(krate: &str, targets: &[&Target], profile: Profile) -> Result<()> {
    let mut cargo = building(krate, profile);
    if let [target] = targets {
        cargo.arg(&target.name);
    }
    shell::long(&format!("building the fuzz targets of {krate}"), &mut cargo)
}

/// Builds all targets of a crate.
fn building(krate: &str, profile: Profile) -> Command {
    let mut cargo = shell::cargo(["fuzz", "build", "--sanitizer", "none", "--fuzz-dir"]);
    cargo.arg(fuzz_directory(krate)).arg("--target-dir").arg(fuzz_target_directory());
    if matches!(profile, Profile::Quick) {
        cargo.arg("--dev");
    }
    // The kernel programs are not fuzzed.
    cargo.env("AYA_BUILD_SKIP", "1");
    cargo
}

impl Target {
    fn run(&self, seconds: u32, profile: Profile) -> Result<()> {
        let Self { krate, name } = self;
        let corpus = fuzz_directory(krate).join("corpus").join(name);
        let grown = fuzz_target_directory().join("grown").join(name);
        let failed = fuzz_target_directory().join("failed").join(name);
        for directory in [&grown, &failed] {
            fs::create_dir_all(directory)
                .with_context(|| format!("making {}", directory.display()))?;
        }
        let before = files(&failed);
        let mut program = shell::program(self.executable(profile)?, [] as [&str; 0]);
        program
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg("-timeout=20")
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", failed.display()))
            .args([&grown, &corpus]);
        let Err(error) = shell::long(&format!("{name} for {seconds} s"), &mut program) else {
            return Ok(());
        };
        for found in files(&failed).into_iter().filter(|file| !before.contains(file)) {
            let kept = corpus.join(found.file_name().unwrap_or_default());
            fs::copy(&found, &kept).with_context(|| format!("keeping {}", kept.display()))?;
            println!("✗ {name}: {} is now part of the corpus", kept.display());
        }
        Err(error)
    }

    fn executable(&self, profile: Profile) -> Result<PathBuf> {
        let host = shell::answer(&mut shell::program("rustc", ["--print", "host-tuple"]));
        let host = host.context("rustc does not say what it compiles for")?;
        let directory = match profile {
            Profile::Optimised => "release",
            Profile::Quick => "debug",
        };
        let path = fuzz_target_directory().join(host).join(directory).join(&self.name);
        ensure!(path.is_file(), "cargo fuzz did not build {}", path.display());
        Ok(path)
    }
}

/// Runs generated frames through the host's decision and every kernel program. The ordinary test
/// does the same with fewer frames.
fn compare(frames: u32) -> Result<()> {
    let build = ["test", "--package", "jit-tests", "--test", "kernel", "--no-run"];
    shell::long("building the comparison", &mut shell::cargo(build))?;
    let mut test = shell::cargo(["test", "--package", "jit-tests", "--test", "kernel"]);
    test.args(["--", "--nocapture", "host_and_kernel_agree"]);
    test.env("JIT_TEST_FRAMES", frames.to_string());
    // Each run has other frames; a failure prints the seed.
    let seed = jiff::Timestamp::now().as_second();
    test.env("JIT_TEST_SEED", seed.to_string());
    let mut test = shell::as_root("this test loads programs and makes namespaces", test)?;
    shell::long(&format!("{frames} frames, host against kernel, seed {seed}"), &mut test)
}

/// Runs random histories of the ledger, and damages a database everywhere. The ordinary tests do
/// the same with fewer inputs.
fn live(sequences: u32) -> Result<()> {
    let test = ["test", "--package", "jit-agent", "--test", "rules"];
    shell::long("building the ledger's tests", shell::cargo(test).arg("--no-run"))?;
    // Each run has other seeds, also if it starts in the next second; a failure prints the seed.
    let seed = jiff::Timestamp::now().as_second().unsigned_abs().wrapping_mul(u32::MAX.into());
    let mut histories = shell::cargo(test);
    histories.args(["--", "--nocapture", "never_opens_more_than_the_model"]);
    histories
        .env("JIT_TEST_SEQUENCES", sequences.to_string())
        .env("JIT_TEST_SEED", seed.to_string());
    shell::long(&format!("{sequences} histories of the ledger, seed {seed}"), &mut histories)?;
    let mut damages = shell::cargo(test);
    damages.args(["--", "--nocapture", "starts_closed_or_with_its_last_good_state"]);
    damages.env("JIT_TEST_EVERY_CUT", "1");
    shell::long("a database cut at every byte, and every bit of it flipped", &mut damages)
}

fn fuzz_directory(krate: &str) -> PathBuf {
    shell::root().join(krate).join("fuzz")
}

fn fuzz_target_directory() -> PathBuf {
    shell::target().join("fuzz")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

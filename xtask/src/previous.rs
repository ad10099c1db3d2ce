//! `cargo xtask previous`: whether the programs of the last release and those of this tree work together,
//! each as the older side. From the first release on it is a part of CI.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{setup, shell, test_programs};

/// The programs that speak with each other.
const PROGRAMS: [&str; 3] = ["jit-agent", "jit-controller", "jitctl"];
/// Those that run where a controller does.
const OF_CONTROLLER: [&str; 2] = ["jit-controller", "jitctl"];
/// The tests that are run with them: `tests/tests/whole/releases.rs`.
const TESTS: &str = "releases::";

/// What is compared.
#[derive(Args)]
pub(crate) struct Options {
    /// A tag or commit; without it the last release that this tree follows
    #[arg(long)]
    of: Option<String>,
}

/// Builds both, and runs the tests with each pairing.
pub(crate) fn run(options: Options) -> Result<()> {
    let Some(of) = options.of.map_or_else(last_release, |of| Ok(Some(of)))? else {
        println!("there is no release yet: nothing to compare with");
        return Ok(());
    };
    setup::ensure(setup::Purpose::Test)?;
    shell::heading(&format!("the programs of {of}"));
    let before = build(&of)?;
    shell::heading("the programs of this tree");
    let test = test_programs::build_root_test("whole")?;
    let now = test_programs::build_programs()?;
    let mut failed = Vec::new();
    for (name, old) in [("agent", &PROGRAMS[..1]), ("controller", &OF_CONTROLLER[..])] {
        shell::heading(&format!("the {name} of {of} with the other programs of this tree"));
        let mixed = shell::target().join("previous").join(format!("old-{name}"));
        mix(&mixed, &before, old, &now)?;
        let mut command = shell::program(&test, [TESTS, "--nocapture"]);
        command
            .current_dir(shell::root().join("tests"))
            .env("CARGO_MANIFEST_DIR", shell::root().join("tests"))
            .env("JIT_AGENT_PROGRAMS", &mixed)
            .env("JIT_CLIENT_PYTHON", setup::client_python())
            .env("JIT_NODE", setup::node_program())
            .env("JIT_NODE_MODULES", setup::node_modules());
        let mut command = shell::as_root("these tests make namespaces and load programs", command)?;
        let mut ran = false;
        let good = shell::stream(&mut command, |line| ran |= line.starts_with("test releases::"))?;
        ensure!(ran, "no test has {TESTS} in its name");
        if !good {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("does not work together with this tree: the {} of {of}", failed.join(" and the "));
    }
    println!("both pairings work");
    Ok(())
}

/// The tag of the last release that this tree follows.
fn last_release() -> Result<Option<String>> {
    let mut tags = shell::program("git", ["tag", "--list", "v*", "--merged", "HEAD"]);
    let tags = shell::quiet(tags.arg("--sort=-version:refname").current_dir(shell::root()))?;
    Ok(newest(&String::from_utf8_lossy(&tags.stdout)))
}

/// The first tag that is a release: the newest is the first line.
fn newest(tags: &str) -> Option<String> {
    let is_release = |tag: &&str| {
        let parts: Vec<_> = tag.strip_prefix('v').unwrap_or_default().split('.').collect();
        let is_number =
            |part: &&str| !part.is_empty() && part.bytes().all(|one| one.is_ascii_digit());
        parts.len() == 3 && parts.iter().all(is_number)
    };
    tags.lines().find(is_release).map(str::to_owned)
}

/// Builds the programs of another commit; what both have of other people's crates is built once. Returns
/// their directory.
fn build(of: &str) -> Result<PathBuf> {
    let target = std::path::absolute(shell::target()).context("where cargo builds")?;
    let (own, tree) = (target.join("previous"), target.join("previous").join("tree"));
    if tree.exists() {
        let mut remove = shell::program("git", ["worktree", "remove", "--force"]);
        shell::quiet(remove.arg(&tree).current_dir(shell::root()))?;
    }
    fs::create_dir_all(&own).with_context(|| format!("making {}", own.display()))?;
    let mut add = shell::program("git", ["worktree", "add", "--detach"]);
    shell::quiet(add.arg(&tree).arg(of).current_dir(shell::root()))?;
    let mut cargo = shell::cargo(["build"]);
    cargo.args(["--package", "jit-agent", "--package", "jit-controller", "--package", "jitctl"]);
    cargo.args(["--bins", "--target-dir"]).arg(&own).current_dir(&tree);
    cargo.arg("--config").arg(format!("build.build-dir={:?}", target.display().to_string()));
    shell::visible(&mut cargo)?;
    Ok(own.join("debug"))
}

/// A directory with these programs of before, and the others of now.
fn mix(directory: &Path, before: &Path, old: &[&str], now: &Path) -> Result<()> {
    let said = || format!("making {}", directory.display());
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(said)?;
    }
    fs::create_dir_all(directory).with_context(said)?;
    for program in PROGRAMS {
        let from = if old.contains(&program) { before } else { now };
        symlink(from.join(program), directory.join(program)).with_context(said)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_is_the_first_whole_version() {
        let tags = "v2.0.0-rc1\nvery-old\nv1.12.0\nv1.9.3\n";
        assert_eq!(newest(tags).as_deref(), Some("v1.12.0"));
        for none in ["", "ops-old\n", "v1\nv1.2\nv1.2.x\nv1.2.+3\n"] {
            assert_eq!(newest(none), None, "{none:?}");
        }
    }

    #[test]
    fn each_pairing_has_every_program_once() {
        let scratch = std::env::temp_dir().join(format!("jit-xtask-{}", std::process::id()));
        let directory = scratch.join("old-agent");
        mix(&directory, Path::new("/before"), &["jit-agent"], Path::new("/now")).unwrap();
        let to = |program: &str| fs::read_link(directory.join(program)).unwrap();
        assert_eq!(to("jit-agent"), Path::new("/before/jit-agent"));
        assert_eq!(to("jit-controller"), Path::new("/now/jit-controller"));
        assert_eq!(to("jitctl"), Path::new("/now/jitctl"));
        fs::remove_dir_all(scratch).unwrap();
    }
}

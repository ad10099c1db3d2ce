//! Two clean builds of the last commit, in two directories, must give the same bytes. Each build is
//! the whole task in a clone of its own: its compilation, its packages, its lists. Directories of
//! different lengths, another time zone, another language and another mask of file modes show what
//! leaks from the machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::SUMS;
use crate::shell;

/// What is different between the builds: the directory, the time zone, the language, the mask.
const BUILDS: [(&str, &str, &str, &str); 2] = [
    ("a", "UTC", "C", "022"),
    ("somewhere/else/with-a-longer-name", "Pacific/Kiritimati", "C.UTF-8", "077"),
];

/// Builds twice and compares. `arguments`: those of `cargo xtask dist`.
pub(super) fn run(arguments: &[String], scratch: &Path) -> Result<()> {
    let status = shell::answer(&mut git(["status", "--porcelain"]));
    if status.is_some_and(|status| !status.is_empty()) {
        println!("  the last commit is built, not what has changed since then");
    }
    if scratch.exists() {
        fs::remove_dir_all(scratch).with_context(|| format!("emptying {}", scratch.display()))?;
    }
    // The branch may move between the builds.
    let commit = shell::answer(&mut git(["rev-parse", "HEAD"])).context("which commit is it?")?;
    let mut lists = Vec::new();
    for (number, (place, zone, language, mask)) in (1..).zip(BUILDS) {
        let clone = scratch.join(place);
        let mut copy = git(["clone", "--quiet", "--no-hardlinks"]);
        shell::quiet(copy.arg(shell::root()).arg(&clone))?;
        let mut choose = git(["checkout", "--quiet", "--detach"]);
        shell::quiet(choose.arg(commit.trim()).current_dir(&clone))?;
        let out = clone.join("target/dist");
        let mut build = shell::program("sh", ["-c", "umask \"$1\" && shift && exec \"$@\"", "sh"]);
        build.arg(mask).arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["run", "--quiet", "--locked", "--package", "xtask", "--", "dist", "--out"]);
        build.arg(&out).args(arguments).current_dir(&clone);
        build.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_MANIFEST_DIR");
        build.env("TZ", zone).env("LC_ALL", language);
        shell::long(&format!("build {number} of {} in {place}", BUILDS.len()), &mut build)?;
        lists.push((out.clone(), sums(&out)?));
    }
    let [(first, one), (second, other)] = &lists[..] else { bail!("there are two builds") };
    let different = differences(one, other);
    if !different.is_empty() {
        bail!(
            "two builds of one commit differ: {}\ncompare {} with {}, for example by diffoscope(1)",
            different.join(", "),
            first.display(),
            second.display()
        );
    }
    println!("  the same from both builds:");
    for (name, sum) in one {
        println!("{sum}  {name}");
    }
    fs::remove_dir_all(scratch).with_context(|| format!("removing {}", scratch.display()))
}

fn git<const COUNT: usize>(arguments: [&str; COUNT]) -> std::process::Command {
    let mut git = shell::program("git", arguments);
    git.current_dir(shell::root());
    git
}

/// The checksums of a build by file name.
fn sums(out: &Path) -> Result<BTreeMap<String, String>> {
    let file: PathBuf = out.join(SUMS);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let sums = parsed(&text);
    ensure!(!sums.is_empty(), "{} names no file", file.display());
    Ok(sums)
}

fn parsed(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once("  "));
    lines.map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
}

/// Names of files that are only in one build, or have another content there.
fn differences(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let mut names: Vec<_> = one.keys().chain(other.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names.retain(|name| one.get(name) != other.get(name));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_and_missing_files_are_differences() {
        let one = parsed("aa  same\nbb  changed\ncc  gone\n");
        let other = parsed("aa  same\nbd  changed\ndd  new\n");
        assert_eq!(differences(&one, &other), ["changed", "gone", "new"]);
        assert!(differences(&one, &one).is_empty());
    }
}

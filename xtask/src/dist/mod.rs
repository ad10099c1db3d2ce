//! `cargo xtask dist`: what a release consists of. One table of files (`contents`) is laid out for each
//! package (`stage`), and packed as .deb, .rpm and tarball by the distributions' own tools.
//!
//! The same commit gives the same bytes: times are those of the commit, owners are root, and no path
//! of the machine that builds is in a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::{release::Release, target::Target};
use crate::{setup, shell};

mod components;
mod contents;
mod control;
mod deb;
mod hardening;
mod libraries;
mod release;
mod rpm;
mod stage;
mod tarball;
mod target;
#[cfg(test)]
mod tests;
mod trial;
mod verify;

/// The list of checksums.
const SUMS: &str = "SHA256SUMS";
/// The directory of what is only needed while packages are made.
const SCRATCH: &str = "scratch";

/// What to make.
#[derive(Args)]
#[command(after_help = "All packages of a release:      cargo xtask dist\n\
                        Quickly, for a test machine:    cargo xtask dist --debug --only deb\n\
                        For hosts with an older glibc:  cargo xtask dist --target x86_64-static\n\
                        For 64-bit ARM:                 cargo xtask dist --target aarch64\n\
                        Are the bytes the same?         cargo xtask dist --verify\n\
                        Do the .rpm packages work?      cargo xtask dist --try-rpm --debug\n\
                        Another version for a test:     cargo xtask dist --debug --as-version 0.2.0")]
pub(crate) struct Options {
    /// Only these kinds; may be given more than once
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// Pack the programs that `cargo xtask build` made, not optimised: for tests
    #[arg(long)]
    debug: bool,
    /// Say this version in the packages (not in the programs): for tests of upgrades
    #[arg(long, value_name = "VERSION")]
    as_version: Option<String>,
    /// What the programs run on; without it a machine like this one. A static target makes a tarball
    /// only
    #[arg(long, value_enum, conflicts_with = "debug")]
    target: Option<Target>,
    /// Build the last commit twice, in two directories, and compare all files: takes two whole builds
    #[arg(long, conflicts_with_all = ["debug", "out"])]
    verify: bool,
    /// Install, upgrade and remove the .rpm packages in a root of their own; needs root
    #[arg(long, conflicts_with_all = ["only", "out", "target", "verify"])]
    try_rpm: bool,
    /// Directory of the packages; without it `dist` in cargo's target directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A kind of package.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Debian, Ubuntu
    Deb,
    /// Fedora, RHEL, SUSE
    Rpm,
    /// Everything else
    Tar,
}

/// Makes the packages and prints their paths.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { only, debug, as_version, target, verify, try_rpm, out } = options;
    let target = target.map_or_else(Target::native, Ok)?;
    ensure!(
        !target.is_static() || only.is_empty() || only.contains(&Kind::Tar),
        "a static program is for hosts without packages: `--only tar` is the only kind of {}",
        target.label()
    );
    setup::ensure(setup::Purpose::Packages)?;
    if verify {
        let place = std::path::absolute(shell::target().join("dist-verify"))?;
        return verify::run(&arguments(&only, as_version, target), &place);
    }
    if try_rpm {
        let place = std::path::absolute(shell::target().join("dist-trial"))?;
        return trial::run(as_version, debug, &place);
    }
    let out = out.unwrap_or_else(|| shell::target().join("dist"));
    let out = std::path::absolute(out)?;
    let release = Release::read(as_version, target)?;
    let wanted = |kind| {
        (only.is_empty() || only.contains(&kind)) && (!target.is_static() || kind == Kind::Tar)
    };
    let made = make(&release, &out, debug, wanted)?;
    for path in made {
        println!("{}", path.display());
    }
    Ok(())
}

/// Arguments of the same task, for the builds that are compared.
fn arguments(only: &[Kind], as_version: Option<String>, target: Target) -> Vec<String> {
    let mut arguments = vec!["--target".to_owned(), target.label().to_owned()];
    for kind in only {
        arguments.extend(["--only".to_owned(), kind.name().to_owned()]);
    }
    if let Some(version) = as_version {
        arguments.extend(["--as-version".to_owned(), version]);
    }
    arguments
}

/// Makes packages of these kinds in a directory that is emptied before. Returns their paths; the last
/// one is the list of checksums.
pub(crate) fn make(
    release: &Release,
    out: &Path,
    debug: bool,
    wanted: impl Fn(Kind) -> bool,
) -> Result<Vec<PathBuf>> {
    empty(out)?;
    let scratch = out.join(SCRATCH);
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    let programs = release.programs(debug)?;
    let pages = scratch.join("pages");
    crate::pages::write(&pages)?;
    let mut made = Vec::new();
    for package in contents::PACKAGES {
        for kind in [Kind::Deb, Kind::Rpm, Kind::Tar].into_iter().filter(|kind| wanted(*kind)) {
            let place = scratch.join(format!("{}-{}", package.name, kind.name()));
            let staged = stage::lay_out(package, kind, &programs, &pages, release, &place)?;
            made.push(match kind {
                Kind::Deb => deb::pack(package, &staged, release, out)?,
                Kind::Rpm => rpm::pack(package, &staged, release, out)?,
                Kind::Tar => tarball::pack(package, &staged, release, out)?,
            });
        }
    }
    if !debug && wanted(Kind::Deb) {
        setup::ensure_program("lintian", "lintian", "checking the packages")?;
        deb::check(&made)?;
    }
    if !debug {
        made.extend(components::write(release, release.target, &scratch, out)?);
    }
    ensure!(!made.is_empty(), "no package was wanted");
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    made.push(checksums(&made, out)?);
    Ok(made)
}

/// Removes what an earlier run of this task left in a directory. Another directory is not touched.
fn empty(out: &Path) -> Result<()> {
    let Ok(mut entries) = fs::read_dir(out) else { return Ok(()) };
    let is_ours = out.join(SUMS).is_file() || out.join(SCRATCH).is_dir();
    ensure!(
        is_ours || entries.next().is_none(),
        "{} has files, and not those of an earlier run (there is no {SUMS}): name another directory",
        out.display()
    );
    fs::remove_dir_all(out).with_context(|| format!("emptying {}", out.display()))
}

/// Writes the list of checksums, as sha256sum(1) checks it.
fn checksums(made: &[PathBuf], out: &Path) -> Result<PathBuf> {
    let names = made.iter().filter_map(|path| path.file_name());
    let mut sum = shell::program("sha256sum", names);
    let output = shell::quiet(sum.current_dir(out))?;
    let file = out.join(SUMS);
    fs::write(&file, output.stdout).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Tar => "tar",
        }
    }
}

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

use self::{
    release::{Programs, Release},
    target::Target,
};
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
                        With 64-bit ARM:                cargo xtask dist --target x86_64 --target aarch64\n\
                        Are the bytes the same?         cargo xtask dist --verify\n\
                        Do the packages work?           cargo xtask dist --try --debug\n\
                        Another version for a test:     cargo xtask dist --debug --as-version 0.2.0")]
pub(crate) struct Options {
    /// Only these kinds; may be given more than once
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// Pack the programs that `cargo xtask build` made, not optimised: for tests
    #[arg(long)]
    debug: bool,
    /// Take what `cargo xtask test` has built as it is: the writers of the man pages, and with --debug the
    /// programs
    #[arg(long, conflicts_with = "verify")]
    built: bool,
    /// Say this version in the packages (not in the programs): for tests of upgrades
    #[arg(long, value_name = "VERSION")]
    as_version: Option<String>,
    /// What the programs run on; without it a machine like this one. May be given more than once. A
    /// static target makes a tarball only
    #[arg(long, value_enum, conflicts_with = "debug")]
    target: Vec<Target>,
    /// Build the last commit twice, in two directories, and compare all files: takes two whole builds
    #[arg(long, conflicts_with_all = ["debug", "out"])]
    verify: bool,
    /// Install, upgrade and remove the .deb and the .rpm packages in a root of their own; needs root
    #[arg(long = "try", conflicts_with_all = ["out", "target", "verify"])]
    is_trial: bool,
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

/// Which programs are packed.
#[derive(Clone, Copy)]
pub(crate) struct Profile {
    /// Not optimised.
    is_debug: bool,
    /// By an earlier build of all targets: nothing is built but optimised programs.
    is_built: bool,
}

/// Makes the packages and prints their paths.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { only, debug, built, as_version, target, verify, is_trial, out } = options;
    let targets = if target.is_empty() { vec![Target::native()?] } else { target };
    for target in targets.iter().filter(|target| target.is_static()) {
        ensure!(
            only.is_empty() || only.contains(&Kind::Tar),
            "a static program is for hosts without packages: `--only tar` is the only kind of {}",
            target.label()
        );
    }
    if debug {
        setup::ensure_program("rpmbuild", "rpm", "making packages")?;
    } else {
        setup::ensure(setup::Purpose::Packages)?;
    }
    let profile = Profile { is_debug: debug, is_built: built };
    if verify {
        let place = std::path::absolute(shell::target().join("dist-verify"))?;
        return verify::run(&arguments(&only, as_version, &targets), &place);
    }
    let wanted = |kind| only.is_empty() || only.contains(&kind);
    if is_trial {
        let place = std::path::absolute(shell::target().join("dist-trial"))?;
        return trial::run(as_version, profile, &place, wanted);
    }
    let out = out.unwrap_or_else(|| shell::target().join("dist"));
    let out = std::path::absolute(out)?;
    let read = |target| Release::read(as_version.clone(), target);
    let releases = targets.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    let made = make(&releases, &out, profile, wanted)?;
    deb::check(&made)?;
    for path in made {
        println!("{}", path.display());
    }
    Ok(())
}

/// Arguments of the same task, for the builds that are compared.
fn arguments(only: &[Kind], as_version: Option<String>, targets: &[Target]) -> Vec<String> {
    let mut arguments = Vec::new();
    for target in targets {
        arguments.extend(["--target".to_owned(), target.label().to_owned()]);
    }
    for kind in only {
        arguments.extend(["--only".to_owned(), kind.name().to_owned()]);
    }
    if let Some(version) = as_version {
        arguments.extend(["--as-version".to_owned(), version]);
    }
    arguments
}

/// Makes packages of these kinds, for each target, in a directory that is emptied before. Returns their
/// paths; the last one is the list of checksums.
pub(crate) fn make(
    releases: &[Release],
    out: &Path,
    profile: Profile,
    wanted: impl Fn(Kind) -> bool,
) -> Result<Vec<PathBuf>> {
    empty(out)?;
    let scratch = out.join(SCRATCH);
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    let pages = scratch.join("pages");
    let mut made = Vec::new();
    for release in releases {
        let scratch = scratch.join(release.target.label());
        fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
        let programs = release.programs(profile, &scratch)?;
        if !pages.exists() {
            let programs = contents::PACKAGES.iter().map(|package| package.name);
            crate::pages::write(&pages, &programs.collect::<Vec<_>>(), profile.is_built)?;
        }
        let wanted = |kind| wanted(kind) && (!release.target.is_static() || kind == Kind::Tar);
        made.extend(pack(release, profile, &programs, &pages, &scratch, out, wanted)?);
        if !profile.is_debug {
            made.extend(components::write(release, &scratch, out)?);
        }
    }
    ensure!(!made.is_empty(), "no package was wanted");
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    made.push(checksums(&made, out)?);
    Ok(made)
}

/// Packs the programs of a release. Returns the paths of the packages.
fn pack(
    release: &Release,
    profile: Profile,
    programs: &Programs,
    pages: &Path,
    scratch: &Path,
    out: &Path,
    wanted: impl Fn(Kind) -> bool,
) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for package in release.packages() {
        for kind in [Kind::Deb, Kind::Rpm, Kind::Tar].into_iter().filter(|kind| wanted(*kind)) {
            let place = scratch.join(format!("{}-{}", package.name, kind.name()));
            let staged = stage::lay_out(package, kind, programs, pages, release, &place)?;
            made.push(match kind {
                Kind::Deb => deb::pack(package, &staged, release, profile, out)?,
                Kind::Rpm => rpm::pack(package, &staged, release, profile, out)?,
                Kind::Tar => tarball::pack(package, &staged, release, out)?,
            });
        }
    }
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

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

use self::release::Release;
use crate::{setup, shell};

mod contents;
mod control;
mod deb;
mod release;
mod rpm;
mod stage;
mod tarball;

/// What to make.
#[derive(Args)]
#[command(after_help = "All packages of a release:      cargo xtask dist\n\
                        Quickly, for a test machine:    cargo xtask dist --debug --only deb\n\
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
    let Options { only, debug, as_version, out } = options;
    setup::ensure(setup::Purpose::Packages)?;
    let out = out.unwrap_or_else(|| shell::target().join("dist"));
    let out = std::path::absolute(out)?;
    let release = Release::read(as_version)?;
    let wanted = |kind| only.is_empty() || only.contains(&kind);
    let made = make(&release, &out, debug, wanted)?;
    for path in made {
        println!("{}", path.display());
    }
    Ok(())
}

/// Makes packages of these kinds in a directory that is emptied before. Returns their paths; the last
/// one is the list of checksums.
pub(crate) fn make(
    release: &Release,
    out: &Path,
    debug: bool,
    wanted: impl Fn(Kind) -> bool,
) -> Result<Vec<PathBuf>> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("emptying {}", out.display()))?;
    }
    let scratch = out.join("scratch");
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
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    ensure!(!made.is_empty(), "no package was wanted");
    made.push(checksums(&made, out)?);
    Ok(made)
}

/// Writes `SHA256SUMS`, as sha256sum(1) checks it.
fn checksums(made: &[PathBuf], out: &Path) -> Result<PathBuf> {
    let names = made.iter().filter_map(|path| path.file_name());
    let mut sum = shell::program("sha256sum", names);
    let output = shell::quiet(sum.current_dir(out))?;
    let file = out.join("SHA256SUMS");
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

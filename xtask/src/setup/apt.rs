//! Installs Debian's packages. Never removes a package to make room for another one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use anyhow::{Context as _, Result, bail};

use super::backports;
use crate::shell;

static UPDATED: Once = Once::new();
const OPTIONS: [&str; 1] = ["--no-install-recommends"];

/// Whether this is a machine with Debian's packages.
pub(super) fn available() -> bool {
    shell::find("apt-get").is_some()
}

/// Installs packages, as root or through sudo. `reason` is shown to the person.
pub(super) fn install(reason: &str, packages: &[&str]) -> Result<()> {
    if !available() {
        bail!(
            "{reason} needs {}, and there is no apt-get here: \
             install what these Debian packages hold by other means, then run this again",
            packages.join(" ")
        );
    }
    update(reason);
    let plain = shell::program("apt-get", [] as [&str; 0]);
    let Err(refused) = run(reason, plain, packages) else { return Ok(()) };
    // Without the prohibition to remove, apt says which packages are in the way.
    let mut trial = shell::program("apt-get", ["install", "--simulate", "--yes"]);
    trial.args(OPTIONS).args(packages);
    let removed = backports::removed(&shell::answer(&mut trial).unwrap_or_default());
    if removed.is_empty() {
        return Err(refused);
    }
    let would = format!("apt would remove {}, which this task never does", removed.join(", "));
    if !backports::from_backports(&removed) {
        return Err(refused.context(would));
    }
    println!("  {would}: trying backports, where they come from");
    backports::command().and_then(|apt| run(reason, apt, packages)).context(would)
}

/// Installs packages with this apt.
fn run(reason: &str, mut apt: Command, packages: &[&str]) -> Result<()> {
    apt.args(["install", "--yes", "--no-remove"]).args(OPTIONS).args(packages);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    let mut apt = shell::as_root(&format!("{reason}: apt-get install"), apt)?;
    shell::long(&format!("apt-get install {}", packages.join(" ")), &mut apt)
}

/// Whether the archive has this package.
pub(super) fn has(package: &str) -> bool {
    update("reading the list of packages");
    shell::answer(&mut shell::program("apt-cache", ["policy", package])).is_some_and(|policy| {
        policy.contains("Candidate:") && !policy.contains("(none)\n  Version")
    })
}

/// Downloads a package and unpacks it below a directory. Installs nothing. Returns the directory of
/// its files.
pub(super) fn unpack(package: &str, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut download = shell::program("apt-get", ["download", package]);
    shell::long(
        &format!("apt-get download {package} (nothing is installed)"),
        download.current_dir(directory),
    )?;
    let files = fs::read_dir(directory).context("reading what was downloaded")?;
    let archive = files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get downloaded no package")?;
    let content = directory.join("content");
    let mut unpack = shell::program("dpkg-deb", ["--extract"]);
    shell::quiet(unpack.arg(&archive).arg(&content))?;
    Ok(content)
}

fn update(reason: &str) {
    UPDATED.call_once(|| {
        let updated = shell::as_root(
            &format!("{reason}: apt-get update"),
            shell::program("apt-get", ["update"]),
        )
        .and_then(|mut apt| shell::long("apt-get update", &mut apt));
        if let Err(error) = updated {
            // One source that cannot be reached must not hide the others: the installation decides.
            println!("  going on with the package lists there are: {error}");
        }
    });
}

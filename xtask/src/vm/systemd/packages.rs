//! The packages under test: as `cargo xtask dist` makes them, and the same with a higher version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// Added to a version. apt takes it for a newer one.
const HIGHER: &str = "+vm1";

/// Where the packages are in the machine: the first disk's folder of the files, below this.
pub(super) const INSIDE: &str = "/media/files";

/// The packages of a run.
pub(super) struct Packages {
    /// The version of jit-agent.
    pub(super) version: String,
    /// The same code with a higher version.
    pub(super) higher: String,
    /// The package of jit-agent, on this host.
    pub(super) agent: PathBuf,
    /// `jitctl`, taken out of its package: the host is the controller.
    pub(super) jitctl: PathBuf,
}

impl Packages {
    /// Takes the packages in `from`, and fills the folder `files` for the machine: `now` has them, and
    /// `next` has them with a higher version.
    pub(super) fn gather(from: &Path, files: &Path, scratch: &Path) -> Result<Self> {
        let now = files.join("now");
        fs::create_dir_all(&now).context("making a folder for the packages")?;
        let mut found = Vec::new();
        let entries = fs::read_dir(from)
            .with_context(|| format!("no packages in {}", from.display()))?
            .flatten();
        for path in entries.map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with("_amd64.deb") && !name.contains("-dbgsym") {
                fs::copy(&path, now.join(&name)).with_context(|| format!("copying {name}"))?;
                found.push(now.join(name));
            }
        }
        ensure!(
            !found.is_empty(),
            "no *_amd64.deb in {}: run `cargo xtask dist`, or name their folder with --packages",
            from.display()
        );
        let next = files.join("next");
        fs::create_dir_all(&next).context("making a folder for the next packages")?;
        let mut agent = None;
        let mut jitctl = None;
        for package in &found {
            let unpacked = scratch.join("unpacked").join(package.file_stem().unwrap_or_default());
            let (version, higher) = repack(package, &unpacked, &next)?;
            if field(package, "Package")? == "jit-agent" {
                agent = Some((version, higher, package.clone()));
            }
            let program = unpacked.join("usr/bin/jitctl");
            if program.is_file() {
                jitctl = Some(program);
            }
        }
        let Some((version, higher, agent)) = agent else {
            bail!("none of the packages in {} is jit-agent", from.display());
        };
        let jitctl = jitctl.context("none of the packages has /usr/bin/jitctl")?;
        Ok(Self { version, higher, agent, jitctl })
    }
}

/// Makes the same package with a higher version. Returns both versions.
fn repack(package: &Path, unpacked: &Path, to: &Path) -> Result<(String, String)> {
    if unpacked.exists() {
        fs::remove_dir_all(unpacked).context("removing an unpacked package")?;
    }
    fs::create_dir_all(unpacked).context("making a folder for a package")?;
    shell::quiet(shell::program("dpkg-deb", ["-R"]).arg(package).arg(unpacked))?;
    let version = field(package, "Version")?;
    let higher = format!("{version}{HIGHER}");
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).context("reading a package's control file")?;
    // A package may depend on another one of its own version.
    fs::write(&control, text.replace(&version, &higher)).context("raising a version")?;
    let mut build = shell::program("dpkg-deb", ["--root-owner-group", "-Zgzip", "-z1", "-b"]);
    shell::quiet(build.arg(unpacked).arg(to))?;
    Ok((version, higher))
}

fn field(package: &Path, name: &str) -> Result<String> {
    let mut show = shell::program("dpkg-deb", ["-f"]);
    shell::answer(show.arg(package).arg(name))
        .with_context(|| format!("{} is no package", package.display()))
}

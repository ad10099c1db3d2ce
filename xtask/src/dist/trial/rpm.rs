//! The .rpm packages, with rpm's own tools.

use anyhow::{Context as _, Result, bail, ensure};

use super::{CONFIG, CONTROLLER_CONFIG, INSIDE, NAMES, PROGRAMS, Root};
use crate::{dist::release::Release, shell};

/// What `rpm --verify` calls a configuration file whose content was edited.
const EDITED: &str = "S.5....T.  c /etc/jit-agent/config.toml";

/// Installs, verifies, upgrades and removes.
pub(super) fn run(root: &Root) -> Result<()> {
    shell::heading("rpm: install");
    // Debian's libraries are not in rpm's database.
    rpm(root, &["--install", "--nodeps"], &root.first)?;
    verify(root, &[])?;
    root.check_installed()?;

    shell::heading("rpm: upgrade");
    root.edit()?;
    rpm(root, &["--upgrade", "--nodeps"], &root.next)?;
    root.check_edited()?;
    root.check_owners()?;
    root.check_controller()?;
    verify(root, &[EDITED])?;
    let shown = ["--query", "--queryformat", "%{VERSION} "];
    let versions = root.run("rpm", &[&shown[..], &NAMES].concat())?;
    let is_next = versions.split_whitespace().all(|version| version == root.next.version);
    ensure!(is_next, "after the upgrade it is {versions}");

    shell::heading("rpm: downgrade");
    rpm(root, &["--upgrade", "--oldpackage", "--nodeps"], &root.first)?;
    root.check_edited()?;
    verify(root, &[EDITED])?;

    shell::heading("rpm: remove");
    root.run("rpm", &[&["--erase"], &NAMES[..]].concat())?;
    root.check_paths(&PROGRAMS, false)?;
    root.check_paths(&[CONTROLLER_CONFIG], true)?;
    let saved = format!("{CONFIG}.rpmsave");
    root.check_paths(&[&saved, "/etc/jit-agent/tls", "/var/lib/jit-agent"], true)
}

/// Runs rpm with the packages of a release.
fn rpm(root: &Root, options: &[&str], release: &Release) -> Result<()> {
    let files = files(release);
    let arguments: Vec<_> =
        options.iter().copied().chain(files.iter().map(String::as_str)).collect();
    root.run("rpm", &arguments)?;
    Ok(())
}

/// The packages of a release, in the root.
fn files(release: &Release) -> [String; 3] {
    let (version, revision) = (&release.version, Release::REVISION);
    let machine = release.target.linux();
    NAMES.map(|name| format!("{INSIDE}/{name}-{version}-{revision}.{machine}.rpm"))
}

/// Compares what is installed with the packages. `expected`: the lines that may be reported.
fn verify(root: &Root, expected: &[&str]) -> Result<()> {
    // Owner, group and mode of the configuration are the scripts', who know the service's group.
    let options = ["--verify", "--nodeps", "--nomode", "--nogroup"];
    let output = root
        .command("rpm", &[&options[..], &NAMES].concat())
        .output()
        .context("running rpm --verify")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found: Vec<_> = said.lines().map(str::trim_end).collect();
    if found != expected {
        bail!("rpm --verify reports\n{}\nand not\n{}", found.join("\n"), expected.join("\n"));
    }
    Ok(())
}

//! The .rpm packages, with rpm's own tools.

use anyhow::{Context as _, Result, bail, ensure};

use super::{CONFIG, INSIDE, Root};
use crate::{dist::release::Release, shell};

/// What `rpm --verify` calls a configuration file whose content was edited.
const EDITED: &str = "S.5....T.  c /etc/jit-agent/config.toml";

/// Installs, verifies, upgrades and removes.
pub(super) fn run(root: &Root) -> Result<()> {
    shell::heading("rpm: install");
    // Debian's libraries are not in rpm's database.
    let [agent, jitctl] = files(&root.first);
    root.run("rpm", &["--install", "--nodeps", &agent, &jitctl])?;
    verify(root, &[])?;
    root.check_installed()?;

    shell::heading("rpm: upgrade");
    root.edit()?;
    let [agent, jitctl] = files(&root.next);
    root.run("rpm", &["--upgrade", "--nodeps", &agent, &jitctl])?;
    root.check_edited()?;
    root.check_owners()?;
    verify(root, &[EDITED])?;
    let version = root.run("rpm", &["--query", "--queryformat", "%{VERSION}", "jit-agent"])?;
    ensure!(version.trim() == root.next.version, "after the upgrade it is {version}");

    shell::heading("rpm: downgrade");
    let [agent, jitctl] = files(&root.first);
    root.run("rpm", &["--upgrade", "--oldpackage", "--nodeps", &agent, &jitctl])?;
    root.check_edited()?;
    verify(root, &[EDITED])?;

    shell::heading("rpm: remove");
    root.run("rpm", &["--erase", "jit-agent", "jitctl"])?;
    root.check_paths(&["/usr/bin/jit-agent", "/usr/bin/jitctl", "/usr/lib/jit-agent"], false)?;
    let saved = format!("{CONFIG}.rpmsave");
    root.check_paths(&[&saved, "/etc/jit-agent/tls", "/var/lib/jit-agent"], true)
}

/// The packages of a release, in the root.
fn files(release: &Release) -> [String; 2] {
    let (version, revision) = (&release.version, Release::REVISION);
    let machine = release.target.linux();
    ["jit-agent", "jitctl"]
        .map(|name| format!("{INSIDE}/{name}-{version}-{revision}.{machine}.rpm"))
}

/// Compares what is installed with the packages. `expected`: the lines that may be reported.
fn verify(root: &Root, expected: &[&str]) -> Result<()> {
    // Owner, group and mode of the configuration are the scripts', who know the service's group.
    let arguments = ["--verify", "--nodeps", "--nomode", "--nogroup", "jit-agent", "jitctl"];
    let output = root.command("rpm", &arguments).output().context("running rpm --verify")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found: Vec<_> = said.lines().map(str::trim_end).collect();
    if found != expected {
        bail!("rpm --verify reports\n{}\nand not\n{}", found.join("\n"), expected.join("\n"));
    }
    Ok(())
}

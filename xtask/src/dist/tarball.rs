//! Packs a tarball for hosts without .deb and .rpm: unpack it at `/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{contents::Package, release::Release, stage::Staged};
use crate::shell;

/// Packs it, and returns its path.
pub(super) fn pack(
    package: &Package,
    staged: &Staged,
    release: &Release,
    out: &Path,
) -> Result<PathBuf> {
    let file = out.join(format!(
        "{}-{}-linux-{}.tar.xz",
        package.name,
        release.version,
        release.target.label()
    ));
    let mut tar = shell::program("tar", ["--create", "--xz", "--sort=name", "--format=gnu"]);
    tar.args(["--owner=root:0", "--group=root:0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", release.epoch)).arg("--file").arg(&file);
    // Not `.`: who unpacks at `/` would change the mode and the owner of that.
    let entries = fs::read_dir(&staged.root);
    let entries = entries.with_context(|| format!("reading {}", staged.root.display()))?;
    let names = entries.map(|entry| Ok(entry.context("reading what is packed")?.file_name()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    tar.arg("--directory").arg(&staged.root).args(names);
    shell::long(&format!("packing {}", file.display()), &mut tar)?;
    Ok(file)
}

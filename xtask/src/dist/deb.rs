//! Packs a .deb with dpkg-deb(1).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    Profile,
    contents::Package,
    control::{MAINTAINER, wrapped},
    libraries,
    release::Release,
    stage::Staged,
};
use crate::{setup, shell};

/// Packs it, and returns its path.
pub(super) fn pack(
    package: &Package,
    staged: &Staged,
    release: &Release,
    profile: Profile,
    out: &Path,
) -> Result<PathBuf> {
    let information = staged.root.join("DEBIAN");
    let depends = depends(package, staged)?;
    fs::create_dir_all(&information).context("making DEBIAN")?;
    fs::set_permissions(&information, fs::Permissions::from_mode(0o755))?;
    let write = |name: &str, text: &str, mode: u32| {
        let file = information.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        anyhow::Ok(())
    };
    write("control", &control(package, staged, release, &depends)?, 0o644)?;
    write("md5sums", &md5sums(staged)?, 0o644)?;
    let kept: Vec<_> = staged.files.iter().filter(|file| file.is_configuration).collect();
    if !kept.is_empty() {
        let names: String = kept.iter().map(|file| format!("{}\n", file.path)).collect();
        write("conffiles", &names, 0o644)?;
    }
    if let Some(scripts) = package.scripts {
        for script in ["postinst", "prerm", "postrm"] {
            let source = shell::root().join(scripts).join("deb").join(script);
            let text = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
            write(script, &text, 0o755)?;
        }
    }
    let architecture = release.target.debian();
    let (name, version, revision) = (package.name, &release.version, Release::REVISION);
    let file = out.join(format!("{name}_{version}-{revision}_{architecture}.deb"));
    let mut build = shell::program("dpkg-deb", ["--root-owner-group", "--build"]);
    // Programs that are not optimised are large, and only tests unpack them.
    build.args(if profile.is_debug { ["-Zgzip", "-z1"] } else { ["-Zxz", "-z6"] });
    build.arg(&staged.root).arg(&file).env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    shell::long(&format!("packing {}", file_name(&file)), &mut build)?;
    Ok(file)
}

/// Checks packages with lintian(1). All that it finds is wrong, but for the overrides in the packages.
pub(super) fn check(packages: &[PathBuf]) -> Result<()> {
    let is_deb = |path: &&PathBuf| path.extension().is_some_and(|end| end == "deb");
    let debs: Vec<_> = packages.iter().filter(is_deb).collect();
    if debs.is_empty() {
        return Ok(());
    }
    setup::ensure_program("lintian", "lintian", "checking the packages")?;
    let mut lintian = shell::program("lintian", ["--fail-on", "error,warning"]);
    shell::long("checking the packages with lintian", lintian.args(debs))
}

fn control(package: &Package, staged: &Staged, release: &Release, depends: &str) -> Result<String> {
    let Package { name, summary, description, .. } = package;
    let bytes: u64 = staged
        .files
        .iter()
        .filter_map(|file| fs::metadata(staged.place(&file.path)).ok())
        .map(|found| found.len().div_ceil(1024))
        .sum();
    let long: Vec<_> = description.iter().map(|text| wrapped(text, " ")).collect();
    Ok(format!(
        "Package: {name}\n\
         Version: {}-{}\n\
         Architecture: {}\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {bytes}\n\
         Depends: {depends}\n\
         Section: admin\n\
         Priority: optional\n\
         Description: {summary}\n\
         {}",
        release.version,
        Release::REVISION,
        release.target.debian(),
        long.join(" .\n")
    ))
}

/// The libraries that the program is linked with, and what the scripts use.
fn depends(package: &Package, staged: &Staged) -> Result<String> {
    let program = staged.place(&format!("/usr/bin/{}", package.name));
    let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let libraries = libraries::debian(&bytes);
    let libraries = libraries.with_context(|| format!("what {} depends on", package.name))?;
    // Without systemd's tools the scripts make users with those of passwd.
    Ok(if package.scripts.is_some() { libraries + ", passwd" } else { libraries })
}

/// The checksums that `dpkg --verify` compares.
fn md5sums(staged: &Staged) -> Result<String> {
    let files = staged.files.iter().filter(|file| !file.is_directory && !file.is_configuration);
    let names = files.map(|file| file.path.trim_start_matches('/'));
    let mut sum = shell::program("md5sum", ["--"]);
    let output = shell::quiet(sum.args(names).current_dir(&staged.root))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

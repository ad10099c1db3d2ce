//! Packs an .rpm with rpmbuild(8).

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    Profile,
    contents::Package,
    control::{self, MAINTAINER, wrapped},
    release::Release,
    stage::Staged,
};
use crate::shell;

/// Packs it, and returns its path.
pub(super) fn pack(
    package: &Package,
    staged: &Staged,
    release: &Release,
    profile: Profile,
    out: &Path,
) -> Result<PathBuf> {
    let place = staged.root.with_extension("rpmbuild");
    fs::create_dir_all(&place).context("making a place for rpmbuild")?;
    let spec = place.join(format!("{}.spec", package.name));
    fs::write(&spec, specification(package, staged, release)?).context("writing the spec file")?;
    let mut build = shell::program("rpmbuild", ["-bb", "--quiet", "--buildroot"]);
    build.arg(place.join("root")).arg("--define").arg(format!("_topdir {}", place.display()));
    build.arg("--define").arg(format!("_rpmdir {}", out.display()));
    // Without compilers, strippers and links by build id; with the time of the release everywhere.
    for setting in [
        "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
        "__os_install_post %{nil}",
        "debug_package %{nil}",
        "_build_id_links none",
        "_buildhost localhost",
        "use_source_date_epoch_as_buildtime 1",
        "clamp_mtime_to_source_date_epoch 1",
        // Programs that are not optimised are large, and only tests unpack them.
        if profile.is_debug { "_binary_payload w1.zstdio" } else { "_binary_payload w19.zstdio" },
    ] {
        build.args(["--define", setting]);
    }
    build.arg(&spec).env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    let (name, version, revision) = (package.name, &release.version, Release::REVISION);
    let machine = release.target.linux();
    let file = format!("{name}-{version}-{revision}.{machine}.rpm");
    build.arg("--target").arg(format!("{machine}-linux"));
    shell::long(&format!("packing {file}"), &mut build)?;
    Ok(out.join(file))
}

fn specification(package: &Package, staged: &Staged, release: &Release) -> Result<String> {
    let Package { name, summary, description, scripts, .. } = package;
    let long: Vec<_> = description.iter().map(|text| wrapped(text, "")).collect();
    let mut text = format!(
        "Name: {name}\n\
         Version: {}\n\
         Release: {}\n\
         Summary: {summary}\n\
         License: MIT OR Apache-2.0\n\
         Packager: {MAINTAINER}\n",
        release.version,
        Release::REVISION,
    );
    if scripts.is_some() {
        // Without systemd's tools the scripts make users with those of shadow.
        text += "Requires(post): coreutils, (systemd or shadow-utils or shadow)\n\
                 Recommends: systemd\n";
    }
    write!(text, "\n%description\n{}", long.join("\n"))?;
    write!(text, "\n%install\ncp -a '{}/.' '%{{buildroot}}/'\n", staged.root.display())?;
    if let Some(scripts) = scripts {
        for script in ["post", "preun", "postun"] {
            let source = shell::root().join(format!("{scripts}/rpm/{script}.sh"));
            let body = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
            // A percent sign begins a macro.
            write!(text, "\n%{script}\n{}", body.replace('%', "%%"))?;
        }
    }
    text += "\n%files\n";
    for directory in own_directories(package, staged) {
        writeln!(text, "%dir %attr(755, root, root) {directory}")?;
    }
    for file in &staged.files {
        let kind = match (file.is_directory, file.is_configuration) {
            (true, _) => "%dir ",
            (false, true) => "%config(noreplace) ",
            (false, false) if file.path.starts_with("/usr/share/licenses/") => "%license ",
            (false, false) if file.path.starts_with("/usr/share/doc/") => "%doc ",
            (false, false) => "",
        };
        writeln!(text, "{kind}%attr({:o}, root, root) {}", file.mode, file.path)?;
    }
    let date = control::date(release.epoch, "%a %b %d %Y")?;
    let (version, revision) = (&release.version, Release::REVISION);
    write!(
        text,
        "\n%changelog\n* {date} {MAINTAINER} - {version}-{revision}\n- Release {version}\n"
    )?;
    Ok(text)
}

/// Directories of the package's name, and what is below them: rpm removes only those that are listed.
fn own_directories<'a>(package: &Package, staged: &'a Staged) -> BTreeSet<&'a str> {
    let files = || staged.files.iter().map(|file| file.path.as_str());
    let is_own = |path: &Path| path.iter().any(|part| part == package.name);
    let above = files().flat_map(|file| Path::new(file).ancestors().skip(1));
    let own: BTreeSet<_> = above.filter(|path| is_own(path)).filter_map(Path::to_str).collect();
    // Some are entries of their own, with their own mode.
    own.into_iter().filter(|directory| files().all(|file| file != *directory)).collect()
}

//! What is in a .deb, packed from the real table of files. A program of the machine stands for the
//! built ones.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Kind, Profile, SUMS, contents, deb, empty,
    release::{self, Programs, Release},
    stage, tarball,
    target::Target,
};
use crate::shell;

/// Modes, owners and paths, without documentation, manual and completions.
const AGENT: &str = "\
-rw-r--r-- root/root ./etc/jit-agent/config.toml
drwxr-xr-x root/root ./etc/jit-agent/signers/
-rwxr-xr-x root/root ./usr/bin/jit-agent
-rwxr-xr-x root/root ./usr/lib/jit-agent/package
-rw-r--r-- root/root ./usr/lib/systemd/system/jit-agent-early.service
-rw-r--r-- root/root ./usr/lib/systemd/system/jit-agent.service
-rw-r--r-- root/root ./usr/lib/sysusers.d/jit-agent.conf
-rw-r--r-- root/root ./usr/lib/tmpfiles.d/jit-agent.conf";

const CONTROLLER: &str = "\
-rw-r--r-- root/root ./usr/lib/systemd/system/jit-controller.service
-rw-r--r-- root/root ./usr/lib/sysusers.d/jit-controller.conf
-rw-r--r-- root/root ./usr/lib/tmpfiles.d/jit-controller.conf
-rwxr-xr-x root/root ./usr/bin/jit-controller
-rwxr-xr-x root/root ./usr/lib/jit-controller/package";

/// Packs a package below a directory.
fn packed(place: &Path, name: &str) -> PathBuf {
    let (package, staged, release) = laid_out(place, name);
    let profile = Profile { is_debug: false, is_built: false };
    deb::pack(package, &staged, &release, profile, place).unwrap()
}

/// Lays out the files of a package below a directory.
fn laid_out(place: &Path, name: &str) -> (&'static contents::Package, stage::Staged, Release) {
    let pages = place.join("pages");
    for page in [
        "man/jit-agent.8",
        "man/jit-agent-run.8",
        "man/jitctl.1",
        "completions/jit-agent.bash",
        "completions/jit-agent.fish",
        "completions/_jit-agent",
        "man/jit-controller.8",
        "man/jit-controller-serve.8",
        "completions/jit-controller.bash",
        "completions/jit-controller.fish",
        "completions/_jit-controller",
    ] {
        let page = pages.join(page);
        fs::create_dir_all(page.parent().unwrap()).unwrap();
        fs::write(page, "text").unwrap();
    }
    let program = shell::find("true").unwrap();
    let programs = Programs::from(
        ["jit-agent", "jit-controller", "jitctl"].map(|name| (name, program.clone())),
    );
    let target = Target::native().unwrap();
    let release = Release { version: "0.1.0".to_owned(), epoch: 1_700_000_000, target };
    let package = contents::PACKAGES.iter().find(|package| package.name == name).unwrap();
    let root = place.join("root");
    // As under a mask of file modes that lets nobody else read.
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let staged = stage::lay_out(package, Kind::Deb, &programs, &pages, &release, &root).unwrap();
    (package, staged, release)
}

fn dpkg(option: &str, package: &Path) -> String {
    let output = shell::quiet(shell::program("dpkg-deb", [option]).arg(package)).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_package_has_these_files_with_these_modes() {
    let place = tempfile::tempdir().unwrap();
    let package = packed(place.path(), "jit-agent");
    let listed = dpkg("--contents", &package);
    // Mode, owner, size, date, time, path.
    let fields = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let all: Vec<_> = fields.map(|line| format!("{} {} {}", line[0], line[1], line[5])).collect();
    let found: Vec<_> = all
        .iter()
        .map(String::as_str)
        .filter(|line| !line.contains("/usr/share/"))
        .filter(|line| !line.starts_with('d') || line.ends_with("/signers/"))
        .collect();
    assert_eq!(found.join("\n"), AGENT);
    for page in
        ["man/man8/jit-agent.8.gz", "man/man8/jit-agent-run.8.gz", "doc/jit-agent/copyright"]
    {
        let line = format!("-rw-r--r-- root/root ./usr/share/{page}");
        assert!(all.contains(&line), "{line} is not in\n{}", all.join("\n"));
    }
    assert!(!listed.contains("jitctl"), "{listed}");

    let control = dpkg("--info", &package);
    for script in ["conffiles", "postinst", "postrm", "prerm", "md5sums"] {
        assert!(control.contains(script), "{script} is not in\n{control}");
    }
    let depends = dpkg("--field", &package);
    assert!(depends.contains("\nDepends: libc6 (>= 2."), "{depends}");
}

#[test]
fn the_package_of_the_controller_has_no_rights_and_no_keys() {
    let place = tempfile::tempdir().unwrap();
    let package = packed(place.path(), "jit-controller");
    let listed = dpkg("--contents", &package);
    let fields = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let all: Vec<_> = fields.map(|line| format!("{} {} {}", line[0], line[1], line[5])).collect();
    let is_here = |line: &&str| !line.contains("/usr/share/") && !line.starts_with('d');
    let mut found: Vec<_> = all.iter().map(String::as_str).filter(is_here).collect();
    found.sort_unstable();
    assert_eq!(found.join("\n"), CONTROLLER);
    for page in [
        "man/man8/jit-controller.8.gz",
        "man/man8/jit-controller-serve.8.gz",
        "doc/jit-controller/examples/aws-kms-signer.py",
        "bash-completion/completions/jit-controller",
        "doc/jit-controller/examples/azure-key-vault-signer.py",
    ] {
        let line = format!("-rw-r--r-- root/root ./usr/share/{page}");
        assert!(all.contains(&line), "{line} is not in\n{}", all.join("\n"));
    }
    let control = dpkg("--info", &package);
    for script in ["postinst", "postrm", "prerm", "md5sums"] {
        assert!(control.contains(script), "{script} is not in\n{control}");
    }
    assert!(!control.contains("conffiles"), "{control}");
}

/// A static program loads no PKCS#11 module, and has no controller beside it.
#[test]
fn a_static_release_has_neither_the_controller_nor_modules() {
    let release = |target| Release { version: "0.1.0".to_owned(), epoch: 0, target };
    let of = |release: &Release| {
        release.packages().map(|one| (one.name, release.features(one))).collect::<Vec<_>>()
    };
    assert_eq!(
        of(&release(Target::X86_64Static)),
        [("jit-agent", None), ("jitctl", Some("--no-default-features"))]
    );
    assert_eq!(
        of(&release(Target::Aarch64)),
        [("jit-agent", None), ("jit-controller", None), ("jitctl", None)]
    );
}

#[test]
fn an_agent_that_has_grown_too_large_is_no_release() {
    let bounded = |name, target, size| release::bounded(name, target, size);
    assert!(bounded("jit-agent", Target::X86_64, 12_526_592).is_ok());
    let refused = bounded("jit-agent", Target::X86_64, 12_526_593).unwrap_err().to_string();
    assert!(refused.contains("12526593 bytes"), "{refused}");
    assert!(bounded("jit-controller", Target::X86_64, 50_000_000).is_ok(), "on no host");
}

/// The root of a .deb has the mode of a root. A tarball has none: it is unpacked by hand.
#[test]
fn unpacking_at_the_root_does_not_change_the_root() {
    let place = tempfile::tempdir().unwrap();
    let listed = dpkg("--contents", &packed(place.path(), "jit-agent"));
    assert!(listed.starts_with("drwxr-xr-x root/root "), "{listed}");

    let other = tempfile::tempdir().unwrap();
    let (package, staged, release) = laid_out(other.path(), "jit-agent");
    let tarball = tarball::pack(package, &staged, &release, other.path()).unwrap();
    let listed = shell::quiet(shell::program("tar", ["--list", "--file"]).arg(tarball)).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.starts_with("etc/\netc/jit-agent/\n"), "{listed}");
    assert!(listed.lines().all(|path| path.starts_with("etc/") || path.starts_with("usr/")));
}

#[test]
fn packing_in_another_directory_gives_the_same_bytes() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = packed(one.path(), "jit-agent");
    let deeper = other.path().join("somewhere/deeper");
    fs::create_dir_all(&deeper).unwrap();
    let second = packed(&deeper, "jit-agent");
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "the packages differ");
}

#[test]
fn only_what_the_task_made_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    empty(&out).unwrap();
    fs::create_dir(&out).unwrap();
    empty(&out).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("letter"), "of somebody").unwrap();
    let refused = empty(&out).unwrap_err().to_string();
    assert!(refused.contains("name another directory"), "{refused}");
    assert!(out.join("letter").is_file());
    fs::write(out.join(SUMS), "").unwrap();
    empty(&out).unwrap();
    assert!(!out.exists());
}

//! Tries the .rpm packages in a root of their own, with rpm's own tools: installed, verified,
//! upgraded, removed. No systemd runs there: the scripts must do their part without it, as in the
//! build of an image.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Kind, make, release::Release, target::Target};
use crate::{debian, setup, shell};

/// The release of Debian that lends the root. It has rpm and knows none of the packages' libraries.
const SUITE: &str = "bookworm";
/// What `rpm --verify` calls a configuration file whose content was edited.
const EDITED: &str = "S.5....T.  c /etc/jit-agent/config.toml";
/// The line that a person adds to the configuration.
const OWN_LINE: &str = "# a line of the host";

/// Makes packages of this version and of the next, and tries them below `scratch`.
pub(super) fn run(version: Option<String>, debug: bool, scratch: &Path) -> Result<()> {
    ensure!(shell::is_root(), "a root of its own needs root: run this as root");
    setup::ensure_program("mmdebstrap", "mmdebstrap", "making a root to install in")?;
    if scratch.exists() {
        fs::remove_dir_all(scratch).with_context(|| format!("emptying {}", scratch.display()))?;
    }
    let root = scratch.join("root");
    lend(scratch, &root)?;
    let target = Target::native()?;
    let first = Release::read(version, target)?;
    let next = Release::read(Some(format!("{}.1", first.version)), target)?;
    for release in [&first, &next] {
        let made = make(release, &scratch.join("packages"), debug, |kind| kind == Kind::Rpm)?;
        for package in made.iter().filter(|path| path.extension().is_some_and(|end| end == "rpm")) {
            let name = package.file_name().context("a package has a name")?;
            fs::copy(package, root.join(name)).context("copying a package into the root")?;
        }
    }
    let file = |name: &str, release: &Release| {
        format!("/{name}-{}-{}.{}.rpm", release.version, Release::REVISION, target.linux())
    };
    shell::heading("install");
    // Debian's libraries are not in rpm's database.
    let install = [file("jit-agent", &first), file("jitctl", &first)];
    inside(&root, "rpm", &["--install", "--nodeps", &install[0], &install[1]])?;
    verify(&root, &[])?;
    for (user, group) in [("jit-agent", "jit-agent"), ("jit-agent", "jit-agent-keys")] {
        let groups = inside(&root, "id", &["--name", "--groups", user])?;
        ensure!(groups.split_whitespace().any(|found| found == group), "{user} is not in {group}");
    }
    let directories = ["/etc/jit-agent/tls", "/etc/jit-agent/config.toml", "/var/lib/jit-agent"];
    let shown = inside(&root, "stat", &[&["--format=%U:%G %a %n"], &directories[..]].concat())?;
    let expected = "root:jit-agent-keys 750 /etc/jit-agent/tls\n\
                    root:jit-agent 640 /etc/jit-agent/config.toml\n\
                    jit-agent:jit-agent 700 /var/lib/jit-agent";
    ensure!(shown.trim() == expected, "owners and modes are\n{shown}\nand not\n{expected}");
    inside(&root, "jit-agent", &["check", "--config", "/etc/jit-agent/config.toml"])?;

    shell::heading("upgrade");
    let config = root.join("etc/jit-agent/config.toml");
    let edited = fs::read_to_string(&config).context("reading the installed configuration")?;
    fs::write(&config, format!("{edited}{OWN_LINE}\n")).context("editing the configuration")?;
    let upgrade = [file("jit-agent", &next), file("jitctl", &next)];
    inside(&root, "rpm", &["--upgrade", "--nodeps", &upgrade[0], &upgrade[1]])?;
    let kept = fs::read_to_string(&config).context("reading the configuration")?;
    ensure!(kept.ends_with(&format!("{OWN_LINE}\n")), "the upgrade replaced {}", config.display());
    verify(&root, &[EDITED])?;
    let version = inside(&root, "rpm", &["--query", "--queryformat", "%{VERSION}", "jit-agent"])?;
    ensure!(version.trim() == next.version, "after the upgrade it is {version}");

    shell::heading("remove");
    inside(&root, "rpm", &["--erase", "jit-agent", "jitctl"])?;
    for gone in ["usr/bin/jit-agent", "usr/bin/jitctl", "usr/lib/jit-agent"] {
        ensure!(!root.join(gone).exists(), "the removal left /{gone}");
    }
    for stays in ["etc/jit-agent/config.toml.rpmsave", "etc/jit-agent/tls", "var/lib/jit-agent"] {
        ensure!(root.join(stays).exists(), "the removal took /{stays}");
    }
    println!("  installed, verified, upgraded, removed");
    fs::remove_dir_all(scratch).with_context(|| format!("removing {}", scratch.display()))
}

/// Makes a root of a few packages from the archive that this machine uses.
fn lend(scratch: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(scratch).with_context(|| format!("making {}", scratch.display()))?;
    let sources = scratch.join("sources.list");
    let list = debian::Archives::find()?.sources(&[SUITE], &[])?;
    fs::write(&sources, list).with_context(|| format!("writing {}", sources.display()))?;
    let mut make = shell::program("mmdebstrap", ["--variant=essential", "--include=rpm,passwd"]);
    make.arg(SUITE).arg(root).arg(&sources);
    shell::long("making a root to install in", &mut make)
}

/// Runs a program in the root. Prints and returns what it says.
fn inside(root: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = in_root(root, program, arguments);
    println!("$ {program} {}", arguments.join(" "));
    let output = shell::quiet(&mut command)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    for line in said.lines().chain(errors.lines().filter(|line| !line.starts_with("rpm: "))) {
        println!("  {line}");
    }
    Ok(said)
}

/// Compares what is installed with the packages. `expected`: the lines that may be reported.
fn verify(root: &Path, expected: &[&str]) -> Result<()> {
    // Owner, group and mode of the configuration are the scripts', who know the service's group.
    let arguments = ["--verify", "--nodeps", "--nomode", "--nogroup", "jit-agent", "jitctl"];
    let output = in_root(root, "rpm", &arguments).output().context("running rpm --verify")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found: Vec<_> = said.lines().map(str::trim_end).collect();
    if found != expected {
        bail!("rpm --verify reports\n{}\nand not\n{}", found.join("\n"), expected.join("\n"));
    }
    Ok(())
}

fn in_root(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = shell::program("chroot", [root.as_os_str()]);
    command.arg(program).args(arguments).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command
}

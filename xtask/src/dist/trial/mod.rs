//! Tries packages in a root of their own, with the tools of the distributions: installed, verified,
//! upgraded, removed. No systemd runs there: the scripts must do their part without it, as in the
//! build of an image. `cargo xtask vm-test --systemd` tries the .deb packages with a running systemd.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    slice,
};

use anyhow::{Context as _, Result, ensure};

use super::{Kind, Profile, make, release::Release, target::Target};
use crate::{debian, setup, shell};

mod deb;
mod rpm;

/// The release of Debian that lends the root. Its rpm knows none of the packages' libraries.
const SUITE: &str = "bookworm";
/// The directory of the packages in the root.
const INSIDE: &str = "/packages";
/// The configuration in the root.
const CONFIG: &str = "/etc/jit-agent/config.toml";
/// The line that a person adds to the configuration.
const OWN_LINE: &str = "# a line of the host\n";
/// Who owns what after an installation.
const OWNERS: &str = "\
root:jit-agent-keys 750 /etc/jit-agent/tls
root:jit-agent 640 /etc/jit-agent/config.toml
jit-agent:jit-agent 700 /var/lib/jit-agent";
/// What the controller keeps.
const CONTROLLER_STATE: &str = "/var/lib/jit-controller";
const CONTROLLER_CONFIG: &str = "/var/lib/jit-controller/controller.toml";
/// Options of runuser(1) before a command of the controller.
const CONTROLLER_USER: [&str; 3] = ["-u", "jit-controller", "--"];
/// The packages of a release, as they are removed.
const NAMES: [&str; 3] = ["jit-agent", "jit-controller", "jitctl"];
/// Paths of the programs and of what belongs to their packages alone.
const PROGRAMS: [&str; 5] = [
    "/usr/bin/jit-agent",
    "/usr/bin/jit-controller",
    "/usr/bin/jitctl",
    "/usr/lib/jit-agent",
    "/usr/lib/jit-controller",
];
/// Commands that a package is useless without. The others are read from the program's help.
const COMMANDS: [&str; 6] = ["check", "confirm", "early", "enforce", "init", "run"];

/// A root with packages of two versions in it.
struct Root {
    path: PathBuf,
    first: Release,
    next: Release,
}

/// Makes packages of this version and of the next, and tries them below `scratch`.
pub(super) fn run(
    version: Option<String>,
    profile: Profile,
    scratch: &Path,
    wanted: impl Fn(Kind) -> bool,
) -> Result<()> {
    ensure!(shell::is_root(), "a root of its own needs root: run this as root");
    setup::ensure_program("mmdebstrap", "mmdebstrap", "making a root to install in")?;
    if scratch.exists() {
        fs::remove_dir_all(scratch).with_context(|| format!("emptying {}", scratch.display()))?;
    }
    let target = Target::native()?;
    let first = Release::read(version, target)?;
    let next = Release::read(Some(format!("{}.1", first.version)), target)?;
    let path = scratch.join("root");
    lend(scratch, &path)?;
    let root = Root { path, first, next };
    let packages = root.place(INSIDE);
    fs::create_dir(&packages).context("making a directory of packages in the root")?;
    fs::set_permissions(&packages, fs::Permissions::from_mode(0o755))?;
    for release in [&root.first, &root.next] {
        // What is tried here has no use for a tarball.
        let kinds = |kind| kind != Kind::Tar && wanted(kind);
        let made = make(slice::from_ref(release), &scratch.join("packages"), profile, kinds)?;
        if release.version == root.first.version {
            super::deb::check(&made)?;
        }
        for package in made {
            let name = package.file_name().context("a package has a name")?;
            fs::copy(&package, packages.join(name)).context("copying a package into the root")?;
        }
    }
    if wanted(Kind::Deb) {
        deb::run(&root)?;
    }
    if wanted(Kind::Rpm) {
        rpm::run(&root)?;
    }
    fs::remove_dir_all(scratch).with_context(|| format!("removing {}", scratch.display()))
}

/// Makes a root of a few packages from the archive that this machine uses.
fn lend(scratch: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(scratch).with_context(|| format!("making {}", scratch.display()))?;
    let sources = scratch.join("sources.list");
    let list = debian::Archives::find()?.sources(&[SUITE], &[])?;
    fs::write(&sources, list).with_context(|| format!("writing {}", sources.display()))?;
    let mut make = shell::program("mmdebstrap", ["--variant=apt", "--include=rpm,passwd"]);
    make.arg(SUITE).arg(root).arg(&sources);
    shell::long("making a root to install in", &mut make)
}

impl Root {
    /// Where a path of the root is on this machine.
    fn place(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Runs a program. Prints and returns what it says; a failure is an error.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let (output, said) = self.said(program, arguments)?;
        ensure!(output.status.success(), "{program} failed ({})", output.status);
        drop(output);
        Ok(said)
    }

    /// Runs a program that must fail. Returns what it says.
    fn fail(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let (output, said) = self.said(program, arguments)?;
        ensure!(!output.status.success(), "{program} ended well, and must fail");
        Ok(said)
    }

    /// Runs a program and prints what it says: its output, then its errors.
    fn said(&self, program: &str, arguments: &[&str]) -> Result<(Output, String)> {
        println!("$ {program} {}", arguments.join(" "));
        let output = self.command(program, arguments).output();
        let output = output.with_context(|| format!("running {program} in the root"))?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said += &String::from_utf8_lossy(&output.stderr);
        for line in said.lines() {
            println!("  {line}");
        }
        Ok((output, said))
    }

    /// Its language is that of the messages that are compared, and nobody answers questions.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = shell::program("chroot", [self.path.as_os_str()]);
        command.arg(program).args(arguments).stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// What a user of the packages relies on, whatever kind they are.
    fn check_installed(&self) -> Result<()> {
        for group in ["jit-agent", "jit-agent-keys"] {
            let groups = self.run("id", &["--name", "--groups", "jit-agent"])?;
            let is_member = groups.split_whitespace().any(|found| found == group);
            ensure!(is_member, "the user jit-agent is not in {group}");
        }
        self.check_owners()?;
        self.run("jit-agent", &["check", "--config", CONFIG])?;
        for (program, section) in [("jit-agent", 8), ("jit-controller", 8), ("jitctl", 1)] {
            self.check_pages(program, section)?;
        }
        self.check_controller()
    }

    /// The controller has its user and its directory, and makes and checks what it needs there.
    fn check_controller(&self) -> Result<()> {
        let shown = self.run("stat", &["--format=%U:%G %a", CONTROLLER_STATE])?;
        ensure!(shown.trim() == "jit-controller:jit-controller 700", "its directory is {shown}");
        if !self.place(CONTROLLER_CONFIG).exists() {
            let init = ["jit-controller", "init", "--name", "jit.example.org", "--admin", "ana"];
            let said = self.run("runuser", &[&CONTROLLER_USER[..], &init].concat())?;
            ensure!(said.contains(CONTROLLER_STATE), "it does not say where it made a controller");
        }
        self.run("runuser", &[&CONTROLLER_USER[..], &["jit-controller", "check"]].concat())?;
        Ok(())
    }

    fn check_owners(&self) -> Result<()> {
        let paths = ["/etc/jit-agent/tls", CONFIG, "/var/lib/jit-agent"];
        let shown = self.run("stat", &[&["--format=%U:%G %a %n"], &paths[..]].concat())?;
        ensure!(shown.trim() == OWNERS, "owners and modes are\n{shown}\nand not\n{OWNERS}");
        Ok(())
    }

    /// Each command that the installed program offers has a page, and bash completes it.
    fn check_pages(&self, program: &str, section: u8) -> Result<()> {
        let help = self.command(program, &["--help"]).output().context("asking for help")?;
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let commands = commands(&help);
        let wanted: &[&str] = match program {
            "jit-agent" => &COMMANDS,
            "jit-controller" => &["backup", "check", "init", "restore", "serve"],
            _ => &["push", "revoke"],
        };
        for command in wanted {
            ensure!(commands.contains(command), "{program} --help has no {command}:\n{help}");
        }
        let completions = self.place(&format!("/usr/share/bash-completion/completions/{program}"));
        let completions = fs::read_to_string(&completions)
            .with_context(|| format!("reading {}", completions.display()))?;
        for command in &commands {
            let page = format!("/usr/share/man/man{section}/{program}-{command}.{section}.gz");
            ensure!(self.place(&page).is_file(), "the package has no {page}");
            let is_offered = completions.split_whitespace().any(|word| word == *command);
            ensure!(is_offered, "bash does not complete `{program} {command}`");
        }
        println!("  {program}: {} commands, each with a page and a completion", commands.len());
        Ok(())
    }

    /// Adds a line to the configuration, as a person does.
    fn edit(&self) -> Result<()> {
        let config = self.place(CONFIG);
        let text = fs::read_to_string(&config).context("reading the installed configuration")?;
        fs::write(&config, text + OWN_LINE).context("editing the configuration")
    }

    /// The person's line is still there.
    fn check_edited(&self) -> Result<()> {
        let kept = fs::read_to_string(self.place(CONFIG)).context("reading the configuration")?;
        ensure!(kept.ends_with(OWN_LINE), "the edited {CONFIG} was replaced");
        Ok(())
    }

    /// These paths are there, or are not.
    fn check_paths(&self, paths: &[&str], there: bool) -> Result<()> {
        for path in paths {
            let found = self.place(path).symlink_metadata().is_ok();
            ensure!(found == there, "{path} is {}there", if found { "" } else { "not " });
        }
        Ok(())
    }
}

/// The commands that a program's help lists.
fn commands(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| line.starts_with("  "))
        // What begins further right explains the command above.
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_without_what_explains_them() {
        let help = "Opens.\n\nUsage: x [COMMAND]\n\nCommands:\n  early    Put the\n           gate up\n  \
                    run      Serve\n  help     Print this\n\nOptions:\n  -h, --help\n";
        assert_eq!(commands(help), ["early", "run"]);
        assert!(commands("no list").is_empty());
    }
}

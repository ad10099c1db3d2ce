//! The .deb packages, with apt and dpkg. Also what goes wrong in the middle, and what a taken-over
//! service leaves behind for the scripts, which run as root.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use anyhow::{Context as _, Result, ensure};

use super::{CONFIG, CONTROLLER_CONFIG, CONTROLLER_STATE, INSIDE, NAMES, PROGRAMS, Root};
use crate::{dist::release::Release, shell};

/// What `dpkg --verify` calls a configuration file whose content was edited.
const EDITED: &str = "??5?????? c /etc/jit-agent/config.toml";
/// A directory that is nothing to the packages.
const FOREIGN: &str = "/srv/foreign";
const STATE: &str = "/var/lib/jit-agent";
const APT: [&str; 4] = ["--yes", "--quiet", "--allow-downgrades", "install"];

/// Installs, verifies, upgrades, removes and purges.
pub(super) fn run(root: &Root) -> Result<()> {
    failed_start(root)?;
    verify(root, &[])?;
    root.check_installed()?;
    upgrade(root)?;
    question(root)?;
    own_user(root)?;
    removal(root)?;
    purge(root)
}

/// The disk is full, or the list of users is locked: the second try does what is left.
fn failed_start(root: &Root) -> Result<()> {
    shell::heading("deb: install; no group can be made at first");
    let (program, aside) = (root.place("/usr/sbin/groupadd"), root.place("/usr/sbin/groupadd.x"));
    fs::rename(&program, &aside).context("putting groupadd aside")?;
    root.fail("apt-get", &install(&files(&root.first)))?;
    fs::rename(&aside, &program).context("putting groupadd back")?;
    root.run("dpkg", &["--configure", "--pending"])?;
    Ok(())
}

/// An edited configuration stays, upwards and downwards.
fn upgrade(root: &Root) -> Result<()> {
    root.edit()?;
    for (way, release) in [("upgrade", &root.next), ("downgrade", &root.first)] {
        shell::heading(&format!("deb: {way}"));
        root.run("apt-get", &install(&files(release)))?;
        root.check_edited()?;
        root.check_owners()?;
        root.check_controller()?;
        verify(root, &[EDITED])?;
        let shown = ["--show", "--showformat=${Version} "];
        let versions = root.run("dpkg-query", &[&shown[..], &NAMES].concat())?;
        let expected = format!("{}-{} ", release.version, Release::REVISION);
        ensure!(versions == expected.repeat(NAMES.len()), "after the {way} it is {versions}");
    }
    Ok(())
}

/// A version changes the configuration that the host has edited, and nobody answers dpkg's question.
fn question(root: &Root) -> Result<()> {
    shell::heading("deb: upgrade with another configuration, and nobody answers");
    let [agent, ..] = files(&root.next);
    let unpacked = root.place("/unpacked");
    shell::quiet(shell::program("dpkg-deb", ["-R"]).arg(root.place(&agent)).arg(&unpacked))?;
    let config = unpacked.join(CONFIG.trim_start_matches('/'));
    let text = fs::read_to_string(&config).context("reading the packaged configuration")?;
    fs::write(&config, text + "# of another version\n").context("writing it")?;
    let changed = format!("{INSIDE}/changed.deb");
    let mut pack = shell::program("dpkg-deb", ["--root-owner-group", "-Zgzip", "-z1", "-b"]);
    shell::quiet(pack.arg(&unpacked).arg(root.place(&changed)))?;
    let said = root.fail("apt-get", &[&APT[..], &[&changed]].concat())?;
    ensure!(said.contains("conffile"), "dpkg did not ask about the configuration");
    root.check_edited()?;
    root.check_owners()?;
    root.run("jit-agent", &["check", "--config", CONFIG])?;
    root.run("dpkg", &["--configure", "--pending", "--force-confold"])?;
    root.check_edited()?;
    root.check_owners()?;
    root.check_paths(&[&format!("{CONFIG}.dpkg-dist")], true)
}

/// A person's account of the same name is pointed at.
fn own_user(root: &Root) -> Result<()> {
    shell::heading("deb: the user can log in");
    root.run("usermod", &["--shell", "/bin/bash", "jit-agent"])?;
    let said = root.run("/usr/lib/jit-agent/package", &["configure"])?;
    ensure!(said.contains("can log in"), "it is not pointed at");
    root.run("usermod", &["--shell", "/usr/sbin/nologin", "jit-agent"])?;
    let said = root.run("/usr/lib/jit-agent/package", &["configure"])?;
    ensure!(said.is_empty(), "there is nothing to point at");
    Ok(())
}

/// The configuration and the state stay, and whose they are.
fn removal(root: &Root) -> Result<()> {
    shell::heading("deb: remove");
    // Pins that are seen in a root that systemd does not run: they are another system's.
    let pins = root.place("/sys/fs/bpf/jit-agent/link");
    fs::create_dir_all(&pins).context("making a directory in the place of pins")?;
    let said = root.run("apt-get", &[&["--yes", "--quiet", "remove"], &NAMES[..]].concat())?;
    ensure!(said.contains("stays in force"), "what is pinned is not named");
    fs::remove_dir(&pins).context("removing it")?;
    root.check_paths(&PROGRAMS, false)?;
    root.check_paths(&[CONTROLLER_CONFIG], true)?;
    root.check_edited()?;
    root.check_owners()
}

/// The state's directory belongs to the service, and root removes it: nothing else goes with it.
fn purge(root: &Root) -> Result<()> {
    shell::heading("deb: purge; the state has links to what is not the package's");
    let letter = format!("{FOREIGN}/letter");
    fs::create_dir_all(root.place(FOREIGN)).context("making a foreign directory")?;
    fs::write(root.place(&letter), "of somebody").context("writing a foreign file")?;
    let before = root.place(&letter).metadata().context("a foreign file")?;
    symlink(FOREIGN, root.place(&format!("{STATE}/directory"))).context("linking")?;
    symlink(&letter, root.place(&format!("{STATE}/state"))).context("linking")?;
    fs::write(root.place(&format!("{STATE}/-rf .. *\n")), "").context("writing a hostile name")?;
    root.run("apt-get", &["--yes", "--quiet", "purge", "jit-agent"])?;
    root.check_paths(&[STATE, "/etc/jit-agent", "/run/jit-agent", "/sys/fs/bpf/jit-agent"], false)?;
    let after = root.place(&letter).metadata().context("the foreign file is gone")?;
    ensure!((before.mode(), before.uid()) == (after.mode(), after.uid()), "its owner has changed");

    shell::heading("deb: purge of the controller; its keys and its audit stay");
    let said = root.run("apt-get", &["--yes", "--quiet", "purge", "jit-controller"])?;
    ensure!(said.contains("keys and the audit"), "it is not said that they stay");
    root.check_paths(&[CONTROLLER_CONFIG], true)?;
    fs::remove_dir_all(root.place(CONTROLLER_STATE)).context("removing them by hand")?;

    shell::heading("deb: install and purge again; the state is on another disk, by a link");
    root.run("chown", &["jit-agent:jit-agent", FOREIGN])?;
    symlink(FOREIGN, root.place(STATE)).context("linking")?;
    root.run("apt-get", &install(&files(&root.first)))?;
    root.run("jit-agent", &["check", "--config", CONFIG])?;
    let said = root.run("apt-get", &[&["--yes", "--quiet", "purge"], &NAMES[..]].concat())?;
    ensure!(said.contains("was a link"), "it is not said that the state stays");
    root.check_paths(&[STATE, "/etc/jit-agent", CONTROLLER_STATE], false)?;
    root.check_paths(&[&letter], true)?;
    // Nobody else gets the number of the service's user. What comes next makes it again.
    root.run("userdel", &["jit-controller"])?;
    root.run("userdel", &["jit-agent"])?;
    root.run("groupdel", &["jit-agent-keys"])?;
    Ok(())
}

/// The packages of a release, in the root.
fn files(release: &Release) -> [String; 3] {
    let (version, revision) = (&release.version, Release::REVISION);
    let machine = release.target.debian();
    NAMES.map(|name| format!("{INSIDE}/{name}_{version}-{revision}_{machine}.deb"))
}

/// Arguments of apt-get(8) that install these files.
fn install(files: &[String]) -> Vec<&str> {
    APT.into_iter().chain(files.iter().map(String::as_str)).collect()
}

/// Compares what is installed with the packages. `expected`: the lines that may be reported.
fn verify(root: &Root, expected: &[&str]) -> Result<()> {
    let output = root.command("dpkg", &[&["--verify"], &NAMES[..]].concat()).output();
    let said = output.context("running dpkg --verify")?.stdout;
    let said = String::from_utf8_lossy(&said);
    let found: Vec<_> = said.lines().map(str::trim_end).collect();
    ensure!(found == expected, "dpkg --verify reports {found:?} and not {expected:?}");
    Ok(())
}

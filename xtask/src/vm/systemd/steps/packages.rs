//! What a package manager does: upgrade, downgrade, removal, purge.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::install;
use crate::vm::systemd::{
    link::{CLIENT, STRANGER},
    packages::INSIDE,
    scene::Scene,
};

/// A higher version: the gate stays in force, and who is in stays in.
pub(super) fn upgrade(scene: &mut Scene) -> Result<String> {
    let higher = scene.packages.higher.clone();
    change(scene, "next", &higher)
}

/// And back again.
pub(super) fn downgrade(scene: &mut Scene) -> Result<String> {
    let version = scene.packages.version.clone();
    change(scene, "now", &version)
}

fn change(scene: &mut Scene, folder: &str, version: &str) -> Result<String> {
    let from = Instant::now();
    let before = pid(scene)?;
    install::mount(scene)?;
    let script =
        format!("cd {INSIDE}/{folder} && apt-get install --yes --allow-downgrades ./*.deb");
    let said = scene.machine.run_within(&script, Duration::from_secs(400))?;
    let installed = scene.machine.run("dpkg-query --show --showformat '${Version}' jit-agent")?;
    ensure!(installed == version, "{installed} is installed:\n{said}");
    scene.wait_enforcing()?;
    ensure!(pid(scene)? != before, "the agent was not restarted:\n{said}");
    scene.session_lives()?;
    ensure!(scene.gets_in(CLIENT)?, "the grant is lost");
    Ok(format!("{version}; {}; the session lives, the grant too", scene.nobody_since(from)?))
}

/// Removal takes the gate off, and says so.
pub(super) fn removal(scene: &mut Scene) -> Result<String> {
    let from = scene.closed_since.take().unwrap_or_else(Instant::now);
    let until = Instant::now();
    let said =
        scene.machine.run_within("apt-get remove --yes jit-agent", Duration::from_secs(300))?;
    let words: Vec<_> = said.lines().filter(|line| line.starts_with("jit-agent:")).collect();
    let says = words.iter().any(|line| line.contains("open to all"));
    ensure!(says, "it does not say that the ports are open:\n{said}");
    scene.machine.run(
        "set -e
        test ! -e /usr/bin/jit-agent
        test -e /etc/jit-agent/config.toml && test -d /var/lib/jit-agent
        test -z \"$(ls -A /sys/fs/bpf/jit-agent 2>/dev/null)\"
        ! ip link show eth0 | grep -q xdp",
    )?;
    ensure!(scene.gets_in(STRANGER)?, "the gate is still there");
    Ok(format!("{}; in all until then: {}", words.join(" / "), scene.nobody(from, until)?))
}

/// Purge removes what the package and the agent have written.
pub(super) fn purge(scene: &mut Scene) -> Result<String> {
    scene.machine.run_within("apt-get purge --yes jit-agent", Duration::from_secs(300))?;
    scene.machine.run(
        "set -e
        for path in /etc/jit-agent /var/lib/jit-agent /run/jit-agent /sys/fs/bpf/jit-agent; do
            test ! -e $path || { echo $path is left; exit 1; }
        done
        test -z \"$(dpkg-query --show --showformat '${Status}' jit-agent 2>/dev/null \
            | grep -v 'not-installed')\"",
    )?;
    Ok("configuration, state, sockets and pins are gone".to_owned())
}

fn pid(scene: &mut Scene) -> Result<String> {
    scene.machine.run("systemctl show --property MainPID --value jit-agent")
}

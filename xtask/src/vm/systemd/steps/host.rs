//! What happens to a host between two boots: a bad file, a stopped agent, no journal, a full disk.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::vm::systemd::{link::CLIENT, scene::Scene};

const PID: &str = "systemctl show --property MainPID --value jit-agent";

/// A file that would be refused makes `systemctl reload` fail. A good one is taken.
pub(super) fn reload(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    let said = scene.machine.run(
        "cp -p /etc/jit-agent/config.toml /root/good.toml
        echo 'surprise = 1' >>/etc/jit-agent/config.toml
        if systemctl reload jit-agent; then echo the reload succeeded; exit 1; fi
        systemctl is-active jit-agent || exit 1
        journalctl --boot --unit jit-agent --no-pager --lines 20 | grep surprise || exit 1
        cp -p /root/good.toml /etc/jit-agent/config.toml
        systemctl reload jit-agent",
    )?;
    scene.wait_enforcing()?;
    let line = said.lines().find(|line| line.contains("surprise")).context("the key is named")?;
    let line = line.rsplit_once("]: ").map_or(line, |(_, text)| text);
    Ok(format!("\"{}\"; then a good one; {}", line.trim(), scene.nobody_since(from)?))
}

/// A stopped agent sends no sign of life. systemd kills it, and starts it again.
pub(super) fn watchdog(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    let before = scene.machine.run(PID)?;
    scene.machine.run(&format!("kill -STOP {before}"))?;
    let script = format!(
        "for i in $(seq 150); do
            now=$({PID})
            [ \"$now\" != {before} ] && [ \"$now\" != 0 ] && exit 0
            sleep 1
        done
        exit 1"
    );
    scene.machine.run_within(&script, Duration::from_secs(200))?;
    let took = from.elapsed();
    scene.wait_enforcing()?;
    scene.machine.run("journalctl --boot --unit jit-agent --no-pager | grep -qi watchdog")?;
    ensure!(scene.gets_in(CLIENT)?, "the grant is lost");
    Ok(format!(
        "restarted after {} s; {}; the grant lives",
        took.as_secs(),
        scene.nobody_since(from)?
    ))
}

/// The journal is restarted, then stopped: the agent works without it.
pub(super) fn journald(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    let before = scene.machine.run(PID)?;
    scene.machine.run("systemctl restart systemd-journald")?;
    scene.grant("61m")?;
    scene.machine.run(
        "systemctl stop systemd-journald.socket systemd-journald-dev-log.socket \
            systemd-journald-audit.socket systemd-journald.service",
    )?;
    scene.grant("62m")?;
    ensure!(scene.gets_in(CLIENT)?, "a grant does not open while the journal is stopped");
    scene.machine.run("systemctl start systemd-journald.socket systemd-journald.service")?;
    let after = scene.machine.run(PID)?;
    ensure!(after == before, "the agent was restarted");
    scene.wait_enforcing()?;
    Ok(format!("the same process; grants open meanwhile; {}", scene.nobody_since(from)?))
}

/// Grants that are tried on a full disk: more than fit into the free pages of the database.
const GRANTS: usize = 400;

/// No byte is free. No grant is accepted, but closing works.
pub(super) fn disk_full(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    scene.session = None;
    scene.machine.run(
        "set -e
        journalctl --rotate --vacuum-size=1M >/dev/null 2>&1
        dd if=/dev/zero of=/root/full bs=1M >/dev/null 2>&1 || true
        dd if=/dev/zero of=/root/full2 bs=1k >/dev/null 2>&1 || true
        sync",
    )?;
    // The database has some room of its own. What is accepted meanwhile is on the disk.
    let refused = (0..GRANTS).find_map(|_| scene.grant("63m").err().map(|error| error.to_string()));
    let looked = scene.wait_status("a full disk is not named", |code, status| {
        let said = status.get("problems").map(ToString::to_string).unwrap_or_default();
        // Whichever of the two met it first.
        code == 1
            && said.contains("No space left")
            && ["[storage]", "[audit]"].iter().any(|word| said.contains(word))
    });
    let closed = scene.machine.attempt("jit-agent close --all", Duration::from_secs(60))?;
    let out = !scene.gets_in(CLIENT)?;
    let room = scene.machine.run("df --output=avail,iavail /var/lib | tail -1")?;
    scene.machine.run("rm -f /root/full /root/full2; sync")?;
    let refused = refused.with_context(|| {
        format!("{GRANTS} grants were accepted on a full disk (left, kB and files: {room})")
    })?;
    looked.with_context(|| format!("refused: {refused}; left, kB and files: {room}"))?;
    ensure!(refused.contains("storage"), "{refused}");
    ensure!(closed.code == 0 && out, "close --all ended with {}: {}", closed.code, closed.output);
    scene.wait_enforcing()?;
    scene.grant("60m")?;
    ensure!(scene.gets_in(CLIENT)?, "a grant does not open when the disk has room again");
    let nobody = scene.nobody_since(from)?;
    Ok(format!(
        "grants refused (storage), close --all works, DEGRADED until there is room; {nobody}"
    ))
}

/// Private keys are where they belong, and nowhere else.
pub(super) fn secrets(scene: &mut Scene) -> Result<String> {
    let pem = fs::read_to_string(scene.scratch.join("pki/agent.key")).context("reading the key")?;
    // The third line begins with letters of the secret: all keys of a kind have the same ones before.
    let line = pem.lines().nth(2).context("a key has lines")?;
    let letters: String = line.chars().take(24).collect();
    let said = scene.machine.run(&format!(
        "pid=$({PID})
        wrong() {{ echo \"the key is in $1\"; exit 1; }}
        cat /proc/$pid/cmdline /proc/$pid/environ | grep -aqF '{letters}' && wrong process
        grep -raqF '{letters}' /var/lib/jit-agent /run/jit-agent && wrong state
        grep -raqF 'PRIVATE KEY' /run/jit-agent /var/lib/jit-agent/audit && wrong records
        journalctl --no-pager --output export | grep -aqF -e '{letters}' -e 'PRIVATE KEY' && \
            wrong journal
        find /var/lib/systemd/coredump /var/crash -type f 2>/dev/null | grep . && wrong core
        [ $(grep -c 'Max core file size *0 *0' /proc/$pid/limits) = 1 ] || {{
            echo core dumps are on; exit 1; }}
        grep -qF '{letters}' /etc/jit-agent/tls/agent.key && echo found where it belongs"
    ))?;
    ensure!(said.ends_with("belongs"), "{said}");
    Ok("the key is in its file; core dumps are off".to_owned())
}

//! What a start refuses: a capability less, a pin directory that is not the agent's own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::boots;
use crate::vm::systemd::{link::STRANGER, scene::Scene};

const PATIENCE: Duration = Duration::from_secs(240);
const CAPABILITIES: [&str; 3] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
/// Scripts that make the pin directory somebody else's, and undo it.
const SPOILS: [(&str, &str, &str); 3] = [
    ("another user's", "chown nobody $pins", "chown jit-agent $pins"),
    ("writable by all", "chmod 0777 $pins", "chmod 0700 $pins"),
    (
        "another user's link",
        "mv $pins $aside; ln -s $aside $pins; chown -h nobody $pins",
        "rm $pins; mv $aside $pins",
    ),
];
const PINS: &str = "/sys/fs/bpf/jit-agent";
/// bpffs takes no names with dots.
const ASIDE: &str = "/sys/fs/bpf/aside";
/// A unit that runs a script between two others while the machine boots.
const UNIT: &str = "/etc/systemd/system/jit-vm-spoil.service";

/// The service lacks one capability after the other. The gate of before stays in force.
pub(super) fn capabilities(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    let folder = "/run/systemd/system/jit-agent.service.d";
    let mut seen = Vec::new();
    for missing in CAPABILITIES {
        let others: Vec<_> = CAPABILITIES.into_iter().filter(|name| *name != missing).collect();
        let others = others.join(" ");
        let script = format!(
            "mkdir -p {folder}
            printf '[Service]\\nAmbientCapabilities=\\nAmbientCapabilities={others}\\n\
            CapabilityBoundingSet=\\nCapabilityBoundingSet={others}\\n' >{folder}/less.conf
            systemctl daemon-reload
            ! systemctl restart jit-agent || exit 1"
        );
        let said = starts_not(scene, &script, &format!("missing {missing}"));
        seen.push(said.with_context(|| format!("without {missing}"))?);
    }
    let script = format!("rm -r {folder}; systemctl daemon-reload; systemctl restart jit-agent");
    scene.machine.run_within(&script, PATIENCE)?;
    scene.wait_enforcing()?;
    let last = seen.last().map(String::as_str).unwrap_or_default();
    Ok(format!("each is named, such as \"{last}\"; {}", scene.nobody_since(from)?))
}

/// The pin directory is not the agent's own when it starts again.
pub(super) fn pins(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    let mut seen = Vec::new();
    for (what, spoil, mend) in SPOILS {
        let script = format!(
            "set -e; pins={PINS}; aside={ASIDE}; systemctl stop jit-agent; {spoil}
            ! systemctl start jit-agent || exit 1"
        );
        let said = starts_not(scene, &script, PINS);
        // It is tried again each second, and succeeds now.
        let mended = scene.machine.run(&format!("set -e; pins={PINS}; aside={ASIDE}; {mend}"));
        seen.push(said.with_context(|| format!("a directory that is {what}"))?);
        mended?;
        scene.wait_enforcing()?;
    }
    let last = seen.last().map(String::as_str).unwrap_or_default();
    Ok(format!("each is named, such as \"{last}\"; {}", scene.nobody_since(from)?))
}

/// While the machine boots somebody makes the pin directory first. systemd-tmpfiles makes it the agent's
/// own. Where it cannot, because it happens later, both units refuse by name; nothing is in force then.
pub(super) fn at_boot(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    let first = format!("mkdir -m 0777 {PINS}; chown nobody {PINS}");
    boot_with(scene, "systemd-tmpfiles-setup.service", "sys-fs-bpf.mount", &first)?;
    let times = boots::booted(scene)?;
    scene.wait_enforcing()?;
    let nobody = scene.nobody_since(from)?;
    let later = format!("chown nobody {PINS}");
    boot_with(scene, "jit-agent-early.service", "systemd-tmpfiles-setup.service", &later)?;
    scene.machine.ready()?;
    scene.machine.attempt("systemctl is-system-running --wait", PATIENCE)?;
    let units = ["jit-agent-early", "jit-agent"];
    for unit in units {
        let journal = format!("journalctl --boot --unit {unit} --output cat --no-pager");
        let said = scene.machine.run(&journal)?;
        ensure!(
            said.lines().any(|line| line.contains(PINS) && line.contains("others could write")),
            "{unit} does not name the directory:\n{said}"
        );
    }
    let (code, _) = scene.status()?;
    let open = scene.gets_in(STRANGER)?;
    ensure!(code == 2, "status ends with {code}");
    let script = format!("rm {UNIT}; systemctl daemon-reload; chown jit-agent {PINS}");
    scene.machine.run_within(&script, PATIENCE)?;
    scene.wait_enforcing()?;
    let mended = Instant::now();
    scene.closed_since = Some(mended);
    ensure!(!scene.gets_in(STRANGER)?, "the stranger gets in");
    Ok(format!(
        "made before systemd-tmpfiles: mended by it, {times}, {nobody}; made after it, by root alone: \
         both units name it, status ends with 2 and the stranger gets in: {open}; mended without a \
         restart"
    ))
}

/// Cuts the power; a script runs before one unit and after another one.
fn boot_with(scene: &mut Scene, before: &str, after: &str, script: &str) -> Result<()> {
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\nAfter={after}\nBefore={before}\n[Service]\nType=oneshot\n\
         ExecStart=/bin/sh -c '{script}'\n[Install]\nWantedBy=sysinit.target\n"
    );
    scene.machine.put(UNIT, "root:root", "0644", unit.as_bytes())?;
    let script = "systemctl daemon-reload; systemctl --quiet enable jit-vm-spoil";
    scene.machine.run_within(script, PATIENCE)?;
    scene.machine.power_cycle()
}

/// Runs a script in which the service does not start. Returns the line of its log that names this.
fn starts_not(scene: &mut Scene, script: &str, names: &str) -> Result<String> {
    let log = scene.machine.run_within(
        &format!(
            "begun=$(date +%s)
            {script}
            sleep 1
            journalctl --unit jit-agent --since @$begun --output cat --no-pager"
        ),
        PATIENCE,
    )?;
    let found = log.lines().find(|line| line.contains(names));
    found.map(str::to_owned).with_context(|| format!("{names} is not named:\n{log}"))
}

//! Boots with something broken: the gate is in force all the same, and the status names each fault.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::boots;
use crate::{
    shell,
    vm::systemd::{link::MACHINE, scene::Scene},
};

/// Something that is broken while the machine is off.
struct Fault {
    /// A script that breaks it.
    breaks: &'static str,
    /// What the problems in the status then say.
    says: &'static [&'static str],
    /// A script that mends it.
    mends: &'static str,
}

const CERTIFICATE_MISSING: Fault = Fault {
    breaks: "mv /etc/jit-agent/tls/agent.pem /root/agent.pem",
    says: &["not listening", "[control] certificate: cannot read"],
    mends: "mv /root/agent.pem /etc/jit-agent/tls/agent.pem",
};
const UNREADABLE: Fault = Fault {
    breaks: "chmod 0000 /etc/jit-agent/tls/agent.key",
    says: &["not listening", "[control] key", "Permission denied"],
    mends: "chmod 0640 /etc/jit-agent/tls/agent.key",
};
const FOREIGN_KEY: Fault = Fault {
    breaks: "cp -p /etc/jit-agent/tls/agent.key /root/agent.key
             cat /root/other.key >/etc/jit-agent/tls/agent.key",
    says: &["not listening", "does not fit the certificate"],
    mends: "cp -p /root/agent.key /etc/jit-agent/tls/agent.key",
};
const ENDED: Fault = Fault {
    breaks: "mkdir /root/tls && cp -p /etc/jit-agent/tls/agent.* /root/tls/
             cat /root/ended.pem >/etc/jit-agent/tls/agent.pem
             cat /root/ended.key >/etc/jit-agent/tls/agent.key",
    says: &["ended at "],
    // It listens with the old one until it is asked to read the new one.
    mends: "cp -p /root/tls/agent.* /etc/jit-agent/tls/ && systemctl reload jit-agent",
};
/// The name of the unit sorts before the agent's, and it is ordered so.
const PORT_TAKEN: Fault = Fault {
    breaks: "cat >/etc/systemd/system/taken.socket <<'END'
[Unit]
DefaultDependencies=no
Before=jit-agent.service
[Socket]
ListenStream=0.0.0.0:7443
Service=taken.service
[Install]
WantedBy=sysinit.target
END
printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/taken.service
systemctl --quiet enable taken.socket",
    says: &["not listening", "0.0.0.0:7443", "Address already in use"],
    mends: "systemctl --quiet disable --now taken.socket taken.service
            rm /etc/systemd/system/taken.*; systemctl daemon-reload",
};
const SIGNER_MISSING: Fault = Fault {
    breaks: "mv /etc/jit-agent/signers/prod-2026.pem /root/",
    says: &["public_key: cannot read", "copy of the key that was kept"],
    mends: "mv /root/prod-2026.pem /etc/jit-agent/signers/",
};
const AUDIT_KEY: Fault = Fault {
    breaks: "chmod 0666 /var/lib/jit-agent/host.key",
    says: &["host.key", "others could write"],
    mends: "chmod 0600 /var/lib/jit-agent/host.key",
};
const AUDIT_DIRECTORY: Fault = Fault {
    breaks: "mv /var/lib/jit-agent/audit /root/audit && touch /var/lib/jit-agent/audit",
    says: &["/var/lib/jit-agent/audit"],
    // The alarm that files were gone ends with a start.
    mends: "rm /var/lib/jit-agent/audit && mv /root/audit /var/lib/jit-agent/audit &&
            systemctl restart jit-agent",
};
const TYPO: Fault = Fault {
    breaks: "cp -p /etc/jit-agent/config.toml /root/ &&
             sed -i 's/^.gate.$/[gaet]/' /etc/jit-agent/config.toml",
    says: &["the file on disk is not in force", "gaet", "the last good configuration"],
    mends: "cp -p /root/config.toml /etc/jit-agent/config.toml",
};

/// Faults of four different files at once.
pub(super) fn files(scene: &mut Scene) -> Result<String> {
    scene.put("pki/other.key", "/root/other.key", "root:root", "0600")?;
    boot_with(scene, &[FOREIGN_KEY, SIGNER_MISSING, AUDIT_KEY])
}

/// A typo, and the port of the last good configuration is taken.
pub(super) fn configuration(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[TYPO, PORT_TAKEN])
}

pub(super) fn certificate_missing(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[CERTIFICATE_MISSING])
}

pub(super) fn unreadable(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[UNREADABLE])
}

/// The certificate is made here, and ends at once.
pub(super) fn ended(scene: &mut Scene) -> Result<String> {
    let ip = MACHINE.v4.to_string();
    let mut issue = shell::program(&scene.packages.jitctl, ["pki", "issue", "--dir", "pki"]);
    issue.args(["--name", "ended", "--ip", &ip, "--for", "1s"]).current_dir(&scene.scratch);
    shell::quiet(&mut issue)?;
    scene.put("pki/ended.pem", "/root/ended.pem", "root:root", "0600")?;
    scene.put("pki/ended.key", "/root/ended.key", "root:root", "0600")?;
    boot_with(scene, &[ENDED])
}

pub(super) fn foreign_key(scene: &mut Scene) -> Result<String> {
    scene.put("pki/other.key", "/root/other.key", "root:root", "0600")?;
    boot_with(scene, &[FOREIGN_KEY])
}

pub(super) fn port_taken(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[PORT_TAKEN])
}

pub(super) fn signer_missing(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[SIGNER_MISSING])
}

pub(super) fn audit_key(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[AUDIT_KEY])
}

pub(super) fn audit_directory(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[AUDIT_DIRECTORY])
}

pub(super) fn typo(scene: &mut Scene) -> Result<String> {
    boot_with(scene, &[TYPO])
}

/// Breaks all of it, cuts the power, and looks. Whatever is seen, it is mended afterwards.
fn boot_with(scene: &mut Scene, faults: &[Fault]) -> Result<String> {
    scene.machine.run("test ! -e /root/tls || rm -r /root/tls")?;
    for fault in faults {
        scene.machine.run(&format!("set -e\n{}", fault.breaks))?;
    }
    let from = Instant::now();
    scene.machine.power_cycle()?;
    let seen = look(scene, faults);
    for fault in faults {
        scene.machine.run(&format!("set -e\n{}", fault.mends))?;
    }
    let (times, named) = seen?;
    let nobody = scene.nobody_since(from)?;
    scene.wait_enforcing()?;
    let restart = faults.iter().any(|fault| fault.mends.contains("systemctl restart"));
    let how = if restart { "with" } else { "without" };
    Ok(format!("{times}; {nobody}; DEGRADED names {named}; mended {how} a restart"))
}

fn look(scene: &mut Scene, faults: &[Fault]) -> Result<(String, String)> {
    let times = boots::booted(scene)?;
    // The controller's socket is a matter of a moment after the gate.
    thread::sleep(Duration::from_secs(1));
    let words = faults.iter().flat_map(|fault| fault.says);
    let status = scene.wait_status("not DEGRADED", |code, status| {
        let said = status.get("problems").map(ToString::to_string).unwrap_or_default();
        code == 1 && words.clone().all(|word| said.contains(word))
    })?;
    let problems = status.get("problems").and_then(|problems| problems.as_array());
    let problems: Vec<_> =
        problems.into_iter().flatten().filter_map(|problem| problem.as_str()).collect();
    ensure!(!problems.is_empty(), "no problem is named");
    // Its word stands in square brackets at the end.
    let words = problems.iter().filter_map(|problem| problem.rsplit_once('['));
    let words: Vec<_> = words.map(|(_, word)| word.trim_end_matches(']')).collect();
    Ok((times, words.join(", ")))
}

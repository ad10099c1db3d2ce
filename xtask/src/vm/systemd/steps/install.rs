//! From a machine without the package to a grant that opens.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::vm::systemd::{
    link::{CLIENT, STRANGER},
    packages::INSIDE,
    scene::{CONTROLLER, HOST_ID, Scene},
};

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF: bits 12, 38 and 39.
const CAPABILITIES: &str = "000000c000001000";
const NONE: &str = "0000000000000000";

/// Waits for the first boot. The stranger then must get in: what follows can fail.
pub(super) fn boot(scene: &mut Scene) -> Result<String> {
    let took = scene.machine.ready()?;
    let units = scene.machine.run("systemctl is-system-running --wait; systemctl is-active ssh")?;
    mount(scene)?;
    scene.machine.run("mkdir -p -m 0700 /root/.ssh")?;
    scene.put("ssh.pub", "/root/.ssh/authorized_keys", "root:root", "0600")?;
    let seen = scene.stranger_gets_in(Duration::from_secs(60))?;
    let state = units.lines().next().unwrap_or_default();
    Ok(format!("{} s, system {state}; {seen}", took.as_secs()))
}

/// Mounts the disk with the packages, unless it is: a reboot unmounts it.
pub(super) fn mount(scene: &mut Scene) -> Result<()> {
    let script =
        format!("mkdir -p {INSIDE}; mountpoint --quiet {INSIDE} || mount -o ro /dev/vdb {INSIDE}");
    scene.machine.run(&script).map(drop)
}

/// Installs the packages with apt. A package shuts nobody out.
pub(super) fn install(scene: &mut Scene) -> Result<String> {
    let script = format!("cd {INSIDE}/now && apt-get install --yes ./*.deb");
    let said = scene.machine.run_within(&script, Duration::from_secs(400))?;
    scene.machine.run(
        "set -e
        test -f /usr/lib/systemd/system/jit-agent.service
        test -f /usr/lib/systemd/system/jit-agent-early.service
        getent passwd jit-agent; getent group jit-agent-keys
        jit-agent check
        ! systemctl --quiet is-active jit-agent
        grep -q '^mode = \"observe\"' /etc/jit-agent/config.toml",
    )?;
    ensure!(said.contains("jit-agent init"), "no next step is named:\n{said}");
    let seen = scene.stranger_gets_in(Duration::from_secs(30))?;
    Ok(format!("{}; {seen}", scene.packages.version))
}

/// Puts keys, certificates and a configuration in place.
pub(super) fn configure(scene: &mut Scene) -> Result<String> {
    for (from, name, owner, mode) in [
        ("pki/ca.pem", "tls/ca.pem", "root:jit-agent-keys", "0644"),
        ("pki/agent.pem", "tls/agent.pem", "root:jit-agent-keys", "0644"),
        ("pki/agent.key", "tls/agent.key", "root:jit-agent-keys", "0640"),
        ("signer.pub.pem", "signers/prod-2026.pem", "root:root", "0644"),
    ] {
        scene.put(from, &format!("/etc/jit-agent/{name}"), owner, mode)?;
    }
    let text = configuration();
    let path = "/etc/jit-agent/config.toml";
    scene.machine.put(path, "root:jit-agent", "0640", text.as_bytes())?;
    scene.machine.run("jit-agent check").map(|said| said.lines().last().unwrap_or("").to_owned())
}

/// Enables and starts the service. From then on nobody gets in without a grant.
pub(super) fn start(scene: &mut Scene) -> Result<String> {
    let started = Instant::now();
    scene.machine.run_within("systemctl enable --now jit-agent", Duration::from_secs(180))?;
    let in_force = Instant::now();
    scene.closed_since = Some(in_force);
    scene.machine.run("systemctl is-active jit-agent jit-agent-early")?;
    scene.wait_enforcing()?;
    ensure!(!scene.gets_in(STRANGER)?, "the stranger gets in");
    let took = in_force.duration_since(started).as_secs_f64();
    let units = scene.machine.run(
        "systemctl show --property ExecMainStartTimestampMonotonic --value jit-agent-early
        systemctl show --property ActiveEnterTimestampMonotonic --value jit-agent-early jit-agent",
    )?;
    let units = units.split_whitespace().collect::<Vec<_>>().join(", ");
    Ok(format!(
        "in force after {took:.1} s; early began and was active, daemon active at {units} us; {}",
        scene.nobody_since(in_force)?
    ))
}

/// What the running agent may do, and what others may read.
pub(super) fn rights(scene: &mut Scene) -> Result<String> {
    let said = scene.machine.run(
        "set -e
        pid=$(systemctl show --property MainPID --value jit-agent)
        grep -E '^Cap(Eff|Prm|Bnd|Amb)|^Uid|^NoNewPrivs|^Seccomp:' /proc/$pid/status",
    )?;
    for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        let line = said.lines().find(|line| line.starts_with(name)).context("no such line")?;
        ensure!(line.ends_with(CAPABILITIES), "the agent has other capabilities: {line}");
    }
    ensure!(!said.contains("Uid:\t0"), "the agent runs as root: {said}");
    ensure!(said.contains("NoNewPrivs:\t1") && said.contains("Seccomp:\t2"), "{said}");
    front(scene)?;
    let refused = scene.machine.run(
        "for path in /sys/fs/bpf/jit-agent /var/lib/jit-agent /run/jit-agent \
            /etc/jit-agent/tls /etc/jit-agent/tls/agent.key; do
            setpriv --reuid nobody --regid nogroup --clear-groups -- ls $path/ 2>&1 | tail -1
        done",
    )?;
    let denied = refused.lines().filter(|line| line.contains("Permission denied")).count();
    ensure!(denied == 5, "user nobody may read some of these:\n{refused}");
    let member = scene.machine.run(
        "set -e
        useradd --no-create-home --groups jit-agent oncall
        as() { setpriv --reuid oncall --regid oncall --init-groups -- \"$@\"; }
        as jit-agent status >/dev/null
        ! as cat /etc/jit-agent/tls/agent.key 2>/dev/null
        userdel oncall; echo member",
    )?;
    ensure!(member.ends_with("member"), "{member}");
    Ok("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON; nobody: EACCES on 5 paths; \
        group jit-agent: status, not the key; the front: no capability, seccomp, no BPF"
        .to_owned())
}

/// The process that talks to the network could give up all that it should not have, also in the unit's
/// own filter of calls.
fn front(scene: &mut Scene) -> Result<()> {
    let said = scene.machine.run(
        "set -e
        main=$(systemctl show --property MainPID --value jit-agent)
        group=$(systemctl show --property ControlGroup --value jit-agent)
        for pid in $(grep -vx $main /sys/fs/cgroup$group/cgroup.procs); do
            grep -E '^Cap(Inh|Prm|Eff|Amb)|^Seccomp:|^NoNewPrivs' /proc/$pid/status
            ls -l /proc/$pid/fd
        done
        jit-agent status --json | grep '\"keeps\":'",
    )?;
    let capabilities: Vec<_> = said.lines().filter(|line| line.starts_with("Cap")).collect();
    ensure!(
        capabilities.len() == 4 && capabilities.iter().all(|line| line.ends_with(NONE)),
        "the front has capabilities, or there is more than one:\n{said}"
    );
    // Without CAP_SETPCAP it keeps the unit's bounding set, from which nothing can be gained any more.
    ensure!(said.contains("NoNewPrivs:\t1") && said.contains("Seccomp:\t2"), "{said}");
    ensure!(!said.contains("bpf"), "{said}");
    ensure!(said.contains("\"keeps\": \"\""), "{said}");
    Ok(())
}

/// Grants the client the port.
pub(super) fn grant(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    ensure!(!scene.gets_in(CLIENT)?, "the client gets in without a grant");
    scene.grant("60m")?;
    ensure!(scene.gets_in(CLIENT)?, "the client does not get in with a grant");
    scene.open_session()?;
    Ok(format!("both addresses, and an SSH session; {}", scene.nobody_since(from)?))
}

/// The configuration of the steps.
pub(super) fn configuration() -> String {
    format!(
        r#"[host]
id = "{HOST_ID}"

[gate]
mode = "enforce"
interfaces = ["eth0"]

[[port]]
port = 22
protocol = "tcp"
sources = ["203.0.113.0/24", "2001:db8::/64"]
max_duration = "3h"
sessions = "drain"

[control]
listen = "0.0.0.0:7443"
certificate = "/etc/jit-agent/tls/agent.pem"
key = "/etc/jit-agent/tls/agent.key"
client_ca = "/etc/jit-agent/tls/ca.pem"

[[controller]]
identity = "{CONTROLLER}"
may = ["grant", "revoke", "read"]

[[signer]]
id = "prod-2026"
public_key = "/etc/jit-agent/signers/prod-2026.pem"
max_duration = "12h"
"#
    )
}

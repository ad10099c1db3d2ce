//! The Ansible role that ships, from a machine without the package: over SSH, as its users have it.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::install;
use crate::{
    setup, shell,
    vm::systemd::{
        link::{CLIENT, MACHINE, STRANGER},
        scene::{HOST_ID, Scene},
    },
};

/// The folder of the playbook, below the run's keys.
const FOLDER: &str = "ansible";
const TEMPLATE: &str = "templates/config.toml.j2";

/// What a run of the playbook did on the host.
#[derive(Debug, PartialEq, Eq)]
struct Recap {
    ok: u32,
    changed: u32,
    failed: u32,
}

/// The first run installs, the second one changes nothing, a wrong configuration is refused and the
/// service lives on, and a new one is put in force.
pub(super) fn ansible(scene: &mut Scene) -> Result<String> {
    scene.machine.run_within("dpkg --purge jit-agent jitctl", Duration::from_secs(300))?;
    scene.stranger_gets_in(Duration::from_secs(60))?;
    write(scene)?;
    let first = play(scene)?;
    ensure!(first.0.failed == 0 && first.0.changed > 0, "the first run: {}", first.1);
    let from = Instant::now();
    scene.wait_enforcing()?;
    ensure!(!scene.gets_in(STRANGER)?, "the stranger gets in");
    let pid = "systemctl show --property MainPID --value jit-agent";
    let before = scene.machine.run(pid)?;
    let second = play(scene)?;
    ensure!(second.0.failed == 0 && second.0.changed == 0, "the second run: {}", second.1);
    let template = scene.scratch.join(FOLDER).join(TEMPLATE);
    let good = fs::read_to_string(&template).context("reading the template")?;
    fs::write(&template, format!("{good}surprise = 1\n")).context("spoiling the template")?;
    let wrong = play(scene)?;
    ensure!(wrong.0.failed == 1 && wrong.1.contains("surprise"), "a wrong file: {}", wrong.1);
    ensure!(scene.machine.run(pid)? == before, "the agent was restarted");
    scene.machine.run("systemctl is-active jit-agent")?;
    ensure!(!scene.gets_in(STRANGER)?, "the stranger gets in after a wrong configuration");
    fs::write(&template, good.replace("\"3h\"", "\"2h\"")).context("mending the template")?;
    let last = play(scene)?;
    ensure!(last.0.failed == 0, "a new configuration: {}", last.1);
    scene.wait_enforcing()?;
    let shown = scene.machine.run("jit-agent status")?;
    ensure!(shown.contains("<=2h"), "the new configuration is not in force: {shown}");
    Ok(format!(
        "installed ({} changed), then 0 changed; a wrong file refused by name, the same process \
         enforces; a new one in force ({} changed); {}",
        first.0.changed,
        last.0.changed,
        scene.nobody_since(from)?
    ))
}

/// The playbook that ships, with what it names beside it.
fn write(scene: &mut Scene) -> Result<()> {
    let folder = scene.scratch.join(FOLDER);
    for name in ["files", "templates"] {
        fs::create_dir_all(folder.join(name)).context("making a folder of the playbook")?;
    }
    let packaging = shell::root().join("jit-agent/packaging/ansible");
    fs::copy(packaging.join("site.yml"), folder.join("site.yml")).context("copying site.yml")?;
    for (from, to) in [
        ("pki/ca.pem", "ca.pem".to_owned()),
        ("pki/agent.pem", format!("{HOST_ID}.pem")),
        ("pki/agent.key", format!("{HOST_ID}.key")),
        ("signer.pub.pem", "prod-2026.pub.pem".to_owned()),
    ] {
        let to = folder.join("files").join(to);
        fs::copy(scene.scratch.join(from), to).with_context(|| format!("copying {from}"))?;
    }
    let package = folder.join("files/jit-agent_amd64.deb");
    fs::copy(&scene.packages.agent, package).context("copying the package")?;
    let exempt = format!(
        "exempt = [{{ source = \"{}\", reason = \"Ansible\", owner = \"ops\" }}]\n",
        CLIENT.v4
    );
    let text = install::configuration();
    let text = text.replacen("sessions =", &format!("{exempt}sessions ="), 1);
    fs::write(folder.join(TEMPLATE), text).context("writing the template")?;
    // Root is the user: nothing has to be gained.
    let inventory = format!(
        "[jit_agent]\n{HOST_ID} ansible_host={} ansible_user=root ansible_become=false \
         ansible_ssh_private_key_file={} ansible_python_interpreter=/usr/bin/python3\n",
        MACHINE.v4,
        scene.scratch.join("ssh").display()
    );
    fs::write(folder.join("inventory"), inventory).context("writing the inventory")
}

fn play(scene: &Scene) -> Result<(Recap, String)> {
    let folder = scene.scratch.join(FOLDER);
    let ssh = format!(
        "-o BindAddress={} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o ControlMaster=auto -o ControlPersist=60s",
        CLIENT.v4
    );
    let roles = shell::root().join("jit-agent/packaging/ansible/roles");
    let mut command = shell::program(setup::ansible_playbook(), ["-i", "inventory", "site.yml"]);
    command
        .current_dir(&folder)
        .env("ANSIBLE_HOME", folder.join("home"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_PIPELINING", "1")
        .env("ANSIBLE_ROLES_PATH", roles)
        .env("ANSIBLE_SSH_ARGS", ssh)
        .env("ANSIBLE_TIMEOUT", "60")
        .env("LC_ALL", "C.UTF-8");
    let output = scene.link.output(&mut command)?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said += &String::from_utf8_lossy(&output.stderr);
    let recap =
        recap(&said).with_context(|| format!("ansible-playbook says no result:\n{said}"))?;
    Ok((recap, said))
}

/// The host's line of the last table: `web-1 : ok=15 changed=7 unreachable=0 failed=0 ...`. A host that
/// cannot be reached has no result.
fn recap(said: &str) -> Option<Recap> {
    let (_, table) = said.split_once("PLAY RECAP")?;
    let line = table.lines().find(|line| line.starts_with(HOST_ID))?;
    let number = |name: &str| -> Option<u32> {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok())
    };
    (number("unreachable=")? == 0).then_some(())?;
    Some(Recap { ok: number("ok=")?, changed: number("changed=")?, failed: number("failed=")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recap_has_the_numbers_of_the_host() {
        let said = "PLAY RECAP ****\nweb-1   : ok=15   changed=7    unreachable=0    failed=0  \
                    skipped=2\n";
        assert_eq!(recap(said), Some(Recap { ok: 15, changed: 7, failed: 0 }));
        let away = said.replace("unreachable=0", "unreachable=1");
        assert_eq!(recap(&away), None);
        assert_eq!(recap("web-1 : ok=15"), None);
    }
}

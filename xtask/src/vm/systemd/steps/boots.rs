//! Reboots, with the stranger trying from before the kernel starts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::vm::systemd::{
    link::{CLIENT, MACHINE},
    scene::Scene,
};

/// What `jit-agent early` logs.
const IN_FORCE: &str = "early: the gate is in force";
/// What networkd logs when it has set an interface up.
const LINK_UP: &str = "eth0: Link UP";

/// An orderly reboot.
pub(super) fn reboot(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    scene.session = None;
    scene.grant("60m")?;
    scene.machine.run("systemctl reboot")?;
    let times = booted(scene)?;
    scene.wait_enforcing()?;
    ensure!(scene.gets_in(CLIENT)?, "the grant is lost");
    Ok(format!("{times}; {}; the grant lives", scene.nobody_since(from)?))
}

/// The power goes. A grant that ends meanwhile is not open afterwards.
pub(super) fn power(scene: &mut Scene) -> Result<String> {
    let from = Instant::now();
    // It fails if there is nothing to revoke.
    scene.jitctl(&["revoke", "--all", "--yes", "--reason", "test"])?;
    ensure!(!scene.gets_in(CLIENT)?, "the client gets in after everything was revoked");
    scene.grant("10s")?;
    ensure!(scene.gets_in(CLIENT)?, "the client does not get in with a grant");
    scene.machine.power_cycle()?;
    let times = booted(scene)?;
    scene.wait_enforcing()?;
    ensure!(!scene.gets_in(CLIENT)?, "the grant has not ended");
    Ok(format!("{times}; {}; the grant has ended", scene.nobody_since(from)?))
}

/// Waits for the next boot. Shows when the gate was in force and when the interface came up, by the
/// kernel's clock.
pub(super) fn booted(scene: &mut Scene) -> Result<String> {
    scene.machine.ready()?;
    scene.machine.attempt("systemctl is-system-running --wait", Duration::from_secs(240))?;
    let journal = scene.machine.run(
        "journalctl --boot --output short-monotonic --unit jit-agent-early \
            --unit systemd-networkd --no-pager",
    )?;
    let gate = moment(&journal, IN_FORCE)
        .with_context(|| format!("the early unit has not put the gate in force:\n{journal}"))?;
    let link = moment(&journal, LINK_UP)
        .with_context(|| format!("networkd has set no interface up:\n{journal}"))?;
    ensure!(gate < link, "in force at {gate:.2} s, but the interface was up at {link:.2} s");
    Ok(format!("in force at {gate:.2} s, {} up at {link:.2} s", MACHINE.v4))
}

/// The time in front of the first line with this text, in seconds since the kernel's start.
fn moment(journal: &str, text: &str) -> Option<f64> {
    let line = journal.lines().find(|line| line.contains(text))?;
    line.trim_start().strip_prefix('[')?.split(']').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_from_the_first_line_with_the_text() {
        let journal = "[    9.182773] web-1 jit-agent[310]: INFO early: the gate is in force\n\
                       [   12.000001] web-1 systemd-networkd[330]: eth0: Link UP\n\
                       [   13.000001] web-1 systemd-networkd[330]: eth0: Link UP\n";
        assert_eq!(moment(journal, IN_FORCE), Some(9.182773));
        assert_eq!(moment(journal, LINK_UP), Some(12.000001));
        assert_eq!(moment(journal, "wlan0"), None);
        assert_eq!(moment("no time eth0: Link UP", LINK_UP), None);
    }
}

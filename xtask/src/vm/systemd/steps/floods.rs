//! The floods of `tests/tests/floods` against the service as it is installed, with its limits. The test
//! program runs in the strangers' network; the machine says what memory the service takes.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::install;
use crate::{
    shell,
    vm::systemd::{
        link::{CLIENT, MACHINE, STRANGERS},
        scene::{CONTROL, HOST_ID, Scene},
    },
};

/// The tests, and what they are called in the result.
const FLOODS: [(&str, &str); 6] = [
    ("connections::silent_connections_keep_nobody_out", "2,000 silent connections"),
    ("connections::a_client_hello_of_one_byte_a_second_keeps_nobody_out", "slow hellos"),
    ("handshakes::handshakes_that_stop_midway_keep_nobody_out", "half handshakes"),
    ("streams::rapid_resets_keep_nobody_out", "rapid resets"),
    ("streams::continuations_without_an_end_keep_nobody_out", "endless headers"),
    ("bytes::messages_of_five_mebibytes_keep_nobody_out", "5 MiB messages"),
];
/// The controllers of the floods, and what each may do.
const CONTROLLERS: [(&str, &str); 3] = [
    ("good", "\"grant\", \"revoke\", \"read\""),
    ("bad", "\"grant\", \"read\""),
    ("reader", "\"read\""),
];
const MIB: u64 = 1024 * 1024;

/// What the service's control group says.
struct Memory {
    current: u64,
    peak: u64,
    killed: u64,
    restarts: u64,
}

/// Each flood, one after the other. During each a good controller is served within two seconds: the
/// test programs fail otherwise.
pub(super) fn floods(scene: &mut Scene) -> Result<String> {
    let program = scene.floods.clone().context("the program of the floods was not built")?;
    for (name, _) in CONTROLLERS {
        let identity = format!("spiffe://example.org/{name}");
        let mut jitctl = Command::new(&scene.packages.jitctl);
        jitctl.args(["pki", "issue", "--dir", "pki", "--name", name, "--uri", &identity]);
        shell::quiet(jitctl.current_dir(&scene.scratch))?;
    }
    let mut jitctl = Command::new(&scene.packages.jitctl);
    jitctl.args(["pki", "issue", "--dir", "pki", "--name", "nobody", "--uri"]);
    shell::quiet(jitctl.arg("spiffe://example.org/nobody").current_dir(&scene.scratch))?;
    for last in STRANGERS {
        scene.link.address(&format!("203.0.113.{last}/24"))?;
    }
    let mut text = install::configuration();
    for (name, may) in CONTROLLERS {
        text +=
            &format!("[[controller]]\nidentity = \"spiffe://example.org/{name}\"\nmay = [{may}]\n");
    }
    configure(scene, &text)?;
    let before = memory(scene)?;
    let mut failed = Vec::new();
    let mut seen = Vec::new();
    for (test, name) in FLOODS {
        match flood(scene, &program, test) {
            Ok(worst) => {
                let Memory { current, .. } = memory(scene)?;
                seen.push(format!("{name}: {worst}, {} MiB after", current / MIB));
            }
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    let after = memory(scene)?;
    configure(scene, &install::configuration())?;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    ensure!(after.killed == 0, "the kernel killed it for its memory {} times", after.killed);
    ensure!(after.restarts == before.restarts, "systemd has restarted it");
    scene.grant("60m")?;
    ensure!(scene.gets_in(CLIENT)?, "a grant does not open after the floods");
    Ok(format!(
        "{} MiB before, {} at most, {} afterwards, no OOM, no restart; {}",
        before.current / MIB,
        after.peak / MIB,
        after.current / MIB,
        seen.join("; ")
    ))
}

fn configure(scene: &mut Scene, text: &str) -> Result<()> {
    let path = "/etc/jit-agent/config.toml";
    scene.machine.put(path, "root:jit-agent", "0640", text.as_bytes())?;
    scene.machine.run("systemctl reload jit-agent")?;
    scene.wait_enforcing()
}

/// Runs one test. Returns how soon a good controller was served: without a flood, and during it.
fn flood(scene: &Scene, program: &std::path::Path, test: &str) -> Result<String> {
    let mut command = shell::program(program, ["--exact", "--nocapture", test]);
    command
        .env("RUST_BACKTRACE", "0")
        .env("JIT_TEST_FLOODS", "long")
        .env("JIT_TEST_FLOODS_AT", format!("{}:{CONTROL}", MACHINE.v4))
        .env("JIT_TEST_FLOODS_KEYS", &scene.scratch)
        .env("JIT_TEST_FLOODS_HOST", HOST_ID)
        .env("JIT_TEST_FLOODS_SOURCE", CLIENT.v4.to_string());
    let output = scene.link.output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{test}: {}\n{said}\n{errors}", output.status);
    ensure!(said.contains("1 passed"), "{test} was not run: {said}");
    let times = |when: &str| times(&said, when).with_context(|| format!("no times: {said}"));
    let (unloaded, during) = (times("before the flood")?, times("during the flood")?);
    Ok(format!("{unloaded} ms, under it {during} ms"))
}

/// Median and worst of the calls of a controller, from the last round of each part of a test: the
/// largest of them, as `120/300`.
fn times(said: &str, when: &str) -> Option<String> {
    let lines = said.lines().filter(|line| line.starts_with(when));
    let last = lines.filter_map(|line| {
        let (_, round) = line.rsplit_once('(')?;
        let (median, worst) = round.trim_end_matches([')', ']']).split_once(", ")?;
        Some((milliseconds(median)?, milliseconds(worst)?))
    });
    let (median, worst) = last.max_by(|one, other| one.1.total_cmp(&other.1))?;
    Some(format!("{median:.0}/{worst:.0}"))
}

/// From the form in which Rust prints durations.
fn milliseconds(text: &str) -> Option<f64> {
    let number = |unit| text.strip_suffix(unit)?.parse::<f64>().ok();
    number("ms").or_else(|| number("µs").map(|us| us / 1e3)).or_else(|| Some(number("s")? * 1e3))
}

fn memory(scene: &mut Scene) -> Result<Memory> {
    let said = scene.machine.run_within(
        "group=/sys/fs/cgroup$(systemctl show --property ControlGroup --value jit-agent)
        cat $group/memory.current $group/memory.peak
        sed -n 's/^oom_kill //p' $group/memory.events
        systemctl show --property NRestarts --value jit-agent",
        Duration::from_secs(60),
    )?;
    let numbers: Result<Vec<u64>, _> = said.split_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok([current, peak, killed, restarts]) => {
            Ok(Memory { current: *current, peak: *peak, killed: *killed, restarts: *restarts })
        }
        _ => anyhow::bail!("the control group says: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_a_test_s_parts_is_shown() {
        let said = "before the flood: a controller: median and worst [(90.5ms, 120.1ms)]\n\
            during the flood: a controller: median and worst [(2.1s, 2.5s), (300ms, 410.6ms)]\n\
            during the flood: a controller who revokes: median and worst [(800µs, 1.25s)]\n";
        assert_eq!(times(said, "before the flood").as_deref(), Some("90/120"));
        assert_eq!(times(said, "during the flood").as_deref(), Some("1/1250"));
        assert_eq!(times(said, "after the flood"), None);
    }
}

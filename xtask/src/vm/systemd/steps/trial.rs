//! The trial of `jit-agent enforce`, in sessions over SSH as sshd makes them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::boots;
use crate::vm::systemd::{
    link::STRANGER,
    machine::Done,
    scene::Scene,
    session::{Ends, Session},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Time to look at a trial, on an emulated processor.
const SHORT: Duration = Duration::from_secs(45);
/// How much later than the end of a trial the stranger may get in: his next SYN, and the answer.
const SLACK: Duration = Duration::from_secs(10);

/// Nobody confirms: after the time it observes again, by itself. A session from before cannot confirm.
pub(super) fn ends(scene: &mut Scene) -> Result<String> {
    observe(scene)?;
    let mut old = shell(scene)?;
    let (begun, closed) = enforce(scene, SHORT)?;
    let refused = confirm_in(&mut old)?;
    ensure!(refused.contains("was open before the trial"), "{refused}");
    ensure!(!refused.contains("code=0"), "{refused}");
    scene.exempt_gets_in()?;
    ensure!(!scene.gets_in(STRANGER)?, "the stranger gets in");
    let looked = Instant::now();
    ensure!(looked.duration_since(begun) < SHORT, "too slow: the trial may have ended");
    let nobody = scene.nobody(closed, looked)?;
    scene.stranger_gets_in(SHORT + PATIENCE)?;
    let took = begun.elapsed();
    ensure!(took + Duration::from_secs(1) > SHORT, "it ended after {} s", took.as_secs());
    ensure!(took < SHORT + SLACK, "it ended after {} s", took.as_secs());
    scene.wait_status("it does not say that the trial has ended", |code, status| {
        code == 2 && status.pointer("/trial/ended").is_some_and(|how| how == "lapsed")
    })?;
    let records = scene.machine.run("jit-agent audit show --since 1h --json")?;
    for code in ["N002", "B004"] {
        ensure!(records.contains(&format!("\"{code}\"")), "the audit has no {code}");
    }
    Ok(format!(
        "closed for {} s ({nobody}), a session from before is refused; the stranger gets in {:.1} s \
         after it began; status and audit say so",
        SHORT.as_secs(),
        took.as_secs_f64()
    ))
}

/// Confirmed over a new session it holds, also over a reboot.
pub(super) fn holds(scene: &mut Scene) -> Result<String> {
    observe(scene)?;
    let (_, closed) = enforce(scene, Duration::from_secs(120))?;
    let Done { code, output } =
        scene.ssh(Ends::Terminal, "jit-agent confirm")?.answers(|_| "", PATIENCE)?;
    ensure!(code == 0, "confirm ended with {code}: {output}");
    scene.wait_enforcing()?;
    scene.machine.run("grep -q '^mode = \"enforce\"' /etc/jit-agent/config.toml")?;
    scene.machine.run("systemctl reboot")?;
    let times = boots::booted(scene)?;
    scene.wait_enforcing()?;
    scene.exempt_gets_in()?;
    Ok(format!("confirmed; after a reboot {times}; {}", scene.nobody_since(closed)?))
}

/// Back to observe mode, by the file and a reload.
fn observe(scene: &mut Scene) -> Result<()> {
    scene.machine.run(
        "sed -i 's/^mode = \"enforce\"/mode = \"observe\"/' /etc/jit-agent/config.toml && \
         systemctl reload jit-agent",
    )?;
    scene.stranger_gets_in(PATIENCE).map(drop)
}

/// Begins a trial. Returns a moment before its begin, and one after.
fn enforce(scene: &mut Scene, within: Duration) -> Result<(Instant, Instant)> {
    let begun = Instant::now();
    let seconds = within.as_secs();
    let command = format!("jit-agent enforce --yes --no-wait --confirm-within {seconds}s");
    let said = scene.machine.run(&command)?;
    ensure!(said.contains("ENFORCING ON TRIAL"), "{said}");
    Ok((begun, Instant::now()))
}

/// A session whose far end is a shell. A server that the stranger keeps busy may refuse some.
fn shell(scene: &Scene) -> Result<Session> {
    let mut tries = 0;
    loop {
        let mut session = scene.ssh(Ends::Pipes, "bash")?;
        let in_it = session.types("echo in").and_then(|()| session.prints("in\n", PATIENCE));
        tries += 1;
        match in_it {
            Ok(_) => return Ok(session),
            Err(error) if tries == 5 => return Err(error),
            Err(_) => {}
        }
    }
}

/// What `confirm` says in a session whose far end is a shell.
fn confirm_in(session: &mut Session) -> Result<String> {
    session.types("jit-agent confirm 2>&1; echo code=$?")?;
    let said = session.prints("code=", PATIENCE)?;
    let code = session.prints("\n", PATIENCE).context("its exit code")?;
    Ok(said + &code)
}

//! Runs one virtual machine until it turns off or its time is up, and reads its console.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::console::Reported;
use crate::shell;

/// The emulator. It always emulates in software: that needs no rights and is the same everywhere.
const QEMU: &str = "qemu-system-x86_64";
/// The processor that is fastest to emulate: features of newer ones cost time at every step.
const CPU: &str = "Nehalem";
/// `no_timer_check`: on a busy machine the emulated timer is late, and the kernel would panic.
const KERNEL_LINE: &str =
    "console=ttyS0 rdinit=/init panic=-1 loglevel=4 mitigations=off no_timer_check";
const MEMORY: &str = "1536M";
/// Number of lines of the console that a failure shows.
const TAIL: usize = 60;

/// Result of a run.
pub(super) struct Run {
    /// What the console reported.
    pub(super) reported: Reported,
    /// From the start of the emulator to its end.
    pub(super) took: Duration,
    /// Why the run failed although no check may have: a time-out or a panic.
    pub(super) wrong: Option<String>,
    /// The last lines of the console.
    pub(super) tail: VecDeque<String>,
}

/// Boots a kernel with an initramfs, and reads its console until the machine is off. `progress` is
/// called after each line.
pub(super) fn run(
    kernel: &Path,
    initramfs: &Path,
    console: &Path,
    limit: Duration,
    mut progress: impl FnMut(&Reported),
) -> Result<Run> {
    let started = Instant::now();
    let mut log = File::create(console)
        .with_context(|| format!("cannot write the console to {}", console.display()))?;
    let mut emulator = Emulator::start(kernel, initramfs)?;
    let output = emulator.0.stdout.take().context("the console is a pipe")?;
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if send.send(plain(&line)).is_err() {
                break;
            }
        }
    });
    let mut reported = Reported::default();
    let mut tail = VecDeque::with_capacity(TAIL);
    let mut wrong = None;
    loop {
        let left = limit.saturating_sub(started.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                writeln!(log, "{line}").context("writing the console")?;
                reported.read(&line);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
                progress(&reported);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let during = reported.running.clone().unwrap_or_else(|| "booting".to_owned());
                wrong = Some(format!("not done after {} s, during: {during}", limit.as_secs()));
                break;
            }
        }
    }
    if wrong.is_none() && !reported.done {
        let during = reported.running.clone().unwrap_or_else(|| "booting".to_owned());
        wrong = Some(format!("the machine ended before its last check, during: {during}"));
    }
    Ok(Run { reported, took: started.elapsed(), wrong, tail })
}

/// The emulator. Drop kills it.
struct Emulator(Child);

impl Emulator {
    fn start(kernel: &Path, initramfs: &Path) -> Result<Self> {
        let mut command = Command::new(QEMU);
        command
            .args(["-machine", "q35,accel=tcg", "-cpu", CPU, "-smp", "1", "-m", MEMORY])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", KERNEL_LINE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) => bail!("cannot start `{}`: {error}", shell::show(&command)),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It has ended by itself, unless its time was up or its console could not be read.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A line of the console without escape sequences for a terminal.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_console_steers_the_terminal() {
        assert_eq!(plain(b"\x1bc\x1b[2Jhello\tthere\r"), "c[2Jhello\tthere");
    }
}

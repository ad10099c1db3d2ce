//! The machine: an emulator inside the link's namespace, its console in a file, and a channel on which
//! scripts go in and their results come out. The channel is not part of the network under test.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    link::{HARDWARE, Link, TAP},
    root::Root,
};
use crate::shell;

const QEMU: &str = "qemu-system-x86_64";
/// As in the machines of the other kernels: quick to emulate, and no panic over a late timer.
const CPU: &str = "Nehalem";
const KERNEL_LINE: &str = "console=ttyS0 root=/dev/vda ro net.ifnames=0 panic=-1 loglevel=4 \
                           mitigations=off no_timer_check";
const MEMORY: &str = "1536M";
/// Longest time of a boot, on a busy host.
const BOOT: Duration = Duration::from_secs(300);
/// Added to a script's own limit: the machine may be slow to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a script did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: i32,
    pub(super) output: String,
}

/// The running machine. Drop turns it off.
pub(super) struct Machine {
    emulator: Child,
    channel: UnixStream,
    monitor: UnixStream,
    lines: Receiver<String>,
    console: PathBuf,
    sent: u64,
    /// What the kernel calls its present run. Another one after each boot.
    boot: String,
}

impl Machine {
    /// Turns the machine on. `files` is a folder that the machine finds as its second disk.
    pub(super) fn start(link: &Link, root: &Root, files: &Path, directory: &Path) -> Result<Self> {
        let disk = directory.join("disk");
        let mut copy = shell::program("cp", ["--sparse=always"]);
        shell::quiet(copy.arg(&root.disk).arg(&disk))?;
        let media = directory.join("files.img");
        super::root::image(files, &media, "200M")?;
        let console = directory.join("console");
        let log = File::create(&console).context("creating the console's file")?;
        let [channel, monitor] = ["channel", "monitor"].map(|name| directory.join(name));
        let drive = |name: &str, path: &Path, more: &str| {
            let path = path.display();
            format!("file={path},if=none,id={name},format=raw,cache=unsafe{more}")
        };
        let socket = |name: &str, path: &Path| {
            format!("socket,id={name},path={},server=on,wait=off", path.display())
        };
        let mut command = shell::program(QEMU, ["-machine", "q35,accel=tcg", "-cpu", CPU]);
        command
            .args(["-smp", "2", "-m", MEMORY, "-nodefaults", "-display", "none"])
            .args(["-serial", "stdio", "-append", KERNEL_LINE, "-kernel"])
            .arg(&root.kernel)
            .arg("-initrd")
            .arg(&root.initramfs)
            .args(["-drive", &drive("d0", &disk, "")])
            .args(["-device", "virtio-blk-pci,drive=d0"])
            .args(["-drive", &drive("d1", &media, ",readonly=on")])
            .args(["-device", "virtio-blk-pci,drive=d1"])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
            .args(["-chardev", &socket("c0", &channel)])
            .args(["-device", "virtserialport,chardev=c0,name=jit.control"])
            .args(["-chardev", &socket("c1", &monitor), "-mon", "chardev=c1,mode=readline"])
            .args(["-netdev", &format!("tap,id=n0,ifname={TAP},script=no,downscript=no")])
            .args(["-device", &format!("virtio-net-pci,netdev=n0,mac={HARDWARE}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("opening the console's file")?)
            .stderr(log);
        let mut emulator = link.start(&mut command)?;
        let sockets = connect(&channel, &mut emulator)
            .and_then(|channel| Ok((channel, connect(&monitor, &mut emulator)?)));
        let (channel, monitor) = sockets.inspect_err(|_| {
            let _dead = emulator.kill();
            let _reaped = emulator.wait();
        })?;
        let lines = read(channel.try_clone().context("opening the channel twice")?);
        let boot = String::new();
        Ok(Self { emulator, channel, monitor, lines, console, sent: 0, boot })
    }

    /// Waits until this boot has come so far that scripts run. Returns how long that took.
    pub(super) fn ready(&mut self) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let line = self.line(BOOT.saturating_sub(started.elapsed()), "booting")?;
            // What was sent to the run before this one may still be answered.
            if let Some(boot) = line.strip_prefix("ready ").filter(|boot| *boot != self.boot) {
                boot.clone_into(&mut self.boot);
                return Ok(started.elapsed());
            }
        }
    }

    /// Runs a script. A script that fails, or does not end in time, is no error.
    pub(super) fn attempt(&mut self, script: &str, limit: Duration) -> Result<Done> {
        self.sent += 1;
        let encoded: String = script.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        writeln!(self.channel, "{} {} {encoded}", self.sent, limit.as_secs())
            .context("sending a script to the machine")?;
        let end = Instant::now() + limit + PATIENCE;
        let during = script.lines().next().unwrap_or_default();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.line(left, during)?;
            ensure!(!line.starts_with("ready "), "the machine went down during: {during}");
            if let Some(done) = answer(&line, self.sent) {
                return Ok(done);
            }
        }
    }

    /// Runs a script that must succeed. Returns what it prints.
    pub(super) fn run(&mut self, script: &str) -> Result<String> {
        self.run_within(script, Duration::from_secs(120))
    }

    /// As `run`, for work that takes longer.
    pub(super) fn run_within(&mut self, script: &str, limit: Duration) -> Result<String> {
        let Done { code, output } = self.attempt(script, limit)?;
        ensure!(code == 0, "`{}` ended with {code}:\n{}", script.trim(), output.trim());
        Ok(output.trim().to_owned())
    }

    /// Puts a file into the machine.
    pub(super) fn put(
        &mut self,
        path: &str,
        owner: &str,
        mode: &str,
        content: &[u8],
    ) -> Result<()> {
        let encoded: String = content.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let script = format!(
            "set -e; printf '%b' '{encoded}' >{path}.part; chown {owner} {path}.part; \
             chmod {mode} {path}.part; mv {path}.part {path}"
        );
        self.run(&script).map(drop).with_context(|| format!("writing {path} in the machine"))
    }

    /// Cuts the power for a moment, after what was written is on the disk.
    pub(super) fn power_cycle(&mut self) -> Result<()> {
        self.run("sync")?;
        self.monitor.write_all(b"system_reset\n").context("resetting the machine")
    }

    /// Whether the emulator has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.emulator.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// The last lines of the console.
    pub(super) fn console_end(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        end.iter()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
            .map(|line| format!("    | {line}\n"))
            .collect()
    }

    fn line(&mut self, patience: Duration, during: &str) -> Result<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("no answer from the machine after {} s, {during}", patience.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.emulator.try_wait().ok().flatten();
                bail!("the emulator has ended ({ended:?}), {during}")
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.emulator.kill();
        let _reaped = self.emulator.wait();
    }
}

/// The emulator makes its sockets a moment after its start.
fn connect(path: &Path, emulator: &mut Child) -> Result<UnixStream> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("connecting to {}", path.display()));
            }
            Err(_) => {}
        }
        if let Some(status) = emulator.try_wait().context("looking at the emulator")? {
            bail!("the emulator ended at once ({status}): its console says why");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn read(channel: UnixStream) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(channel).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                break;
            }
        }
    });
    lines
}

/// Reads `done NUMBER CODE HEXADECIMAL`. `None`: another line, or the answer to another script.
fn answer(line: &str, sent: u64) -> Option<Done> {
    let mut fields = line.split(' ');
    (fields.next()? == "done" && fields.next()?.parse() == Ok(sent)).then_some(())?;
    let code = fields.next()?.parse().ok()?;
    let digits = fields.next().unwrap_or_default().as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    Some(Done { code, output: String::from_utf8_lossy(&bytes?).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_code_and_output() {
        let done = answer("done 7 2 680a6f", 7).unwrap();
        assert_eq!((done.code, done.output.as_str()), (2, "h\no"));
        assert_eq!(answer("done 7 0", 7).unwrap().output, "");
    }

    #[test]
    fn what_is_no_answer_to_this_script_is_passed_over() {
        for line in ["", "ready 1234", "done", "done 6 0 00", "done 7 x 00", "done 7 0 zz"] {
            assert!(answer(line, 7).is_none(), "{line}");
        }
    }
}

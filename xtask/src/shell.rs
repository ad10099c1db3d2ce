//! Runs other programs, and shows a person how far they are. Decides nothing about the tasks.

use std::{
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, IsTerminal as _, PipeReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        LazyLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Number of lines that are shown of a failed program's output.
const TAIL: usize = 40;
/// Without a terminal, long work prints a line this often.
const STILL: Duration = Duration::from_secs(20);

/// Root of the workspace.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The directory that cargo builds in.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A command of the cargo that runs this task, in the root of the workspace. It does not see what
/// cargo says to this task about itself: build scripts of others (ring's) run again when that changes,
/// and half of the tree would be compiled again for each turn of `cargo xtask` and `cargo test`.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(arguments);
    for (name, _) in std::env::vars_os() {
        if is_about_this_task(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Whether cargo sets this for each program that it runs, to what holds for that program.
fn is_about_this_task(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR"
}

/// A command: a program with its arguments.
pub(crate) fn program<S: AsRef<OsStr>>(
    name: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut program = Command::new(name);
    program.args(arguments);
    program
}

/// The same command, which only takes what others leave of the processors (nice(1)).
pub(crate) fn lowest_priority(command: &Command) -> Command {
    let mut low = program("nice", ["-n", "19"]);
    low.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => low.env(name, value),
            None => low.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        low.current_dir(directory);
    }
    low
}

/// Whether the task runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The same command as root. If the caller is not root, it goes through sudo, and the reason is
/// printed.
pub(crate) fn as_root(reason: &str, command: Command) -> Result<Command> {
    if is_root() {
        return Ok(command);
    }
    if find("sudo").is_none() {
        bail!("{reason} needs root, and sudo is not installed: run this as root");
    }
    println!("  root is needed: {reason} (asking sudo)");
    let mut sudo = Command::new("sudo");
    sudo.arg("env").args(
        [
            "PATH",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "JIT_TEST_FLOODS",
            "NO_COLOR",
            "RUST_BACKTRACE",
            "TERM",
        ]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))),
    );
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let mut pair = name.to_os_string();
            pair.push("=");
            pair.push(value);
            sudo.arg(pair);
        }
    }
    sudo.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        sudo.current_dir(directory);
    }
    Ok(sudo)
}

/// Asks for root once, for programs that run side by side later. Root is not asked.
pub(crate) fn ask_for_root(reason: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    visible(&mut as_root(reason, Command::new("true"))?)
}

/// The path of a program: on the PATH, or in the directories that only root's PATH has.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs a program and returns its output; `None` if it fails.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a program to its end without showing its output. A failure contains the output.
pub(crate) fn quiet(command: &mut Command) -> Result<Output> {
    let shown = show(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Runs a program to its end with its output on this terminal.
pub(crate) fn visible(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs long work. A terminal shows a spinner and the last line of output; a log gets a line now
/// and then. A failure contains the end of the output.
pub(crate) fn long(label: &str, command: &mut Command) -> Result<()> {
    let shown = show(command);
    let started = Instant::now();
    let lines = merged_output(command.stdin(Stdio::null()))?;
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    // The command holds the writing end of the pipe, which must close for the reader to end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let lines = read_in_background(lines);

    let terminal = io::stdout().is_terminal();
    let spinner = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) =
        ProgressStyle::with_template("  {spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
    {
        spinner.set_style(style);
    }
    spinner.set_prefix(label.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    if !terminal {
        println!("  {label} ...");
    }

    let mut tail = std::collections::VecDeque::with_capacity(TAIL);
    let mut printed = Instant::now();
    loop {
        match lines.recv_timeout(STILL) {
            Ok(line) => {
                spinner.set_message(line.trim().to_owned());
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if !terminal && printed.elapsed() >= STILL {
            printed = Instant::now();
            let last = tail.back().map_or("", String::as_str).trim();
            println!("    {label}: {} s, {last}", started.elapsed().as_secs());
        }
    }
    let status = child.wait().with_context(|| format!("waiting for `{shown}`"))?;
    spinner.finish_and_clear();
    if !status.success() {
        let tail = Vec::from(tail).join("\n");
        bail!("{label}: `{shown}` failed ({status}); the end of its output:\n{tail}");
    }
    println!("  {label}: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a program. Each line of its output goes to this terminal and to the closure.
pub(crate) fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    lines(command, |line| {
        println!("{line}");
        each(line);
    })
}

/// Runs a program. Each line of its output goes to the closure. Returns whether it ended well.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let shown = show(command);
    let output = merged_output(command)?;
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    // The command holds the writing end of the pipe, which must close for the reading to end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("reading what `{shown}` prints"))?;
        each(&String::from_utf8_lossy(&line));
    }
    Ok(child.wait().with_context(|| format!("waiting for `{shown}`"))?.success())
}

/// Prints a heading, and how many seconds after the first one it comes.
pub(crate) fn heading(text: &str) {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let after = match FIRST.elapsed().as_secs() {
        0 => String::new(),
        seconds => format!(" (after {seconds} s)"),
    };
    let plain = std::env::var_os("NO_COLOR").is_some() || !io::stdout().is_terminal();
    let (bold, normal) = if plain { ("", "") } else { ("\x1b[1m", "\x1b[0m") };
    println!("\n{bold}== {text} =={normal}{after}");
}

/// Sends a program's output and errors into one pipe, in the order in which they are written.
pub(crate) fn merged_output(command: &mut Command) -> Result<PipeReader> {
    let (reader, writer) = io::pipe().context("making a pipe")?;
    command.stdout(writer.try_clone().context("making a pipe")?).stderr(writer);
    Ok(reader)
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn read_in_background(pipe: PipeReader) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_hears_nothing_of_the_task_that_runs_it() {
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR", "OUT_DIR"] {
            assert!(is_about_this_task(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_TARGET_DIR", "CARGO_HOME", "CARGO", "RUSTFLAGS", "PATH"] {
            assert!(!is_about_this_task(OsStr::new(name)), "{name}");
        }
        let cargo = cargo(["build"]);
        let is_removed = |name: &OsStr| cargo.get_envs().any(|one| one == (name, None));
        let stays = std::env::vars_os()
            .map(|(name, _)| name)
            .find(|name| is_about_this_task(name) && !is_removed(name));
        assert_eq!(stays, None);
    }
}

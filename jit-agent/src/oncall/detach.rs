//! `jit-agent detach`: removes the gate from the kernel. It is the only command that opens the
//! gate.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use jit_proto::words::counted;

use crate::{
    config::Glimpse,
    disk::audit::{Audit, AuditError, EventCode, Record, Settings},
    kernel::datapath::pins::{Pins, Removed},
    oncall::{
        failure::Failure,
        identity,
        output::{complain, print},
    },
    system::sys,
};

/// Removes the gate. Asks before, unless `yes`.
pub fn run(config: &Path, yes: bool) -> Result<ExitCode, Failure> {
    sys::check_capabilities()?;
    let mut glimpse = Glimpse::of(config);
    // The audit names the host.
    glimpse.host = identity::known(&glimpse, config);
    if let Some(why) = glimpse.unreadable.take() {
        return Err(Failure::UnknownPins(why));
    }
    let pins = Pins::new(&glimpse.paths.pins);
    if pins.is_empty()? && pins.classifiers()?.is_empty() {
        print(&format!("nothing is pinned in {}: there is no gate\n", pins.root().display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Somebody removed the pins and their directory; the gate's classifiers are still attached.
    let made = !pins.root().exists();
    if made {
        pins.prepare()?;
    }
    let _lock = sys::lock_directory(pins.root())?.ok_or(Failure::Running)?;
    if !yes && !confirmed(pins.root())? {
        print("nothing changed\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let Removed { interfaces, guard } = remove(&pins, &glimpse)?;
    if made {
        // Root owns it, so the service's user cannot use it; systemd-tmpfiles makes the right one.
        drop(std::fs::remove_dir(pins.root()));
    }
    let interfaces = interfaces.len();
    tracing::warn!(interfaces, guard, "gate detached");
    let guard = if guard { " and the socket guard is off" } else { "" };
    print(&format!(
        "the gate is gone from {}{guard}: protected ports are open to all\n",
        counted(interfaces, "interface")
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the pins. Writes a record before, and another one if the removal fails.
fn remove(pins: &Pins, glimpse: &Glimpse) -> Result<Removed, Failure> {
    let by = sys::caller();
    let record = Record::new(EventCode::GateDetached).by(&by);
    let detail = "every protected port is open to everybody; detached on the command line";
    write_record(glimpse, record.with("done", true).detail(detail));
    let removed = pins.remove().inspect_err(|error| {
        let record = Record::new(EventCode::GateDetached).by(&by).with("done", false);
        write_record(glimpse, record.detail(&error.to_string()));
    })?;
    Ok(removed)
}

/// Appends a record to the audit of the agent, which is not running, as the user that owns the
/// audit. When that fails it prints a warning, and the gate is opened all the same.
fn write_record(glimpse: &Glimpse, record: Record) {
    let now = sys::now();
    // No limits: only the agent begins a new file.
    let settings = Settings { host: glimpse.host.clone(), max_size: u64::MAX, keep: u32::MAX };
    let write = || -> Result<(), AuditError> {
        let mut audit = Audit::open(&glimpse.paths.state, settings, now)?;
        audit.append(record, now);
        audit.sync(now)
    };
    let written = match glimpse.paths.owner() {
        Some(owner) => owner.act(write).map_err(|error| error.to_string()).and_then(as_text),
        None => as_text(write()),
    };
    if let Err(error) = written {
        complain(&format!("warning: this is not in the audit: {error}"));
    }
}

fn as_text(written: Result<(), AuditError>) -> Result<(), String> {
    written.map_err(|error| error.to_string())
}

fn confirmed(pins: &Path) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    write!(
        io::stderr(),
        "This opens every protected port to everybody ({}). Type `open` to continue: ",
        pins.display()
    )?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "open")
}

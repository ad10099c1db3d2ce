//! `jit-agent detach`: takes the gate out of the kernel. The only command that opens it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::{
    config::Glimpse,
    disk::audit::{Audit, AuditError, EventCode, Record, Settings},
    kernel::datapath::pins::{Pins, Removed},
    oncall::{failure::Failure, output::print},
    system::sys,
};

/// Takes the gate out, after a question unless `yes`.
pub fn run(config: &Path, yes: bool) -> Result<ExitCode, Failure> {
    sys::check_capabilities()?;
    let mut glimpse = Glimpse::of(config);
    if let Some(why) = glimpse.unreadable.take() {
        return Err(Failure::UnknownPins(why));
    }
    let pins = Pins::new(&glimpse.paths.pins);
    if pins.is_empty()? && pins.classifiers()?.is_empty() {
        print(&format!("nothing is pinned in {}: there is no gate\n", pins.root().display()));
        return Ok(ExitCode::SUCCESS);
    }
    // Classifiers of a gate whose pins somebody removed, with their directory.
    let made = !pins.root().exists();
    if made {
        pins.prepare()?;
    }
    let _lock = sys::lock_directory(pins.root())?.ok_or(Failure::Running)?;
    if !yes && !confirmed(pins.root())? {
        print("nothing changed\n");
        return Ok(ExitCode::FAILURE);
    }
    let Removed { interfaces, guard } = remove(&pins, &glimpse)?;
    if made {
        // It is root's, and of no use to the service's user: systemd-tmpfiles makes the right one.
        drop(std::fs::remove_dir(pins.root()));
    }
    let interfaces = interfaces.len();
    tracing::warn!(interfaces, guard, "gate detached");
    let guard = if guard { " and the socket guard is off" } else { "" };
    print(&format!(
        "the gate is gone from {interfaces} interfaces{guard}: protected ports are open to all\n"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Removes the pins, with a record before, and another if that fails.
fn remove(pins: &Pins, glimpse: &Glimpse) -> Result<Removed, Failure> {
    let by = sys::caller();
    let record = Record::new(EventCode::GateDetached).by(&by);
    let detail = "every protected port is open to everybody; asked for on the command line";
    write_record(glimpse, record.with("done", true).detail(detail));
    let removed = pins.remove().inspect_err(|error| {
        let record = Record::new(EventCode::GateDetached).by(&by).with("done", false);
        write_record(glimpse, record.detail(&error.to_string()));
    })?;
    Ok(removed)
}

/// Puts a record into the audit of the agent that is not running, as the user whose audit it is. What
/// must be opened is opened also when that fails, with a warning.
fn write_record(glimpse: &Glimpse, record: Record) {
    let now = sys::now();
    // Without limits: a new file is for the agent to begin.
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
        eprintln!("jit-agent: warning: this is not in the audit: {error}");
    }
}

fn as_text(written: Result<(), AuditError>) -> Result<(), String> {
    written.map_err(|error| error.to_string())
}

fn confirmed(pins: &Path) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    eprint!(
        "This opens every protected port to everybody ({}). Type `open` to go on: ",
        pins.display()
    );
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "open")
}

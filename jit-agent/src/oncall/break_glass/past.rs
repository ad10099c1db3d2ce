//! `break-glass` while the agent is dead or hangs: root writes the opening to the kernel's tables.
//!
//! A file comes first. It has the agent take the opening over when it goes on, or at its next start;
//! without it, the agent would close what it does not know. The end is in the kernel from the first
//! moment, so nobody has to be there for it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use jit_client::exit::Exit;
use jit_common::{Family, PortKey, PortRule};
use jit_proto::{
    GrantId, Refusal, SourcePrefix,
    port_section::{DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6},
    printable::clean,
};
use rustix::process::geteuid;
use serde_json::json;

use super::{BreakGlassArgs, WHAT, opened_json, opened_text};
use crate::{
    config::{Config, Glimpse, Loaded},
    disk::{
        last_good::LastGood,
        openings::{self, Opening},
    },
    gate::break_glass::new_id,
    kernel::datapath::{
        boot_clock,
        opening::{PinnedTables, Planned},
    },
    oncall::{
        agent::Silence,
        failure::Failure,
        names::Reading,
        output::{complain, print, print_json},
    },
    rules::{clock::Now, grant::break_glass::BreakGlass, refusal::Refused},
    system::{
        owner::Owner,
        sys::{self, DirectoryLock},
    },
};

/// The longest wait for a disk.
const DISK: Duration = Duration::from_secs(2);
/// Tries to get the lock while another command, or an agent that starts, holds it; and the time
/// between two.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(100);
/// Two commands at the same time take different slots, most likely.
const SPREAD: usize = 64;

/// Opens in the kernel. `silence`: why the agent was not asked.
pub(super) fn open(
    path: &Path,
    args: &BreakGlassArgs,
    silence: Silence,
) -> Result<ExitCode, Failure> {
    if !geteuid().is_root() {
        let why = format!("{}, and past it only root may", silence.text());
        return Err(Failure::NotAllowed { what: WHAT, why });
    }
    sys::check_capabilities()?;
    let glimpse = Glimpse::of(path);
    let config = in_force(path, &glimpse)?;
    if config.paths != glimpse.paths {
        let why = "its [paths] cannot be read, so an agent may run elsewhere; `jit-agent check` says \
                   what to mend";
        return Err(failed(format!("{}: {why}", path.display())));
    }
    // The deadline is by the programs' boot clock.
    let aligned = boot_clock::align();
    aligned.map_err(|error| failed(format!("the programs' boot clock cannot be read: {error}")))?;
    let _lock = lock(&config.paths.pins, silence);
    let Some(mut tables) = PinnedTables::open(&config.paths.pins)? else {
        let why = "nothing of this version is pinned, so it closes no port: `jit-agent status` shows \
                   what is in force";
        return Err(failed(why.into()));
    };
    let (opening, planned) = plan(args, &config, &mut tables)?;
    let kept = keep(&opening, &config, silence)?;
    if let Err(error) = tables.carry_out(&planned) {
        forget(&opening, &config);
        return Err(error.into());
    }
    say(args, &opening, silence, kept)
}

/// Prints what was done, and what the agent will do with it.
fn say(
    args: &BreakGlassArgs,
    opening: &Opening,
    silence: Silence,
    kept: bool,
) -> Result<ExitCode, Failure> {
    let until = opening.made_at + args.lasts;
    if args.json {
        let mut value = opened_json(args, opening.id, until);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("agent".into(), json!(silence.text()));
            fields.insert("kept".into(), json!(kept));
        }
        print_json(&value)?;
    } else {
        print(&format!(
            "{}{}: root wrote this to the kernel's tables, which end it by themselves; the agent \
             takes it over when it runs again\n",
            opened_text(args, opening.id, until),
            silence.text()
        ))?;
    }
    Ok(Exit::Success.into())
}

/// The configuration that a start would put in force.
fn in_force(path: &Path, glimpse: &Glimpse) -> Result<Config, Failure> {
    let path = std::path::absolute(path)?;
    let error = match Loaded::read(&path, &[]) {
        Ok(loaded) => return Ok(loaded.config),
        Err(error) => error,
    };
    let (states, owner, of) = (glimpse.states.clone(), glimpse.paths.owner(), path.clone());
    let find = move || as_owner(owner.as_ref(), || LastGood::find(&states, &of));
    let found = within_the_disks_time(find).and_then(Result::ok);
    let last = found.and_then(|(last, _)| last).ok_or(error)?;
    let loaded = last.load()?;
    complain(&format!(
        "{} cannot be used (`jit-agent check`): the limits are those of the last good configuration",
        path.display()
    ));
    Ok(loaded.config)
}

/// What the service's user wrote is not root's: as that user it is read.
fn as_owner<T: Send>(owner: Option<&Owner>, what: impl FnOnce() -> T + Send) -> io::Result<T> {
    match owner {
        Some(owner) => owner.act(what),
        None => Ok(what()),
    }
}

/// Checks, and plans the writes.
fn plan(
    args: &BreakGlassArgs,
    config: &Config,
    tables: &mut PinnedTables,
) -> Result<(Opening, Planned), Failure> {
    let now = sys::now();
    let BreakGlassArgs { source, port, lasts, reason, json: _ } = args.clone();
    let asked = BreakGlass { source, ports: port, lasts, reason };
    let id = new_id(now.wall).map_err(refused)?;
    check(&asked, config, id, &tables.protected()?, now).map_err(refused)?;
    let mut opening = Opening {
        id,
        source,
        ports: port,
        boot_id: sys::boot_id()?,
        made: now.boot,
        made_at: now.wall,
        deadline: now.boot + lasts,
        slot: 0,
        generation: 0,
        by: sys::caller(),
        reason: asked.reason,
    };
    let (names, _unknown) = Reading::begin(&config.paths).end();
    let keys: Vec<_> = opening.keys().collect();
    let spread = usize::from(id.0.last().copied().unwrap_or(0)) % SPREAD;
    let planned = tables.plan(&keys, (opening.deadline, now.boot), names.slots(), spread)?;
    let planned = planned.map_err(refused)?;
    (opening.slot, opening.generation) = (planned.slot, planned.generation);
    Ok((opening, planned))
}

/// As the agent checks it, and that the kernel's tables protect the ports: a policy that was pushed
/// may protect others than the file.
fn check(
    asked: &BreakGlass,
    config: &Config,
    id: GrantId,
    protected: &BTreeMap<PortKey, PortRule>,
    now: Now,
) -> Result<(), Refused> {
    let (grant, _) = asked.grant(id, &config.host, config.break_glass, now.wall)?;
    if let Some(port) = asked.ports.ports().find(|port| !protected.contains_key(port)) {
        let text = format!("{}/{} is not protected here", port.port, port.protocol.word());
        return Err(Refused::new(Refusal::PortNotProtected, text));
    }
    if asked.ports.ports().all(|port| config.policy.port(port).is_some()) {
        return config.policy.check_break_glass(&grant);
    }
    check_width(&asked.source)
}

/// The widest source of a port that the file does not name.
fn check_width(source: &SourcePrefix) -> Result<(), Refused> {
    let widest = match source.address().family {
        Family::V4 => DEFAULT_WIDEST_V4,
        Family::V6 => DEFAULT_WIDEST_V6,
    };
    if source.length() >= widest {
        return Ok(());
    }
    let text = format!("{source} is wider than /{widest}, and the file does not name the port");
    Err(Refused::new(Refusal::SourceTooWide, text))
}

/// While this is held no agent starts. One that hangs has it.
fn lock(pins: &Path, silence: Silence) -> Option<DirectoryLock> {
    let tries = if silence == Silence::Hung { 1 } else { TRIES };
    for attempt in 1..=tries {
        match sys::lock_directory(pins) {
            Ok(None) if attempt < tries => thread::sleep(BETWEEN),
            Ok(lock) => return lock,
            Err(_) => return None,
        }
    }
    None
}

/// Keeps the opening for the agent; returns whether the state directory has it.
fn keep(opening: &Opening, config: &Config, silence: Silence) -> Result<bool, Failure> {
    let (owner, paths) = (config.paths.owner(), &config.paths);
    // An agent that goes on must find it before the entry is there.
    let in_memory = opening.keep(&paths.runtime, owner.as_ref()).map_err(|error| error.to_string());
    let (state, file) = (paths.state.clone(), opening.clone());
    let on_disk = match within_the_disks_time(move || file.keep(&state, owner.as_ref())) {
        Some(kept) => kept.map_err(|error| error.to_string()),
        None => Err(format!("the disk does not answer within {DISK:?}")),
    };
    let (state, runtime) = (paths.state.display(), paths.runtime.display());
    match (&on_disk, &in_memory) {
        (Err(disk), Err(memory)) => {
            return Err(failed(format!(
                "it can be kept neither in {state} ({disk}) nor in {runtime} ({memory}), so the agent \
                 would close it: make one of them writable for root, then try again"
            )));
        }
        (Err(disk), Ok(())) => complain(&format!(
            "warning: {state} does not take it ({disk}): it is kept in {runtime} alone; if that \
             directory is lost, the next start of the agent closes it"
        )),
        (Ok(()), Err(memory)) if silence == Silence::Hung => complain(&format!(
            "warning: {runtime} does not take it ({memory}): if the agent goes on without a restart, \
             it closes it"
        )),
        (Ok(()), _) => {}
    }
    Ok(on_disk.is_ok())
}

/// Nothing was opened.
fn forget(opening: &Opening, config: &Config) {
    let paths = &config.paths;
    let files: [PathBuf; 2] =
        [&paths.runtime, &paths.state].map(|parent| openings::path(parent, opening.id));
    let _late = within_the_disks_time(move || files.map(|file| drop(std::fs::remove_file(file))));
}

/// A disk that hangs is not waited for.
fn within_the_disks_time<T: Send + 'static>(
    what: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(what()));
    receiver.recv_timeout(DISK).ok()
}

fn refused(refused: Refused) -> Failure {
    let why = format!("{}: {}", refused.refusal.word(), clean(&refused.detail, 400));
    match refused.refusal {
        Refusal::NotPermitted => Failure::NotAllowed { what: WHAT, why },
        _ => failed(why),
    }
}

fn failed(why: String) -> Failure {
    Failure::Undone { what: WHAT, error: why.into() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jit_common::Protocol;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn checked(source: &str, ports: &str, lasts: Duration) -> Result<(), Refusal> {
        let text = "[host]\nid = \"web-1\"\n[[port]]\nport = 22\nprotocol = \"tcp\"\n\
                    sources = [\"0.0.0.0/0\"]\nwidest_v4 = 28\n\
                    [[signer]]\nid = \"prod\"\npublic_key = \"prod.pem\"\n";
        // Keys that cannot be read do not matter.
        let loaded = Loaded::parse(text, Path::new("/nowhere/config.toml"), &[]);
        let config = loaded.unwrap().config;
        let protected =
            [22, 3389].map(|port| (PortKey { protocol: Protocol::Tcp, port }, PortRule::default()));
        let asked = BreakGlass {
            source: source.parse().unwrap(),
            ports: ports.parse().unwrap(),
            lasts,
            reason: "disk full".into(),
        };
        let now = Now { wall: jit_proto::WallTime(1_780_272_000_000), ..sys::now() };
        let checked = check(&asked, &config, GrantId([1; 16]), &protected.into(), now);
        checked.map_err(|refused| refused.refusal)
    }

    #[test]
    fn the_limits_are_those_of_the_agent_and_the_ports_those_of_the_kernel() {
        assert_eq!(checked("192.0.2.16/28", "22/tcp", HOUR), Ok(()));
        assert_eq!(checked("192.0.2.0/27", "22/tcp", HOUR), Err(Refusal::SourceTooWide));
        assert_eq!(checked("0.0.0.0/0", "22/tcp", HOUR), Err(Refusal::SourceTooWide));
        assert_eq!(checked("192.0.2.7", "22/tcp", 2 * HOUR), Err(Refusal::Lifetime));
        assert_eq!(checked("192.0.2.7", "23/tcp", HOUR), Err(Refusal::PortNotProtected));
        // By a policy that was pushed.
        assert_eq!(checked("192.0.2.0/24", "3389/tcp", HOUR), Ok(()));
        assert_eq!(checked("192.0.0.0/23", "3389/tcp", HOUR), Err(Refusal::SourceTooWide));
    }
}

//! The socket guard: a program that the kernel asks when it looks for a listening socket, on the
//! network namespace that the agent runs in.
//!
//! It sees look-ups, not packets. So nothing in a packet can hide from it, and the packet's way
//! does not matter: a tunnel, a redirect, an interface without a gate. It is a second gate and
//! never replaces the programs on the interfaces: it does not see forwarded packets. So a failure
//! here is reported and tried again, and stops nothing else.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::{
    Ebpf,
    programs::{ProgramError, ProgramType, SkLookup},
    sys::is_program_supported,
};

use crate::kernel::datapath::{
    bpf,
    error::{DatapathError, chain},
    guard::{GuardState, NAME},
    object::{PROGRAM_GUARD, PROGRAM_GUARD_LEGACY},
    observe::pinned_since,
    pins::Pins,
    state::{Drift, LinkChange},
};

/// The network namespace of the calling thread.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// The note if the kernel does not name the interface of a look-up.
const BY_ADDRESS: &str = "this kernel does not name the interface (before 5.17): loopback is known \
                          by its addresses";

/// The loaded program.
#[derive(Clone, Copy, Debug)]
pub struct GuardProgram {
    /// Its name in the object.
    name: &'static str,
    /// The kernel's id of it.
    id: u32,
}

/// The guard of this agent.
#[derive(Debug)]
pub struct Guard {
    pins: Pins,
    /// `None`: it was never wanted. The gate of the interfaces does not wait for it.
    program: Option<Result<GuardProgram, String>>,
    link: Option<OwnedFd>,
    /// It was in force in this run.
    kept: bool,
    /// Its loss was reported.
    lost: bool,
}

impl Guard {
    /// Loads and attaches nothing.
    pub const fn new(pins: Pins) -> Self {
        Self { pins, program: None, link: None, kept: false, lost: false }
    }

    /// Brings the guard into force, or takes it off: loads the program that this kernel takes, adopts a
    /// pinned link by swapping its program, makes what is missing, and reads back from the kernel what
    /// is there.
    pub fn keep(&mut self, want: bool, object: &mut Ebpf) -> GuardState {
        if want && self.program.is_none() {
            self.program = Some(load(object));
        }
        let result = if want { self.attach(object) } else { self.detach().map(|()| None) };
        let changes = self.changes(want, &result);
        if let Err(note) = result {
            let held_by = if want { self.held_by() } else { None };
            return GuardState { wanted: want, note, held_by, changes, ..GuardState::default() };
        }
        let legacy = |program: &GuardProgram| program.name == PROGRAM_GUARD_LEGACY;
        let attached = self.link.is_some();
        self.kept |= attached;
        GuardState {
            wanted: want,
            attached,
            since: attached.then(|| pinned_since(&self.pins.guard())).flatten(),
            note: if attached && self.loaded().is_some_and(legacy) {
                BY_ADDRESS.into()
            } else {
                String::new()
            },
            others: match (&self.link, self.loaded()) {
                (Some(_), Some(program)) => others(program.id),
                _ => Vec::new(),
            },
            held_by: None,
            changes,
        }
    }

    fn loaded(&self) -> Option<&GuardProgram> {
        self.program.as_ref()?.as_ref().ok()
    }

    /// The changes to report. If a guard comes back, its loss is reported first.
    fn changes(
        &mut self,
        want: bool,
        result: &Result<Option<LinkChange>, String>,
    ) -> Vec<LinkChange> {
        let Ok(change) = result else {
            if !want || !self.kept || self.lost {
                return Vec::new();
            }
            self.lost = true;
            return vec![LinkChange::Lost];
        };
        match (change, std::mem::take(&mut self.lost)) {
            (Some(LinkChange::Restored), false) => vec![LinkChange::Lost, LinkChange::Restored],
            (None, true) if want => vec![LinkChange::Restored],
            (change, _) => change.iter().copied().collect(),
        }
    }

    /// Reads back from the kernel what differs from the last [`Guard::keep`]. Changes nothing.
    pub fn drift(&self) -> Option<Drift> {
        let link = self.link.as_ref().filter(|_| self.kept)?;
        let ours = |id| self.loaded().is_some_and(|program| program.id == id);
        let (gated, why) = match bpf::guard_info(link) {
            Err(error) => (false, format!("cannot read back its link: {error}")),
            Ok(info) if info.namespace == 0 => (false, "its link was detached".into()),
            Ok(info) if !ours(info.program) => (false, "it runs another program".into()),
            Ok(_) if fs::symlink_metadata(self.pins.guard()).is_err() => {
                (true, "its pin is gone: it would end with the agent".into())
            }
            Ok(_) => return None,
        };
        Some(Drift { what: NAME.into(), index: 0, gated, why })
    }

    /// Version of the layouts of another agent's guard that is in force.
    fn held_by(&self) -> Option<u32> {
        let others = self.pins.others().unwrap_or_default();
        let holds = others.into_iter().find(|other| of_pin(other).attached);
        holds.map(|other| other.layout_version())
    }

    /// Keeps the link that is there, or makes one.
    fn attach(&mut self, object: &Ebpf) -> Result<Option<LinkChange>, String> {
        let loaded = self.program.clone().ok_or_else(|| "the program is not loaded".to_owned())?;
        let GuardProgram { name, id } = loaded?;
        let program: &SkLookup = object
            .program(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| "the program is not loaded".to_owned())?;
        let program = program.fd().map_err(|error| chain(&error))?.as_fd();
        let namespace = File::open(NAMESPACE).map_err(|error| failed("open", NAMESPACE, &error))?;
        let inode =
            namespace.metadata().map_err(|error| failed("look at", NAMESPACE, &error))?.ino();
        let moved = self.adopt()?;
        if let Some(link) = self.link.take() {
            // Else it is detached, of another namespace, or no such link at all.
            if let Ok(info) = bpf::guard_info(&link)
                && info.namespace == inode
            {
                let link = self.link.insert(link);
                let swapped = info.program != id;
                if swapped {
                    bpf::update_link(&*link, program)
                        .map_err(|error| format!("cannot swap its program: {error}"))?;
                }
                let unpinned = fs::symlink_metadata(self.pins.guard()).is_err();
                if unpinned {
                    pinned(&self.pins, link)?;
                }
                return Ok(kept(swapped, unpinned, moved, self.kept));
            }
        }
        let link = bpf::attach_guard(program, &namespace).map_err(|error| {
            format!("the kernel refuses to attach it to this network namespace: {error}")
        })?;
        // The new one is in force: the pin of the other may be removed.
        remove(&self.pins.guard())?;
        pinned(&self.pins, &link)?;
        self.link = Some(link);
        Ok(Some(if self.kept { LinkChange::Restored } else { LinkChange::Attached }))
    }

    /// Opens a pinned link, if none is held. Whether it is another version's, whose pin goes when
    /// all is in force.
    fn adopt(&mut self) -> Result<bool, String> {
        if self.link.is_some() {
            return Ok(false);
        }
        self.link = open(&self.pins.guard())?;
        if self.link.is_some() {
            return Ok(false);
        }
        for other in self.pins.others().map_err(|error| error.to_string())? {
            if let Some(link) = open(&other.guard())? {
                self.link = Some(link);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn detach(&mut self) -> Result<(), String> {
        let others = self.pins.others().map_err(|error| error.to_string())?;
        let pins = others.iter().map(Pins::guard).chain([self.pins.guard()]);
        let mut held = self.link.take();
        for pin in pins {
            let Some(link) = open(&pin)? else { continue };
            held = None;
            take_off(link)?;
            remove(&pin)?;
        }
        self.kept = false;
        held.map_or(Ok(()), take_off)
    }
}

/// What to report of a link that was there: its program was swapped, it had no pin, the pin was
/// another version's, and it was in force before in this run.
const fn kept(swapped: bool, unpinned: bool, moved: bool, before: bool) -> Option<LinkChange> {
    let change = match (swapped, before) {
        (false, _) => None,
        (true, true) => Some(LinkChange::Restored),
        (true, false) => Some(LinkChange::Adopted),
    };
    match change {
        Some(_) if unpinned && !moved => Some(LinkChange::Restored),
        None if unpinned => Some(LinkChange::Restored),
        change => change,
    }
}

/// The guard's state by its pin, when no agent reports it.
pub fn of_pin(pins: &Pins) -> GuardState {
    let pin = pins.guard();
    let Ok(Some(link)) = open(&pin) else { return GuardState::default() };
    let info = bpf::guard_info(link).ok().filter(|info| info.namespace != 0);
    let attached = info.is_some();
    // The programs of another namespace cannot be seen from this one.
    let here = info.filter(|info| {
        fs::metadata(NAMESPACE).is_ok_and(|namespace| namespace.ino() == info.namespace)
    });
    GuardState {
        wanted: true,
        attached,
        since: pinned_since(&pin),
        note: if attached { String::new() } else { "the link is detached".into() },
        others: here.map(|info| others(info.program)).unwrap_or_default(),
        held_by: None,
        changes: Vec::new(),
    }
}

/// Ids of the programs beside ours on the network namespace of the calling thread; none where the
/// kernel does not say.
fn others(ours: u32) -> Vec<u32> {
    let programs = File::open(NAMESPACE).and_then(bpf::lookup_programs);
    let mut programs = programs.unwrap_or_default();
    programs.retain(|program| *program != ours);
    programs
}

/// Loads the guard that uses the interface, or the other one if the kernel does not name it (before
/// 5.17).
fn load(object: &mut Ebpf) -> Result<GuardProgram, String> {
    let mut refused = String::new();
    for name in [PROGRAM_GUARD, PROGRAM_GUARD_LEGACY] {
        let program: Result<&mut SkLookup, ProgramError> =
            object.program_mut(name).ok_or(ProgramError::NotLoaded).and_then(TryInto::try_into);
        let loaded = program.and_then(|program| {
            program.load()?;
            Ok(program.info()?.id())
        });
        match loaded {
            Ok(id) => return Ok(GuardProgram { name, id }),
            Err(error) => refused = chain(&error),
        }
    }
    Err(match is_program_supported(ProgramType::SkLookup) {
        Ok(false) => "this kernel has none (sk_lookup, Linux 5.9)".into(),
        _ => format!("the kernel refuses the program: {refused}"),
    })
}

fn open(pin: &Path) -> Result<Option<OwnedFd>, String> {
    match bpf::open_pin(pin) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", &pin.display().to_string(), &error)),
    }
}

fn take_off(link: OwnedFd) -> Result<(), String> {
    bpf::detach_link(link).map_err(|error| format!("cannot take it off: {error}"))?;
    tracing::warn!("socket guard removed: [gate] socket_guard is off");
    Ok(())
}

fn pinned(pins: &Pins, link: &OwnedFd) -> Result<(), String> {
    pins.prepare().map_err(|error: DatapathError| error.to_string())?;
    bpf::pin(link, &pins.guard()).map_err(|error| format!("cannot pin its link: {error}"))
}

fn remove(pin: &Path) -> Result<(), String> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", &pin.display().to_string(), &error))
        }
        _ => Ok(()),
    }
}

fn failed(verb: &str, what: &str, error: &io::Error) -> String {
    format!("cannot {verb} {what}: {error}")
}

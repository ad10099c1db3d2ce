//! The programs on the interfaces.
//!
//! What is attached outlives the agent: a link by its pin, a clsact classifier by itself, with a pin
//! of its program to tell since when. By which hook is decided by [`ladder`]; what is in force is
//! what the kernel says ([`readback`]). A better hook is taken at a start or when the configuration
//! changes, never in between: to attach native XDP resets some network cards. What is to go goes
//! after what takes its place is in force.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use jit_proto::{Hook, WallTime};

use crate::{
    config::{HookChoice, InterfaceFilter},
    kernel::datapath::{
        Coverage, DatapathError, Drift, InterfaceState, LinkChange, bpf, ladder,
        pins::Pins,
        programs::{Program, Programs},
        readback::{self, Found},
        rtnetlink::{self, Classifier, Device},
    },
};

/// Said of a TC program that is not the first.
const BEHIND: &str = "another TC program runs before it and may let packets pass it by";

/// A program of ours on an interface.
#[derive(Debug)]
struct Attachment {
    /// The link; `None`: a classifier, which the kernel keeps by itself.
    link: Option<OwnedFd>,
    pin: PathBuf,
    /// Id of its program, when this run put it there.
    program: Option<u32>,
    /// Why not a better hook.
    note: String,
    /// Better hooks were tried in this run.
    settled: bool,
    /// Somebody else's program runs before it.
    behind: bool,
}

/// What is known of an interface from one look to the next.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    gated: bool,
}

/// What was found of an attachment, and done about it.
enum Kept {
    /// In force, as it was.
    Same,
    /// An earlier run's: it has our program now.
    Adopted,
    /// Somebody had changed it.
    Repaired,
    /// It is not in force.
    Lost(&'static str),
}

/// All attachments of this agent.
#[derive(Debug)]
pub struct Links {
    pins: Pins,
    held: BTreeMap<(u32, Hook), Attachment>,
    seen: BTreeMap<u32, Seen>,
    /// The choice that attachments were made by; `None` before the first look.
    choice: Option<HookChoice>,
}

impl Links {
    /// No attachments yet; what is pinned is adopted by [`Links::cover`].
    pub const fn new(pins: Pins) -> Self {
        Self { pins, held: BTreeMap::new(), seen: BTreeMap::new(), choice: None }
    }

    /// Brings a program onto every interface that is wanted: adopts what earlier runs left by
    /// swapping the program, makes what is missing, removes what belongs to no wanted interface.
    /// An interface that fails, or that is not there, undoes nothing on the others: its state says
    /// what is wrong.
    pub fn cover(
        &mut self,
        want: &Coverage,
        programs: &mut Programs,
    ) -> Result<Vec<InterfaceState>, DatapathError> {
        let devices = devices()?;
        let missing = missing(&want.filter, &devices);
        let first = self.choice.is_none();
        if first {
            self.adopt(&devices)?;
        } else if self.choice != Some(want.hook) {
            self.held.values_mut().for_each(|attachment| attachment.settled = false);
        }
        let wanted: Vec<_> = devices
            .iter()
            .filter(|device| !device.loopback && want.filter.matches(&device.name))
            .collect();
        self.drop_others(&wanted, &devices)?;
        let mut states = Vec::new();
        for device in wanted {
            match self.cover_one(device, want.hook, programs) {
                Ok(state) => states.extend(state),
                Err(_) if is_gone(device) => self.forget(device.index)?,
                Err(error) => states.push(self.ungated(device, &error.to_string())),
            }
        }
        self.choice = Some(want.hook);
        states.extend(missing);
        Ok(states)
    }

    /// What is not as this run left it, by the kernel's word; changes nothing.
    pub fn drift(&self) -> Result<Vec<Drift>, DatapathError> {
        let devices = devices()?;
        let mut drifts = Vec::new();
        for ((index, hook), attachment) in &self.held {
            // An interface that is gone needs no gate.
            let Some(device) = devices.iter().find(|device| device.index == *index) else {
                continue;
            };
            let found = readback::read(device, *hook, attachment.link.as_ref(), &self.pins.owner());
            let (gated, why) = match found {
                Ok(Found::InForce { program, .. }) if attachment.program != Some(program) => {
                    (false, "it runs another program".into())
                }
                Ok(Found::InForce { .. }) if !exists(&attachment.pin) => {
                    (true, "its pin is gone: it would end with the agent".into())
                }
                Ok(Found::InForce { .. }) => continue,
                Ok(Found::Lost(why)) => (false, why.to_owned()),
                Err(error) => (false, format!("cannot read back what is on it: {error}")),
            };
            if !gated && is_gone(device) {
                continue;
            }
            drifts.push(Drift { what: device.name.clone(), index: *index, gated, why });
        }
        Ok(drifts)
    }

    /// `None`: the interface has gone since it was listed.
    fn cover_one(
        &mut self,
        device: &Device,
        choice: HookChoice,
        programs: &mut Programs,
    ) -> Result<Option<InterfaceState>, DatapathError> {
        let index = device.index;
        let (mut adopted, mut repaired, mut lost) = (false, false, None);
        for hook in self.hooks(index) {
            match self.keep(device, hook, programs)? {
                Kept::Same => {}
                Kept::Adopted => adopted = true,
                Kept::Repaired => repaired = true,
                Kept::Lost(_) if is_gone(device) => return self.forget(index).map(|()| None),
                Kept::Lost(why) => {
                    self.release(index, hook)?;
                    lost = Some(why);
                }
            }
        }
        let rungs = ladder::rungs(choice, device);
        let mut current = self.hooks(index).first().copied();
        let settled = |hook: &Hook| self.held.get(&(index, *hook)).is_some_and(|held| held.settled);
        let candidates = match current {
            Some(hook) if settled(&hook) => &[],
            Some(hook) => ladder::better(rungs, hook),
            None => rungs,
        };
        let mut refused: Vec<String> = ladder::left_out(choice, device).into_iter().collect();
        let mut made = false;
        for hook in candidates {
            if let Some(held) = current.filter(|held| ladder::exclude(*held, *hook)) {
                match self.stand_in(device, programs) {
                    Ok(tc) => (current, made) = (Some(tc), true),
                    Err(why) => {
                        refused.push(why);
                        continue;
                    }
                }
                self.release(index, held)?;
            }
            match self.make(device, *hook, programs) {
                Ok(attachment) => {
                    self.held.insert((index, *hook), attachment);
                    current = Some(*hook);
                    made = true;
                    break;
                }
                Err(_) if is_gone(device) => return self.forget(index).map(|()| None),
                Err(why) => refused.push(why),
            }
        }
        let note = refused.join("; ");
        let Some(hook) = current else {
            return Ok(Some(self.ungated(device, &note)));
        };
        for other in self.hooks(index) {
            if other != hook {
                self.release(index, other)?;
            }
        }
        let stepped_down = made && rungs.first() != Some(&hook);
        let before = self.seen.get(&index);
        let mut changes = Vec::new();
        if lost.is_some() || (before.is_some_and(|seen| seen.gated) && repaired) {
            changes.extend([LinkChange::Lost, LinkChange::Restored]);
        } else if before.is_some_and(|seen| !seen.gated) {
            changes.push(LinkChange::Restored);
        } else if made {
            changes.push(LinkChange::Attached);
        } else if adopted {
            changes.push(LinkChange::Adopted);
        }
        changes.extend(stepped_down.then_some(LinkChange::SteppedDown));
        if changes.contains(&LinkChange::Lost) {
            let name = &device.name;
            tracing::warn!(interface = name, "the gate was lost: {}", lost.unwrap_or("changed"));
        }
        self.seen.insert(index, Seen { name: device.name.clone(), gated: true });
        let behind = made && self.is_behind(device, hook);
        let Some(attachment) = self.held.get_mut(&(index, hook)) else {
            return Ok(Some(self.ungated(device, "not attached")));
        };
        if !attachment.settled {
            attachment.settled = true;
            attachment.note = note;
        }
        attachment.behind |= behind;
        Ok(Some(InterfaceState {
            name: device.name.clone(),
            index,
            hook: Some(hook),
            since: pinned_since(&attachment.pin),
            note: if attachment.behind {
                join(&attachment.note, BEHIND)
            } else {
                attachment.note.clone()
            },
            behind: attachment.behind,
            changes,
        }))
    }

    /// The hooks that attachments of ours to an interface have, best first.
    fn hooks(&self, index: u32) -> Vec<Hook> {
        let all = self.held.range((index, Hook::XdpNative)..=(index, Hook::XdpGeneric));
        all.map(|((_, hook), _)| *hook).collect()
    }

    /// Reads an attachment back, gives it our program if it has another, and pins it again if the
    /// pin is gone.
    fn keep(
        &mut self,
        device: &Device,
        hook: Hook,
        programs: &mut Programs,
    ) -> Result<Kept, DatapathError> {
        let owner = self.pins.owner();
        let failed = |cause: String| DatapathError::Attach {
            interface: device.name.clone(),
            hook: hook.word(),
            cause,
        };
        let Some(attachment) = self.held.get_mut(&(device.index, hook)) else {
            return Ok(Kept::Lost("there is none"));
        };
        let read = |device: &Device, link: Option<&OwnedFd>| {
            readback::read(device, hook, link, &owner)
                .map_err(|error| failed(format!("cannot read back what is on it: {error}")))
        };
        let (runs, classifier) = match read(device, attachment.link.as_ref())? {
            Found::Lost(why) => return Ok(Kept::Lost(why)),
            Found::InForce { program, classifier, behind } => {
                attachment.behind = behind;
                (program, classifier)
            }
        };
        let program = programs.get(hook, device.header).map_err(&failed)?;
        let ours_before = attachment.program == Some(program.id);
        let mut kept = Kept::Same;
        if runs != program.id {
            swap(device, attachment.link.as_ref(), classifier.as_ref(), &program)
                .map_err(|error| failed(format!("cannot swap its program: {error}")))?;
            let now = rtnetlink::device(device.index)
                .map_err(|error| failed(format!("cannot look at it: {error}")))?;
            let found = now.map(|device| read(&device, attachment.link.as_ref())).transpose()?;
            if !matches!(found, Some(Found::InForce { program: id, .. }) if id == program.id) {
                return Ok(Kept::Lost("it is on another interface"));
            }
            if bpf::LinkKind::of(hook).is_none() {
                repin(&self.pins, hook, attachment, &program).map_err(&failed)?;
            }
            kept = if ours_before { Kept::Repaired } else { Kept::Adopted };
        }
        attachment.program = Some(program.id);
        if !exists(&attachment.pin) {
            repin(&self.pins, hook, attachment, &program).map_err(&failed)?;
            // One that has just been adopted had its pin elsewhere.
            if !matches!(kept, Kept::Adopted) {
                kept = Kept::Repaired;
            }
        }
        Ok(kept)
    }

    /// Attaches and pins by one hook, or says why not.
    fn make(
        &self,
        device: &Device,
        hook: Hook,
        programs: &mut Programs,
    ) -> Result<Attachment, String> {
        let program = programs
            .get(hook, device.header)
            .map_err(|error| format!("{}: {}", hook.name(), ladder::unloaded(&error)))?;
        let refused = |error: io::Error| ladder::refused(hook, device, &error);
        let link = match bpf::LinkKind::of(hook) {
            Some(kind) => Some(bpf::attach(&program.fd, device.index, kind).map_err(refused)?),
            None => {
                rtnetlink::add_classifier(device.index, &program.fd, &self.pins.owner())
                    .map_err(refused)?;
                None
            }
        };
        let pin = self.pins.link(device.index, hook);
        let attachment = Attachment {
            link,
            pin,
            program: Some(program.id),
            note: String::new(),
            settled: false,
            behind: false,
        };
        repin(&self.pins, hook, &attachment, &program).inspect_err(|_| {
            // A link goes with its last descriptor.
            if attachment.link.is_none() {
                drop(self.remove_classifier(device.index));
            }
        })?;
        Ok(attachment)
    }

    /// Puts the gate by TC where XDP in one mode is to follow XDP in the other: the two cannot be on an
    /// interface at once, and there is to be no moment without a gate.
    fn stand_in(&mut self, device: &Device, programs: &mut Programs) -> Result<Hook, String> {
        let mut refused = Vec::new();
        for hook in [Hook::Tcx, Hook::Clsact] {
            match self.make(device, hook, programs) {
                Ok(attachment) => {
                    self.held.insert((device.index, hook), attachment);
                    return Ok(hook);
                }
                Err(why) => refused.push(why),
            }
        }
        Err(format!("the mode of XDP cannot be changed without a gap: {}", refused.join("; ")))
    }

    fn is_behind(&self, device: &Device, hook: Hook) -> bool {
        let link = self.held.get(&(device.index, hook)).and_then(|held| held.link.as_ref());
        let found = readback::read(device, hook, link, &self.pins.owner());
        matches!(found, Ok(Found::InForce { behind: true, .. }))
    }

    /// Opens what earlier runs left. Classifiers are looked for on every interface: they stay
    /// without their pins.
    fn adopt(&mut self, devices: &[Device]) -> Result<(), DatapathError> {
        let mut pins = self.pins.all_links()?;
        // What another version of the agent left, too; its pins go when all is in force.
        for other in self.pins.others()? {
            pins.extend(other.all_links()?);
        }
        for pin in pins {
            let Some((hook, index)) = Pins::parse_link(&pin) else { continue };
            if bpf::LinkKind::of(hook).is_none() || self.held.contains_key(&(index, hook)) {
                continue;
            }
            match bpf::open_pin(&pin) {
                Ok(link) => self.hold(index, hook, Some(link)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(DatapathError::Sys { verb: "open a pinned link", error });
                }
            }
        }
        for device in devices {
            if self.classifier(device.index)?.is_some() {
                self.hold(device.index, Hook::Clsact, None);
            }
        }
        Ok(())
    }

    fn hold(&mut self, index: u32, hook: Hook, link: Option<OwnedFd>) {
        let pin = self.pins.link(index, hook);
        let note = String::new();
        let attachment =
            Attachment { link, pin, program: None, note, settled: false, behind: false };
        self.held.insert((index, hook), attachment);
    }

    /// Lets go of what is on interfaces that are gone or no longer wanted.
    fn drop_others(&mut self, wanted: &[&Device], all: &[Device]) -> Result<(), DatapathError> {
        let others: Vec<(u32, Hook)> = self
            .held
            .keys()
            .copied()
            .filter(|(index, _)| wanted.iter().all(|device| device.index != *index))
            .collect();
        for (index, hook) in others {
            let gone = all.iter().all(|device| device.index != index);
            let name = self.seen.get(&index).map_or("", |seen| seen.name.as_str());
            tracing::warn!(
                interface = name,
                index,
                "gate removed: the interface is {}",
                if gone { "gone" } else { "no longer in the configuration" }
            );
            self.release(index, hook)?;
        }
        self.seen.retain(|index, _| wanted.iter().any(|device| device.index == *index));
        Ok(())
    }

    /// Lets go of whatever was on an interface that is gone.
    fn forget(&mut self, index: u32) -> Result<(), DatapathError> {
        for hook in self.hooks(index) {
            self.release(index, hook)?;
        }
        self.seen.remove(&index);
        Ok(())
    }

    /// Takes an attachment off, with its pin. One that the kernel keeps is held on.
    fn release(&mut self, index: u32, hook: Hook) -> Result<(), DatapathError> {
        let Some(attachment) = self.held.get(&(index, hook)) else { return Ok(()) };
        match &attachment.link {
            Some(link) => bpf::detach_link(link)
                .map_err(|error| DatapathError::Sys { verb: "detach a link", error })?,
            None => self.remove_classifier(index)?,
        }
        remove(&attachment.pin)
            .map_err(|error| DatapathError::Sys { verb: "remove the pin of a link", error })?;
        self.held.remove(&(index, hook));
        Ok(())
    }

    fn classifier(&self, index: u32) -> Result<Option<Classifier>, DatapathError> {
        rtnetlink::classifiers(index, &self.pins.owner())
            .map(|found| found.ours)
            .map_err(|error| DatapathError::Sys { verb: "list the classifiers", error })
    }

    fn remove_classifier(&self, index: u32) -> Result<(), DatapathError> {
        let Some(classifier) = self.classifier(index)? else { return Ok(()) };
        rtnetlink::remove_classifier(index, &classifier)
            .map_err(|error| DatapathError::Sys { verb: "remove a classifier", error })
    }

    /// An interface that is left to the socket guard, if there is one.
    fn ungated(&mut self, device: &Device, note: &str) -> InterfaceState {
        let Device { index, name, .. } = device;
        let now = Seen { name: name.clone(), gated: false };
        let change = match self.seen.insert(*index, now) {
            Some(before) if before.gated => Some(LinkChange::Lost),
            Some(_) => None,
            None => Some(LinkChange::SteppedDown),
        };
        let changes = change.into_iter().collect();
        InterfaceState { changes, ..InterfaceState::without(name, *index, note) }
    }
}

/// Interfaces that are named and not there.
pub(super) fn missing(filter: &InterfaceFilter, devices: &[Device]) -> Vec<InterfaceState> {
    let is_there = |name: &&str| devices.iter().any(|device| device.name == *name);
    let names = filter.exact_names().filter(|name| !is_there(name));
    let note = "there is no such interface (`ip link` lists them)";
    names.map(|name| InterfaceState::without(name, 0, note)).collect()
}

/// Whether an interface is not there any more, by the kernel's word.
fn is_gone(device: &Device) -> bool {
    matches!(rtnetlink::device(device.index), Ok(None))
}

/// The interfaces of this network namespace.
pub fn devices() -> Result<Vec<Device>, DatapathError> {
    rtnetlink::devices().map_err(|error| DatapathError::Sys { verb: "list the interfaces", error })
}

/// Gives an attachment another program.
fn swap(
    device: &Device,
    link: Option<&OwnedFd>,
    classifier: Option<&Classifier>,
    program: &Program,
) -> io::Result<()> {
    match (link, classifier) {
        (Some(link), _) => bpf::update_link(link, &program.fd),
        (None, Some(old)) => rtnetlink::replace_classifier(device.index, old, &program.fd),
        (None, None) => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Pins an attachment, in place of whatever is pinned there.
fn repin(
    pins: &Pins,
    hook: Hook,
    attachment: &Attachment,
    program: &Program,
) -> Result<(), String> {
    let Attachment { link, pin, .. } = attachment;
    pins.prepare().map_err(|error| error.to_string())?;
    let pinned = remove(pin).and_then(|()| match link {
        Some(link) => bpf::pin(link, pin),
        None => bpf::pin(&program.fd, pin),
    });
    pinned.map_err(|error| format!("{}: cannot pin it: {error}", hook.name()))
}

fn exists(pin: &Path) -> bool {
    fs::symlink_metadata(pin).is_ok()
}

fn remove(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn join(first: &str, second: &str) -> String {
    if first.is_empty() { second.to_owned() } else { format!("{first}; {second}") }
}

/// When a pin was made.
pub fn pinned_since(pin: &Path) -> Option<WallTime> {
    let made = fs::symlink_metadata(pin).ok()?.modified().ok()?;
    let since = made.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(WallTime)
}

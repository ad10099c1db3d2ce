//! Attaches the programs to the interfaces.
//!
//! An attachment outlives the agent. A link does so by its pin. A clsact classifier needs no pin,
//! but has a pin of its program, which shows the time of the attachment. [`ladder`] decides which
//! hooks are tried; the kernel says which are in force ([`observe`]). A better hook is taken at a
//! start or when the configuration changes, never in between: to attach native XDP resets some
//! network cards. An attachment is taken off only after its successor is in force.

use std::{collections::BTreeMap, io};

use jit_proto::Hook;

use crate::{
    config::HookChoice,
    kernel::datapath::{
        attachment::{Attachment, Kept},
        bpf::{self, LinkKind},
        contract::Wanted,
        error::DatapathError,
        ladder,
        observe::{self, Found},
        pins::Pins,
        programs::Programs,
        rtnetlink::Device,
        state::{Drift, InterfaceState, LinkChange},
    },
};

/// The note on a TC program that is not the first.
const FOREIGN_FIRST: &str = "another TC program runs before it and may let packets pass it by";

/// The note on a member of a VRF (`inet_bound_dev_eq` in `include/net/inet_sock.h`).
const IN_VRF: &str = "it is in a VRF, whose sessions the program does not find: they stop when \
                      their grant ends, also with drain; `[gate] exclude` leaves it to the socket \
                      guard, and they go on";

/// State of an interface when the programs were last attached.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    gated: bool,
}

/// What happened to the attachments that an interface had.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    adopted: bool,
    repaired: bool,
    lost: Option<&'static str>,
}

/// Result of the attempt at a better hook.
#[derive(Debug)]
struct Climb {
    /// The hook in force.
    hook: Option<Hook>,
    /// The attachment is new.
    made: bool,
    /// Why there is no better one.
    refused: Vec<String>,
}

/// All attachments of this agent.
#[derive(Debug)]
pub struct Links {
    pins: Pins,
    held: BTreeMap<(u32, Hook), Attachment>,
    seen: BTreeMap<u32, Seen>,
    /// The choice that attachments were made by; `None` before the first time.
    choice: Option<HookChoice>,
}

impl Links {
    /// No attachments yet; [`Links::attach`] adopts what is pinned.
    pub const fn new(pins: Pins) -> Self {
        Self { pins, held: BTreeMap::new(), seen: BTreeMap::new(), choice: None }
    }

    /// Attaches a program to every interface that is wanted: adopts what earlier runs left by
    /// swapping the program, makes what is missing, removes what belongs to no wanted interface.
    /// An interface that fails, or that is not there, undoes nothing on the others: its state says
    /// what is wrong.
    pub fn attach(
        &mut self,
        wanted: &Wanted,
        programs: &mut Programs,
    ) -> Result<Vec<InterfaceState>, DatapathError> {
        let devices = observe::devices()?;
        let missing = observe::missing(&wanted.filter, &devices);
        if self.choice.is_none() {
            self.adopt(&devices)?;
        } else if self.choice != Some(wanted.hook) {
            self.held.values_mut().for_each(|attachment| attachment.tried_better = false);
        }
        let gated: Vec<_> = devices
            .iter()
            .filter(|device| !device.loopback && wanted.filter.matches(&device.name))
            .collect();
        self.drop_others(&gated, &devices)?;
        let mut states = Vec::new();
        for device in gated {
            match self.attach_one(device, wanted.hook, programs) {
                Ok(Some(state)) => states.push(state),
                Ok(None) => self.forget(device.index)?,
                Err(_) if observe::is_gone(device) => self.forget(device.index)?,
                Err(error) => states.push(self.ungated(device, &error.to_string())),
            }
        }
        self.choice = Some(wanted.hook);
        states.extend(missing);
        states.extend(observe::left_out(&wanted.filter, &devices));
        Ok(states)
    }

    /// Attaches a program to one interface that has just appeared, without looking at the others.
    /// `None`: it is not new, not wanted, or gone.
    pub fn attach_new(
        &mut self,
        index: u32,
        wanted: &Wanted,
        programs: &mut Programs,
    ) -> Result<Option<InterfaceState>, DatapathError> {
        if self.choice != Some(wanted.hook) || self.seen.contains_key(&index) {
            return Ok(None);
        }
        let device = observe::device(index)?;
        match device.filter(|device| !device.loopback && wanted.filter.matches(&device.name)) {
            Some(device) => self.attach_one(&device, wanted.hook, programs),
            None => Ok(None),
        }
    }

    /// Reads back from the kernel what differs from this run's state. Changes nothing.
    pub fn drift(&self) -> Result<Vec<Drift>, DatapathError> {
        let devices = observe::devices()?;
        let mut drifts = Vec::new();
        for ((index, _), attachment) in &self.held {
            // An interface that is gone needs no gate.
            let Some(device) = devices.iter().find(|device| device.index == *index) else {
                continue;
            };
            let Some((gated, why)) = attachment.drift(device, &self.pins) else { continue };
            if !gated && observe::is_gone(device) {
                continue;
            }
            drifts.push(Drift { what: device.name.clone(), index: *index, gated, why });
        }
        Ok(drifts)
    }

    /// `None`: the interface has gone since it was listed.
    fn attach_one(
        &mut self,
        device: &Device,
        choice: HookChoice,
        programs: &mut Programs,
    ) -> Result<Option<InterfaceState>, DatapathError> {
        let Some(before) = self.keep(device, programs)? else { return Ok(None) };
        let rungs = ladder::rungs(choice, device);
        let current = self.hooks(device.index).first().copied();
        let candidates = ladder::candidates(rungs, current, self.tried_better(device, current));
        let Some(climb) = self.climb(device, candidates, current, programs)? else {
            return Ok(None);
        };
        let refused: Vec<_> =
            ladder::left_out(choice, device).into_iter().chain(climb.refused).collect();
        let note = refused.join("; ");
        let Some(hook) = climb.hook else { return Ok(Some(self.ungated(device, &note))) };
        for other in self.hooks(device.index) {
            if other != hook {
                self.release(device.index, other)?;
            }
        }
        let gated_before = self.seen.get(&device.index).map(|seen| seen.gated);
        let stepped_down = climb.made && rungs.first() != Some(&hook);
        let changes = changes(before, gated_before, climb.made, stepped_down);
        if changes.contains(&LinkChange::Lost) {
            let name = &device.name;
            let why = before.lost.unwrap_or("changed");
            tracing::warn!(interface = name, "the gate was lost: {why}");
        }
        Ok(Some(self.gated(device, hook, climb.made, note, changes)))
    }

    /// Reads back the interface's attachments, and mends them. Lost ones are dropped. `None`: the
    /// interface is gone.
    fn keep(
        &mut self,
        device: &Device,
        programs: &mut Programs,
    ) -> Result<Option<Before>, DatapathError> {
        let mut before = Before::default();
        for hook in self.hooks(device.index) {
            let Some(attachment) = self.held.get_mut(&(device.index, hook)) else { continue };
            match attachment.keep(device, &self.pins, programs)? {
                Kept::Same => {}
                Kept::Adopted => before.adopted = true,
                Kept::Repaired => before.repaired = true,
                Kept::Lost(_) if observe::is_gone(device) => return Ok(None),
                Kept::Lost(why) => {
                    self.release(device.index, hook)?;
                    before.lost = Some(why);
                }
            }
        }
        Ok(Some(before))
    }

    /// Attaches by the first of these hooks that the interface takes. `None`: the interface is
    /// gone.
    fn climb(
        &mut self,
        device: &Device,
        candidates: &[Hook],
        current: Option<Hook>,
        programs: &mut Programs,
    ) -> Result<Option<Climb>, DatapathError> {
        let mut climb = Climb { hook: current, made: false, refused: Vec::new() };
        for hook in candidates {
            if let Some(held) = climb.hook.filter(|held| ladder::exclude(*held, *hook)) {
                match self.stand_in(device, programs) {
                    Ok(tc) => (climb.hook, climb.made) = (Some(tc), true),
                    Err(why) => {
                        climb.refused.push(why);
                        continue;
                    }
                }
                self.release(device.index, held)?;
            }
            match Attachment::make(&self.pins, device, *hook, programs) {
                Ok(attachment) => {
                    self.held.insert((device.index, *hook), attachment);
                    (climb.hook, climb.made) = (Some(*hook), true);
                    break;
                }
                Err(_) if observe::is_gone(device) => return Ok(None),
                Err(why) => climb.refused.push(why),
            }
        }
        Ok(Some(climb))
    }

    /// Attaches by TC before XDP in one mode replaces XDP in the other. The two modes cannot be on
    /// an interface at once, and there must be no moment without a gate.
    fn stand_in(&mut self, device: &Device, programs: &mut Programs) -> Result<Hook, String> {
        let mut refused = Vec::new();
        for hook in [Hook::Tcx, Hook::Clsact] {
            match Attachment::make(&self.pins, device, hook, programs) {
                Ok(attachment) => {
                    self.held.insert((device.index, hook), attachment);
                    return Ok(hook);
                }
                Err(why) => refused.push(why),
            }
        }
        Err(format!("the mode of XDP cannot be changed without a gap: {}", refused.join("; ")))
    }

    /// The hooks that attachments of ours to an interface have, best first.
    fn hooks(&self, index: u32) -> Vec<Hook> {
        let all = self.held.range((index, Hook::XdpNative)..=(index, Hook::XdpGeneric));
        all.map(|((_, hook), _)| *hook).collect()
    }

    fn tried_better(&self, device: &Device, hook: Option<Hook>) -> bool {
        let held = hook.and_then(|hook| self.held.get(&(device.index, hook)));
        held.is_some_and(|held| held.tried_better)
    }

    /// Opens the attachments of earlier runs. Classifiers are looked for on every interface: they
    /// stay without their pins.
    fn adopt(&mut self, devices: &[Device]) -> Result<(), DatapathError> {
        let mut pins = self.pins.all_links()?;
        // Also those of another version of the agent. Its pins are removed when all is in force.
        for other in self.pins.others()? {
            pins.extend(other.all_links()?);
        }
        for pin in pins {
            let Some((hook, index)) = Pins::parse_link(&pin) else { continue };
            if LinkKind::of(hook).is_none() || self.held.contains_key(&(index, hook)) {
                continue;
            }
            match bpf::open_pin(&pin) {
                Ok(link) => {
                    let found = Attachment::found(&self.pins, index, hook, Some(link));
                    self.held.insert((index, hook), found);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(DatapathError::Sys { verb: "open a pinned link", error });
                }
            }
        }
        for Device { index, .. } in devices {
            if observe::classifier(*index, &self.pins.owner())?.is_some() {
                let found = Attachment::found(&self.pins, *index, Hook::Clsact, None);
                self.held.insert((*index, Hook::Clsact), found);
            }
        }
        Ok(())
    }

    /// Drops the attachments on interfaces that are gone or no longer wanted.
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

    /// Drops the attachments on an interface that is gone.
    fn forget(&mut self, index: u32) -> Result<(), DatapathError> {
        for hook in self.hooks(index) {
            self.release(index, hook)?;
        }
        self.seen.remove(&index);
        Ok(())
    }

    /// Takes an attachment off. If the kernel keeps it, it stays in the list.
    fn release(&mut self, index: u32, hook: Hook) -> Result<(), DatapathError> {
        if let Some(attachment) = self.held.get(&(index, hook)) {
            attachment.take_off(&self.pins)?;
        }
        self.held.remove(&(index, hook));
        Ok(())
    }

    /// An interface with a program of ours by this hook.
    fn gated(
        &mut self,
        device: &Device,
        hook: Hook,
        made: bool,
        note: String,
        changes: Vec<LinkChange>,
    ) -> InterfaceState {
        let Device { index, name, .. } = device;
        self.seen.insert(*index, Seen { name: name.clone(), gated: true });
        let Some(attachment) = self.held.get_mut(&(*index, hook)) else {
            return self.ungated(device, "not attached");
        };
        if made {
            let found = attachment.observe(device, &self.pins);
            let foreign_first = matches!(found, Ok(Found::InForce { foreign_first: true, .. }));
            attachment.foreign_first |= foreign_first;
        }
        if !attachment.tried_better {
            attachment.tried_better = true;
            attachment.note = note;
        }
        let mut notes = vec![attachment.note.as_str()];
        notes.extend(attachment.foreign_first.then_some(FOREIGN_FIRST));
        notes.extend(device.in_vrf.then_some(IN_VRF));
        notes.retain(|note| !note.is_empty());
        InterfaceState {
            name: name.clone(),
            index: *index,
            hook: Some(hook),
            since: observe::pinned_since(&attachment.pin),
            note: notes.join("; "),
            foreign_first: attachment.foreign_first,
            left_out: None,
            changes,
        }
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

/// What to report of an interface that is gated now. `gated_before`: whether it was when the
/// programs were last attached; `None`: it is new.
fn changes(
    before: Before,
    gated_before: Option<bool>,
    made: bool,
    stepped_down: bool,
) -> Vec<LinkChange> {
    let Before { adopted, repaired, lost } = before;
    let mut changes = Vec::new();
    if lost.is_some() || (gated_before == Some(true) && repaired) {
        changes.extend([LinkChange::Lost, LinkChange::Restored]);
    } else if gated_before == Some(false) {
        changes.push(LinkChange::Restored);
    } else if made {
        changes.push(LinkChange::Attached);
    } else if adopted {
        changes.push(LinkChange::Adopted);
    }
    changes.extend(stepped_down.then_some(LinkChange::SteppedDown));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_was_lost_first_and_a_step_down_is_reported_last() {
        use LinkChange::{Adopted, Attached, Lost, Restored, SteppedDown};
        let (none, lost) = (
            Before::default(),
            Before { lost: Some("its link was detached"), ..Before::default() },
        );
        let repaired = Before { repaired: true, ..none };
        let adopted = Before { adopted: true, ..none };
        for (before, gated_before, made, stepped_down, expected) in [
            (none, Some(true), false, false, vec![]),
            (none, None, true, false, vec![Attached]),
            (none, None, true, true, vec![Attached, SteppedDown]),
            (adopted, None, false, false, vec![Adopted]),
            (adopted, None, true, false, vec![Attached]),
            (none, Some(false), true, true, vec![Restored, SteppedDown]),
            (lost, Some(true), true, false, vec![Lost, Restored]),
            (lost, None, true, false, vec![Lost, Restored]),
            (repaired, Some(true), false, false, vec![Lost, Restored]),
            (repaired, None, false, false, vec![]),
        ] {
            let changes = changes(before, gated_before, made, stepped_down);
            assert_eq!(changes, expected, "{before:?} {gated_before:?}");
        }
    }
}

//! Links: the programs on the interfaces.
//!
//! A link that is pinned stays in force with the agent dead. Only real links are made, in a mode
//! chosen here; whether one is attached is read back from the kernel, never taken from a pin's
//! existence.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::UNIX_EPOCH,
};

use crate::{
    clock::WallTime,
    config::HookChoice,
    datapath::{Coverage, DatapathError, Hook, InterfaceState, LinkChange, bpf, pins::Pins},
    net::links::{self, NetworkInterface},
};

/// A link of ours.
#[derive(Debug)]
struct Link {
    fd: OwnedFd,
    pin: PathBuf,
    hook: Hook,
    /// Why not a better hook.
    note: String,
}

/// All links of this agent, by interface index.
#[derive(Debug)]
pub struct Links {
    pins: Pins,
    links: BTreeMap<u32, Link>,
    /// Interfaces that had a link of ours since the start.
    covered: BTreeMap<u32, String>,
}

impl Links {
    /// No links yet; pinned ones are adopted by [`Links::cover`].
    pub fn new(pins: Pins) -> Self {
        Self { pins, links: BTreeMap::new(), covered: BTreeMap::new() }
    }

    /// Brings `program` onto every interface that is wanted: adopts pinned links by swapping their
    /// program, makes what is missing, removes what belongs to no wanted interface. On an error
    /// the links that this call made are gone again.
    pub fn cover(
        &mut self,
        want: &Coverage,
        program: impl AsFd + Copy,
        program_id: u32,
    ) -> Result<Vec<InterfaceState>, DatapathError> {
        let all = links::interfaces()
            .map_err(|error| DatapathError::Sys { verb: "list the interfaces", error })?;
        let missing: Vec<_> = want
            .filter
            .exact_names()
            .filter(|name| all.iter().all(|interface| interface.name != *name))
            .map(str::to_owned)
            .collect();
        if let Some(name) = missing.first().filter(|_| self.covered.is_empty()) {
            return Err(DatapathError::UnknownInterface(name.clone()));
        }
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|interface| !interface.loopback && want.filter.matches(&interface.name))
            .collect();
        self.adopt_pins()?;
        self.drop_others(&wanted)?;
        let mut states = Vec::new();
        let mut made = Vec::new();
        for interface in &wanted {
            match self.cover_one(interface, want.hook, program, program_id) {
                Ok(state) => {
                    if state.change == Some(LinkChange::Attached) {
                        made.push(interface.index);
                    }
                    states.push(state);
                }
                Err(error) if self.covered.is_empty() => {
                    for index in made {
                        self.unpin(index)?;
                    }
                    return Err(error);
                }
                // Once the gate is in force one interface that fails does not undo the others.
                Err(error) => {
                    states.push(ungated(&interface.name, interface.index, &error.to_string()));
                }
            }
        }
        states.extend(missing.iter().map(|name| ungated(name, 0, "there is no such interface")));
        for state in &states {
            if state.hook.is_some() {
                self.covered.insert(state.index, state.name.clone());
            }
        }
        Ok(states)
    }

    fn cover_one(
        &mut self,
        interface: &NetworkInterface,
        choice: HookChoice,
        program: impl AsFd + Copy,
        program_id: u32,
    ) -> Result<InterfaceState, DatapathError> {
        let NetworkInterface { index, name, ethernet, .. } = interface;
        if !ethernet {
            let note = "no Ethernet header: XDP does not apply to this device";
            return Ok(ungated(name, *index, note));
        }
        let mut change = None;
        if let Some(link) = self.links.get(index) {
            match bpf::link_info(&link.fd) {
                Ok(info) if info.interface == *index => {
                    if info.program != program_id {
                        bpf::update_link(&link.fd, program).map_err(|error| {
                            DatapathError::Attach {
                                interface: name.clone(),
                                hook: link.hook.word(),
                                cause: format!("cannot swap the program on the link: {error}"),
                            }
                        })?;
                        change = Some(LinkChange::Adopted);
                    }
                    if fs::symlink_metadata(&link.pin).is_err() {
                        self.repin(*index, name)?;
                        change = Some(LinkChange::Restored);
                    }
                }
                Ok(_) | Err(_) => self.unpin(*index)?,
            }
        }
        if !self.links.contains_key(index) {
            let link = self.make(interface, choice, program)?;
            self.links.insert(*index, link);
            let again = self.covered.contains_key(index);
            change = Some(if again { LinkChange::Restored } else { LinkChange::Attached });
        }
        let Some(link) = self.links.get(index) else {
            return Ok(ungated(name, *index, "not attached"));
        };
        Ok(InterfaceState {
            name: name.clone(),
            index: *index,
            hook: Some(link.hook),
            since: pinned_since(&link.pin),
            note: link.note.clone(),
            change,
        })
    }

    /// Attaches and pins, by the best hook that works.
    fn make(
        &self,
        interface: &NetworkInterface,
        choice: HookChoice,
        program: impl AsFd + Copy,
    ) -> Result<Link, DatapathError> {
        let hooks: &[Hook] = match choice {
            HookChoice::Auto => &[Hook::XdpNative, Hook::XdpGeneric],
            HookChoice::Generic => &[Hook::XdpGeneric],
            HookChoice::Native => &[Hook::XdpNative],
        };
        let mut note = String::new();
        let mut refused = None;
        for hook in hooks {
            let attach = |cause: String| DatapathError::Attach {
                interface: interface.name.clone(),
                hook: hook.word(),
                cause,
            };
            match bpf::attach_xdp(program, interface.index, *hook) {
                Ok(fd) => {
                    let pin = self.pins.link(interface.index, *hook);
                    bpf::pin(&fd, &pin)
                        .map_err(|error| attach(format!("cannot pin the link: {error}")))?;
                    return Ok(Link { fd, pin, hook: *hook, note });
                }
                Err(error) if is_occupied(&error) => {
                    return Err(attach(
                        "another XDP program is attached there already (`ip link show` names it); \
                         it is never removed: detach it, or exclude the interface"
                            .into(),
                    ));
                }
                Err(error) => {
                    note = format!("{} refused: {error}", hook.word());
                    refused = Some(attach(error.to_string()));
                }
            }
        }
        Err(refused.unwrap_or_else(|| DatapathError::Attach {
            interface: interface.name.clone(),
            hook: "none",
            cause: "no hook to try".into(),
        }))
    }

    /// Opens pinned links that are not held yet.
    fn adopt_pins(&mut self) -> Result<(), DatapathError> {
        for pin in self.pins.all_links()? {
            let Some((hook, index)) = Pins::parse_link(&pin) else { continue };
            if self.links.contains_key(&index) {
                continue;
            }
            match bpf::open_pin(&pin) {
                Ok(fd) => {
                    let note = match hook {
                        Hook::XdpGeneric => "attached by an earlier run".to_owned(),
                        Hook::XdpNative => String::new(),
                    };
                    self.links.insert(index, Link { fd, pin, hook, note });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(DatapathError::Sys { verb: "open a pinned link", error });
                }
            }
        }
        Ok(())
    }

    /// Lets go of links whose interface is gone or no longer wanted.
    fn drop_others(&mut self, wanted: &[NetworkInterface]) -> Result<(), DatapathError> {
        let others: Vec<u32> = self
            .links
            .keys()
            .copied()
            .filter(|index| wanted.iter().all(|interface| interface.index != *index))
            .collect();
        for index in others {
            let gone = self
                .links
                .get(&index)
                .is_none_or(|link| !matches!(bpf::link_info(&link.fd), Ok(i) if i.interface != 0));
            tracing::warn!(
                interface = index,
                "gate removed: the interface is {}",
                if gone { "gone" } else { "no longer in the configuration" }
            );
            self.unpin(index)?;
            self.covered.remove(&index);
        }
        Ok(())
    }

    fn unpin(&mut self, index: u32) -> Result<(), DatapathError> {
        let Some(link) = self.links.remove(&index) else { return Ok(()) };
        match fs::remove_file(&link.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DatapathError::Sys { verb: "remove the pin of a link", error })
            }
            _ => Ok(()),
        }
    }

    fn repin(&self, index: u32, name: &str) -> Result<(), DatapathError> {
        let Some(link) = self.links.get(&index) else { return Ok(()) };
        self.pins.prepare()?;
        bpf::pin(&link.fd, &link.pin).map_err(|error| DatapathError::Attach {
            interface: name.to_owned(),
            hook: link.hook.word(),
            cause: format!("cannot pin the link again: {error}"),
        })
    }
}

fn ungated(name: &str, index: u32, note: &str) -> InterfaceState {
    InterfaceState {
        name: name.to_owned(),
        index,
        hook: None,
        since: None,
        note: note.to_owned(),
        change: None,
    }
}

/// When a pin was made.
pub fn pinned_since(pin: &std::path::Path) -> Option<WallTime> {
    let made = fs::symlink_metadata(pin).ok()?.modified().ok()?;
    let since = made.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(WallTime)
}

/// What the kernel answers when another program is there: by a link, natively, or generically.
fn is_occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

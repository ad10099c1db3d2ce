//! Reads from the kernel which programs are on the interfaces. The agent uses this when it attaches
//! and when it looks for drift, and `status` uses it without an agent.
//!
//! A pin proves nothing. A link alone proves little: its interface may have moved to another
//! network namespace, and its index may be another interface's here. So a link counts only if the
//! interface itself shows its program.

use std::{fs, io, os::fd::OwnedFd, path::Path, time::UNIX_EPOCH};

use jit_proto::{Hook, WallTime};

use crate::{
    config::InterfaceFilter,
    kernel::datapath::{
        bpf::{self, LinkInfo, LinkKind, TcxProgram},
        error::DatapathError,
        rtnetlink::{self, Classifier, Classifiers, Device},
        state::InterfaceState,
    },
};

/// The programs that a packet meets on its way in by one interface, ours and those of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Id of the native XDP program.
    pub native: Option<u32>,
    /// Id of the generic XDP program.
    pub generic: Option<u32>,
    /// The programs by tcx, first to last. Asked for only with [`Hook::Tcx`] and [`Hook::Clsact`].
    pub tcx: Vec<TcxProgram>,
    /// The classifiers of a clsact qdisc, which run after tcx. Asked for only with
    /// [`Hook::Clsact`].
    pub classifiers: Classifiers,
}

/// State of an attachment of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is in force.
    InForce {
        /// Id of the program that runs.
        program: u32,
        /// The classifier, when it is one.
        classifier: Option<Classifier>,
        /// Another owner's program runs before it and may let packets bypass it.
        foreign_first: bool,
    },
    /// It is not in force; the reason.
    Lost(&'static str),
}

/// The interfaces of this network namespace.
pub fn devices() -> Result<Vec<Device>, DatapathError> {
    rtnetlink::devices().map_err(|error| DatapathError::Sys { verb: "list the interfaces", error })
}

/// One interface of this network namespace; `None`: it is not there.
pub fn device(index: u32) -> Result<Option<Device>, DatapathError> {
    rtnetlink::device(index)
        .map_err(|error| DatapathError::Sys { verb: "ask for an interface", error })
}

/// Whether an interface is not there any more.
pub fn is_gone(device: &Device) -> bool {
    matches!(rtnetlink::device(device.index), Ok(None))
}

/// Interfaces that the configuration names and that are not there, or that have no gate.
pub fn missing(filter: &InterfaceFilter, devices: &[Device]) -> Vec<InterfaceState> {
    let missing = |name| match devices.iter().find(|device| device.name == name) {
        None => {
            let note = "there is no such interface (`ip link` lists them)";
            Some(InterfaceState::without(name, 0, note))
        }
        Some(Device { index, loopback: true, .. }) => {
            let note = "no packet from outside passes a program on it: gate the members of the \
                        VRF, or the parent of the ipvlan device, and leave this one out";
            Some(InterfaceState::without(name, *index, note))
        }
        Some(_) => None,
    };
    filter.exact_names().filter_map(missing).collect()
}

/// Interfaces that packets can come in by and that the configuration leaves out.
pub fn left_out<'a>(
    filter: &'a InterfaceFilter,
    devices: &'a [Device],
) -> impl Iterator<Item = InterfaceState> + 'a {
    let out = |device: &&Device| device.up && !device.loopback && !filter.matches(&device.name);
    devices.iter().filter(out).map(|Device { name, index, .. }| InterfaceState {
        left_out: Some(filter.reason(name).to_owned()),
        ..InterfaceState::without(name, *index, "")
    })
}

/// The programs on an interface, as far as a program at this hook needs to know them. `owner` is
/// the name of our classifiers.
pub fn ingress(device: &Device, hook: Hook, owner: &str) -> io::Result<Ingress> {
    let Device { index, native, generic, .. } = *device;
    let mut ingress = Ingress { native, generic, ..Ingress::default() };
    match hook {
        Hook::XdpNative | Hook::XdpGeneric => {}
        Hook::Tcx => ingress.tcx = bpf::tcx_programs(index)?,
        Hook::Clsact => {
            ingress.classifiers = rtnetlink::classifiers(index, owner)?;
            // A kernel without tcx answers with an error: there are none.
            ingress.tcx = bpf::tcx_programs(index).unwrap_or_default();
        }
    }
    Ok(ingress)
}

/// Whether an attachment of ours to this interface, as the interface is now, is in force. Without a
/// link only a classifier can be.
pub fn attachment(
    device: &Device,
    hook: Hook,
    link: Option<&OwnedFd>,
    owner: &str,
) -> io::Result<Found> {
    let link = match (LinkKind::of(hook), link) {
        (Some(kind), Some(link)) => Some(bpf::link_info(link, kind)?),
        (Some(_), None) => return Ok(Found::Lost("there is no link")),
        (None, _) => None,
    };
    Ok(match link {
        Some(link) if link.interface == 0 => Found::Lost("its link was detached"),
        Some(link) if link.interface != device.index => ELSEWHERE,
        Some(link) => ingress(device, hook, owner)?.link(hook, link),
        None => ingress(device, hook, owner)?.classifier(),
    })
}

/// Our classifier on an interface.
pub fn classifier(index: u32, owner: &str) -> Result<Option<Classifier>, DatapathError> {
    rtnetlink::classifiers(index, owner)
        .map(|found| found.ours)
        .map_err(|error| DatapathError::Sys { verb: "list the classifiers", error })
}

/// Our classifiers on all interfaces, with the interface's index: they stay without a pin.
pub fn our_classifiers(owner: &str) -> Result<Vec<(u32, Classifier)>, DatapathError> {
    let mut all = Vec::new();
    for Device { index, .. } in devices()? {
        all.extend(classifier(index, owner)?.map(|classifier| (index, classifier)));
    }
    Ok(all)
}

/// Wall time at which a pin was made.
pub fn pinned_since(pin: &Path) -> Option<WallTime> {
    let made = fs::symlink_metadata(pin).ok()?.modified().ok()?;
    let since = made.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(WallTime)
}

/// The text where an attachment cannot be read back.
pub(super) fn unreadable(error: &io::Error) -> String {
    format!("cannot read back what is on it: {error}")
}

const ELSEWHERE: Found = Found::Lost("its link is on an interface of another network namespace");

impl Ingress {
    /// State of a link of ours. The kernel says that it is on an interface with this index.
    fn link(&self, hook: Hook, link: LinkInfo) -> Found {
        let LinkInfo { id, program, .. } = link;
        let (runs, foreign_first) = match hook {
            Hook::XdpNative => (self.native == Some(program), false),
            Hook::XdpGeneric => (self.generic == Some(program), false),
            Hook::Tcx | Hook::Clsact => (
                self.tcx.iter().any(|tcx| tcx.link == id),
                self.tcx.first().is_some_and(|first| first.link != id),
            ),
        };
        if runs { Found::InForce { program, classifier: None, foreign_first } } else { ELSEWHERE }
    }

    /// State of our classifier.
    fn classifier(self) -> Found {
        let Classifiers { ours, foreign_first } = self.classifiers;
        let Some(ours) = ours else { return Found::Lost("its classifier was taken off") };
        Found::InForce {
            program: ours.program,
            // Programs by tcx run before all classifiers.
            foreign_first: foreign_first || !self.tcx.is_empty(),
            classifier: Some(ours),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: LinkInfo = LinkInfo { id: 5, interface: 2, program: 7 };

    fn in_force(foreign_first: bool) -> Found {
        Found::InForce { program: 7, classifier: None, foreign_first }
    }

    #[test]
    fn a_link_is_in_force_only_where_the_interface_shows_its_program() {
        let native = Ingress { native: Some(7), ..Ingress::default() };
        assert_eq!(native.link(Hook::XdpNative, OURS), in_force(false));
        assert_eq!(native.link(Hook::XdpGeneric, OURS), ELSEWHERE);
        let foreign = Ingress { native: Some(8), generic: Some(7), ..Ingress::default() };
        assert_eq!(foreign.link(Hook::XdpNative, OURS), ELSEWHERE);
        assert_eq!(foreign.link(Hook::XdpGeneric, OURS), in_force(false));
    }

    #[test]
    fn another_owners_program_before_ours_is_seen() {
        let (ours, other) =
            (TcxProgram { program: 7, link: 5 }, TcxProgram { program: 9, link: 6 });
        for (tcx, found) in [
            (vec![ours, other], in_force(false)),
            (vec![other, ours], in_force(true)),
            (vec![other], ELSEWHERE),
            (vec![], ELSEWHERE),
        ] {
            let ingress = Ingress { tcx, ..Ingress::default() };
            assert_eq!(ingress.link(Hook::Tcx, OURS), found, "{ingress:?}");
        }
    }

    #[test]
    fn a_classifier_that_is_not_there_is_lost() {
        assert!(matches!(Ingress::default().classifier(), Found::Lost(_)));
    }
}

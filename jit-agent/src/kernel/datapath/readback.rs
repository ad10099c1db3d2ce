//! What really runs on an interface, by the kernel's word: whether a pin exists says nothing, and a
//! link alone says little, for its interface may have moved to another network namespace, where the
//! index that the link tells is another interface's here.

use std::{io, os::fd::OwnedFd};

use jit_proto::Hook;

use crate::kernel::datapath::{
    bpf,
    rtnetlink::{self, Classifier, Device},
};

/// What was found of an attachment of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is in force.
    InForce {
        /// Id of the program that runs.
        program: u32,
        /// The classifier, when it is one.
        classifier: Option<Classifier>,
        /// Somebody else's program runs before it and may let packets pass it by.
        behind: bool,
    },
    /// It is not, and why.
    Lost(&'static str),
}

/// Reads back whether an attachment of ours to this interface, as it is now, is in force. `owner` is
/// the name of our classifiers.
pub fn read(device: &Device, hook: Hook, link: Option<&OwnedFd>, owner: &str) -> io::Result<Found> {
    let Some(kind) = bpf::LinkKind::of(hook) else { return classifier(device, owner) };
    let Some(link) = link else { return Ok(Found::Lost("there is no link")) };
    let info = bpf::link_info(link, kind)?;
    if info.interface == 0 {
        return Ok(Found::Lost("its link was detached"));
    }
    let elsewhere = Found::Lost("its link is on an interface of another network namespace");
    if info.interface != device.index {
        return Ok(elsewhere);
    }
    let mut behind = false;
    let runs = match hook {
        Hook::XdpNative => device.native == Some(info.program),
        Hook::XdpGeneric => device.generic == Some(info.program),
        Hook::Tcx | Hook::Clsact => {
            let programs = bpf::tcx_programs(device.index)?;
            behind = programs.first().is_some_and(|first| first.link != info.id);
            programs.iter().any(|program| program.link == info.id)
        }
    };
    Ok(if runs {
        Found::InForce { program: info.program, classifier: None, behind }
    } else {
        elsewhere
    })
}

fn classifier(device: &Device, owner: &str) -> io::Result<Found> {
    let rtnetlink::Classifiers { ours, behind } = rtnetlink::classifiers(device.index, owner)?;
    // Those by links run first. A kernel that has none says so.
    let links = bpf::tcx_programs(device.index).unwrap_or_default();
    let behind = behind || !links.is_empty();
    Ok(ours.map_or(Found::Lost("its classifier was taken off"), |ours| Found::InForce {
        program: ours.program,
        classifier: Some(ours),
        behind,
    }))
}

//! The loaded programs: each is loaded when it is first needed, by the name that fits the hook, the
//! interface and the kernel.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    programs::{Program as AnyProgram, ProgramError, ProgramFd, ProgramInfo},
};
use jit_proto::Hook;

use crate::kernel::datapath::{
    error::chain,
    object::{PROGRAM_TC, PROGRAM_TC_L3, PROGRAM_XDP, PROGRAM_XDP_FRAGS},
    rtnetlink::Header,
};

/// A loaded program.
#[derive(Clone, Debug)]
pub struct Program {
    /// To attach it.
    pub fd: Arc<OwnedFd>,
    /// The kernel's id of it.
    pub id: u32,
    /// Its name in the object.
    pub name: &'static str,
    /// The kernel's tag of its instructions.
    pub tag: u64,
}

/// The object with its programs, loaded or not.
pub struct Programs {
    object: Ebpf,
    loaded: BTreeMap<&'static str, Result<Program, String>>,
}

impl Programs {
    /// Takes an object whose tables are made. Loads nothing yet.
    pub const fn new(object: Ebpf) -> Self {
        Self { object, loaded: BTreeMap::new() }
    }

    /// The object.
    pub const fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// The program for a hook of an interface whose frames begin like this, or why there is none.
    pub fn get(&mut self, hook: Hook, header: Header) -> Result<Program, String> {
        match (hook, header) {
            (Hook::XdpGeneric | Hook::XdpNative, Header::Ethernet) => self.xdp(),
            (Hook::Tcx | Hook::Clsact, Header::Ethernet) => self.load(PROGRAM_TC),
            (Hook::Tcx | Hook::Clsact, Header::None) => self.load(PROGRAM_TC_L3),
            _ => Err("no program reads such frames".into()),
        }
    }

    /// The XDP program for multi-buffer frames, or the other one if the kernel does not know them
    /// (before 5.18). Features are probed; versions are never compared.
    pub fn xdp(&mut self) -> Result<Program, String> {
        self.load(PROGRAM_XDP_FRAGS).or_else(|_| self.load(PROGRAM_XDP))
    }

    /// The TC program for interfaces with an Ethernet header.
    pub fn tc(&mut self) -> Result<Program, String> {
        self.load(PROGRAM_TC)
    }

    /// The loaded programs.
    pub fn loaded(&self) -> impl Iterator<Item = &Program> {
        self.loaded.values().flatten()
    }

    fn load(&mut self, name: &'static str) -> Result<Program, String> {
        let Self { object, loaded } = self;
        loaded.entry(name).or_insert_with(|| load(object, name)).clone()
    }
}

fn load(object: &mut Ebpf, name: &'static str) -> Result<Program, String> {
    let cause = |error: ProgramError| chain(&error);
    let program = object.program_mut(name).ok_or("it is not in the object")?;
    let own = |fd: &ProgramFd| -> io::Result<OwnedFd> { fd.as_fd().try_clone_to_owned() };
    let (fd, info): (_, Result<ProgramInfo, _>) = match program {
        AnyProgram::Xdp(program) => {
            program.load().map_err(cause)?;
            (own(program.fd().map_err(cause)?), program.info())
        }
        AnyProgram::SchedClassifier(program) => {
            program.load().map_err(cause)?;
            (own(program.fd().map_err(cause)?), program.info())
        }
        _ => return Err("it is no program for interfaces".into()),
    };
    let fd = fd.map_err(|error| format!("cannot duplicate a descriptor: {error}"))?;
    let info = info.map_err(cause)?;
    Ok(Program { fd: Arc::new(fd), id: info.id(), name, tag: info.tag() })
}

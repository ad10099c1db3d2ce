//! One program of ours on one interface: makes, reads back, mends and removes the attachment.
//! `attach` decides which hooks are tried.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use jit_proto::Hook;

use crate::kernel::datapath::{
    bpf::{self, LinkKind},
    error::DatapathError,
    ladder,
    observe::{self, Found, unreadable},
    pins::Pins,
    programs::{Program, Programs},
    rtnetlink::{self, Classifier, Device},
};

/// A program of ours on an interface.
#[derive(Debug)]
pub(super) struct Attachment {
    index: u32,
    hook: Hook,
    /// The link; `None`: a classifier, which the kernel keeps by itself.
    link: Option<OwnedFd>,
    pub(super) pin: PathBuf,
    /// Id of its program, when this run put it there.
    program: Option<u32>,
    /// Why the hook is not better.
    pub(super) note: String,
    /// Better hooks were tried in this run.
    pub(super) tried_better: bool,
    /// Another owner's program runs before it.
    pub(super) foreign_first: bool,
}

/// Result of reading back and mending an attachment.
pub(super) enum Kept {
    /// It is in force, as it was.
    Same,
    /// An earlier run made it. It has our program now.
    Adopted,
    /// Somebody had changed it. It is mended.
    Repaired,
    /// It is not in force.
    Lost(&'static str),
}

impl Attachment {
    /// An attachment of an earlier run.
    pub(super) fn found(pins: &Pins, index: u32, hook: Hook, link: Option<OwnedFd>) -> Self {
        Self {
            index,
            hook,
            link,
            pin: pins.link(index, hook),
            program: None,
            note: String::new(),
            tried_better: false,
            foreign_first: false,
        }
    }

    /// Attaches and pins by one hook, or says why not.
    pub(super) fn make(
        pins: &Pins,
        device: &Device,
        hook: Hook,
        programs: &mut Programs,
    ) -> Result<Self, String> {
        let program = programs
            .get(hook, device.header)
            .map_err(|error| format!("{}: {}", hook.name(), ladder::unloaded(&error)))?;
        let made = match LinkKind::of(hook) {
            Some(kind) => bpf::attach(&program.fd, device.index, kind).map(Some),
            None => put_classifier(device, &program, &pins.owner()).map(|()| None),
        };
        let link = made.map_err(|error| ladder::refused(hook, device, &error))?;
        let program_id = Some(program.id);
        let attachment =
            Self { program: program_id, ..Self::found(pins, device.index, hook, link) };
        attachment.repin(pins, &program).inspect_err(|_| {
            // A link goes with its last descriptor.
            if attachment.link.is_none() {
                drop(attachment.remove_classifier(pins));
            }
        })?;
        Ok(attachment)
    }

    /// Whether it is in force, as the kernel says.
    pub(super) fn observe(&self, device: &Device, pins: &Pins) -> io::Result<Found> {
        observe::attachment(device, self.hook, self.link.as_ref(), &pins.owner())
    }

    /// The difference from this run's state; `None`: there is none. It says whether the attachment
    /// is in force even so, and what is wrong.
    pub(super) fn drift(&self, device: &Device, pins: &Pins) -> Option<(bool, String)> {
        match self.observe(device, pins) {
            Ok(Found::InForce { program, .. }) if self.program != Some(program) => {
                Some((false, "it runs another program".into()))
            }
            Ok(Found::InForce { .. }) if !self.is_pinned() => {
                Some((true, "its pin is gone: it would end with the agent".into()))
            }
            Ok(Found::InForce { .. }) => None,
            Ok(Found::Lost(why)) => Some((false, why.to_owned())),
            Err(error) => Some((false, unreadable(&error))),
        }
    }

    /// Reads the attachment back, gives it our program if it has another, and pins it again if the
    /// pin is gone.
    pub(super) fn keep(
        &mut self,
        device: &Device,
        pins: &Pins,
        programs: &mut Programs,
    ) -> Result<Kept, DatapathError> {
        let failed = self.failed(device);
        let observed = self.observe(device, pins).map_err(|error| failed(unreadable(&error)))?;
        let (runs, classifier) = match observed {
            Found::Lost(why) => return Ok(Kept::Lost(why)),
            Found::InForce { program, classifier, foreign_first } => {
                self.foreign_first = foreign_first;
                (program, classifier)
            }
        };
        let program = programs.get(self.hook, device.header).map_err(&failed)?;
        let mut kept = Kept::Same;
        if runs != program.id {
            self.swap(classifier.as_ref(), &program)
                .map_err(|error| failed(format!("cannot swap its program: {error}")))?;
            if !self.runs(&program, device, pins)? {
                return Ok(Kept::Lost("it is on another interface"));
            }
            if self.link.is_none() {
                self.repin(pins, &program).map_err(&failed)?;
            }
            let ours_before = self.program == Some(program.id);
            kept = if ours_before { Kept::Repaired } else { Kept::Adopted };
        }
        self.program = Some(program.id);
        if !self.is_pinned() {
            self.repin(pins, &program).map_err(&failed)?;
            // One that has just been adopted had its pin elsewhere.
            if !matches!(kept, Kept::Adopted) {
                kept = Kept::Repaired;
            }
        }
        Ok(kept)
    }

    /// Takes it off, with its pin.
    pub(super) fn take_off(&self, pins: &Pins) -> Result<(), DatapathError> {
        match &self.link {
            Some(link) => bpf::detach_link(link)
                .map_err(|error| DatapathError::Sys { verb: "detach a link", error })?,
            None => self.remove_classifier(pins)?,
        }
        remove(&self.pin)
            .map_err(|error| DatapathError::Sys { verb: "remove the pin of a link", error })
    }

    /// Gives it another program.
    fn swap(&self, classifier: Option<&Classifier>, program: &Program) -> io::Result<()> {
        match (&self.link, classifier) {
            (Some(link), _) => bpf::update_link(link, &program.fd),
            (None, Some(old)) => rtnetlink::replace_classifier(self.index, old, &program.fd),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether this program runs now, on the interface as it is now.
    fn runs(&self, program: &Program, device: &Device, pins: &Pins) -> Result<bool, DatapathError> {
        let failed = self.failed(device);
        let now = rtnetlink::device(self.index)
            .map_err(|error| failed(format!("cannot look at it: {error}")))?;
        let observed = now.map(|device| self.observe(&device, pins)).transpose();
        let observed = observed.map_err(|error| failed(unreadable(&error)))?;
        Ok(matches!(observed, Some(Found::InForce { program: id, .. }) if id == program.id))
    }

    fn is_pinned(&self) -> bool {
        fs::symlink_metadata(&self.pin).is_ok()
    }

    /// Pins it, in place of whatever is pinned there.
    fn repin(&self, pins: &Pins, program: &Program) -> Result<(), String> {
        pins.prepare().map_err(|error| error.to_string())?;
        let pinned = remove(&self.pin).and_then(|()| match &self.link {
            Some(link) => bpf::pin(link, &self.pin),
            None => bpf::pin(&program.fd, &self.pin),
        });
        pinned.map_err(|error| format!("{}: cannot pin it: {error}", self.hook.name()))
    }

    fn remove_classifier(&self, pins: &Pins) -> Result<(), DatapathError> {
        let Some(classifier) = observe::classifier(self.index, &pins.owner())? else {
            return Ok(());
        };
        rtnetlink::remove_classifier(self.index, &classifier)
            .map_err(|error| DatapathError::Sys { verb: "remove a classifier", error })
    }

    fn failed(&self, device: &Device) -> impl Fn(String) -> DatapathError + use<> {
        let (interface, hook) = (device.name.clone(), self.hook.word());
        move |cause| DatapathError::Attach { interface: interface.clone(), hook, cause }
    }
}

/// Adds our classifier, or gives the one that is there our program.
fn put_classifier(device: &Device, program: &Program, owner: &str) -> io::Result<()> {
    match rtnetlink::classifiers(device.index, owner)?.ours {
        Some(old) => rtnetlink::replace_classifier(device.index, &old, &program.fd),
        None => rtnetlink::add_classifier(device.index, &program.fd, owner),
    }
}

fn remove(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

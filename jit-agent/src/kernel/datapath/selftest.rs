//! Tries the loaded programs on a few frames (BPF_PROG_TEST_RUN), with the tables in force.
//!
//! A test run counts and reports like a packet, and people see the counts. So the runs use a twin:
//! the same object loaded once more. It shares the tables that decide (protected ports, rules,
//! grants, settings) by their pins, and has its own tables to count in. The kernel's tag of a
//! program's instructions shows that the code is the same. `observe` reads back which program is on
//! which interface.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    programs::{Program, ProgramError, ProgramInfo, TestRun as _, TestRunOptions},
};
use jit_common::map;

use crate::kernel::datapath::{error::chain, probe::Probe};

/// The tables that decide about the frames.
pub const SHARED: [&str; 7] = [
    map::HOST_GRANTS,
    map::PORT_RULES,
    map::PREFIX_GRANTS_V4,
    map::PREFIX_GRANTS_V6,
    map::PROTECTED,
    map::SETTINGS,
    map::SUMMARY,
];

/// `XDP_DROP` and `XDP_PASS` (`linux/bpf.h`), `TC_ACT_SHOT` and `TC_ACT_UNSPEC`, -1
/// (`linux/pkt_cls.h`).
const XDP: (u32, u32) = (1, 2);
const TC: (u32, u32) = (2, u32::MAX);
/// The object once more, with tables of its own to count in.
pub struct Twin {
    pub(super) object: Ebpf,
    /// Programs that cannot be tried on this kernel and were logged.
    logged: BTreeSet<String>,
}

impl Twin {
    /// A twin of an object whose [`SHARED`] tables are those in force.
    pub const fn new(object: Ebpf) -> Self {
        Self { object, logged: BTreeSet::new() }
    }

    /// Tries a program. `tag`: its tag where it is in force. Each wrong answer is a sentence. A
    /// test that this kernel cannot do is logged once.
    pub fn judge(&mut self, program: &str, tag: u64, probes: &[Probe]) -> Vec<String> {
        let mut wrong = Vec::new();
        match load(&mut self.object, program) {
            Ok(twin) if twin == tag => {}
            Ok(_) => return vec![format!("{program} is not the code that it should be")],
            Err(error) => {
                self.log_once(format!("{program} cannot be loaded to be tried: {error}"));
                return wrong;
            }
        }
        for probe in probes {
            // For every program: a test run puts the network header after the Ethernet header.
            match run(&self.object, program, &probe.frame()) {
                Ok(Some(dropped)) => wrong.extend(probe.wrong(program, dropped)),
                Ok(None) => wrong.push(format!("{program} has no answer to {}", probe.what)),
                Err(error) => {
                    self.log_once(format!("this kernel cannot try {program} on a frame: {error}"));
                    return wrong;
                }
            }
        }
        wrong
    }

    fn log_once(&mut self, what: String) {
        if self.logged.insert(what.clone()) {
            tracing::warn!("self-test: {what}");
        }
    }
}

/// Loads a program if it is not, and gives its tag.
pub(super) fn load(object: &mut Ebpf, name: &str) -> Result<u64, String> {
    let cause = |error: ProgramError| chain(&error);
    let loaded = |result: Result<(), ProgramError>| match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    };
    let info: Result<ProgramInfo, _> = match object.program_mut(name) {
        Some(Program::Xdp(program)) => {
            loaded(program.load()).map_err(cause)?;
            program.info()
        }
        Some(Program::SchedClassifier(program)) => {
            loaded(program.load()).map_err(cause)?;
            program.info()
        }
        Some(Program::SkLookup(program)) => {
            loaded(program.load()).map_err(cause)?;
            program.info()
        }
        _ => return Err("the object does not have it".into()),
    };
    info.map(|info| info.tag()).map_err(cause)
}

/// Whether a program drops a frame; `None` for an answer that it should never give.
pub(super) fn run(object: &Ebpf, name: &str, frame: &[u8]) -> Result<Option<bool>, String> {
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
    let (result, (drop, pass)) = match object.program(name) {
        Some(Program::Xdp(program)) => (program.test_run(options), XDP),
        Some(Program::SchedClassifier(program)) => (program.test_run(options), TC),
        _ => return Err("it is no program for interfaces".into()),
    };
    let answer = result.map_err(|error| chain(&error))?.return_value;
    Ok(match answer {
        _ if answer == drop => Some(true),
        _ if answer == pass => Some(false),
        _ => None,
    })
}

//! The loaded programs tried on a few frames (BPF_PROG_TEST_RUN), over the tables in force.
//!
//! A test run counts and tells like a packet, and what is counted is shown to people. So the runs
//! are of a twin: the same object loaded once more, with the tables that decide (protected ports,
//! rules, grants, settings) shared by their pins, and with its own to count in. That it is the same
//! code is compared by the tag that the kernel gives to a program's instructions. Which program is
//! on which interface is read back elsewhere.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    programs::{Program, ProgramError, ProgramInfo, TestRun as _, TestRunOptions},
};
use jit_common::{Address, PortKey, map};

use crate::kernel::datapath::{memory::Syn, pins::chain};

/// The tables that decide about the frames.
pub const SHARED: [&str; 6] = [
    map::HOST_GRANTS,
    map::PORT_RULES,
    map::PREFIX_GRANTS_V4,
    map::PREFIX_GRANTS_V6,
    map::PROTECTED,
    map::SETTINGS,
];

/// `XDP_DROP` and `XDP_PASS` (`linux/bpf.h`), `TC_ACT_SHOT` and `TC_ACT_UNSPEC`, -1
/// (`linux/pkt_cls.h`).
const XDP: (u32, u32) = (1, 2);
const TC: (u32, u32) = (2, u32::MAX);
/// Shortest Ethernet frame, without its checksum.
const SHORTEST: usize = 60;

/// A frame and what the gate must do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    what: String,
    drop: bool,
    ethertype: [u8; 2],
    packet: Vec<u8>,
}

impl Probe {
    /// A SYN, which must be dropped or must pass.
    pub fn syn(source: Address, port: PortKey, drop: bool) -> Self {
        let packet = Syn { source, source_port: 40_000, port, sequence: 1 }.packet();
        let ip = packet.first().is_some_and(|byte| byte >> 4 == 6);
        Self {
            what: format!(
                "a SYN from {} to port {}, without a grant",
                jit_proto::prefix::ip(source),
                port.port
            ),
            drop,
            ethertype: if ip { [0x86, 0xdd] } else { [0x08, 0x00] },
            packet,
        }
    }

    /// An ARP request, which must pass.
    pub fn arp() -> Self {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
        packet.resize(28, 0);
        Self { what: "an ARP request".into(), drop: false, ethertype: [0x08, 0x06], packet }
    }

    /// With an Ethernet header, padded.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        frame.extend(self.ethertype);
        frame.extend(&self.packet);
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    /// Says so, if the answer is wrong.
    pub fn wrong(&self, program: &str, dropped: bool) -> Option<String> {
        let did = if dropped { "drops" } else { "lets pass" };
        (dropped != self.drop).then(|| format!("{program} {did} {}", self.what))
    }
}

/// The object once more, with tables of its own to count in.
pub struct Twin {
    object: Ebpf,
    /// What cannot be tried here was told.
    told: BTreeSet<String>,
}

impl Twin {
    /// Of an object whose [`SHARED`] tables are those in force.
    pub const fn new(object: Ebpf) -> Self {
        Self { object, told: BTreeSet::new() }
    }

    /// Tries a program that has this tag where it is in force; each wrong answer is a sentence. What
    /// this kernel cannot do is told in the log, once.
    pub fn judge(&mut self, program: &str, tag: u64, probes: &[Probe]) -> Vec<String> {
        let mut wrong = Vec::new();
        match load(&mut self.object, program) {
            Ok(twin) if twin == tag => {}
            Ok(_) => return vec![format!("{program} is not the code that it should be")],
            Err(error) => {
                self.tell(format!("{program} cannot be loaded to be tried: {error}"));
                return wrong;
            }
        }
        for probe in probes {
            // Whatever the program: a test run puts the network header behind the Ethernet header.
            match run(&self.object, program, &probe.frame()) {
                Ok(Some(dropped)) => wrong.extend(probe.wrong(program, dropped)),
                Ok(None) => wrong.push(format!("{program} has no answer to {}", probe.what)),
                Err(error) => {
                    self.tell(format!("this kernel cannot try {program} on a frame: {error}"));
                    return wrong;
                }
            }
        }
        wrong
    }

    fn tell(&mut self, what: String) {
        if self.told.insert(what.clone()) {
            tracing::warn!("self-test: {what}");
        }
    }
}

/// Loads a program if it is not, and gives its tag.
fn load(object: &mut Ebpf, name: &str) -> Result<u64, String> {
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
        _ => return Err("it is no program for interfaces".into()),
    };
    info.map(|info| info.tag()).map_err(cause)
}

/// Whether a program drops a frame; `None` for an answer that it should never give.
fn run(object: &Ebpf, name: &str, frame: &[u8]) -> Result<Option<bool>, String> {
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

#[cfg(test)]
mod tests {
    use jit_common::Protocol;

    use super::*;

    #[test]
    fn a_wrong_answer_is_a_sentence_and_a_right_one_is_none() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let probe = Probe::syn(Address::v4([192, 0, 2, 77]), port, true);
        assert_eq!(probe.wrong("jit_gate", true), None);
        let said = probe.wrong("jit_gate", false).unwrap();
        assert!(said.starts_with("jit_gate lets pass a SYN from 192.0.2.77 to "), "{said}");
        assert_eq!(Probe::arp().wrong("jit_gate", false), None);
        assert!(Probe::arp().wrong("jit_gate", true).is_some());
    }

    #[test]
    fn frames_are_whole() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let v6 = Probe::syn(Address::v6([0x20; 16]), port, true).frame();
        assert_eq!((v6.len(), &v6[12..15]), (14 + 60, &[0x86, 0xdd, 0x60][..]));
        let v4 = Probe::syn(Address::v4([192, 0, 2, 77]), port, true).frame();
        assert_eq!((v4.len(), &v4[12..15]), (60, &[0x08, 0x00, 0x45][..]));
        assert_eq!(Probe::arp().frame().len(), SHORTEST);
    }
}

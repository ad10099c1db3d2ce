//! Asks the loaded programs about a connection that nobody makes: for `why`.
//!
//! The question goes to the twin of the self-test, which shares the tables that decide and has
//! tables of its own to count in. So nothing of it counts. The count of a grant with a limit is
//! copied to the twin before each run, and the place that the run takes there is given back.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::Program,
};
use jit_common::{
    Address, Admission, ConnectionKey, Counter, Family, Flow, GrantEntry, HostKey, Lookup,
    PlaceKey, PortKey, PortRule, PrefixV4, PrefixV6, Protocol, Reason, Segment, Session, Slot,
    Tables, guard, map,
};
use jit_proto::{Hook, v1};

use crate::{
    kernel::datapath::{
        bpf,
        error::{DatapathError, chain},
        maps::Maps,
        object::{
            PROGRAM_GUARD, PROGRAM_GUARD_LEGACY, PROGRAM_TC, PROGRAM_TC_L3, PROGRAM_XDP,
            PROGRAM_XDP_FRAGS,
        },
        observe,
        probe::Probe,
        rtnetlink::Header,
        selftest::{Twin, load, run},
        state::InterfaceState,
    },
    rules::clock::BootNanos,
};

/// The host's addresses in the question: documentation addresses (RFC 5737, RFC 3849).
const HERE_V4: [Address; 2] = [Address::v4([198, 51, 100, 1]), Address::v4([192, 0, 2, 1])];
const HERE_V6: [Address; 2] = [here_v6(1), here_v6(2)];
/// As in the frames of `probe`.
const SOURCE_PORT: u16 = 40_000;

const fn here_v6(last: u8) -> Address {
    Address::v6([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

/// A new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who makes it.
    pub source: Address,
    /// To which port.
    pub port: PortKey,
}

/// What a program says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It lets the connection in.
    pub open: bool,
    /// Its reason; `None`: it has none, as the guard for a connection that it lets in.
    pub reason: Option<Reason>,
}

/// The answer for connections that come in by one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface's name.
    pub interface: String,
    /// The hook of the program; `None`: it has none.
    pub hook: Option<Hook>,
    /// The configuration leaves it out, for this reason.
    pub left_out: Option<String>,
    /// The program's verdict.
    pub gate: Option<Verdict>,
    /// The guard's, for a connection that the program has let in or not seen.
    pub guard: Option<Verdict>,
    /// Why the verdict may be wrong; empty: it is the loaded program's.
    pub note: String,
}

/// The answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// For each interface.
    pub ways: Vec<Way>,
    /// The guard's own, for a connection that no program has seen; `None`: there is no guard.
    pub guard: Option<Verdict>,
    /// The counts of grants with a limit that the entries name.
    pub slots: Vec<(u32, Slot)>,
}

impl Question {
    /// From the fields of a message; `None`: they name no address, or no port.
    pub fn of_message(source: &[u8], protocol: v1::Protocol, port: u32) -> Option<Self> {
        let source = match (<[u8; 4]>::try_from(source), <[u8; 16]>::try_from(source)) {
            (Ok(v4), _) => Address::v4(v4),
            (_, Ok(v6)) => Address::v6(v6),
            _ => return None,
        };
        let protocol = match protocol {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Unspecified => return None,
        };
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        Some(Self { source, port: PortKey { protocol, port } })
    }

    fn lookup(&self) -> Lookup {
        let Self { source, port } = *self;
        let [first, second] = if source.family == Family::V4 { HERE_V4 } else { HERE_V6 };
        // From one address to the same one the host speaks to itself.
        let destination = if first == source { second } else { first };
        Lookup { source, destination, source_port: SOURCE_PORT, port, loopback: Some(false) }
    }
}

/// The question with what the tables have for it.
struct Asked<'a> {
    question: Question,
    entries: [Option<GrantEntry>; 2],
    slots: Vec<(u32, Slot)>,
    protected: bool,
    observes: bool,
    now: BootNanos,
    /// Whether a program with this name and tag is in force.
    in_force: &'a dyn Fn(&str, u64) -> bool,
}

/// Asks the programs on these interfaces, and the guard if it is attached.
pub(super) fn ask(
    twin: &mut Twin,
    maps: &Maps,
    question: Question,
    (interfaces, guarded): (&[InterfaceState], bool),
    now: BootNanos,
    in_force: &dyn Fn(&str, u64) -> bool,
) -> Result<Answers, DatapathError> {
    let entries = maps.covering(question.source, question.port)?;
    let claims = entries.iter().flatten().flat_map(|entry| [entry.unlimited, entry.limited]);
    let mut slots: Vec<_> =
        claims.filter(|claim| claim.deadline != 0).map(|claim| claim.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    let slots = slots.into_iter().map(|slot| (slot, maps.slot(slot))).collect();
    let (protected, observes) = maps.treats(question.port, now)?;
    let asked = Asked { question, entries, slots, protected, observes, now, in_force };
    let ways = interfaces.iter().filter(|state| state.index != 0);
    let ways = ways.map(|state| asked.way(&mut twin.object, state, guarded)).collect();
    let guard = guarded.then(|| {
        asked.begin(&mut twin.object);
        asked.guard(&mut twin.object).0
    });
    asked.forget(&mut twin.object);
    Ok(Answers { ways, guard, slots: asked.slots })
}

impl Asked<'_> {
    fn way(&self, object: &mut Ebpf, state: &InterfaceState, guarded: bool) -> Way {
        self.begin(object);
        let mut notes = Vec::new();
        let gate = state.hook.map(|hook| self.gate(object, state, hook, &mut notes));
        let seen_by_guard = guarded && gate.is_none_or(|verdict| verdict.open);
        let guard = seen_by_guard.then(|| {
            let (verdict, note) = self.guard(object);
            notes.extend(note);
            verdict
        });
        if state.foreign_first {
            notes.push("another owner's program runs before the gate's".into());
        }
        Way {
            interface: state.name.clone(),
            hook: state.hook,
            left_out: state.left_out.clone(),
            gate,
            guard,
            note: notes.join("; "),
        }
    }

    /// The verdict of the program on an interface.
    fn gate(
        &self,
        object: &mut Ebpf,
        state: &InterfaceState,
        hook: Hook,
        notes: &mut Vec<String>,
    ) -> Verdict {
        let header = observe::device(state.index).ok().flatten().map(|device| device.header);
        let names: &[_] = match (hook, header) {
            (Hook::XdpGeneric | Hook::XdpNative, _) => &[PROGRAM_XDP_FRAGS, PROGRAM_XDP],
            (Hook::Tcx | Hook::Clsact, Some(Header::None)) => &[PROGRAM_TC_L3],
            (Hook::Tcx | Hook::Clsact, _) => &[PROGRAM_TC],
        };
        let asked = self.first_loaded(object, names, notes).and_then(|name| {
            let before = reasons(object);
            let dropped = run(object, name, &Probe::first_packet(&self.question.lookup()).frame())?;
            let dropped = dropped.ok_or_else(|| format!("{name} has no answer"))?;
            Ok(Verdict { open: !dropped, reason: counted(&before, &reasons(object)) })
        });
        match asked {
            Ok(verdict) if self.is_beyond(object) && !verdict.open => self.by_tables(),
            Ok(verdict) => verdict,
            Err(why) => {
                notes.push(format!("by the tables, the program cannot be asked: {why}"));
                self.by_tables()
            }
        }
    }

    /// The guard's verdict, and why it may be wrong.
    fn guard(&self, object: &mut Ebpf) -> (Verdict, Option<String>) {
        let mut notes = Vec::new();
        let names = [PROGRAM_GUARD, PROGRAM_GUARD_LEGACY];
        let asked = self.first_loaded(object, &names, &mut notes).and_then(|name| {
            let Some(Program::SkLookup(program)) = object.program(name) else {
                return Err("the object does not have it".into());
            };
            let program = program.fd().map_err(|error| chain(&error))?;
            let before = reasons(object);
            let refused = bpf::run_guard(program, &self.question.lookup())
                .map_err(|error| error.to_string())?;
            Ok(Verdict { open: !refused, reason: counted(&before, &reasons(object)) })
        });
        match asked {
            Ok(verdict) if self.is_beyond(object) && !verdict.open => (self.by_tables(), None),
            Ok(verdict) => (verdict, notes.pop()),
            // Before Linux 5.13 the kernel cannot ask a guard.
            Err(_) => (self.by_tables(), None),
        }
    }

    /// Loads the first of these programs that the kernel takes.
    fn first_loaded<'n>(
        &self,
        object: &mut Ebpf,
        names: &[&'n str],
        notes: &mut Vec<String>,
    ) -> Result<&'n str, String> {
        let mut refused = String::new();
        for name in names {
            match load(object, name) {
                Ok(tag) => {
                    if !(self.in_force)(name, tag) {
                        notes.push(format!("{name} is attached as another build of it"));
                    }
                    return Ok(name);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Gives the twin the counts as they are.
    fn begin(&self, object: &mut Ebpf) {
        self.forget(object);
        let Some(Ok(mut slots)) = object.map_mut(map::SLOTS).map(Array::<_, Slot>::try_from) else {
            return;
        };
        for (slot, counted) in &self.slots {
            // A slot that the twin does not have: see `is_beyond`.
            let _beyond = slots.set(*slot, *counted, 0);
        }
    }

    /// Gives back the places that were taken in the twin.
    fn forget(&self, object: &mut Ebpf) {
        fn empty<K: aya::Pod, V: aya::Pod>(object: &mut Ebpf, name: &str) {
            let Some(Ok(mut table)) =
                object.map_mut(name).map(HashMap::<&mut MapData, K, V>::try_from)
            else {
                return;
            };
            let keys: Vec<K> = table.keys().filter_map(Result::ok).collect();
            for key in keys {
                let _gone = table.remove(&key);
            }
        }
        if !self.slots.is_empty() {
            empty::<PlaceKey, Flow>(object, map::PLACES);
            // A handshake is four bytes.
            empty::<ConnectionKey, u32>(object, map::CONNECTIONS);
        }
    }

    /// Whether the twin lacks a slot of a grant with a limit: its table is short. Then the tables
    /// and the count in them say whether there is a place.
    fn is_beyond(&self, object: &Ebpf) -> bool {
        let slots = object.map(map::SLOTS).map(Array::<_, Slot>::try_from);
        let length = slots.and_then(Result::ok).map_or(0, |slots| slots.len());
        self.slots.iter().any(|(slot, counted)| counted.limit > 0 && *slot >= length)
    }

    /// The decision of the same code on this side (`jit_common::guard`), over the kernel's tables.
    fn by_tables(&self) -> Verdict {
        let decision = guard(&self.question.lookup(), self, || self.now.0);
        let reason = decision.map(|decision| decision.reason);
        let drops = reason.is_some_and(Reason::drops);
        Verdict { open: !drops || self.observes, reason }
    }
}

/// The tables as far as the question needs them.
impl Tables for Asked<'_> {
    fn protected(&self, _: PortKey) -> bool {
        self.protected
    }
    fn rule(&self, _: PortKey) -> PortRule {
        PortRule::default()
    }
    fn lately(&self) -> Option<u64> {
        None
    }
    fn host_grant(&self, _: &HostKey) -> Option<&GrantEntry> {
        self.entries[0].as_ref()
    }
    fn prefix_grant_v4(&self, _: PrefixV4) -> Option<&GrantEntry> {
        self.entries[1].as_ref()
    }
    fn prefix_grant_v6(&self, _: PrefixV6) -> Option<&GrantEntry> {
        self.entries[1].as_ref()
    }
    fn session(&self, _: &Segment) -> Session {
        Session::None
    }
    fn opened_here(&self, _: &Segment) -> bool {
        false
    }
    fn translates_sources(&self) -> bool {
        true
    }
    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission {
        self.admit_lookup(slot, segment, true)
    }
    fn admit_lookup(&self, slot: u32, _: &Segment, fresh: bool) -> Admission {
        let counted =
            self.slots.iter().find(|(held, _)| *held == slot).map(|(_, counted)| *counted);
        let has_room = counted.is_some_and(|Slot { hits, limit, .. }| hits < u64::from(limit));
        if fresh && has_room { Admission::Fresh } else { Admission::Refused }
    }
    fn handshake_done(&self, _: u32, _: &Segment) {}
}

/// The twin's counts by reason.
fn reasons(object: &Ebpf) -> Vec<(Reason, u64)> {
    let table = object.map(map::COUNTERS).map(PerCpuArray::<&MapData, u64>::try_from);
    let Some(Ok(table)) = table else { return Vec::new() };
    let read = |reason: Reason| {
        let values = table.get(&Counter::Reason(reason).index(), 0).ok()?;
        Some((reason, values.iter().sum()))
    };
    Reason::ALL.into_iter().filter_map(read).collect()
}

/// The reason whose count has grown.
fn counted(before: &[(Reason, u64)], after: &[(Reason, u64)]) -> Option<Reason> {
    let grown = before.iter().zip(after).find(|((_, before), (_, after))| after > before);
    grown.map(|((reason, _), _)| *reason)
}

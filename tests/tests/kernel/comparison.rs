//! Generated frames: the host's decision and every loaded program must agree on each one, in the
//! exact reason and in the verdict. A second opinion (`oracle`) must agree too where there is one.
//! Generated look-ups do the same for the socket guard.
//!
//! The frames of a batch are ordered by the reason that the host gives. The kernel's counters are
//! read before and after the frames of one reason: exactly that reason's counter may move, by
//! exactly the number of frames. So two disagreements cannot cancel out, and few reads are needed.
//!
//! `JIT_TEST_FRAMES` and `JIT_TEST_SEED` set the number of frames and the seed. A failure prints
//! the seed, and the frame as a row for `cases/found.rs`.

use std::{
    collections::BTreeMap,
    env,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
};

use jit_agent::kernel::datapath::{memory::MemoryTables, object::PROGRAM_GUARD};
use jit_common::{
    Address, Claim, Counter, Decision, Flow, GrantEntry, HostKey, Lookup, PortKey, PortRule,
    Protocol, Reason, Settings, Tables as _, guard,
};
use jit_proto::prefix::masked;
use jit_tests::{
    kernel::{Kernel, boot_nanos, difference, guards, programs, runs},
    lacks,
    netns::Namespace,
    random::Random,
    sockets::{self, PATIENCE},
};

use crate::{
    cases::{self, found},
    fixture::{HOUR, address, on_host},
    generate::{Generator, Tuple, derived},
    oracle::{self, Cover},
};

const FRAMES: usize = 1_000_000;
/// Number of look-ups of the socket guard.
const LOOKUPS: usize = 30_000;
const SEED: u64 = 0x6a69_7467_6174_6531;
/// Largest number of frames for each set of tables, and smallest number of sets.
const BATCH: usize = 25_000;
const SETS: usize = 40;
/// Number of grant slots.
const SLOTS: usize = 8;

/// Ports of the real sessions. The generated tables have them too.
const SESSION_PORTS: [u16; 4] = [22, 3389, 2222, 5432];
const PORTS: [u16; 8] = [22, 3389, 2222, 5432, 443, 53, 1, 65_535];
const ADDRESSES: [&str; 10] = [
    "192.0.2.7",
    "192.0.2.8",
    "192.0.2.200",
    "198.51.100.1",
    "203.0.113.64",
    "2001:db8:7::7",
    "2001:db8:7::8",
    "2001:db8:7:1::8",
    "2001:db8:1::1",
    "2001:db8:ffff::1",
];

/// The source port whose sessions also have a connected UDP socket.
const UDP_PEER: u16 = 40_000;

struct Sample {
    frame: Vec<u8>,
    decision: Decision,
    dropped: bool,
}

/// Number of times that each outcome was met.
struct Seen {
    reasons: BTreeMap<Reason, usize>,
    covers: BTreeMap<Cover, usize>,
}

#[test]
fn host_and_kernel_agree_on_generated_frames() {
    let frames = wanted().unwrap_or(FRAMES);
    let seed = number("JIT_TEST_SEED").unwrap_or(SEED);
    println!("JIT_TEST_SEED={seed}, {frames} frames");
    let namespace = Namespace::new();
    for address in ADDRESSES {
        let length = if address.contains(':') { 128 } else { 32 };
        namespace.address("lo", &format!("{address}/{length}"));
    }
    let Seen { reasons, covers } = namespace.run(|| compare(frames, seed));
    println!("{reasons:?}, second opinions {covers:?}");
    for reason in Reason::ALL {
        let count = reasons.get(&reason).copied().unwrap_or(0);
        assert!(count * 2_000 >= frames, "{reason:?}: only {count} frames of {frames}");
    }
    for cover in [Cover::Nobodys, Cover::Granted, Cover::Unprotected] {
        let count = covers.get(&cover).copied().unwrap_or(0);
        assert!(count * 200 >= frames, "{cover:?}: only {count} second opinions");
    }
}

#[test]
fn host_and_kernel_agree_on_generated_look_ups() {
    if lacks::kernel_lacks(lacks::GUARD_TEST_RUN) {
        return;
    }
    let seed = number("JIT_TEST_SEED").unwrap_or(SEED);
    println!("JIT_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let mut kernel = Kernel::load();
    let mut seen: BTreeMap<Option<Reason>, usize> = BTreeMap::new();
    let lookups = wanted().unwrap_or(LOOKUPS).min(LOOKUPS);
    for _ in 0..SETS {
        let mut tables = tables(&mut random, &[]);
        tables.translates_sources = random.chance(50);
        let settings = Settings {
            observe: u32::from(random.chance(10)),
            translates_sources: u32::from(tables.translates_sources),
            ..trial(&mut random)
        };
        kernel.fill(&tables);
        kernel.set(settings);
        for _ in 0..lookups / SETS {
            let lookup = lookup(&mut random);
            for program in guards() {
                // The program for older kernels does not know the interface.
                let loopback = lookup.loopback.filter(|_| program == PROGRAM_GUARD);
                let decision = guard(&Lookup { loopback, ..lookup }, &tables, boot_nanos);
                let reason = decision.map(|decision| decision.reason);
                let observed = settings.observes(Some(&tables.rule(lookup.port)), boot_nanos);
                let refused = reason.is_some_and(|reason| reason.drops() && !observed);
                let before = kernel.counters();
                assert_eq!(kernel.refuses(program, &lookup), refused, "{program}: {lookup:?}");
                let moved = difference(&before, &kernel.counters());
                for counted in Reason::ALL {
                    let expected = u64::from(refused && reason == Some(counted));
                    assert_eq!(moved[counted as usize], expected, "{program}: {lookup:?}");
                }
                *seen.entry(reason).or_default() += 1;
            }
        }
    }
    println!("{seen:?}");
    let enough = |reason| seen.get(&reason).is_some_and(|count| *count > lookups / 100);
    for reason in [None, Some(Reason::BadSource), Some(Reason::Denied), Some(Reason::Granted)] {
        assert!(enough(reason), "{reason:?} of {seen:?}");
    }
}

fn lookup(random: &mut Random) -> Lookup {
    let addresses = addresses();
    let source = *random.pick(&addresses);
    let source = match (source, random.below(20)) {
        (IpAddr::V4(v4), 0) => IpAddr::V6(v4.to_ipv6_mapped()),
        (IpAddr::V4(_), 1) => "127.0.0.1".parse().unwrap(),
        (IpAddr::V6(_), 0) => "::1".parse().unwrap(),
        (IpAddr::V6(_), 1) => "::".parse().unwrap(),
        (IpAddr::V6(_), 2) => "ff02::1".parse().unwrap(),
        _ => source,
    };
    let same_family = |address: &&IpAddr| address.is_ipv4() == source.is_ipv4();
    let destinations: Vec<_> = addresses.iter().filter(same_family).collect();
    Lookup {
        source: address(source),
        destination: address(**random.pick(&destinations)),
        source_port: random.short(),
        port: PortKey {
            protocol: *random.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]),
            port: *random.pick(&PORTS),
        },
        loopback: Some(false),
    }
}

fn compare(frames: usize, seed: u64) -> Seen {
    let mut random = Random::new(seed);
    let (streams, tuples) = sessions();
    let connected = connected(&tuples);
    let translated = translated(&tuples);
    let frames_of: Vec<Tuple> =
        tuples.iter().copied().chain(translated.iter().map(|(wire, _)| *wire)).collect();
    let mut kernel = Kernel::load();
    let mut seen = Seen { reasons: BTreeMap::new(), covers: BTreeMap::new() };
    let cases = cases::all();
    let derived = derived(&cases, SESSION_PORTS[0]);
    // At most a quarter of the frames.
    let step = (derived.len() * 4 / frames).max(1);
    let mut derived = derived.into_iter().step_by(step);
    println!("{} of them made from the table's rows", derived.len());
    let mut left = frames;
    while left > 0 {
        let count = left.min(BATCH).min(frames.div_ceil(SETS));
        left -= count;
        let mut tables = tables(&mut random, &tuples);
        let firsts = tuples.iter().filter(|tuple| tuple.source_port == UDP_PEER);
        for Tuple { source, source_port, destination, port } in firsts {
            let tuple = (address(*source), *source_port, address(*destination), *port);
            tables.connected.insert(tuple);
        }
        for (wire, socket) in translated.iter().filter(|_| random.chance(50)) {
            tables.translated.insert(flow(wire), flow(socket));
        }
        let settings = Settings { observe: u32::from(random.chance(10)), ..trial(&mut random) };
        kernel.fill(&tables);
        kernel.set(settings);
        let addresses = addresses();
        let generator =
            Generator { cases: &cases, ports: &PORTS, addresses: &addresses, tuples: &frames_of };
        let mut samples: Vec<Sample> = (0..count)
            .map(|_| derived.next().unwrap_or_else(|| generator.frame(&mut random)))
            .map(|frame| sample(frame, &tables, settings))
            .collect();
        for sample in &samples {
            if let Some(cover) = second_opinion(sample, &tables) {
                *seen.covers.entry(cover).or_insert(0) += 1;
            }
        }
        samples.sort_by_key(|sample| sample.decision.reason);
        for program in programs() {
            agree(&mut kernel, program, &samples);
        }
        for sample in &samples {
            *seen.reasons.entry(sample.decision.reason).or_insert(0) += 1;
        }
    }
    drop((streams, connected));
    seen
}

/// Sometimes the gate is on trial; the end of a trial is an hour ago or ahead.
fn trial(random: &mut Random) -> Settings {
    let now = boot_nanos();
    let trial_until = if random.chance(50) { now + HOUR } else { now.saturating_sub(HOUR) };
    Settings { trial: u32::from(random.chance(20)), trial_until, ..Settings::default() }
}

fn sample(frame: Vec<u8>, tables: &MemoryTables, settings: Settings) -> Sample {
    let decision = on_host(&frame, tables, boot_nanos());
    let rule = decision.segment.map(|segment| tables.rule(segment.port));
    let observed = settings.observes(rule.as_ref(), boot_nanos);
    Sample { frame, decision, dropped: decision.reason.drops() && !observed }
}

/// Runs one program over samples in the order of their reasons.
fn agree(kernel: &mut Kernel, program: &str, samples: &[Sample]) {
    let hits_before = hits(kernel);
    kernel.forget_counted();
    let samples: Vec<_> = samples.iter().filter(|s| runs(program, &s.frame)).collect();
    for equals in samples.chunk_by(|a, b| a.decision.reason == b.decision.reason) {
        let before = kernel.counters();
        let mut observed = 0;
        for sample in equals {
            let dropped = kernel.drops(program, &sample.frame);
            assert_eq!(dropped, sample.dropped, "{}", disagreement(kernel, program, sample));
            observed += u64::from(sample.decision.reason.drops() && !sample.dropped);
        }
        let moved = difference(&before, &kernel.counters());
        let [first, ..] = equals else { continue };
        let total = u64::try_from(equals.len()).expect("a batch is small");
        let right = Reason::ALL.into_iter().all(|reason| {
            let expected = if reason == first.decision.reason { total } else { 0 };
            moved.get(Counter::Reason(reason).index() as usize) == Some(&expected)
        });
        if !right {
            let wrong = equals
                .iter()
                .find(|sample| kernel.run(program, &sample.frame).reason != sample.decision.reason);
            let wrong = wrong.unwrap_or_else(|| panic!("counters moved by {moved:?}"));
            panic!("{}", disagreement(kernel, program, wrong));
        }
        let counted = moved.get(Counter::Observed.index() as usize);
        assert_eq!(counted, Some(&observed), "{program}: observed, {:?}", first.decision.reason);
    }
    let mut expected = hits_before;
    let mut last = BTreeMap::new();
    for Sample { decision, .. } in samples.iter().filter(|sample| sample.decision.fresh) {
        let segment = decision.segment.expect("a fresh connection has a segment");
        // The same SYN a moment later is the same connection. So are the datagrams of a flow.
        let this = (segment.port.protocol, segment.sequence);
        if last.insert((Flow::of(&segment), decision.slot), this) != Some(this) {
            let slot = usize::try_from(decision.slot).expect("slots are small");
            *expected.get_mut(slot).expect("a slot of the tables") += 1;
        }
    }
    assert_eq!(hits(kernel), expected, "{program}: connections counted by slot");
}

/// The oracle's opinion about a frame. The decision must not contradict it.
fn second_opinion(sample: &Sample, tables: &MemoryTables) -> Option<Cover> {
    let opening = oracle::opening(&sample.frame)?;
    let cover = opening.cover(tables, boot_nanos());
    let reason = sample.decision.reason;
    // The oracle knows no sockets.
    let answers = |(source, _, _, port): &(Address, u16, Address, u16)| {
        (*source, *port) == (address(opening.source), opening.port.port)
    };
    let datagram = reason == Reason::Established && opening.port.protocol == Protocol::Udp;
    let right = match cover {
        Cover::Nobodys => reason.drops() || datagram && tables.connected.iter().any(answers),
        Cover::Granted | Cover::Unprotected => !opening.plain || !reason.drops(),
        Cover::Shadowed => true,
    };
    assert!(right, "{reason:?}, but {opening:?} is {cover:?}\n{}", found::row(&sample.frame));
    Some(cover)
}

fn disagreement(kernel: &Kernel, program: &str, sample: &Sample) -> String {
    format!(
        "host: {:?}, {program}: {:?}\n{}",
        sample.decision,
        kernel.run(program, &sample.frame),
        found::row(&sample.frame)
    )
}

fn hits(kernel: &Kernel) -> [u64; SLOTS] {
    let mut slot = 0;
    [(); SLOTS].map(|()| {
        slot += 1;
        kernel.hits(slot - 1)
    })
}

/// Real sessions over loopback: the streams, which keep them open, and their 4-tuples.
fn sessions() -> (Vec<TcpStream>, Vec<Tuple>) {
    let mut streams = Vec::new();
    let mut tuples = Vec::new();
    for (source, destination) in [("192.0.2.7", "198.51.100.1"), ("2001:db8:7::7", "2001:db8:1::1")]
    {
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        for port in SESSION_PORTS {
            let server = SocketAddr::new(destination, port);
            let listener = sockets::listen(server);
            for source_port in [40_000, 50_000] {
                let client = SocketAddr::new(source, source_port);
                streams.push(sockets::connect_from(client, server, PATIENCE).unwrap());
                streams.push(listener.accept().unwrap().0);
                tuples.push(Tuple { source, source_port, destination, port });
            }
        }
    }
    (streams, tuples)
}

/// UDP sockets that are connected between the same ends.
fn connected(tuples: &[Tuple]) -> Vec<UdpSocket> {
    let connect = |Tuple { source, source_port, destination, port }: &Tuple| {
        let socket = sockets::udp(SocketAddr::new(*destination, *port));
        socket.connect(SocketAddr::new(*source, *source_port)).unwrap();
        socket
    };
    // Two sockets at one port need SO_REUSEADDR, so only one session of each port has a twin.
    let firsts = tuples.iter().filter(|tuple| tuple.source_port == UDP_PEER);
    firsts.map(connect).collect()
}

/// The same sessions as they would stand on the wire before a redirect to their ports.
fn translated(tuples: &[Tuple]) -> Vec<(Tuple, Tuple)> {
    let wire = |tuple: &Tuple| Tuple { source_port: tuple.source_port + 1, ..*tuple };
    tuples.iter().map(|tuple| (wire(tuple), *tuple)).collect()
}

fn flow(tuple: &Tuple) -> Flow {
    let Tuple { source, source_port, destination, port } = *tuple;
    let [source, destination] = [address(source), address(destination)];
    Flow {
        source: source.words,
        destination: destination.words,
        source_port,
        port,
        family: source.family as u8,
        reserved: [0; 3],
    }
}

fn tables(random: &mut Random, tuples: &[Tuple]) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for tuple in tuples {
        let Tuple { source, source_port, destination, port } = *tuple;
        tables.sessions.insert((address(source), source_port, address(destination), port));
    }
    for port in PORTS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if random.chance(75) {
                let rule = PortRule {
                    observe: u8::from(random.chance(10)),
                    drain: u8::from(random.chance(50)),
                    forwarded: u8::from(random.chance(25)),
                    trial: u8::from(random.chance(20)),
                    counters: 0,
                };
                tables.ports.insert(PortKey { protocol, port }, rule);
            }
        }
    }
    let ports: Vec<_> = tables.ports.keys().copied().collect();
    if ports.is_empty() {
        return tables;
    }
    let addresses = addresses();
    for _ in 0..random.below(40) {
        let key = HostKey::new(address(*random.pick(&addresses)), *random.pick(&ports));
        let entry = entry(random);
        tables.hosts.insert(key, entry);
    }
    for _ in 0..random.below(20) {
        let near: Address = address(*random.pick(&addresses));
        let length = prefix_length(random, near);
        let key = (*random.pick(&ports), masked(near, length), length);
        let entry = entry(random);
        tables.prefixes.insert(key, entry);
    }
    tables
}

fn prefix_length(random: &mut Random, address: Address) -> u8 {
    let longest = match address.family {
        jit_common::Family::V4 => 32,
        jit_common::Family::V6 => 128,
    };
    // Mostly near the end, where the addresses differ.
    let length = if random.chance(70) { longest - random.below(20) } else { random.below(longest) };
    u8::try_from(length).expect("at most 128")
}

/// Grants with and without a limit. Those with a limit are used up, because every frame runs
/// several times here and a place can be taken only once.
fn entry(random: &mut Random) -> GrantEntry {
    let mut entry = GrantEntry { unlimited: claim(random), limited: claim(random) };
    match random.below(4) {
        0 => entry.unlimited.deadline = 0,
        1 => {}
        _ => entry.limited.deadline = 0,
    }
    entry
}

fn claim(random: &mut Random) -> Claim {
    let now = boot_nanos();
    let slot = u32::try_from(random.below(SLOTS)).expect("slots are few");
    let deadlines = [now + HOUR, now + HOUR, u64::MAX, now, now.saturating_sub(HOUR), 1, 0];
    Claim { cut: u8::from(random.chance(30)), ..Claim::until(*random.pick(&deadlines), slot) }
}

fn addresses() -> Vec<IpAddr> {
    ADDRESSES.iter().map(|text| text.parse().expect("an address")).collect()
}

/// The number of frames and look-ups, if `JIT_TEST_FRAMES` sets it.
fn wanted() -> Option<usize> {
    number("JIT_TEST_FRAMES").map(|frames| usize::try_from(frames).expect("a number of frames"))
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

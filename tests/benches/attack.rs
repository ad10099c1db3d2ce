//! What users notice while a flood of SYNs to the closed port comes in at full rate: how long a
//! connection takes to open, for a granted client and for a service without a gate.
//!
//! One CPU sends the flood and receives it, and the clients are on another. On a machine with two,
//! half of it is left for the agent, the server and the clients. So the rows name the number of CPUs.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

use std::{
    collections::BTreeMap,
    env, fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jit_client::local;
use jit_proto::v1::{WatchRequest, event::What};
use jit_tests::{
    agent::{CLIENT, STRANGER, Site, TO_CLIENT, TO_STRANGER, address},
    figures::{Figure, GATE, size},
    filters::nftables,
    live::{Flood, Sources, Spell, Target, flood_cpu, receive_in_groups, stay_on},
};

const TABLE: &str = "attack";
/// The interfaces of the host: the client is at the first, the flood comes in at the other.
const INTERFACES: [&str; 2] = ["c0", "s0"];
/// The ports, with what the rows call their users.
const SERVICES: [(u16, &str); 2] = [(22, "granted client"), (80, "service without a gate")];
/// The states of the host, with what the rows call them.
const STATES: [Option<Sources>; 3] = [None, Some(Sources::One), Some(Sources::Million)];
/// Longest time for one connection. One that takes longer, or is refused, counts as this.
const LIMIT: Duration = Duration::from_millis(250);
/// Pause between two connections of one client.
const PAUSE: Duration = Duration::from_millis(1);
/// Longest wait until all events are counted.
const SETTLED: Duration = Duration::from_secs(10);
const NFTABLES: &str = "nftables ingress";
const NOTHING: &str = "no gate";
/// Clock ticks a second in /proc/PID/stat (`USER_HZ`).
const TICKS: f64 = 100.0;

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    assert!(flood_cpu() > 0, "the flood takes one CPU: this needs two");
    let mut gated = site();
    gated.start();
    gated.admit(&CLIENT, Duration::from_secs(3600));
    let filtered = site();
    nftables::gate_at_ingress(&filtered.host, &INTERFACES, CLIENT);
    let open = site();
    let events = Events::watch(&gated);
    let mut values = Values::default();
    for _ in 0..size(5, 1) {
        for (subject, site) in [(GATE, &gated), (NFTABLES, &filtered), (NOTHING, &open)] {
            round(subject, site, &mut values);
        }
    }
    values.report();
    events.compare(&gated);
}

/// A host with a service on each port, that takes frames as they come from the driver. It answers
/// the flood's sources by the stranger.
fn site() -> Site {
    let site = Site::new();
    site.serve(80);
    for key in ["all", "s0"] {
        site.host.sysctl(&format!("ipv4/conf/{key}/rp_filter"), "0");
    }
    let [stranger, _] = STRANGER;
    site.host.ip(&["route", "add", "172.16.0.0/12", "via", stranger, "dev", "s0"]);
    site.host.run(|| receive_in_groups("s0"));
    site
}

/// Measures one host in each state.
fn round(subject: &'static str, site: &Site, values: &mut Values) {
    let mut idle = BTreeMap::new();
    for state in STATES {
        let spell = state.map(|sources| spell(site, sources));
        let (start, sent) = (Instant::now(), spell.as_ref().map_or(0, Spell::sent));
        let before = (subject == GATE).then(|| ticks(site.pid()));
        let times = connect(site);
        for ((_, user), mut times) in SERVICES.into_iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let at = |share: usize| *times.get(times.len() * share / 100).unwrap();
            values.add(row(&format!("{user} connects, median"), state), "ms", subject, at(50));
            values.add(row(&format!("{user} connects, p99"), state), "ms", subject, at(99));
            let idle = idle.entry(user).or_insert(at(99));
            if state.is_some() {
                let row = row(&format!("{user} connects, p99 against idle"), state);
                values.add(row, "times", subject, at(99) / *idle);
            }
        }
        if let Some(before) = before {
            let used = (ticks(site.pid()) - before) / TICKS / start.elapsed().as_secs_f64();
            values.add(row("CPU time of the agent", state), "%", subject, used * 100.0);
        }
        if let Some(spell) = spell {
            let taken = u32::try_from(spell.stop() - sent).unwrap();
            let rate = f64::from(taken) / start.elapsed().as_secs_f64() / 1e6;
            values.add(row("frames taken in", state), "Mpps", subject, rate);
        }
    }
}

/// The name of a row.
fn row(what: &str, state: Option<Sources>) -> String {
    match state {
        None => format!("{what}, idle"),
        Some(sources) => {
            format!("{what}, flood from {} on 1 of {} CPUs", sources.name(), flood_cpu() + 1)
        }
    }
}

/// A flood from the stranger's side.
fn spell(site: &Site, sources: Sources) -> Spell {
    let address = address(TO_STRANGER, 0, 22).ip();
    let (mac, through) = (site.host.mac("s0"), site.stranger.index("p0"));
    let flood = Flood::new(Target { address, mac, through }, sources);
    Spell::start(flood, &site.stranger, size(500_000, 100_000))
}

/// Milliseconds that each connection took to open, for each of the services.
fn connect(site: &Site) -> [Vec<f64>; 2] {
    site.client.run(|| {
        stay_on(0);
        let end = Instant::now() + size(Duration::from_secs(2), Duration::from_millis(300));
        let mut times = [Vec::new(), Vec::new()];
        while Instant::now() < end {
            for ((port, _), times) in SERVICES.into_iter().zip(&mut times) {
                times.push(time(address(TO_CLIENT, 0, port)));
            }
            thread::sleep(PAUSE);
        }
        times
    })
}

fn time(to: SocketAddr) -> f64 {
    let start = Instant::now();
    let opened = TcpStream::connect_timeout(&to, LIMIT).is_ok();
    let time = if opened { start.elapsed() } else { LIMIT };
    time.as_secs_f64() * 1e3
}

/// CPU time that a process has used, clock ticks.
fn ticks(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    // utime and stime, fields 14 and 15 (proc(5)).
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum()
}

/// The values of each row and subject, in the order of the first ones.
#[derive(Default)]
struct Values(Vec<(String, &'static str, &'static str, Vec<f64>)>);

impl Values {
    fn add(&mut self, row: String, unit: &'static str, subject: &'static str, value: f64) {
        let known = self.0.iter_mut().find(|(known, _, of, _)| *known == row && *of == subject);
        match known {
            Some((.., values)) => values.push(value),
            None => self.0.push((row, unit, subject, vec![value])),
        }
    }

    fn report(mut self) {
        // The subjects of a row together.
        let order: Vec<String> = self.0.iter().map(|(row, ..)| row.clone()).collect();
        self.0.sort_by_key(|(row, ..)| order.iter().position(|first| first == row));
        for (row, unit, subject, values) in self.0 {
            let more_is_better = unit == "Mpps";
            Figure { table: TABLE, row: &row, subject, unit, more_is_better, values }.report();
        }
    }
}

/// Counts the events of dropped packets that an agent reports.
struct Events {
    reported: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    before: (u64, u64, u64),
    thread: JoinHandle<()>,
}

impl Events {
    /// From now on. Nothing may be dropped until this returns.
    fn watch(site: &Site) -> Self {
        let (reported, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&reported), Arc::clone(&stop));
        let (begun, begins) = std::sync::mpsc::channel();
        let socket = site.path("run/agent.sock");
        let thread = thread::spawn(move || follow(socket, &count, &stopped, &begun));
        begins.recv().expect("the stream begins");
        Self { reported, stop, before: counted(site), thread }
    }

    /// Each dropped packet is reported, or counted as suppressed or lost.
    fn compare(self, site: &Site) {
        let end = Instant::now() + SETTLED;
        let [denied, suppressed, lost, reported] = loop {
            let [before, now] = [self.before, counted(site)];
            let [denied, suppressed, lost] = [now.0 - before.0, now.1 - before.1, now.2 - before.2];
            let reported = self.reported.load(Ordering::Relaxed);
            if denied == suppressed + lost + reported || Instant::now() > end {
                break [denied, suppressed, lost, reported];
            }
            thread::sleep(Duration::from_millis(20));
        };
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the stream of events had no gap");
        println!(
            "{denied} frames denied: {reported} reported, {suppressed} suppressed, {lost} lost"
        );
        assert!(denied > 0 && denied == suppressed + lost + reported, "each is counted once");
        for (row, count) in [
            ("frames denied", denied),
            ("events reported", reported),
            ("events suppressed", suppressed),
            ("events lost", lost),
        ] {
            let values = vec![count.to_string().parse().unwrap()];
            let (table, subject, unit) = (TABLE, GATE, "in all");
            Figure { table, row, subject, unit, more_is_better: false, values }.report();
        }
    }
}

/// Packets denied, events suppressed and events lost, as the agent says.
fn counted(site: &Site) -> (u64, u64, u64) {
    let (status, _) = site.status();
    let count = |name| status.pointer(name).and_then(serde_json::Value::as_u64);
    (
        // Without such a packet there is no counter.
        count("/dropped/by_reason/denied").unwrap_or_default(),
        count("/dropped/events_suppressed").unwrap(),
        count("/dropped/events_lost").unwrap(),
    )
}

/// Reads the agent's stream of events until it is stopped.
fn follow(
    socket: PathBuf,
    reported: &AtomicU64,
    stop: &AtomicBool,
    begun: &std::sync::mpsc::Sender<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = local::connect(&socket).await.unwrap();
        let mut events = client.watch(WatchRequest::default()).await.unwrap().into_inner();
        begun.send(()).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let next = tokio::time::timeout(Duration::from_millis(50), events.message());
            let Ok(event) = next.await else { continue };
            match event.unwrap().expect("no end").what {
                Some(What::Packet(packet)) if packet.reason == "denied" => {
                    reported.fetch_add(1, Ordering::Relaxed);
                }
                Some(What::Gap(gap)) => panic!("{gap:?}"),
                _ => {}
            }
        }
    });
}

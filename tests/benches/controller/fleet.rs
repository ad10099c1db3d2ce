//! A fleet whose agents dial the hub of a controller: how soon all are connected, what each costs, from a
//! grant to the agent's answer, from the end of everything to the last agent, and how soon all are back
//! after the controller was killed. The agents are simulated: real connections, real verification, no
//! kernel. `JIT_BENCH_AGENTS` is another number of them.

mod agent;
mod arrivals;
pub(crate) mod board;
mod commits;
pub(crate) mod site;
pub(crate) mod swarm;

use std::{
    collections::BTreeSet,
    env, thread,
    time::{Duration, Instant},
};

use jit_client::controller::{
    call::Call,
    types::{RequestView, RevocationInput, RevocationView, RevokedWhat},
};
use jit_tests::{
    controller::{
        Stage,
        people::{Person, access, revocation},
    },
    figures::size,
    process::{cpu, memory, written},
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use self::{
    board::{Answer, Kind, now_us},
    commits::Commits,
    site::{HUB, Site},
};
use crate::{at_99, millis, report};

const SECONDS: (&str, bool) = ("s", false);
pub(crate) const MILLIS: (&str, bool) = ("ms", false);
/// Longest wait for all agents.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Between two requests of one host each.
const STEADY: Duration = Duration::from_millis(50);
/// Files of a process beside one for each agent.
const FILES: usize = 1000;

/// The number of agents that is asked for.
pub(crate) fn wanted() -> Option<usize> {
    let wanted = env::var("JIT_BENCH_AGENTS").ok();
    wanted.map(|count| count.parse().expect("JIT_BENCH_AGENTS is no number"))
}

/// Each number of agents.
pub(crate) fn measure() {
    let wanted = wanted().map(|count| vec![count]);
    for count in wanted.unwrap_or_else(|| size(vec![1_000, 10_000], vec![30])) {
        fleet(count);
    }
}

fn fleet(count: usize) {
    more_files(count);
    let stage = Stage::new(None);
    as_shipped(&stage);
    let ana = stage.person("ana", "ana@example.org", &["developers"], &["read", "request"]);
    thread::sleep(size(Duration::from_secs(3), Duration::from_millis(100)));
    let max = stage.person("max", "max@example.org", &["sre"], &["read", "request"]);
    let empty = memory(&[stage.pid()]).total;
    let mut site = Site::new(stage, count);
    connect(&site, count, empty);
    steady(&site, &ana, count);
    all(&site, &ana, count);
    everything(&site, &ana, &max, count);
    killed(&mut site, &ana, count);
}

/// New connections have the congestion control that kernels are shipped with, whatever this machine has. With BBR and
/// without the queue that it is made for, each of thousands of connections has a timer.
pub(crate) fn as_shipped(stage: &Stage) {
    stage.hub.sysctl("ipv4/tcp_congestion_control", "cubic");
}

/// All agents connect at once.
fn connect(site: &Site, count: usize, empty: u64) {
    let pid = [site.stage.pid()];
    let table = table(count);
    let (used, wrote, began) = (cpu(&pid), written(&pid), Instant::now());
    site.swarm.dial(&[HUB]);
    site.board.until("connected", PATIENCE, |board| board.count_up() == count);
    report(&table, "all are connected", SECONDS, vec![began.elapsed().as_secs_f64()]);
    while site.enforcing() < count {
        assert!(began.elapsed() < PATIENCE, "{} are enforcing", site.enforcing());
        thread::sleep(Duration::from_millis(50));
    }
    report(&table, "the inventory shows all", SECONDS, vec![began.elapsed().as_secs_f64()]);
    println!("attempts that failed: {:?}", site.board.failures());
    let each = |all: f64| vec![all / f64::from(u32::try_from(count).unwrap())];
    let spent = millis(cpu(&pid) - used);
    report(&table, "processor, each that connects", MILLIS, each(spent));
    let kibibytes = f64::from(u32::try_from((written(&pid) - wrote) / 1024).unwrap());
    report(&table, "written to disk, each that connects", ("KiB", false), each(kibibytes));
    thread::sleep(size(Duration::from_secs(10), Duration::from_millis(100)));
    let more = memory(&pid).total.saturating_sub(empty);
    let more = f64::from(u32::try_from(more).unwrap());
    report(&table, "memory of the controller, each agent", ("KiB", false), each(more));
    let (used, during) = (cpu(&pid), size(Duration::from_secs(30), Duration::from_secs(1)));
    thread::sleep(during);
    let share = 100.0 * (cpu(&pid) - used).as_secs_f64() / during.as_secs_f64();
    report(&table, "processor while nothing happens", ("% of one", false), vec![share]);
}

/// Requests for one host each, at a steady rate.
fn steady(site: &Site, ana: &Person, count: usize) {
    let wanted = size(400, 10);
    let (times, again) = pushes(site, ana, wanted, || {});
    assert_eq!(again, 0, "each is delivered once");
    report_pushes(&table(count), &format!("of {wanted}"), times);
}

/// Requests for one host each, at a steady rate; in the middle something happens. Returns the time
/// from each grant's commit to the agent's answer, and how many grants came to an agent once more.
pub(crate) fn pushes(
    site: &Site,
    ana: &Person,
    wanted: usize,
    middle: impl Fn() + Send + Sync,
) -> (Vec<Duration>, usize) {
    site.board.take();
    let commits = Commits::of(&site.runtime, &site.url());
    let here = ana.at(&site.stage.hub);
    here.calls(async |controller| {
        let mut ticks = tokio::time::interval(STEADY);
        for number in 0..wanted {
            ticks.tick().await;
            if number == wanted / 2 {
                middle();
            }
            let host = site.ids.get(number * 7919 % site.ids.len()).unwrap();
            let ask = access(&[host], &source(number), "1h");
            let _view: RequestView =
                controller.fetch(&Call::post(["requests"]).json(&ask)).await.unwrap();
        }
    });
    site.board.until("answered", PATIENCE, |board| board.count_of(Kind::Opened) >= wanted);
    let (commits, mut answers) = (commits.take(&site.runtime), site.board.take());
    let all = answers.len();
    answers.retain(|answer| answer.kind == Kind::Opened);
    assert_eq!(answers.len(), commits.len(), "each is delivered, and opens once");
    let times =
        answers.iter().map(|answer| since(*commits.get(&answer.grant).unwrap(), answer.at_us));
    (times.collect(), all - answers.len())
}

/// Reports times of [`pushes`].
pub(crate) fn report_pushes(table: &str, more: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("the slowest: {:?}", times.iter().rev().take(20).collect::<Vec<_>>());
    let median = times.get(times.len() / 2).copied().unwrap();
    let row = |what: &str| format!("committed grant to the agent's answer, {what} {more}");
    report(table, &row("median"), MILLIS, vec![millis(median)]);
    report(table, &row("p99"), MILLIS, vec![at_99(times)]);
}

/// Opens on all hosts, and closes on all.
fn all(site: &Site, ana: &Person, count: usize) {
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for round in 0..size(3, 1) {
        let view = ask_all(site, ana, &source(round));
        site.board.until("open", PATIENCE, |board| board.count() >= count);
        settle(ana, &view.id, |view| view.counts.open, count);
        let answers = site.board.take();
        let who: BTreeSet<_> = answers.iter().map(|answer| answer.agent).collect();
        let once = answers.iter().all(|answer| answer.kind == Kind::Opened);
        assert!(once && who.len() == count, "each gets it, and gets it once");
        let first = first_signed(site, &view.id);
        opened.push(since(first, answers.iter().map(|answer| answer.at_us).max().unwrap()));
        let began = now_us();
        let view: RequestView = ana.get(&revocation(&view.id));
        println!("the call that ends it: {:?}", since(began, now_us()));
        site.board.until("closed", PATIENCE, |board| board.count() >= count);
        let answers = site.board.take();
        assert!(answers.iter().all(|answer| answer.kind == Kind::Closed), "it was open");
        closed.push(since(began, answers.iter().map(|answer| answer.at_us).max().unwrap()));
        settle(ana, &view.id, |view| view.counts.closed, count);
    }
    let seconds = |times: Vec<Duration>| times.iter().map(Duration::as_secs_f64).collect();
    report(&table(count), "the first grant is signed, to open on all", SECONDS, seconds(opened));
    report(&table(count), "the call that ends it, to closed on all", SECONDS, seconds(closed));
}

/// One signed revocation ends everything on every host.
fn everything(site: &Site, ana: &Person, max: &Person, count: usize) {
    let order = RevocationInput {
        every_host: true,
        what: RevokedWhat { all: true, ..RevokedWhat::default() },
        reason: "stolen key".into(),
        ..RevocationInput::default()
    };
    let order = Call::post(["revocations"]).json(&order);
    let pid = [site.stage.pid()];
    let (mut closed, mut used) = (Vec::new(), Vec::new());
    for round in 0..size(3, 1) {
        let view = ask_all(site, ana, &source(100 + round));
        site.board.until("open", PATIENCE, |board| board.count() >= count);
        settle(ana, &view.id, |view| view.counts.open, count);
        site.board.take();
        let (before, began) = (cpu(&pid), now_us());
        let made: RevocationView = max.get(&order);
        println!("the call that ends everything: {:?}", since(began, now_us()));
        // Some hold more grants than this one.
        site.board.until("closed", PATIENCE, |board| board.agents_with(Kind::Closed) == count);
        used.push(millis(cpu(&pid) - before) / f64::from(u32::try_from(count).unwrap()));
        let mut answers = site.board.take();
        answers.retain(|answer| answer.kind == Kind::Closed);
        println!("after it, closed on parts of all: {}", parts(began, &answers));
        closed.push(since(began, answers.iter().map(|answer| answer.at_us).max().unwrap()));
        let heard = Call::get(["revocations", &made.id]);
        let began = Instant::now();
        while max.get::<RevocationView>(&heard).delivered < u64::try_from(count).unwrap() {
            assert!(began.elapsed() < PATIENCE, "{:#?}", max.get::<RevocationView>(&heard));
            thread::sleep(Duration::from_millis(500));
        }
    }
    let seconds = closed.iter().map(Duration::as_secs_f64).collect();
    let row = "the call that revokes everything, to closed on all";
    report(&table(count), row, SECONDS, seconds);
    let row = "processor of the controller, each host on which that closes";
    report(&table(count), row, MILLIS, used);
}

/// The controller is killed while it delivers to all, and started again.
fn killed(site: &mut Site, ana: &Person, count: usize) {
    let table = table(count);
    let view = ask_all(site, ana, &source(200));
    site.board.until("half way", PATIENCE, |board| board.count() >= count / 2);
    let began = Instant::now();
    site.stage.end_controller(Signal::KILL);
    site.stage.start_controller(&[]);
    println!("it answers calls again after {:?}", began.elapsed());
    site.board.until("back", PATIENCE, |board| board.count_up() == count);
    let back = began.elapsed().as_secs_f64();
    report(&table, "killed, to all connected again", SECONDS, vec![back]);
    println!("attempts that failed: {:?}", site.board.failures());
    site.board.until("open", PATIENCE, |board| board.count_of(Kind::Opened) == count);
    let open = began.elapsed().as_secs_f64();
    report(&table, "killed half way, to open on all", SECONDS, vec![open]);
    settle(ana, &view.id, |view| view.counts.open, count);
    let answers = site.board.take();
    let opened = answers.iter().filter(|answer| answer.kind == Kind::Opened);
    let opened: BTreeSet<_> = opened.map(|answer| answer.agent).collect();
    assert_eq!(opened.len(), count, "nothing is lost, and nothing is opened twice");
    let again = answers.iter().filter(|answer| answer.kind == Kind::Again).count();
    let again = f64::from(u32::try_from(again).unwrap());
    report(&table, "grants that came once more, and changed nothing", ("", false), vec![again]);
}

/// Asks for all hosts.
fn ask_all(site: &Site, ana: &Person, source: &str) -> RequestView {
    site.board.take();
    let hosts: Vec<_> = site.ids.iter().map(String::as_str).collect();
    ana.ask(&access(&hosts, source, "1h"))
}

/// Waits until the controller has written this number of answers.
fn settle(ana: &Person, id: &str, written: impl Fn(&RequestView) -> u64, count: usize) {
    let (began, count) = (Instant::now(), u64::try_from(count).unwrap());
    loop {
        let view = ana.request(id);
        if written(&view) == count {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", view.counts);
        thread::sleep(Duration::from_millis(500));
    }
}

/// When half of the answers had come, and more: the last ones may be few.
fn parts(from_us: u64, answers: &[Answer]) -> String {
    let mut times: Vec<_> = answers.iter().map(|answer| since(from_us, answer.at_us)).collect();
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 100).saturating_sub(1)).copied();
    let shown = [1, 10, 50, 90, 99, 100].map(|part| format!("{part} %: {:?}", at(part).unwrap()));
    shown.join(", ")
}

/// When the first grant of a request was signed, microseconds since the Unix epoch.
fn first_signed(site: &Site, request: &str) -> u64 {
    let grants = site.runtime.block_on(site.store.grants_of(request)).unwrap();
    let first = grants.iter().map(|grant| grant.signed_ms).min().unwrap();
    u64::try_from(first).unwrap() * 1000
}

fn since(from_us: u64, to_us: u64) -> Duration {
    Duration::from_micros(to_us.saturating_sub(from_us))
}

/// One of 250 addresses: no two requests are the same.
fn source(number: usize) -> String {
    format!("198.21.{}.{}", number / 250, 1 + number % 250)
}

fn table(count: usize) -> String {
    format!("fleet, {count} agents")
}

/// Each agent is a file here, and one of the controller, which inherits the limit.
pub(crate) fn more_files(count: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(count + FILES).unwrap();
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

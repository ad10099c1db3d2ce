//! `cargo xtask demo`: the gate at work, shown with the real programs and real connections between
//! network namespaces. It does not touch the machine's own network, and removes all that it made.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::{
    agent::Agent,
    net::{CLIENT, HOST, Network, STRANGER, Seen},
    report::Report,
    service::Service,
};
use crate::{build, setup, shell};

mod agent;
mod daemon;
mod interrupt;
mod net;
mod report;
mod service;
mod whole;

/// How long to wait before a connection counts as closed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Duration of the grant that ends while the agent is dead.
const SHORT: &str = "8s";
/// A connection may be seen this much later than the deadline: the clocks have steps, and one
/// attempt takes time.
const LATE: Duration = Duration::from_millis(250);

/// Options of the demo.
#[derive(Args)]
pub(crate) struct Options {
    /// With optimised programs, as they are installed: building them takes minutes longer
    #[arg(long)]
    release: bool,
    /// Use the programs of an earlier build
    #[arg(long)]
    built: bool,
    /// With a controller and two hosts: a request, an approval by somebody else, a revocation, the audits
    #[arg(long)]
    whole: bool,
    /// This is the run that sudo was asked for
    #[arg(long, hide = true)]
    through_sudo: bool,
}

/// Builds the programs, becomes root, and shows the demo.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { release, built, whole, through_sudo } = options;
    let programs = if built {
        build::built(release)?
    } else {
        setup::ensure(setup::Purpose::Demo)?;
        build::programs(release)?
    };
    // Only the demo of the whole needs what it is made of.
    let controller = match (whole, built) {
        (false, _) => None,
        (true, false) => Some(build::controller(release)?),
        (true, true) => Some(build::built_controller(release)?),
    };
    if !shell::is_root() {
        let mut again = Command::new(std::env::current_exe().context("where this program is")?);
        ensure!(!through_sudo, "sudo did not make this run root's");
        again.args(["demo", "--built", "--through-sudo"]).args(release.then_some("--release"));
        again.args(whole.then_some("--whole"));
        let reason = "the demo makes network namespaces and loads programs into the kernel";
        return Err(shell::as_root(reason, again)?.exec()).context("starting sudo");
    }
    interrupt::watch()?;
    net::sweep();
    let report = Report::new();
    let shown = match controller {
        Some(controller) => whole::show(&report, &programs, &controller),
        None => show(&report, &programs),
    };
    // `show` has removed everything that it made.
    if interrupt::arrived() {
        report.say("interrupted; cleaned up");
        std::process::exit(130);
    }
    shown?;
    report.say(&format!("all as it should be, in {:.0} s; cleaned up", report.seconds()));
    Ok(())
}

fn show(report: &Report, programs: &build::Programs) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("jit-demo-").tempdir()?;
    let network = report.step_with("three hosts and a controller in namespaces", || {
        let network = Network::new()?;
        Ok((format!("host {HOST}; client {CLIENT}; stranger {STRANGER}"), network))
    })?;
    let service = report.step_with("a service on port 22 of the host", || {
        let service = Service::start(&network.host, HOST, scratch.path())?;
        Ok((service.name.clone(), service))
    })?;
    let mut agent = report.step_with("throw-away keys, certificates, configuration", || {
        let agent = Agent::new(programs, &network, scratch.path())?;
        Ok(("made with jitctl, accepted by jit-agent check".to_owned(), agent))
    })?;
    let played = play(report, &network, &mut agent);
    if played.is_err() && !interrupt::arrived() {
        report.say(&format!("the agent's last words:\n{}", agent.daemon.log_end()));
    }
    drop(service);
    played
}

/// The steps of the demo.
fn play(report: &Report, network: &Network, agent: &mut Agent<'_>) -> Result<()> {
    let open = |who| Expected { who, open: true };
    let closed = |who| Expected { who, open: false };
    let look = |what: &str, client: Expected, stranger: Expected| {
        report.step(what, || observe(network, [client, stranger]))
    };

    look("no gate yet: open to both", open(Who::Client), open(Who::Stranger))?;
    report
        .step("agent started", || Ok(format!("in force after {} ms", ms(agent.daemon.start()?))))?;
    look("no grant: closed to both", closed(Who::Client), closed(Who::Stranger))?;

    let short = report.step_with(&format!("grant for the client, {SHORT}, pushed"), || {
        let (granted, after) =
            push(network, || agent.grant(&CLIENT.sources(), SHORT, "disk full"))?;
        Ok((format!("first connection {} ms after jitctl was started", ms(after)), granted))
    })?;
    look("open to the client only", open(Who::Client), closed(Who::Stranger))?;
    report.step("agent killed", || Ok(format!("SIGKILL to pid {}", agent.daemon.kill()?)))?;
    report.step("jit-agent status reads the pins", || agent.daemon.status_of_the_dead())?;
    look("agent dead: the same", open(Who::Client), closed(Who::Stranger))?;
    report.step("deadline passes, agent still dead", || deadline(network, short.not_after))?;
    look("closed to both again", closed(Who::Client), closed(Who::Stranger))?;

    report.step("agent restarted", || {
        Ok(format!("in force after {} ms", ms(agent.daemon.start()?)))
    })?;
    look("the grant that ended stays ended", closed(Who::Client), closed(Who::Stranger))?;
    let long = report.step_with("new grant for the client, 1h, pushed", || {
        let (granted, after) = push(network, || agent.grant(&CLIENT.sources(), "1h", "disk full"))?;
        Ok((format!("first connection {} ms after jitctl was started", ms(after)), granted))
    })?;
    look("open to the client only", open(Who::Client), closed(Who::Stranger))?;
    report.step("grant revoked", || {
        let started = Instant::now();
        agent.revoke(&long.id)?;
        Ok(format!("answered after {} ms", ms(started.elapsed())))
    })?;
    report.step("a grant for somebody else's network, 1h, pushed", || {
        agent.grant(&["203.0.113.128/28".to_owned()], "1h", "patching").map(|other| other.id)
    })?;
    look("closed to both", closed(Who::Client), closed(Who::Stranger))?;
    let screen = agent.daemon.status()?;
    report.say(&format!("\n$ jit-agent status\n{screen}"));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Client,
    Stranger,
}

#[derive(Clone, Copy)]
struct Expected {
    who: Who,
    open: bool,
}

/// Connects from both hosts over both families at once. Fails unless every result is as expected.
fn observe(network: &Network, expected: [Expected; 2]) -> Result<String> {
    interrupt::check()?;
    let attempts = expected.map(|expected| net::doors(service::PORT).map(|door| (expected, door)));
    let seen: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = attempts
            .into_iter()
            .flatten()
            .map(|(expected, door)| {
                let from = expected.who.namespace(network);
                (expected, door, scope.spawn(move || net::connect(from, door, PATIENCE)))
            })
            .collect();
        running
            .into_iter()
            .map(|(expected, door, attempt)| Some((expected, door, attempt.join().ok()?)))
            .collect::<Option<_>>()
    })
    .context("an attempt to connect panicked")?;

    let mut words: Vec<(Who, String, Vec<&str>)> = Vec::new();
    let mut surprises = Vec::new();
    for (Expected { who, open }, door, seen) in seen {
        let seen = seen?;
        let family = service::family(door);
        let (what, as_expected) = match &seen {
            Seen::Open(_) => ("open".to_owned(), open),
            Seen::Silent => ("no answer".to_owned(), !open),
            Seen::Other(error) => (error.clone(), false),
        };
        if !as_expected {
            surprises.push(format!("{} {family}: {seen:?}", who.name()));
        }
        match words.iter_mut().find(|(of, word, _)| *of == who && *word == what) {
            Some((_, _, families)) => families.push(family),
            None => words.push((who, what, vec![family])),
        }
    }
    ensure!(surprises.is_empty(), "not as expected: {}", surprises.join(", "));
    let words = words
        .iter()
        .map(|(who, what, families)| format!("{} {what} ({})", who.name(), families.join(", ")));
    Ok(words.collect::<Vec<_>>().join("; "))
}

/// Pushes a grant while the client tries to connect again and again. Returns the time from just
/// before the push to the first connection.
fn push<T>(network: &Network, push: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    const KNOCK: Duration = Duration::from_millis(20);
    const GIVE_UP: Duration = Duration::from_secs(10);
    interrupt::check()?;
    let [door, _] = net::doors(service::PORT);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            network.client.inside(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Seen::Open(_) = net::connect_here(door, KNOCK) {
                        return Some(Instant::now());
                    }
                }
                None
            })
        });
        let started = Instant::now();
        let pushed = push();
        while pushed.is_ok() && !knocking.is_finished() && started.elapsed() < GIVE_UP {
            thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
        let opened = knocking.join().ok().context("knocking panicked")??;
        let pushed = pushed?;
        let opened = opened.context("the push was accepted, but no connection opened")?;
        Ok((pushed, opened.saturating_duration_since(started)))
    })
}

/// Tries to connect until after the deadline. The agent is dead: only the kernel ends the grant.
fn deadline(network: &Network, end: SystemTime) -> Result<String> {
    const BEFORE: Duration = Duration::from_secs(1);
    const AFTER: Duration = Duration::from_secs(2);
    const KNOCK: Duration = Duration::from_millis(40);
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    ensure!(left > BEFORE, "only {left:?} are left of the grant: this machine is too slow for it");
    let end = Instant::now() + left;
    interrupt::sleep_until(end - BEFORE)?;

    let knock = |door: SocketAddr| {
        let mut last = None;
        while Instant::now() < end + AFTER {
            let began = Instant::now();
            if let Seen::Open(_) = net::connect_here(door, KNOCK) {
                last = Some(began);
            }
            thread::sleep(KNOCK.saturating_sub(began.elapsed()));
        }
        last
    };
    let last: Vec<_> = thread::scope(|scope| {
        let knocking = net::doors(service::PORT)
            .map(|door| (door, scope.spawn(move || network.client.inside(|| knock(door)))));
        knocking
            .into_iter()
            .map(|(door, knocking)| Some((door, knocking.join().ok()?)))
            .collect::<Option<_>>()
    })
    .context("knocking panicked")?;

    let mut words = Vec::new();
    for (door, last) in last {
        let family = service::family(door);
        let last = last?.with_context(|| format!("{family} was closed before the deadline"))?;
        if let Some(early) = end.checked_duration_since(last) {
            ensure!(early < LATE, "{family} closed {} ms before the deadline", ms(early));
            words.push(format!("{family} last in {} ms before it", ms(early)));
        } else {
            let late = last.saturating_duration_since(end);
            ensure!(late < LATE, "{family} was open {} ms after the deadline", ms(late));
            words.push(format!("{family} last in {} ms after it", ms(late)));
        }
    }
    Ok(words.join(", "))
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Stranger => "stranger",
        }
    }

    fn namespace(self, network: &Network) -> &net::Namespace {
        match self {
            Self::Client => &network.client,
            Self::Stranger => &network.stranger,
        }
    }
}

fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}

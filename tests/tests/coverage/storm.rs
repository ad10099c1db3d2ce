//! Creates and destroys 200 interfaces while a stranger tries to connect by each of them.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::Site;
use rustix::process::Signal;

use crate::path::{Gate, LONG, Path};

/// Number of interfaces that exist at the same time.
const ALIVE: u32 = 8;
/// Time of an attempt. Over veth the answer comes in well under a millisecond, or never. The storms
/// without a gate and with a grant show that this is long enough.
const ATTEMPT: Duration = Duration::from_millis(50);
/// An interface is deleted after this number of attempts, or of attempts that opened, if they
/// happen in time.
const ENOUGH: u32 = 3;
const SETTLED: Duration = Duration::from_secs(1);
/// Longest time of a storm: every interface uses all of its time, and making them takes as long
/// again.
const LONGEST: Duration = Duration::from_secs(480);
/// The interface that is made after the storms: `w1`.
const AFTER: Path =
    Path { from: ["198.18.0.6", "2001:db8:18:1::2"], to: ["198.18.0.5", "2001:db8:18:1::1"] };

/// Attempts to connect, and how many opened.
struct Knocked {
    tried: u32,
    opened: u32,
    /// Interfaces by which at least one attempt was made.
    interfaces: u32,
}

#[test]
fn two_hundred_interfaces_that_come_and_go_open_nothing() {
    let mut site = Site::new();
    let ways = storm(&site, 20, Until::Opened);
    assert!(ways.opened >= 40, "without an agent each is open: {} opened", ways.opened);
    site.start();
    let closed = storm(&site, 200, Until::Tried);
    println!("{} attempts by {} interfaces", closed.tried, closed.interfaces);
    assert_eq!(closed.opened, 0, "of {} attempts\n{}", closed.tried, site.log());
    assert!(closed.tried >= 500, "too few attempts: {}", closed.tried);
    assert!(closed.interfaces >= 150, "{} interfaces were tried", closed.interfaces);
    // The agent still runs, keeps nothing of deleted interfaces, and opens to granted sources.
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("enforcing"), 0), "{status:#}");
    assert_eq!(status["interfaces"].as_array().unwrap().len(), 2, "{status:#}");
    assert!(!site.log().contains("is lost"), "a deleted interface is not lost\n{}", site.log());
    site.admit(&["198.18.0.0/24", "2001:db8:18::/48"], LONG);
    let granted = storm(&site, 20, Until::Opened);
    assert!(granted.opened >= 40, "with a grant each is open: {} opened", granted.opened);
    site.revoke_all();
    assert_eq!(storm(&site, 20, Until::Tried).opened, 0, "closed without a grant");
    site.end(Signal::TERM);
}

/// The packet gate alone is in force a moment after an interface appears. The test prints how many
/// attempts open in that moment. An interface that stays is closed.
#[test]
fn without_the_guard_interfaces_that_come_and_stay_are_closed() {
    let mut site = Site::new();
    Gate::PACKETS.configure(&site);
    site.start();
    let knocked = storm(&site, 50, Until::Tried);
    println!("without the guard: {} of {} attempts opened", knocked.opened, knocked.tried);
    create(&site, 1);
    crate::path::wait_until_gated(&site, "w1");
    AFTER.assert_gated(&site, "after the storm");
}

/// What an interface waits for before it is deleted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Until {
    /// [`ENOUGH`] attempts.
    #[default]
    Tried,
    /// [`ENOUGH`] attempts that opened.
    Opened,
}

/// Creates and destroys this number of interfaces, a few at a time, while the stranger tries to
/// connect.
fn storm(site: &Site, interfaces: u32, until: Until) -> Knocked {
    let began = Instant::now();
    let knocking = Knocking { until, ..Knocking::default() };
    thread::scope(|scope| {
        for family in [0, 1, 0, 1] {
            let knocking = &knocking;
            scope.spawn(move || site.stranger.run(|| knocking.knock(family)));
        }
        // Also if this ends by a panic.
        let _end = End(&knocking.done);
        for number in 1..=interfaces + ALIVE {
            assert!(began.elapsed() < LONGEST, "{number} interfaces took too long");
            if number <= interfaces {
                // The stranger tries it from the first moment, also before it is complete.
                knocking.alive.lock().unwrap().insert(number, 0);
                create(site, number);
            }
            if let Some(old) = number.checked_sub(ALIVE).filter(|old| *old > 0) {
                let enough = Instant::now() + SETTLED;
                while knocking.alive.lock().unwrap()[&old] < ENOUGH && Instant::now() < enough {
                    thread::sleep(Duration::from_millis(1));
                }
                let attempts = knocking.alive.lock().unwrap().remove(&old);
                knocking.interfaces.fetch_add(attempts.unwrap().min(1), Ordering::Relaxed);
                site.host.ip(&["link", "delete", &format!("w{old}")]);
            }
        }
    });
    println!("{interfaces} interfaces in {:.1?}", began.elapsed());
    let Knocking { tried, opened, interfaces, .. } = knocking;
    Knocked {
        tried: tried.into_inner(),
        opened: opened.into_inner(),
        interfaces: interfaces.into_inner(),
    }
}

/// State shared by the stranger's threads and the thread that makes interfaces.
#[derive(Default)]
struct Knocking {
    until: Until,
    /// Attempts that count, by existing interface.
    alive: Mutex<BTreeMap<u32, u32>>,
    tried: AtomicU32,
    opened: AtomicU32,
    interfaces: AtomicU32,
    done: AtomicBool,
}

impl Knocking {
    /// Tries to connect: every other time by the newest interface, else by each in turn.
    fn knock(&self, family: usize) {
        for turn in 0.. {
            if self.done.load(Ordering::Relaxed) {
                return;
            }
            let number = {
                let alive = self.alive.lock().unwrap();
                let turn = if turn % 2 == 0 { 0 } else { turn % alive.len().max(1) };
                alive.keys().rev().nth(turn).copied()
            };
            let Some(number) = number else {
                thread::yield_now();
                continue;
            };
            let opened = match TcpStream::connect_timeout(&addresses(number)[family], ATTEMPT) {
                Ok(_) => true,
                Err(error) if is_answered(&error) => false,
                // The interface does not exist yet, or no longer.
                Err(_) => {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
            };
            self.tried.fetch_add(1, Ordering::Relaxed);
            self.opened.fetch_add(u32::from(opened), Ordering::Relaxed);
            let counts = opened || self.until == Until::Tried;
            if counts && let Some(attempts) = self.alive.lock().unwrap().get_mut(&number) {
                *attempts += 1;
            }
        }
    }
}

/// Whether a SYN went out: it was refused, or nobody answered in time.
fn is_answered(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut)
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The host's addresses on interface `number`. Each 64 interfaces share one /24, and all share one
/// /48.
fn addresses(number: u32) -> [SocketAddr; 2] {
    [address_v4(number, 1), address_v6(number, 1)].map(|text| {
        let address: IpAddr = text.parse().unwrap();
        SocketAddr::new(address, 22)
    })
}

fn address_v4(number: u32, end: u32) -> String {
    format!("198.18.0.{}", number % 64 * 4 + end)
}

fn address_v6(number: u32, end: u32) -> String {
    format!("2001:db8:18:{number:x}::{end}")
}

/// Makes interface `w<number>` between host and stranger.
fn create(site: &Site, number: u32) {
    let name = format!("w{number}");
    site.host.ip_batch(&format!(
        "link add {name} type veth peer name {name} netns {}\n\
         addr add {}/30 dev {name}\n\
         addr add {}/64 dev {name} nodad\n\
         link set {name} up\n",
        site.stranger.name(),
        address_v4(number, 1),
        address_v6(number, 1),
    ));
    site.stranger.ip_batch(&format!(
        "addr add {}/30 dev {name}\n\
         addr add {}/64 dev {name} nodad\n\
         link set {name} up\n",
        address_v4(number, 2),
        address_v6(number, 2),
    ));
}

//! Keeps a connection to one of the hubs: finds the address, makes the TCP connection, and hands it to
//! the front before a byte of it is read. The front makes a controller's connection of it.
//!
//! One hub after the other is tried, the first by chance, with pauses that grow by chance, so that ten
//! thousand agents do not come back at once. What is in use ends only after the next is connected. Beside it
//! a spare connection to another hub waits (`spare`), which takes the place of one that is lost.

mod spare;

use std::{
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use jit_proto::WallTime;
use rustix::{
    net::sockopt,
    rand::{GetRandomFlags, getrandom},
};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use self::spare::Spare;
use crate::{
    app::proxy::{Between, between},
    config::{Hub, Uplink},
    control::{
        link::{Handed, Through, hand::Giver},
        server::{Fate, OLDEST, Phase, Uplinks},
    },
    gate::faults::Faults,
    rules::problem::ProblemKind,
    system::sys,
};

/// The longest time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(15);
/// The first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After a connection that held for this time the pauses begin anew.
const HELD: Duration = Duration::from_secs(60);
/// The shortest time from one connection to the next that the hub asks for.
const RENEWED: Duration = Duration::from_secs(1);
/// Another connection takes the place of one before this age: while the one in use works, there is
/// an hour to make it in.
const AGE: Duration = OLDEST.saturating_sub(Duration::from_secs(3600));
/// The share of that by which it may be younger, by chance: all agents of a hub that was restarted
/// do not come at once.
const YOUNGER: f64 = 1.0 / 24.0;
/// Why a connection ended of which nothing is known.
const UNKNOWN: &str = "nobody knows of it any more";
/// Without a connection for this time it is a problem.
const PATIENCE: Duration = Duration::from_secs(60);
/// The kernel asks a silent peer after this time, and as often; what has no answer for the last time
/// breaks the connection. So a cut cable is seen within half a minute.
const ASK_AFTER: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_secs(5);
const NO_ANSWER_MS: u32 = 20_000;

/// What uplinks are made by. Another one: a new connection takes the place of the one in use.
pub(super) struct Dialling {
    pub(super) uplink: Uplink,
    /// For the proxy.
    pub(super) credentials: String,
    pub(super) giver: Giver,
    /// Says what becomes of an uplink.
    pub(super) order: Box<dyn Fn(u64, Fate) + Send + Sync>,
}

impl fmt::Debug for Dialling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialling").field("uplink", &self.uplink).finish_non_exhaustive()
    }
}

/// What the dialler goes by; `None`: no uplink can be made.
pub(super) type Wanted = watch::Receiver<Option<Arc<Dialling>>>;

/// A connection to a hub.
struct Held {
    hub: Hub,
    number: u64,
    phases: watch::Receiver<Phase>,
    by: Arc<Dialling>,
    since: Instant,
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.by.order)(self.number, Fate::Ends);
    }
}

impl Held {
    fn is_over(&self) -> bool {
        matches!(*self.phases.borrow(), Phase::Ended(_))
    }

    /// Waits for its end; returns why.
    async fn ended(&mut self) -> String {
        match self.phases.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
            Ok(Phase::Ended(why)) => why.clone(),
            _ => UNKNOWN.into(),
        }
    }

    /// Waits until it is in this phase. The error says why it never is.
    async fn reaches(&mut self, wanted: impl Fn(&Phase) -> bool) -> Result<(), String> {
        let done = |phase: &Phase| wanted(phase) || matches!(phase, Phase::Ended(_));
        match self.phases.wait_for(done).await.as_deref() {
            Ok(Phase::Ended(why)) => Err(format!("{}: {why}", self.hub)),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{}: {UNKNOWN}", self.hub)),
        }
    }
}

/// The keeper of the uplink.
pub(super) struct Dialler {
    uplinks: Uplinks,
    faults: Faults,
    pauses: Pauses,
    /// The hub that is tried next, counted from the first of the configuration.
    next: usize,
    /// The age at which a connection is replaced at the latest.
    age: Duration,
    spare: Spare,
    /// Since when there has been no connection, and what the last attempt met.
    without: Option<Instant>,
    last: String,
}

impl Dialler {
    pub(super) fn new(uplinks: Uplinks, faults: Faults) -> Self {
        Self::replacing_after(AGE, uplinks, faults)
    }

    fn replacing_after(age: Duration, uplinks: Uplinks, faults: Faults) -> Self {
        let next = usize::try_from(random()).unwrap_or_default();
        let (pauses, last) = (Pauses::default(), "the first attempt goes on".to_owned());
        let spare = Spare::new(uplinks.clone());
        Self { uplinks, faults, pauses, next, age, spare, without: None, last }
    }

    /// Keeps a connection for as long as the agent runs.
    pub(super) async fn run(mut self, mut wanted: Wanted) {
        let mut held: Option<Held> = None;
        loop {
            let now = wanted.borrow_and_update().clone();
            let Some(dialling) = now else {
                held = None;
                self.spare.leave();
                self.without = None;
                self.faults.set(ProblemKind::Uplink, None);
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // Whoever is no hub any more is left at once.
            held = held.filter(|held| dialling.uplink.hubs.contains(&held.hub));
            let spare = held.is_none().then(|| self.spare.take(&dialling)).flatten();
            let made = match spare {
                Some(spare) => spare::use_it(spare).await,
                None => self.connect(&dialling).await,
            };
            let lost = match made {
                Ok(new) => {
                    // The one before ends only now.
                    let new = held.insert(new);
                    self.without = None;
                    self.faults.set(ProblemKind::Uplink, None);
                    tracing::info!(hub = %new.hub, "connected to a hub");
                    let (since, until) = (new.since, new.since + younger(self.age, random()));
                    let hub = new.hub.clone();
                    tokio::select! {
                        why = new.ended() => why,
                        never = self.spare.keep(&dialling, &hub, self.age) => match never {},
                        () = renewal(&self.uplinks, since, until) => {
                            self.next = self.next.wrapping_add(1);
                            if since.elapsed() >= HELD {
                                self.pauses = Pauses::default();
                            }
                            continue;
                        }
                        changed = wanted.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    }
                }
                Err(why) => why,
            };
            if let Some(over) = held.take_if(|held| held.is_over())
                && over.since.elapsed() >= HELD
            {
                self.pauses = Pauses::default();
            }
            if held.is_none() && self.spare.is_there() {
                tracing::warn!("uplink: {lost}; the spare connection is used");
                self.uplinks.failed(&lost, sys::now().wall, sys::now().wall);
                continue;
            }
            self.pause(lost, held.is_some(), &mut wanted).await;
        }
    }

    /// Waits for the next attempt; at once if something else is wanted. `held`: another connection is
    /// in use meanwhile.
    async fn pause(&mut self, why: String, held: bool, wanted: &mut Wanted) {
        let pause = self.pauses.next(random());
        self.next = self.next.wrapping_add(1);
        let wall = sys::now().wall;
        let millis = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        self.uplinks.failed(&why, wall, WallTime(wall.0.saturating_add(millis)));
        if self.last != why {
            tracing::warn!("uplink: {why}");
        }
        self.last = why;
        let until = Instant::now() + pause;
        let alarm = *self.without.get_or_insert_with(Instant::now) + PATIENCE;
        if !held && alarm <= until {
            tokio::select! {
                () = sleep_until(alarm) => self.report(),
                _ = wanted.changed() => return,
            }
        }
        tokio::select! {
            () = sleep_until(until) => {}
            // Who asks for something else gets it at once.
            _ = wanted.changed() => self.pauses = Pauses::default(),
        }
    }

    fn report(&self) {
        let text = format!(
            "no connection to a hub for more than {} s: no controller reaches this host by its uplink; \
             last: {}",
            PATIENCE.as_secs(),
            self.last
        );
        if self.faults.set(ProblemKind::Uplink, Some(text.clone())) {
            tracing::error!("{text}");
        }
    }

    async fn connect(&self, dialling: &Arc<Dialling>) -> Result<Held, String> {
        let hubs = &dialling.uplink.hubs;
        let hub = self.next.checked_rem(hubs.len()).and_then(|at| hubs.get(at));
        let hub = hub.ok_or("[uplink] names no hub")?;
        self.uplinks.tries(hub);
        connect(&self.uplinks, dialling, hub, false).await
    }
}

/// Makes a connection to this hub, in bounded time. A `spare` one waits then; else the hub may call.
async fn connect(
    uplinks: &Uplinks,
    dialling: &Arc<Dialling>,
    hub: &Hub,
    spare: bool,
) -> Result<Held, String> {
    let made = timeout(ATTEMPT, attempt(uplinks, dialling, hub, spare)).await;
    made.unwrap_or_else(|_| Err("no connection within 15 s".to_owned()))
}

async fn attempt(
    uplinks: &Uplinks,
    dialling: &Arc<Dialling>,
    hub: &Hub,
    spare: bool,
) -> Result<Held, String> {
    let about = |why: String| format!("{hub}: {why}");
    let proxied = &dialling.uplink.proxy;
    let by = between(proxied, hub, &dialling.credentials, |name| std::env::var(name).ok());
    let by = by.map_err(about)?;
    let first = by.as_ref().map_or(hub, |by| &by.proxy);
    let proxy = by.as_ref().map(|by| by.proxy.to_string()).unwrap_or_default();
    let socket = tcp(first).await.map_err(|why| match &*proxy {
        "" => about(why),
        proxy => about(format!("the proxy {proxy}: {why}")),
    })?;
    let name = hub.name().ok_or("a hub without a name")?;
    let (number, phases) = uplinks.begin(hub, name, proxy, spare);
    let through =
        by.map(|Between { credentials, .. }| Through { target: hub.to_string(), credentials });
    let handed = Handed { uplink: number, host: hub.host.clone(), through, spare };
    // Dropped, also when the time for it is up: the front ends it.
    let mut begun =
        Held { hub: hub.clone(), number, phases, by: Arc::clone(dialling), since: Instant::now() };
    let given = dialling.giver.give(&handed, socket.as_fd());
    given.map_err(|error| {
        let why = format!("it cannot be handed over: {error}");
        uplinks.ended(number, why.clone());
        about(why)
    })?;
    drop(socket);
    begun.reaches(|phase| *phase != Phase::Begun).await?;
    Ok(begun)
}

/// Waits until another connection has to take the place of the one in use: the hub asks for it, or it
/// is old. However often the hub asks, one follows the other only after a while.
async fn renewal(uplinks: &Uplinks, since: Instant, until: Instant) {
    tokio::select! {
        () = uplinks.renewal() => sleep_until(since + RENEWED).await,
        () = sleep_until(until) => {}
    }
}

/// Less than this age, by chance.
fn younger(age: Duration, random: u32) -> Duration {
    age.mul_f64(1.0 - YOUNGER * f64::from(random) / f64::from(u32::MAX))
}

/// A TCP connection on which nothing was read. Each address of the name gets its share of the time.
async fn tcp(to: &Hub) -> Result<OwnedFd, String> {
    let Hub { host, port } = to;
    let addresses = lookup_host((host.as_str(), *port)).await;
    let addresses: Vec<_> =
        addresses.map_err(|error| format!("cannot find the address of {host}: {error}"))?.collect();
    let share = ATTEMPT / 2 / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = format!("{host} has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                return watched(stream).map_err(|error| format!("cannot use {address}: {error}"));
            }
            Ok(Err(error)) => last = format!("cannot connect to {address}: {error}"),
            Err(_) => last = format!("{address} does not answer"),
        }
    }
    Err(last)
}

/// The kernel watches over it from now on.
fn watched(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, ASK_EVERY)?;
    sockopt::set_tcp_user_timeout(&stream, NO_ANSWER_MS)?;
    Ok(stream.into())
}

/// Pauses between attempts: by chance up to a bound that doubles ("full jitter").
#[derive(Debug, Default)]
struct Pauses {
    tries: u32,
}

impl Pauses {
    fn next(&mut self, random: u32) -> Duration {
        let bound = FIRST_PAUSE.saturating_mul(1 << self.tries.min(16)).min(LONGEST_PAUSE);
        self.tries = self.tries.saturating_add(1);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

fn random() -> u32 {
    let mut bytes = [0; size_of::<u32>()];
    // Without random bytes the pause is the longest one.
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(_) => u32::from_ne_bytes(bytes),
        Err(_) => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        config::Proxy,
        control::link::hand::{Taker, pair},
    };

    #[test]
    fn an_age_is_spread_over_an_hour_and_leaves_an_hour_to_the_front() {
        let hours = |age: Duration| age.as_secs_f64() / 3600.0;
        assert!((hours(younger(AGE, 0)) - 23.0).abs() < 0.01, "{AGE:?}");
        assert!((hours(younger(AGE, u32::MAX)) - 22.0).abs() < 0.1, "{AGE:?}");
        assert!(OLDEST.saturating_sub(AGE) >= 10 * LONGEST_PAUSE, "there are many attempts");
    }

    /// Two hubs, of which one takes no connection any more: the one in use stays until the next is made.
    #[tokio::test]
    async fn a_connection_that_is_old_ends_only_after_the_next_is_made() {
        const CONNECTIONS: u64 = 4;
        let hub = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let hubs = [hub.local_addr().unwrap(), dead].map(|at| Hub::parse(&at.to_string()).unwrap());
        let file = std::path::PathBuf::new;
        let (certificate, key, ca) = (file(), file(), file());
        let (hubs, proxy, proxy_credentials) = (hubs.to_vec(), Proxy::None, None);
        let uplink = Uplink { hubs, certificate, key, ca, proxy, proxy_credentials };
        let (giver, far) = pair().unwrap();
        let (unlinked, ends) = channel();
        let order = Box::new(move |number, _ends| unlinked.send(number).unwrap());
        let dialling = Dialling { uplink, credentials: String::new(), giver, order };
        let (wants, wanted) = watch::channel(Some(Arc::new(dialling)));
        let uplinks = Uplinks::default();
        uplinks.set_wanted(true);
        let age = Duration::from_millis(50);
        let dialler = Dialler::replacing_after(age, uplinks.clone(), Faults::default());
        let runs = tokio::spawn(dialler.run(wanted));
        let taker = Taker::new(far).unwrap();
        // As the front does.
        for number in 1..=CONNECTIONS {
            let (handed, _socket) = taker.next().await.unwrap();
            assert_eq!(handed.uplink, number);
            // All but the newest have ended.
            let ended: Vec<u64> = ends.try_iter().collect();
            assert!(ended.iter().all(|end| end + 1 < number), "{ended:?} before {number} is made");
            uplinks.opened(number, sys::now().wall);
            assert!(uplinks.shown(sys::now().wall).unwrap().connected, "{number}");
        }
        // The last one is in use, and the one before ends.
        let until = Instant::now() + ATTEMPT;
        let mut ended = Vec::new();
        while !ended.contains(&(CONNECTIONS - 1)) {
            assert!(Instant::now() < until, "{ended:?}");
            tokio::time::sleep(age / 10).await;
            ended.extend(ends.try_iter());
        }
        let shown = uplinks.shown(sys::now().wall).unwrap();
        assert!(shown.connected && shown.failures > 0, "the dead hub was tried: {shown:?}");
        drop(wants);
        runs.abort();
    }

    #[test]
    fn pauses_grow_to_half_a_minute_and_are_spread_over_all_of_it() {
        let mut pauses = Pauses::default();
        let longest: Vec<_> = (0..9).map(|_| pauses.next(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(pauses.next(0), Duration::ZERO);
        assert_eq!(pauses.next(u32::MAX / 2).as_secs(), 14);
        // A hub that always closes at once is not asked more often than this.
        let mut pauses = Pauses::default();
        let mean: Duration = (0..1_000).map(|_| pauses.next(u32::MAX / 2)).sum();
        assert!(mean > Duration::from_secs(14_000), "{mean:?}");
        for _ in 0..200 {
            assert!(pauses.next(u32::MAX) <= LONGEST_PAUSE);
        }
    }
}

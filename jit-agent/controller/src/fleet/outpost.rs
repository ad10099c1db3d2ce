//! A hub without a database: agents connect to it, it takes what is signed for their hosts from the bus,
//! delivers it, and reports what they answer. It verifies nothing and believes nothing: each host does.

mod calls;
mod health;
mod host;
mod letter;
mod pace;
mod reporter;
mod turns;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jit_client::{Budget, CallError};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use self::turns::Turns;
use super::{
    DRAIN,
    backoff::{Backoff, random},
    connection::{Connection, Turn},
    settings::ANSWERS,
    uplink::{self, Hub, HubReport, HubSettings, Names, Own, Reception},
};
use crate::{
    bus::{
        self, Beat, Bus, BusError, Call, Change, Sign,
        subject::{HostTag, To},
    },
    clock::now_ms,
};

/// Letters that wait for one host. More: its mailbox is read again.
const LETTERS: usize = 256;
/// Connections of one host that wait.
const ARRIVALS: usize = 2;
/// Questions who has a host, and calls, that wait for it.
const QUESTIONS: usize = 4;
/// Calls of the side with the store that are under way at the same time.
const CALLS: usize = 256;
/// How often the hub says that it is there.
const BEAT: Duration = Duration::from_secs(5);
/// The longest wait for an agent's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between attempts to connect to the bus for the first time.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) };
/// The last reports get this time when the hub ends.
const LAST: Duration = Duration::from_secs(5);

/// A hub. Its tasks end with it.
pub struct Outpost {
    post: Arc<Post>,
    hub: Arc<Hub>,
    parts: JoinSet<&'static str>,
}

/// What all parts share.
struct Post {
    name: String,
    /// Room for large answers of hosts.
    room: Arc<Budget>,
    hosts: Mutex<HashMap<HostTag, Entry>>,
    /// The bus, once it is there and listened to.
    bus: watch::Sender<Option<Bus>>,
    reports: reporter::Reports,
    /// Places of calls.
    calls: Arc<Semaphore>,
    /// Turns of hosts that begin.
    turns: Turns,
    /// When hosts that have come are reported.
    pace: pace::Pace,
    draining: watch::Sender<bool>,
}

/// A host that is connected.
struct Entry {
    host: String,
    arrivals: mpsc::Sender<Connection>,
    letters: mpsc::Sender<Bytes>,
    asked: mpsc::Sender<String>,
    comparisons: mpsc::Sender<Bytes>,
    calls: mpsc::Sender<Call>,
    /// Letters may have been missed.
    missed: Arc<Notify>,
    /// Somebody looks for the host at another hub.
    sought: Arc<Notify>,
}

/// The other ends of an [`Entry`].
struct Inbox {
    arrivals: mpsc::Receiver<Connection>,
    letters: mpsc::Receiver<Bytes>,
    asked: mpsc::Receiver<String>,
    comparisons: mpsc::Receiver<Bytes>,
    calls: mpsc::Receiver<Call>,
    missed: Arc<Notify>,
    sought: Arc<Notify>,
}

impl Outpost {
    /// Listens for agents from now on, and connects to the bus as soon as it lets this hub in.
    ///
    /// # Errors
    /// A file cannot be used, or the address is taken.
    pub fn start(hub: &HubSettings, bus: &bus::Settings) -> Result<Self, CallError> {
        Bus::check_files(bus).map_err(|error| CallError::Files(error.to_string()))?;
        let name = hub.name.clone();
        let health = hub.health.map(health::bind).transpose()?;
        let (hub, listener) = Hub::bind(hub)?;
        let (reports, waiting) = reporter::Reports::open();
        let post = Arc::new(Post::new(name, reports));
        let mut parts = JoinSet::new();
        let (of_bus, settings) = (Arc::clone(&post), bus.clone());
        parts.spawn(async move { listen(&of_bus, &settings).await });
        let bus = post.bus.subscribe();
        parts.spawn(async move {
            reporter::run(bus, waiting).await;
            "reporting"
        });
        if let Some(listener) = health {
            let (of_health, hub) = (Arc::clone(&post), Arc::clone(&hub));
            parts.spawn(async move {
                health::serve(of_health, hub, listener).await;
                "the health of the hub"
            });
        }
        let of_beats = Arc::clone(&post);
        parts.spawn(async move { beat(&of_beats).await });
        let (of_hub, listening) = (Arc::clone(&post), Arc::clone(&hub));
        parts.spawn(async move {
            uplink::run(of_hub, listening, listener).await;
            "the hub"
        });
        Ok(Self { post, hub, parts })
    }

    /// Where agents connect.
    pub fn address(&self) -> SocketAddr {
        self.hub.address
    }

    /// What it has to say of connections.
    pub fn report(&self) -> HubReport {
        self.hub.uplinks.report()
    }

    /// Reads certificate, key and CA again.
    ///
    /// # Errors
    /// A file cannot be used: the old ones stay.
    pub fn reload(&self) -> Result<(), CallError> {
        self.hub.reload()
    }

    /// Waits until a part has ended by a defect, and names it.
    pub async fn ended(&mut self) -> &'static str {
        self.parts.join_next().await.and_then(Result::ok).unwrap_or("a part of the hub")
    }

    /// Leaves all hosts, because the process ends: they are asked to go to another hub, and what they have
    /// answered is reported, both in a bounded time.
    pub async fn drain(self) {
        self.post.draining.send_replace(true);
        if timeout(DRAIN, self.hub.uplinks.empty()).await.is_err() {
            tracing::warn!("some agents did not leave before the end; they look for another hub");
        }
        let reported = async {
            while !self.post.hosts().is_empty() || self.post.reports.waiting() > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(LAST, reported).await.is_err() {
            tracing::warn!(
                "some answers were not reported; they are asked for again at another hub"
            );
        }
        self.post.beat(true).await;
    }
}

impl Post {
    /// Without hosts, and without the bus.
    fn new(name: String, reports: reporter::Reports) -> Self {
        Self {
            name,
            room: Arc::new(Budget::new(ANSWERS)),
            hosts: Mutex::default(),
            bus: watch::channel(None).0,
            reports,
            calls: Arc::new(Semaphore::new(CALLS)),
            turns: Turns::default(),
            pace: pace::Pace::default(),
            draining: watch::channel(false).0,
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<HostTag, Entry>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a letter to whom it is for.
    fn hand_out(&self, to: &To, letter: &Bytes) {
        let hosts = self.hosts();
        match to {
            To::All => {
                hosts.values().for_each(|entry| entry.give(letter));
                self.turns.missed_by_all();
            }
            To::Host(tag) => {
                if let Some(entry) = hosts.get(tag) {
                    entry.give(letter);
                } else {
                    self.turns.missed(tag, letter);
                }
            }
        }
    }

    /// Asks a host whether it is here.
    fn ask(&self, host: &HostTag, question: String) {
        if let Some(entry) = self.hosts().get(host) {
            // One that is asked so often is not there, or is asked in vain.
            let _asked = entry.asked.try_send(question);
        }
    }

    /// Has a host compare itself with a checkpoint. One that is slow hears of the next one.
    fn compare(&self, host: &HostTag, request: Bytes) {
        if let Some(entry) = self.hosts().get(host) {
            let _given = entry.comparisons.try_send(request);
        }
    }

    /// Says that this hub is there, or that it ends.
    async fn beat(&self, ends: bool) {
        let Some(bus) = self.bus.borrow().clone() else { return };
        let hosts = u64::try_from(self.hosts().len()).unwrap_or(u64::MAX);
        let beat = Beat { hub: self.name.clone(), at_ms: now_ms(), hosts, ends };
        let said = async {
            bus.sign(&Sign::Hub(beat)).await?;
            bus.flush().await
        };
        match timeout(BEAT, said).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the hub does not say that it is there"),
            Err(_) => tracing::info!("the hub does not say that it is there: the bus is away"),
        }
    }

    /// Whether a server of the bus is connected.
    fn is_at_the_bus(&self) -> bool {
        self.bus.borrow().as_ref().is_some_and(Bus::is_connected)
    }

    /// Has all mailboxes read again.
    fn missed(&self) {
        self.hosts().values().for_each(|entry| entry.missed.notify_one());
    }
}

impl Entry {
    /// Of a host that has come, with the other ends.
    fn of(host: &str) -> (Self, Inbox) {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let (letters, given) = mpsc::channel(LETTERS);
        let (asked, questions) = mpsc::channel(QUESTIONS);
        let (comparisons, compared) = mpsc::channel(QUESTIONS);
        let (calls, called) = mpsc::channel(QUESTIONS);
        let (missed, sought) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let inbox = Inbox {
            arrivals: arrived,
            letters: given,
            asked: questions,
            comparisons: compared,
            calls: called,
            missed: Arc::clone(&missed),
            sought: Arc::clone(&sought),
        };
        let host = host.to_owned();
        (Self { host, arrivals, letters, asked, comparisons, calls, missed, sought }, inbox)
    }

    fn give(&self, letter: &Bytes) {
        if self.letters.try_send(letter.clone()).is_err() {
            self.missed.notify_one();
        }
    }
}

impl Reception for Post {
    async fn opens(&self) {}

    fn host(&self, names: &Names, own: &Own) -> Result<String, String> {
        uplink::host_by_uri(names, own)
    }

    async fn begins(&self, host: &str) -> Option<Turn> {
        self.turns.begin(&HostTag::of(host)).await
    }

    fn arrive(self: &Arc<Self>, host: &str, uplink: Connection) -> Result<(), String> {
        let tag = HostTag::of(host);
        let mut hosts = self.hosts();
        if let Some(entry) = hosts.get(&tag) {
            if entry.host != host {
                return Err(format!(
                    "another host, {:?}, has the same place on the bus",
                    entry.host
                ));
            }
            let gone = |_| "several connections of this host wait already".to_owned();
            return entry.arrivals.try_send(uplink).map_err(gone);
        }
        let (entry, inbox) = Entry::of(host);
        // Under the lock: what is published from now on goes to the entry.
        self.turns.letters(&tag).iter().for_each(|letter| entry.give(letter));
        hosts.insert(tag, entry);
        drop(hosts);
        tokio::spawn(host::run(Arc::clone(self), host.to_owned(), inbox, uplink));
        Ok(())
    }

    fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    fn timeout(&self) -> Duration {
        ANSWER
    }

    fn room(&self) -> &Arc<Budget> {
        &self.room
    }
}

/// Listens to the bus until the task is ended. What is connected stays connected while the bus is away.
async fn listen(post: &Arc<Post>, settings: &bus::Settings) -> &'static str {
    let mut failed = 0_u32;
    let (bus, mut changes) = loop {
        let tried = async {
            let bus = Bus::of_hub(settings.clone()).await?;
            let changes = bus.changes().await?;
            Ok::<_, BusError>((bus, changes))
        };
        match tried.await {
            Ok(both) => break both,
            Err(error) => {
                failed = failed.saturating_add(1);
                tracing::warn!("the bus is tried again: {error}");
                sleep(AGAIN.pause(failed, random())).await;
            }
        }
    };
    tracing::info!(hub = post.name, "the hub listens to the bus");
    post.bus.send_replace(Some(bus));
    while let Some(change) = changes.next().await {
        match change {
            Change::Published { place, envelope } => post.hand_out(&place.to, &envelope),
            Change::Asked { host, question } => post.ask(&host, question),
            Change::Compare { host, request } => post.compare(&host, request),
            Change::Call { host, call } => post.called(&host, &call),
            Change::Gap => post.missed(),
        }
    }
    "the connection to the bus"
}

/// Says that this hub is there until the task is ended.
async fn beat(post: &Post) -> &'static str {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        post.beat(false).await;
    }
}

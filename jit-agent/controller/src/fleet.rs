//! The hosts: a connection to each, what they answer, and what they must hear.
//!
//! A *follower* a host keeps the connection, asks for the status and reads events. The *deliverer*
//! takes what is due from the outbox. The *closer* brings signed revocations to all hosts at once.
//! The *scribe* writes what followers saw. The *roller* brings policies to hosts in waves. The
//! *watchman* has followers for the hosts that there are. Nothing here decides who may get in, and
//! nothing here signs.
//!
//! `uplink` is the hub: it lets agents in that dial, and gives each connection to its host's
//! follower. With a bus (`[bus]`, docs/bus.md) hubs are processes of their own: `outpost` is such a
//! hub, which has no database, and `far` is the controller's side of it. `reach` is how one host is
//! called, whichever way. `checkpoints` makes what says what each host must have, and `compare`
//! asks a host whether it has it.

mod backoff;
mod checkpoints;
mod closer;
mod compare;
mod connection;
mod deliverer;
mod dial;
mod error;
#[cfg(feature = "nats")]
pub mod far;
mod follower;
mod held;
pub mod import;
mod link;
mod observe;
mod outbox;
#[cfg(feature = "nats")]
pub mod outpost;
mod reach;
mod renewal;
mod roller;
pub mod rollouts;
mod roster;
mod rush;
mod scribe;
mod settings;
mod signed;
mod step;
mod uplink;
mod watchman;

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

pub use checkpoints::SignCheckpoint;
pub use error::FleetError;
use jit_client::{Budget, CallError};
use jit_proto::{PortRange, v1};
pub use settings::{RawSettings, Settings};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
pub use uplink::{HubReport, HubSettings, RawHubSettings, Refused};

use self::{
    closer::Arrived,
    connection::{Connection, Turn},
    dial::Dialer,
    outbox::Outbox,
    reach::Reach,
    roster::Roster,
    rush::Rush,
    scribe::Note,
    signed::SignedGrants,
    uplink::{Hub, Reception},
};
#[cfg(feature = "nats")]
use crate::{bus, signer::Signer};
use crate::{checkpoint::mailboxes::Snapshot, clock::now_ms, desk::Desk, store::ClosingAnswer};

/// Why a policy was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// For good.
    #[error("{0}")]
    Refused(String),
    /// Nobody signs now; it is tried again.
    #[error("{0}")]
    Unavailable(String),
}

/// Between looks whether the hosts were read, after a start.
const READ: Duration = Duration::from_millis(20);
/// Hosts that are read for at once.
const READS: usize = 4;
/// Calls that are under way get this time when the controller ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Signs the encoded `jit.v1.Policy` for one host. The fleet has no key.
pub type SignPolicy = Arc<
    dyn Fn(Vec<u8>) -> Pin<Box<dyn Future<Output = Result<Vec<v1::Signature>, SignError>> + Send>>
        + Send
        + Sync,
>;

/// What all parts share.
struct Shared {
    outbox: Outbox,
    dialer: Arc<Dialer>,
    /// Room for large answers of hosts.
    room: Arc<Budget>,
    roster: Arc<Roster>,
    settings: Settings,
    signed: SignedGrants,
    /// Who reads for one host: thousands come at once, and leave connections to the database for others.
    reads: Arc<Semaphore>,
    notes: mpsc::Sender<Note>,
    /// Where answers to revocations go.
    closed: mpsc::Sender<ClosingAnswer>,
    /// Hosts that must hear revocations of before.
    arrived: Arrived,
    /// Very many hosts hear that something ends.
    rush: Rush,
    /// A host can be delivered to from now on, or cannot any more.
    wake: Notify,
    /// Hosts may have changed.
    reread: Notify,
    /// The process ends: hosts are left.
    draining: watch::Sender<bool>,
    /// The last checkpoint; `None`: there is none.
    checkpoints: watch::Sender<Option<Arc<Snapshot>>>,
}

/// What rollouts need.
struct Rolls {
    outbox: Outbox,
    sign: SignPolicy,
    reach: Reach,
    /// A rollout may have changed.
    roll: Notify,
}

/// The hosts. Clones are of the same; the tasks end with the last one.
#[derive(Clone)]
pub struct Fleet {
    rolls: Arc<Rolls>,
    /// `None`: hosts are at hubs of the bus.
    shared: Option<Arc<Shared>>,
    hub: Option<Arc<Hub>>,
    /// Closed when the tasks have ended.
    alive: watch::Receiver<()>,
    _tasks: Arc<Tasks>,
}

struct Tasks(AbortHandle);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reception for Shared {
    async fn opens(&self) {
        // Before, every agent would be none of the inventory.
        while !self.roster.is_read() {
            sleep(READ).await;
        }
    }

    fn host(&self, names: &uplink::Names, own: &uplink::Own) -> Result<String, String> {
        uplink::host(names, own, &self.roster)
    }

    async fn begins(&self, _host: &str) -> Option<Turn> {
        None
    }

    fn arrive(self: &Arc<Self>, host: &str, uplink: Connection) -> Result<(), String> {
        let found = self.roster.find(host);
        let (_, link) =
            found.ok_or_else(|| format!("the host {host:?} was removed from the inventory"))?;
        link.arrive(uplink);
        Ok(())
    }

    fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    fn room(&self) -> &Arc<Budget> {
        &self.room
    }
}

impl Fleet {
    /// Follows all hosts of the store from now on, delivers to them, and goes on with rollouts.
    ///
    /// # Errors
    /// A certificate or key that cannot be used.
    pub fn start(desk: Desk, settings: &Settings, sign: SignPolicy) -> Result<Self, CallError> {
        let hub = settings.hub.as_ref().map(Hub::bind).transpose()?;
        let (notes, noted) = scribe::open();
        let (outbox, answers) = Outbox::open(desk.clone());
        let room = Arc::new(Budget::new(settings.answers));
        let (closed, closed_answers) = closer::open();
        let shared = Arc::new(Shared {
            outbox: outbox.clone(),
            dialer: Arc::new(Dialer::new(settings, &room)?),
            room,
            roster: Arc::default(),
            settings: settings.clone(),
            signed: SignedGrants::default(),
            reads: Arc::new(Semaphore::new(READS)),
            notes,
            closed,
            arrived: Arrived::default(),
            rush: Rush::default(),
            wake: Notify::new(),
            reread: Notify::new(),
            draining: watch::channel(false).0,
            checkpoints: watch::channel(None).0,
        });
        let (roster, dialer) = (Arc::clone(&shared.roster), Arc::clone(&shared.dialer));
        let reach = Reach::Own { roster, dialer };
        let rolls = Arc::new(Rolls { outbox, sign, reach, roll: Notify::new() });
        let mut parts = JoinSet::new();
        parts.spawn(outbox::run(desk.clone(), answers));
        parts.spawn(closer::write(desk, closed_answers));
        parts.spawn(closer::run(Arc::clone(&shared)));
        parts.spawn(scribe::run(shared.outbox.clone(), noted));
        parts.spawn(deliverer::run(Arc::clone(&shared)));
        parts.spawn(roller::run(Arc::clone(&rolls)));
        let hub = hub.map(|(hub, listener)| {
            parts.spawn(uplink::run(Arc::clone(&shared), Arc::clone(&hub), listener));
            hub
        });
        let watched = watchman::run(Arc::clone(&shared), parts);
        let (alive, tasks) = lives(watched);
        Ok(Self { rolls, shared: Some(shared), hub, alive, _tasks: tasks })
    }

    /// The same for hosts at hubs of the bus: publishes for them, keeps what is reported of them,
    /// and goes on with rollouts. While the bus is away, everything waits in the store. With
    /// `freshness` hosts hear of checkpoints.
    #[cfg(feature = "nats")]
    pub fn over_bus(
        desk: Desk,
        signer: Signer,
        settings: bus::Settings,
        freshness: Option<far::Freshness>,
        sign: SignPolicy,
    ) -> Self {
        let (outbox, answers) = Outbox::open(desk.clone());
        let reach = Reach::Bus(Arc::new(far::calls::Calls::new(desk.store().clone())));
        let rolls = Arc::new(Rolls { outbox, sign, reach, roll: Notify::new() });
        let running = far::run(desk, signer, settings, freshness, Arc::clone(&rolls), answers);
        let (alive, tasks) = lives(running);
        Self { rolls, shared: None, hub: None, alive, _tasks: tasks }
    }

    /// Where agents dial in; `None`: nowhere.
    pub fn hub_address(&self) -> Option<SocketAddr> {
        self.hub.as_ref().map(|hub| hub.address)
    }

    /// What the hub has to say of connections; `None`: there is none.
    pub fn hub_report(&self) -> Option<HubReport> {
        self.hub.as_ref().map(|hub| hub.uplinks.report())
    }

    /// Reads the hub's certificate, key and CA again.
    ///
    /// # Errors
    /// A file cannot be used: the old ones stay.
    pub fn reload(&self) -> Result<(), CallError> {
        self.hub.as_ref().map_or(Ok(()), |hub| hub.reload())
    }

    /// Makes a checkpoint in each period, and brings it to all hosts. It does not end by itself.
    pub async fn make_checkpoints(&self, every: Duration, sign: SignCheckpoint) {
        match &self.shared {
            Some(shared) => {
                let (made, rush) = (&shared.checkpoints, Some(&shared.rush));
                checkpoints::run(&shared.outbox, made, every, rush, sign).await;
            }
            // Over the bus it makes them itself.
            None => std::future::pending().await,
        }
    }

    /// Leaves all hosts, because the process ends: takes no new connection, begins no new call, and waits
    /// a bounded time for those under way. Agents that have dialled go to another hub, or wait for this
    /// one.
    pub async fn drain(&self) {
        if let Some(shared) = &self.shared {
            shared.draining.send_replace(true);
        }
        if let Some(hub) = &self.hub
            && timeout(DRAIN, hub.uplinks.empty()).await.is_err()
        {
            tracing::warn!("some calls to hosts were not answered before the end");
        }
    }

    /// Waits until a part has ended by a defect: hosts get nothing any more then, and only a new start
    /// helps.
    pub async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// Looks at once at hosts and outbox: something was committed.
    pub fn wake(&self) {
        if let Some(shared) = &self.shared {
            shared.reread.notify_one();
            shared.wake.notify_one();
        }
    }

    /// Addresses whose packets to a port the host has dropped within this time, and when each was seen
    /// last, milliseconds since the Unix epoch; the newest first. At most 100.
    ///
    /// # Errors
    /// There is no such host, or it does not answer.
    pub async fn recent_denials(
        &self,
        host: &str,
        port: PortRange,
        within_ms: i64,
    ) -> Result<Vec<(IpAddr, i64)>, FleetError> {
        let mut agent = self.rolls.reach.caller(host).await?;
        let request = v1::DenialsRequest {
            since_ms: now_ms().saturating_sub(within_ms),
            port: Some(port.into()),
            top: 100,
            ..v1::DenialsRequest::default()
        };
        let denials = agent.denials(request).await?.denials;
        let mut found: Vec<_> = denials
            .iter()
            .filter_map(|denial| Some((address(&denial.source)?, denial.last_ms)))
            .collect();
        found.sort_by_key(|(_, last_ms)| std::cmp::Reverse(*last_ms));
        Ok(found)
    }
}

/// Runs the tasks of a fleet. Returns what is closed when they have ended.
fn lives(running: impl Future<Output = ()> + Send + 'static) -> (watch::Receiver<()>, Arc<Tasks>) {
    let (living, alive) = watch::channel(());
    let tasks = tokio::spawn(async move {
        running.await;
        drop(living);
    });
    (alive, Arc::new(Tasks(tasks.abort_handle())))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

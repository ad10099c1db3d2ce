//! The running controller: its parts, from the database up, and their end.
//!
//! By default one process has all roles. A fleet splits them: processes then share a Postgres, and what one
//! commits the others see within a second. *api* answers calls. *hub* talks to hosts. *signer* owns the
//! signer's process, and keeps what must be kept once: time, the audit's heads, its receivers, webhooks.

#[cfg(feature = "nats")]
mod hub;

use std::{collections::BTreeSet, fmt, path::Path, str::FromStr, sync::Arc, time::Duration};

use jit_client::{CallError, exit::Exit};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

#[cfg(feature = "nats")]
pub use self::hub::serve_hub;
#[cfg(feature = "nats")]
use crate::fleet::far;
use crate::{
    api::{self, ApiState, Server, WebhookKey},
    audit::{self, Code, Record, forward::Forward, head::HeadKey, sealing::Sealing},
    clock::now_ms,
    config::Config,
    defender,
    desk::{self, Desk},
    enrol::{certify, opened::Opened},
    fleet::{Fleet, SignCheckpoint, SignError, SignPolicy},
    messages::{Courier, Retry, bot::Bot, mail::Post},
    people::{People, oidc::Oidc},
    portal,
    signer::{KeyInfo, Signer, SignerError},
    store::{Store, StoreError},
};

/// How often time is looked at, and the database, for what other processes have committed.
const TICK: Duration = Duration::from_secs(1);

/// With the bus, no process has both the database and hosts.
const WITH_BUS: &str = "with [bus], hubs are processes of their own, which have no database (docs/bus.md): \
                        start this one with --roles api,signer";

/// A part of the controller that can be a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Answers calls.
    Api,
    /// Talks to hosts.
    Hub,
    /// Signs, and keeps what must be kept once.
    Signer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Api, Self::Hub, Self::Signer];

    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Hub => "hub",
            Self::Signer => "signer",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| format!("{text:?} is no role; there are api, hub and signer"))
    }
}

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A part ended that never should.
    #[error("{0} has ended; the controller ends too, to be started anew")]
    Ended(&'static str),
    /// A file of the configuration cannot be used.
    #[error("{0}")]
    File(String),
    /// A certificate or key for hosts cannot be used.
    #[error(transparent)]
    Hosts(#[from] CallError),
    /// The signer does not start.
    #[error("the signer does not start: {0}")]
    Signer(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AppError {
    /// The exit code that belongs to it.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Ended(_) | Self::Store(_) => Exit::Unavailable,
            Self::File(_) | Self::Hosts(_) | Self::Signer(_) => Exit::Configuration,
        }
    }
}

/// Parts that end with the process.
struct Parts {
    tasks: JoinSet<&'static str>,
    sealing: Option<Sealing>,
    forwards: Vec<Forward>,
    _webhooks: Option<api::Deliverer>,
    _couriers: Vec<Courier>,
    server: Option<api::server::Control>,
    fleet: Option<Fleet>,
}

/// Runs the controller until it is asked to end.
///
/// # Errors
/// It cannot start, or a part of it has ended.
pub async fn serve(config: Config, roles: &BTreeSet<Role>) -> Result<(), AppError> {
    if config.bus.is_some() && roles.contains(&Role::Hub) {
        return Err(AppError::File(WITH_BUS.to_owned()));
    }
    let mut signals = Signals::new()?;
    let store = Store::open(&config.store.url().map_err(AppError::File)?).await?;
    let signer = match roles.contains(&Role::Signer) {
        true => Some(Signer::start(&config.signer).await.map_err(|error| match error {
            SignerError::Refused { word, detail } => AppError::Signer(format!("{word}: {detail}")),
            SignerError::Unavailable(why) => AppError::Signer(why),
        })?),
        false => None,
    };
    let desk = Desk::new(store, signer.clone(), desk::Settings::default());
    let mut parts = start(&config, roles, &desk, signer.as_ref())?;
    started(&desk, roles, signer.as_ref()).await?;
    tracing::info!(roles = %Words(roles), "the controller is up");
    let ended = loop {
        tokio::select! {
            _ = signals.interrupt.recv() => break None,
            _ = signals.terminate.recv() => break None,
            _ = signals.hangup.recv() => reload(&config, &parts),
            part = parts.tasks.join_next(), if !parts.tasks.is_empty() => {
                break Some(part.and_then(Result::ok).unwrap_or("a part"));
            }
        }
    };
    if let Some(server) = &parts.server {
        server.end();
    }
    if let Some(fleet) = &parts.fleet {
        fleet.drain().await;
    }
    parts.tasks.shutdown().await;
    if let Some(sealing) = parts.sealing {
        sealing.end().await;
    }
    for forward in parts.forwards {
        forward.end().await;
    }
    desk.store().close().await;
    ended.map_or(Ok(()), |part| Err(AppError::Ended(part)))
}

/// Starts the parts of these roles.
fn start(
    config: &Config,
    roles: &BTreeSet<Role>,
    desk: &Desk,
    signer: Option<&Signer>,
) -> Result<Parts, AppError> {
    let mut tasks = JoinSet::new();
    if roles.contains(&Role::Hub) {
        more_files();
    }
    let fleet = match roles.contains(&Role::Hub) {
        true => Some(Fleet::start(
            desk.clone(),
            &config.agents,
            sign_policy(signer.cloned(), &config.file),
        )?),
        false => over_bus(config, desk, signer)?,
    };
    if let Some(fleet) = &fleet {
        tasks.spawn(fleet_ended(fleet.clone()));
        tasks.spawn(defender::provision(desk.clone(), fleet.clone()));
    }
    if let (Some(fleet), Some(signer), Some(freshness)) = (&fleet, signer, &config.signer.freshness)
        && roles.contains(&Role::Hub)
    {
        let (fleet, every) = (fleet.clone(), freshness.every);
        let sign = sign_checkpoint(signer.clone());
        tasks.spawn(async move {
            fleet.make_checkpoints(every, sign).await;
            "the maker of checkpoints"
        });
    }
    let webhook_key = WebhookKey::open(&config.api.webhook_key).map_err(AppError::File)?;
    let (mut sealing, mut forwards, mut webhooks) = (None, Vec::new(), None);
    let mut couriers = Vec::new();
    if let Some(signer) = signer {
        let text = std::fs::read_to_string(&config.audit.key);
        let unusable = |why: String| {
            AppError::File(format!("audit.key, {}: {why}", config.audit.key.display()))
        };
        let key = HeadKey::from_pem(&text.map_err(|why| unusable(why.to_string()))?);
        sealing = Some(Sealing::start(desk.store().clone(), key.map_err(unusable)?));
        for syslog in &config.syslog {
            let receiver = syslog.receiver().map_err(|error| AppError::File(error.to_string()))?;
            forwards.push(Forward::start(desk.store().clone(), receiver));
        }
        let started = api::Deliverer::start(desk.clone(), &config.api, webhook_key.clone());
        webhooks = Some(started.map_err(AppError::File)?);
        couriers = start_couriers(config, desk)?;
        tasks.spawn(sign(desk.clone(), signer.clone()));
        if config.signer.authority.is_some() {
            tasks.spawn(issue(desk.clone(), signer.clone()));
        }
        tasks.spawn(tick(desk.clone()));
    }
    let mut server = None;
    if roles.contains(&Role::Api) {
        let bound = Server::bind(&config.api).map_err(AppError::File)?;
        server = Some(bound.control());
        let oidc = config.oidc.clone().map(Oidc::new).transpose().map_err(AppError::File)?;
        let opened = Opened::open(&config.enrolment).map_err(AppError::File)?;
        let (people, api) = (People::new(oidc), config.api.clone());
        let state = ApiState::with_people(
            desk.clone(),
            api,
            Some(webhook_key),
            fleet.clone(),
            people,
            opened,
        );
        let router = api::router(state.clone()).merge(defender::router(&state));
        let router = router.merge(portal::router(state));
        tasks.spawn(async move {
            if let Err(error) = bound.run(router).await {
                tracing::error!(%error, "the API no longer listens");
            }
            "the API"
        });
    }
    Ok(Parts { tasks, sealing, forwards, _webhooks: webhooks, _couriers: couriers, server, fleet })
}

/// The hosts at hubs of the bus, if there is one: who has the signer talks to them.
#[cfg(feature = "nats")]
fn over_bus(
    config: &Config,
    desk: &Desk,
    signer: Option<&Signer>,
) -> Result<Option<Fleet>, AppError> {
    let Some((bus, signer)) = config.bus.clone().zip(signer) else { return Ok(None) };
    far::check_files(&bus).map_err(|error| AppError::File(error.to_string()))?;
    let freshness = config.signer.freshness.as_ref().map(|freshness| {
        let sign = sign_checkpoint(signer.clone());
        far::Freshness { every: freshness.every, sign }
    });
    let policies = sign_policy(Some(signer.clone()), &config.file);
    Ok(Some(Fleet::over_bus(desk.clone(), signer.clone(), bus, freshness, policies)))
}

/// Without the feature there is no bus; the configuration is refused before.
#[cfg(not(feature = "nats"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn over_bus(
    _config: &Config,
    _desk: &Desk,
    _signer: Option<&Signer>,
) -> Result<Option<Fleet>, AppError> {
    Ok(None)
}

/// Starts who brings messages to chats and people.
fn start_couriers(config: &Config, desk: &Desk) -> Result<Vec<Courier>, AppError> {
    let site = || config.api.public_url.clone();
    let mut couriers = Vec::new();
    for slack in &config.messages.slack {
        let bot = Bot::new(slack).map_err(AppError::File)?;
        couriers.push(Courier::start(desk.clone(), bot, site(), Retry::default()));
    }
    if let Some(mail) = &config.messages.mail {
        let post = Post::new(mail).map_err(AppError::File)?;
        couriers.push(Courier::start(desk.clone(), post, site(), Retry::default()));
    }
    Ok(couriers)
}

/// Records that it runs, with which keys.
async fn started(
    desk: &Desk,
    roles: &BTreeSet<Role>,
    signer: Option<&Signer>,
) -> Result<(), StoreError> {
    let now = now_ms();
    let mut tx = desk.store().begin().await?;
    let version = env!("CARGO_PKG_VERSION");
    let fields = json!({ "version": version, "roles": Words(roles).to_string() });
    audit::append(&mut tx, now, &Record::new(Code::Started, "", desk::CONTROLLER, fields)).await?;
    if let Some(signer) = signer {
        let ids = |keys: Vec<KeyInfo>| keys.into_iter().map(|key| key.key_id).collect::<Vec<_>>();
        let fields = json!({
            "keys": ids(signer.keys()), "revocation_keys": ids(signer.revocation_keys()),
        });
        let record = Record::new(Code::SignerStarted, "", desk::CONTROLLER, fields);
        audit::append(&mut tx, now, &record).await?;
    }
    tx.commit().await
}

/// Signs what is approved, as soon as it is.
async fn sign(desk: Desk, _signer: Signer) -> &'static str {
    let mut changes = desk.changes();
    let mut last = String::new();
    loop {
        changes.borrow_and_update();
        let signed = async {
            // What closes first. It waits for itself alone.
            let closings = desk.sign_closings(now_ms()).await;
            let grants = desk.sign_waiting(now_ms()).await;
            closings.and(grants.map(|_| ()))
        };
        match signed.await {
            Ok(()) => last.clear(),
            Err(error) => {
                let error = error.to_string();
                if error != last {
                    tracing::warn!("requests wait for their signatures: {error}");
                }
                last = error;
                tokio::time::sleep(TICK).await;
            }
        }
        // What another process has approved is seen by the clock.
        let _by_the_clock = timeout(TICK, changes.changed()).await;
    }
}

/// Issues certificates of hosts that are wanted, as soon as they are.
async fn issue(desk: Desk, signer: Signer) -> &'static str {
    let mut changes = desk.changes();
    let mut last = String::new();
    loop {
        changes.borrow_and_update();
        match certify::issue_wanted(desk.store(), &signer, now_ms()).await {
            Ok(0) => last.clear(),
            Ok(_) => {
                desk.changed();
                continue;
            }
            Err(error) => {
                let error = error.to_string();
                if error != last {
                    tracing::warn!("hosts wait for their certificates: {error}");
                }
                last = error;
                tokio::time::sleep(TICK).await;
            }
        }
        // What another process wants is seen by the clock.
        let _by_the_clock = timeout(TICK, changes.changed()).await;
    }
}

/// Lets time do what it does to requests.
async fn tick(desk: Desk) -> &'static str {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = desk.tick(now_ms()).await {
            tracing::warn!("requests cannot be ended or expired now: {error}");
        }
    }
}

/// The fleet follows the desk's changes by itself. It ends only by a defect.
async fn fleet_ended(fleet: Fleet) -> &'static str {
    fleet.ended().await;
    "the fleet"
}

/// How the fleet has policies signed. `file`: the configuration, for what a person must change there.
fn sign_policy(signer: Option<Signer>, file: &Path) -> SignPolicy {
    let off = format!(
        "policies_off: this controller signs no policies. Write `policies = true` under \
         [signer.limits] in {}, restart the controller (systemctl restart jit-controller), then \
         resume the rollout",
        file.display()
    );
    Arc::new(move |payload| {
        let (signer, off) = (signer.clone(), off.clone());
        Box::pin(async move {
            let signer = signer.ok_or_else(|| {
                SignError::Unavailable(
                    "this process has no signer: give the roles hub and signer to one".into(),
                )
            })?;
            signer.sign_policy(payload).await.map_err(|error| match error {
                SignerError::Refused { word, .. } if word == "policies_off" => {
                    SignError::Refused(off)
                }
                SignerError::Refused { word, detail } => {
                    SignError::Refused(format!("{word}: {detail}"))
                }
                SignerError::Unavailable(why) => SignError::Unavailable(why),
            })
        })
    })
}

/// How the fleet has checkpoints signed.
fn sign_checkpoint(signer: Signer) -> SignCheckpoint {
    Arc::new(move |wish| {
        let signer = signer.clone();
        Box::pin(async move { signer.checkpoint(wish).await })
    })
}

/// As many open files as the system lets this process have: each connection to a host is one.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the number of open files stays as it is");
    }
}

/// Certificates that were renewed are taken; with a mistake the old ones stay.
fn reload(config: &Config, parts: &Parts) {
    if let Some(fleet) = &parts.fleet {
        match fleet.reload() {
            Ok(()) => tracing::info!("the certificates of [hub] were read again"),
            Err(why) => tracing::error!("the old certificates of [hub] stay: {why}"),
        }
    }
    let Some(server) = &parts.server else { return };
    match server.reload(&config.api) {
        Ok(()) => tracing::info!("the certificate of the API was read again"),
        Err(why) => tracing::error!("the old certificate of the API stays: {why}"),
    }
}

/// The signals that end it, or have it read certificates again.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        let of = |kind| signal(kind).map_err(|why| AppError::File(format!("signals: {why}")));
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }
}

/// Roles, separated by commas.
struct Words<'a>(&'a BTreeSet<Role>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(|role| role.word()).collect();
        f.write_str(&words.join(", "))
    }
}

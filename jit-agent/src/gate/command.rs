//! Commands to the gate, and the channels that bring them. `serve` carries them out.

mod closing;
mod comparing;
mod new_links;
mod policies;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use jit_common::{Event, Reason};
use jit_proto::{GrantId, WallTime, v1};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    config::Config,
    disk::audit::Record,
    gate::{
        Asked, Opened, PolicyDraft, PolicyPush, Pusher, Revoked, Target,
        about::CertificateEnd,
        command::new_links::NewLinks,
        journal::Journal,
        list::{Age, Listed, oldest_first},
        measure::Measured,
        patience::{Patience, Waiting, Waits},
        trial::{Confirmation, Session, Trial, TrialRefused, TrialRequest},
        verification::{Check, KeysInForce, Verification},
        waiting::{self, Outcomes, PushRequests, Pushes},
    },
    kernel::{datapath::verdict::Question, netlink::netfilter::Translations},
    rules::{
        checkpoint::VerifiedCheckpoint, clock::BootNanos, denials::Query,
        grant::break_glass::BreakGlass, proposal::VerifiedPolicy, refusal::Refused,
        revocation::VerifiedRevocation,
    },
    system::{metadata::Found, meters::meters},
};

/// Largest number of commands that wait. A sender of more has to wait.
pub(super) const QUEUE: usize = 64;
/// Largest number of envelopes that are verified, and then admitted, at once: each page of the
/// database that they are in is written once.
const MAX_ENVELOPES: usize = 1_024;
/// Largest number of grants that are listed at once.
const LISTED: usize = 1_000;

/// The gate, for the rest of the agent: sends it commands.
#[derive(Clone, Debug)]
pub struct GateHandle {
    urgent: mpsc::Sender<Waiter<Urgent>>,
    reads: mpsc::Sender<Waiter<Read>>,
    patience: Patience,
    pushes: Pushes,
    verification: Verification,
    events: mpsc::Sender<Event>,
    /// Number of connections that were let in and found no place in `events`.
    missed: Arc<AtomicU64>,
    /// Number of dropped packets that found no place there.
    missed_drops: Arc<AtomicU64>,
    denials: mpsc::Sender<Denial>,
    /// Number of grants that a list can have.
    listed: Arc<AtomicUsize>,
    links: Arc<Notify>,
    new_links: NewLinks,
    /// The wall clock was set.
    stepped: Arc<Notify>,
    /// The last reading of what the host translates.
    translations: Arc<watch::Sender<ReadTranslations>>,
    journal: Arc<Journal>,
    /// To the keeper of the configuration.
    trials: mpsc::Sender<TrialRequest>,
}

/// The gate's end of the channels.
#[derive(Debug)]
pub struct Requests {
    pub(super) urgent: mpsc::Receiver<Waiter<Urgent>>,
    pub(super) reads: mpsc::Receiver<Waiter<Read>>,
    pub(super) patience: Patience,
    pub(super) pushes: PushRequests,
    pub(super) keys: KeysInForce,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) missed: Arc<AtomicU64>,
    pub(super) missed_drops: Arc<AtomicU64>,
    pub(super) denials: mpsc::Receiver<Denial>,
    pub(super) listed: Arc<AtomicUsize>,
    pub(super) links: Arc<Notify>,
    pub(super) new_links: NewLinks,
    pub(super) stepped: Arc<Notify>,
    pub(super) translations: watch::Receiver<ReadTranslations>,
    trials: mpsc::Receiver<TrialRequest>,
}

impl Requests {
    /// The requests that the keeper of the configuration carries out. Called once.
    pub fn take_trials(&mut self) -> mpsc::Receiver<TrialRequest> {
        std::mem::replace(&mut self.trials, mpsc::channel(1).1)
    }
}

/// What the host translates, or why that cannot be read.
pub(super) type ReadTranslations = Result<Translations, String>;

/// The gate's task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gate's task has ended; see the agent's log")]
pub struct Gone;

/// A command that is counted while it waits.
#[derive(Debug)]
pub(super) struct Waiter<Q> {
    request: Q,
    _waits: Waits,
}

/// Commands that are served before all others.
#[derive(Debug)]
pub(super) enum Urgent {
    BreakGlass {
        asked: Box<BreakGlass>,
        by: String,
        reply: Reply<GlassBroken>,
    },
    BeginTrial {
        trial: Box<Trial>,
        reply: Reply<Result<v1::TrialState, String>>,
    },
    Certificate {
        end: Option<CertificateEnd>,
        reply: Reply<()>,
    },
    Configure {
        config: Box<Config>,
        since: WallTime,
        reply: Reply<Result<(), String>>,
    },
    ConfirmTrial {
        step: Confirmation,
        by: String,
        reply: Reply<bool>,
    },
    Identify {
        found: Found,
        reply: Reply<u32>,
    },
    Record {
        record: Box<Record>,
        reply: Reply<()>,
    },
    RefuseConfiguration {
        why: String,
        reply: Reply<()>,
    },
    Revoke {
        target: Target,
        cut: bool,
        by: String,
        why: String,
        reply: Reply<Revoked>,
    },
    RevokeSigned {
        envelope: v1::Envelope,
        check: RevocationCheck,
        by: String,
        reply: Reply<SignedRevoked>,
    },
    Stop {
        why: String,
        reply: Reply<()>,
    },
}

/// Questions and policies, which take their turn with pushes.
#[derive(Debug)]
pub(super) enum Read {
    Compare {
        asked: Box<Asked>,
        check: CheckpointCheck,
        by: String,
        reply: Reply<Compared>,
    },
    ConfirmPolicy {
        version: u64,
        connected: BootNanos,
        by: String,
        reply: Reply<Confirmed>,
    },
    Denials {
        query: Query,
        reply: Reply<v1::DenialsResponse>,
    },
    DiffPolicy {
        draft: PolicyDraft,
        check: PolicyCheck,
        reply: Reply<v1::DiffPolicyResponse>,
    },
    Ended {
        reply: Reply<Vec<Listed>>,
    },
    GrantIds {
        reply: Reply<Vec<Age>>,
    },
    Grants {
        ids: Vec<GrantId>,
        reply: Reply<Vec<Listed>>,
    },
    /// For the metrics.
    Measure {
        reply: Reply<Measured>,
    },
    PushPolicy {
        push: PolicyPush,
        check: PolicyCheck,
        by: String,
        reply: Reply<PolicyPushed>,
    },
    SetPolicyFloor {
        version: u64,
        by: String,
        reply: Reply<PolicyFloorSet>,
    },
    ShowPolicy {
        reply: Reply<v1::ShowPolicyResponse>,
    },
    PreviewTrial {
        config: Box<Config>,
        sessions: Vec<Session>,
        reply: Reply<v1::EnforceResponse>,
    },
    /// Without its grants.
    Status {
        reply: Reply<v1::StatusResponse>,
    },
    /// The trial that goes on, or the last one.
    Trial {
        reply: Reply<Option<v1::TrialState>>,
    },
    Why {
        question: Question,
        requester: String,
        reply: Reply<WhyAnswered>,
    },
}

impl<Q> Waiter<Q> {
    /// The request, which waits no more.
    pub(super) fn taken(self) -> Q {
        self.request
    }
}

/// Takes the answer to one command, of its own type.
pub(super) type Reply<T> = oneshot::Sender<T>;
pub(super) type GlassBroken = Result<Opened, Refused>;
pub(super) type CheckpointCheck = Check<VerifiedCheckpoint>;
pub(super) type Compared = Result<v1::CompareMailboxResponse, Refused>;
pub(super) type Confirmed = Result<v1::ConfirmPolicyResponse, Refused>;
pub(super) type PolicyCheck = Check<Box<VerifiedPolicy>>;
pub(super) type RevocationCheck = Check<Box<VerifiedRevocation>>;
pub(super) type SignedRevoked = Result<Revoked, Refused>;
pub(super) type PolicyFloorSet = Result<v1::SetPolicyFloorResponse, Refused>;
pub(super) type WhyAnswered = Result<v1::WhyResponse, String>;
pub(super) type PolicyPushed = Result<v1::PushPolicyResponse, Refused>;

/// A peer asked for something that it may not do.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) by: String,
    pub(super) asked: &'static str,
}

/// A handle and its other end.
pub fn channel(journal: Arc<Journal>) -> (GateHandle, Requests) {
    let (urgent, urgent_requests) = mpsc::channel(QUEUE);
    let (reads, read_requests) = mpsc::channel(QUEUE);
    let (pushes, push_requests) = waiting::pushes();
    let (verification, keys) = Verification::start();
    let (events, event_requests) = mpsc::channel(QUEUE * 16);
    let missed = Arc::<AtomicU64>::default();
    let missed_drops = Arc::<AtomicU64>::default();
    let (denials, denial_requests) = mpsc::channel(QUEUE);
    let listed = Arc::<AtomicUsize>::default();
    let links = Arc::<Notify>::default();
    let new_links = NewLinks::default();
    let stepped = Arc::<Notify>::default();
    let patience = Patience::default();
    let (trials, trial_requests) = mpsc::channel(QUEUE);
    let (translations, read_translations) = watch::channel(Ok(Translations::default()));
    (
        GateHandle {
            urgent,
            reads,
            patience: patience.clone(),
            pushes,
            verification,
            events,
            missed: Arc::clone(&missed),
            missed_drops: Arc::clone(&missed_drops),
            denials,
            listed: Arc::clone(&listed),
            links: Arc::clone(&links),
            new_links: new_links.clone(),
            stepped: Arc::clone(&stepped),
            translations: translations.into(),
            journal,
            trials,
        },
        Requests {
            urgent: urgent_requests,
            reads: read_requests,
            patience,
            pushes: push_requests,
            keys,
            events: event_requests,
            missed,
            missed_drops,
            denials: denial_requests,
            listed,
            links,
            new_links,
            stepped,
            translations: read_translations,
            trials: trial_requests,
        },
    )
}

impl GateHandle {
    /// Admits envelopes; the outcomes are in their order. While the gate admits some of them, the
    /// next ones are verified.
    pub async fn push(&self, envelopes: Vec<v1::Envelope>, by: Pusher) -> Result<Outcomes, Gone> {
        let began = Instant::now();
        let mut outcomes = Vec::with_capacity(envelopes.len());
        let mut rest = envelopes.into_iter();
        let mut verify = async || {
            let some: Vec<_> = rest.by_ref().take(MAX_ENVELOPES).collect();
            if some.is_empty() {
                None
            } else {
                Some(self.verification.grants(some, &by.name).await)
            }
        };
        let mut verifying = verify().await;
        while let Some(batch) = verifying {
            // A place that it holds is free again when the gate is done, whatever happens here.
            let answer = self.pushes.add(&by, batch.await.map_err(|_| Gone)?);
            verifying = verify().await;
            outcomes.extend(answer.await.map_err(|_| Gone)?);
        }
        meters().push.since(began);
        Ok(outcomes)
    }

    /// Opens ports for root on the host.
    pub async fn break_glass(&self, asked: BreakGlass, by: &str) -> Result<GlassBroken, Gone> {
        let (asked, by) = (Box::new(asked), by.to_owned());
        self.order(|reply| Urgent::BreakGlass { asked, by, reply }).await
    }

    /// Number of grants that a list has about now, with those that have ended.
    pub(crate) fn listed(&self) -> usize {
        self.listed.load(Ordering::Relaxed)
    }

    /// Grants, oldest first. The gate lists some at a time and serves others in between: a grant
    /// that ends meanwhile may be left out, unless grants that have ended are listed, too.
    pub async fn list(&self, ended: bool) -> Result<Vec<v1::GrantState>, Gone> {
        let mut ids = self.ask(|reply| Read::GrantIds { reply }).await?;
        // Ids are shorter than what is listed of a grant: to sort that costs little then.
        ids.sort_unstable();
        let mut grants = Vec::with_capacity(ids.len());
        for some in ids.chunks(LISTED) {
            let ids = some.iter().map(|(_, id)| *id).collect();
            grants.extend(self.ask(|reply| Read::Grants { ids, reply }).await?);
        }
        if ended {
            let ended = self.ask(|reply| Read::Ended { reply }).await?;
            let ids: HashSet<_> = ended.iter().map(|(age, _)| *age).collect();
            grants.retain(|(age, _)| !ids.contains(age));
            grants.extend(ended);
        }
        Ok(oldest_first(grants))
    }

    /// The status as it is now.
    pub async fn status(&self) -> Result<v1::StatusResponse, Gone> {
        let status = self.ask(|reply| Read::Status { reply }).await?;
        Ok(v1::StatusResponse { grants: self.list(false).await?, ..status })
    }

    /// The gate in numbers.
    pub(crate) async fn measure(&self) -> Result<Measured, Gone> {
        self.ask(|reply| Read::Measure { reply }).await
    }

    /// The packets that were dropped and the pushes that were refused.
    pub(crate) async fn denials(&self, query: Query) -> Result<v1::DenialsResponse, Gone> {
        self.ask(|reply| Read::Denials { query, reply }).await
    }

    /// What the loaded programs do with a connection, and why; or why they cannot be asked.
    pub async fn why(
        &self,
        question: Question,
        requester: String,
    ) -> Result<Result<v1::WhyResponse, String>, Gone> {
        self.ask(|reply| Read::Why { question, requester, reply }).await
    }

    /// Sets the end of the certificate that controllers see.
    pub async fn set_certificate_end(&self, end: Option<CertificateEnd>) -> Result<(), Gone> {
        self.order(|reply| Urgent::Certificate { end, reply }).await
    }

    /// Takes another configuration. `since`: when it was first put in force as it is.
    pub async fn reconfigure(
        &self,
        config: Config,
        since: WallTime,
    ) -> Result<Result<(), String>, Gone> {
        let config = Box::new(config);
        self.order(|reply| Urgent::Configure { config, since, reply }).await
    }

    /// Enforces on trial what is only observed.
    pub async fn enforce(
        &self,
        asked: v1::EnforceRequest,
        by: String,
    ) -> Result<Result<v1::EnforceResponse, TrialRefused>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.trials.send(TrialRequest::Enforce { asked, by, reply }).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Confirms the trial.
    pub async fn confirm(
        &self,
        asked: v1::ConfirmRequest,
        by: String,
    ) -> Result<Result<v1::ConfirmResponse, TrialRefused>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.trials.send(TrialRequest::Confirm { asked, by, reply }).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Puts a configuration in force on trial. The disk has it.
    pub async fn begin_trial(&self, trial: Trial) -> Result<Result<v1::TrialState, String>, Gone> {
        let trial = Box::new(trial);
        self.order(|reply| Urgent::BeginTrial { trial, reply }).await
    }

    /// A step of the confirmation of the trial. `false`: none goes on.
    pub async fn confirm_trial(&self, step: Confirmation, by: &str) -> Result<bool, Gone> {
        let by = by.to_owned();
        self.order(|reply| Urgent::ConfirmTrial { step, by, reply }).await
    }

    /// What a configuration would close, and whom of these sessions it would shut out.
    pub async fn preview_trial(
        &self,
        config: Config,
        sessions: Vec<Session>,
    ) -> Result<v1::EnforceResponse, Gone> {
        let config = Box::new(config);
        self.ask(|reply| Read::PreviewTrial { config, sessions, reply }).await
    }

    /// The trial that goes on, or the last one of this run.
    pub async fn trial(&self) -> Result<Option<v1::TrialState>, Gone> {
        self.ask(|reply| Read::Trial { reply }).await
    }

    /// Reports that the configuration on the disk cannot be used.
    pub async fn refuse_configuration(&self, why: String) -> Result<(), Gone> {
        self.order(|reply| Urgent::RefuseConfiguration { why, reply }).await
    }

    /// A metadata service says that this is the host's id. Returns how many grants of another id it
    /// closed.
    pub async fn identify(&self, found: Found) -> Result<u32, Gone> {
        self.order(|reply| Urgent::Identify { found, reply }).await
    }

    /// Puts a record into the audit, for what happens outside of the gate.
    pub async fn record(&self, record: Record) -> Result<(), Gone> {
        let record = Box::new(record);
        self.order(|reply| Urgent::Record { record, reply }).await
    }

    /// Puts the last record of this run into the audit, and waits until the disk has it all.
    pub async fn stop(&self, why: &str) -> Result<(), Gone> {
        let why = why.to_owned();
        self.order(|reply| Urgent::Stop { why, reply }).await
    }

    /// Reports a peer that asked for something that it may not do. If there are too many reports,
    /// they are dropped: the log has them all.
    pub fn saw_denial(&self, by: &str, asked: &'static str) {
        let _full = self.denials.try_send(Denial { by: by.to_owned(), asked });
    }

    /// Reports that the wall clock was set.
    pub fn clock_was_set(&self) {
        self.stepped.notify_one();
    }

    /// Reports what the host translates, or why that cannot be read. `false`: the gate's task has
    /// ended.
    pub fn saw_translations(&self, read: ReadTranslations) -> bool {
        self.translations.send(read).is_ok()
    }

    async fn order<T>(&self, order: impl FnOnce(Reply<T>) -> Urgent) -> Result<T, Gone> {
        ask(&self.urgent, &self.patience.urgent, order).await
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Read) -> Result<T, Gone> {
        ask(&self.reads, &self.patience.questions, question).await
    }

    /// Events of grants, links and packets.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Reports that links have changed, and which of them are there. Any number of reports counts
    /// once, until the gate has looked.
    pub fn saw_links(&self, indices: &[u32]) {
        self.new_links.add(indices);
        self.patience.links_wait(true);
        self.links.notify_one();
    }

    /// Reports a packet. If the gate has no time for it, the report is dropped, as in the kernel.
    pub fn saw_packet(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            // Not recorded one by one, but counted: audit and history say so.
            let granted = event.reason == Reason::Granted as u8;
            let missed = if granted { &self.missed } else { &self.missed_drops };
            missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn ask<Q, T>(
    queue: &mpsc::Sender<Waiter<Q>>,
    waiting: &Waiting,
    request: impl FnOnce(Reply<T>) -> Q,
) -> Result<T, Gone> {
    let (reply, answer) = oneshot::channel();
    let waiter = Waiter { request: request(reply), _waits: waiting.one() };
    queue.send(waiter).await.map_err(|_| Gone)?;
    answer.await.map_err(|_| Gone)
}

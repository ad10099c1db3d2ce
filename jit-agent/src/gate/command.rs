//! Commands to the gate, and the loop that serves them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use jit_common::{Event, Reason};
use jit_proto::{WallTime, v1};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    config::Config,
    disk::audit::Record,
    gate::{
        Accepted, Gate, PolicyDraft, PolicyPush, Revoked, TICK, Target, journal::Journal,
        looks::Looks,
    },
    kernel::{datapath::Datapath, netlink::netfilter::Translations},
    rules::{
        clock::{BootNanos, Now},
        refusal::Refused,
    },
};

/// Largest number of commands that wait. A sender of more has to wait.
const QUEUE: usize = 64;
/// Largest number of envelopes that are admitted at once. Revocations are served between two
/// batches.
const MAX_ENVELOPES: usize = 256;
/// Largest number of events that are looked at in one go.
const MAX_EVENTS: usize = 255;

/// The gate, for the rest of the agent: sends it commands.
#[derive(Clone, Debug)]
pub struct GateHandle {
    urgent: mpsc::Sender<Urgent>,
    reads: mpsc::Sender<Read>,
    pushes: mpsc::Sender<Push>,
    events: mpsc::Sender<Event>,
    /// Number of connections that were let in and found no place in `events`.
    missed: Arc<AtomicU64>,
    denials: mpsc::Sender<Denial>,
    links: Arc<Notify>,
    /// The wall clock was set.
    stepped: Arc<Notify>,
    /// The last reading of what the host translates.
    translations: Arc<watch::Sender<ReadTranslations>>,
    journal: Arc<Journal>,
}

/// The gate's end of the channels.
#[derive(Debug)]
pub struct Requests {
    urgent: mpsc::Receiver<Urgent>,
    reads: mpsc::Receiver<Read>,
    pushes: mpsc::Receiver<Push>,
    events: mpsc::Receiver<Event>,
    missed: Arc<AtomicU64>,
    denials: mpsc::Receiver<Denial>,
    links: Arc<Notify>,
    stepped: Arc<Notify>,
    translations: watch::Receiver<ReadTranslations>,
}

/// What the host translates, or why that cannot be read.
type ReadTranslations = Result<Translations, String>;

/// The gate's task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gate's task has ended; see the agent's log")]
pub struct Gone;

/// Commands that are served before all others.
#[derive(Debug)]
enum Urgent {
    Certificate { end: Option<WallTime>, reply: Reply<()> },
    Configure { config: Box<Config>, reply: Reply<Result<(), String>> },
    Record { record: Box<Record>, reply: Reply<()> },
    Revoke { target: Target, by: String, why: String, reply: Reply<Revoked> },
    Stop { why: String, reply: Reply<()> },
}

/// Questions and policies, which take their turn with pushes.
#[derive(Debug)]
enum Read {
    ConfirmPolicy { version: u64, connected: BootNanos, by: String, reply: Reply<Confirmed> },
    DiffPolicy { draft: PolicyDraft, reply: Reply<v1::DiffPolicyResponse> },
    List { ended: bool, reply: Reply<Vec<v1::GrantState>> },
    PushPolicy { push: PolicyPush, by: String, reply: Reply<PolicyPushed> },
    ShowPolicy { reply: Reply<v1::ShowPolicyResponse> },
    Status { reply: Reply<v1::StatusResponse> },
}

/// Takes the answer to one command, of its own type.
type Reply<T> = oneshot::Sender<T>;
type Confirmed = Result<v1::ConfirmPolicyResponse, Refused>;
type PolicyPushed = Result<v1::PushPolicyResponse, Refused>;

#[derive(Debug)]
struct Push {
    envelopes: Vec<v1::Envelope>,
    by: String,
    reply: Reply<Vec<Result<Accepted, Refused>>>,
}

/// A peer asked for something that it may not do.
#[derive(Debug)]
struct Denial {
    by: String,
    asked: &'static str,
}

/// A handle and its other end.
pub fn channel(journal: Arc<Journal>) -> (GateHandle, Requests) {
    let (urgent, urgent_requests) = mpsc::channel(QUEUE);
    let (reads, read_requests) = mpsc::channel(QUEUE);
    let (pushes, push_requests) = mpsc::channel(QUEUE);
    let (events, event_requests) = mpsc::channel(QUEUE * 16);
    let missed = Arc::<AtomicU64>::default();
    let (denials, denial_requests) = mpsc::channel(QUEUE);
    let links = Arc::<Notify>::default();
    let stepped = Arc::<Notify>::default();
    let (translations, read_translations) = watch::channel(Ok(Translations::default()));
    (
        GateHandle {
            urgent,
            reads,
            pushes,
            events,
            missed: Arc::clone(&missed),
            denials,
            links: Arc::clone(&links),
            stepped: Arc::clone(&stepped),
            translations: translations.into(),
            journal,
        },
        Requests {
            urgent: urgent_requests,
            reads: read_requests,
            pushes: push_requests,
            events: event_requests,
            missed,
            denials: denial_requests,
            links,
            stepped,
            translations: read_translations,
        },
    )
}

impl GateHandle {
    /// Admits envelopes; the outcomes are in their order.
    pub async fn push(
        &self,
        envelopes: Vec<v1::Envelope>,
        by: &str,
    ) -> Result<Vec<Result<Accepted, Refused>>, Gone> {
        let mut outcomes = Vec::with_capacity(envelopes.len());
        let mut rest = envelopes.into_iter();
        loop {
            let envelopes: Vec<_> = rest.by_ref().take(MAX_ENVELOPES).collect();
            if envelopes.is_empty() {
                return Ok(outcomes);
            }
            let (reply, answer) = oneshot::channel();
            let push = Push { envelopes, by: by.to_owned(), reply };
            self.pushes.send(push).await.map_err(|_| Gone)?;
            outcomes.extend(answer.await.map_err(|_| Gone)?);
        }
    }

    /// Revokes grants.
    pub async fn revoke(&self, target: Target, by: &str, why: &str) -> Result<Revoked, Gone> {
        let (by, why) = (by.to_owned(), why.to_owned());
        ask(&self.urgent, |reply| Urgent::Revoke { target, by, why, reply }).await
    }

    /// Grants, oldest first.
    pub async fn list(&self, ended: bool) -> Result<Vec<v1::GrantState>, Gone> {
        ask(&self.reads, |reply| Read::List { ended, reply }).await
    }

    /// The status as it is now.
    pub async fn status(&self) -> Result<v1::StatusResponse, Gone> {
        ask(&self.reads, |reply| Read::Status { reply }).await
    }

    /// The policy in force.
    pub async fn show_policy(&self) -> Result<v1::ShowPolicyResponse, Gone> {
        ask(&self.reads, |reply| Read::ShowPolicy { reply }).await
    }

    /// The changes that a policy would make.
    pub async fn diff_policy(&self, draft: PolicyDraft) -> Result<v1::DiffPolicyResponse, Gone> {
        ask(&self.reads, |reply| Read::DiffPolicy { draft, reply }).await
    }

    /// Puts a policy in force.
    pub async fn push_policy(
        &self,
        push: PolicyPush,
        by: &str,
    ) -> Result<Result<v1::PushPolicyResponse, Refused>, Gone> {
        let by = by.to_owned();
        ask(&self.reads, |reply| Read::PushPolicy { push, by, reply }).await
    }

    /// Keeps the policy that waits. `connected`: when the asking connection was accepted.
    pub async fn confirm_policy(
        &self,
        version: u64,
        connected: BootNanos,
        by: &str,
    ) -> Result<Result<v1::ConfirmPolicyResponse, Refused>, Gone> {
        let by = by.to_owned();
        ask(&self.reads, |reply| Read::ConfirmPolicy { version, connected, by, reply }).await
    }

    /// Sets the end of the certificate that controllers see.
    pub async fn set_certificate_end(&self, end: Option<WallTime>) -> Result<(), Gone> {
        ask(&self.urgent, |reply| Urgent::Certificate { end, reply }).await
    }

    /// Takes another configuration.
    pub async fn reconfigure(&self, config: Config) -> Result<Result<(), String>, Gone> {
        let config = Box::new(config);
        ask(&self.urgent, |reply| Urgent::Configure { config, reply }).await
    }

    /// Puts a record into the audit, for what happens outside of the gate.
    pub async fn record(&self, record: Record) -> Result<(), Gone> {
        let record = Box::new(record);
        ask(&self.urgent, |reply| Urgent::Record { record, reply }).await
    }

    /// Puts the last record of this run into the audit, and waits until the disk has it all.
    pub async fn stop(&self, why: &str) -> Result<(), Gone> {
        let why = why.to_owned();
        ask(&self.urgent, |reply| Urgent::Stop { why, reply }).await
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

    /// Events of grants, links and packets.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Reports that links have changed. Any number of reports counts once, until the gate has
    /// looked.
    pub fn saw_links(&self) {
        self.links.notify_one();
    }

    /// Reports a packet. If the gate has no time for it, the report is dropped, as in the kernel.
    pub fn saw_packet(&self, event: Event) {
        if self.events.try_send(event).is_err() && event.reason == Reason::Granted as u8 {
            // Not recorded one by one, but counted: the audit says so.
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn ask<Q, T>(
    queue: &mpsc::Sender<Q>,
    request: impl FnOnce(Reply<T>) -> Q,
) -> Result<T, Gone> {
    let (reply, answer) = oneshot::channel();
    queue.send(request(reply)).await.map_err(|_| Gone)?;
    answer.await.map_err(|_| Gone)
}

impl<D: Datapath> Gate<D> {
    /// Serves requests and lets time pass, until every handle is gone. `clock` reads both clocks;
    /// `alive` is called at least every two ticks (the watchdog).
    pub async fn run(mut self, mut requests: Requests, clock: impl Fn() -> Now, alive: impl Fn()) {
        let mut next_check = Instant::now() + TICK;
        let mut looks = Looks::default();
        loop {
            let quiet = self.advance(clock());
            let began = Instant::now();
            let look = looks.due(began).unwrap_or(next_check);
            let wake = (began + quiet).min(next_check).min(look);
            // Even when they come very fast, time passes and other commands are served.
            for request in std::iter::from_fn(|| requests.urgent.try_recv().ok()).take(QUEUE) {
                self.serve(request, clock());
            }
            // The order of the others is random, so that no kind of request starves another.
            tokio::select! {
                request = requests.urgent.recv() => match request {
                    Some(request) => self.serve(request, clock()),
                    None => return,
                },
                Some(read) = requests.reads.recv() => self.answer(read, &clock),
                Some(push) = requests.pushes.recv() => {
                    let Push { envelopes, by, reply } = push;
                    // The asking peer may be gone; an accepted grant stays accepted.
                    drop(reply.send(self.push(envelopes, &by, clock())));
                }
                Some(event) = requests.events.recv() => {
                    // Events that came together go to the disk together.
                    let more = std::iter::from_fn(|| requests.events.try_recv().ok());
                    for event in std::iter::once(event).chain(more.take(MAX_EVENTS)) {
                        self.saw_packet(&event, clock());
                    }
                }
                Some(Denial { by, asked }) = requests.denials.recv() => {
                    self.saw_denial(&by, asked, clock());
                }
                () = requests.links.notified() => looks.want(),
                Ok(()) = requests.translations.changed() => {
                    let read = requests.translations.borrow_and_update().clone();
                    self.saw_translations(read);
                }
                // The clock is looked at before anything else is done.
                () = requests.stepped.notified() => {}
                () = sleep_until(wake) => {}
            }
            let began = Instant::now();
            if looks.due(began).is_some_and(|due| due <= began) {
                let failed = self.attach_links(clock());
                looks.looked(began, Instant::now(), failed);
                tracing::debug!(took = ?began.elapsed(), failed, "looked at the links");
            }
            if Instant::now() >= next_check {
                self.record_missed(requests.missed.swap(0, Ordering::Relaxed), clock());
                self.tick(clock());
                alive();
                next_check = Instant::now() + TICK;
            }
        }
    }

    fn serve(&mut self, request: Urgent, now: Now) {
        // Whoever asked may be gone.
        match request {
            Urgent::Certificate { end, reply } => {
                self.set_certificate_end(end, now);
                let _gone = reply.send(());
            }
            Urgent::Configure { config, reply } => {
                drop(reply.send(self.reconfigure(*config, now)));
            }
            Urgent::Record { record, reply } => {
                self.record(*record, now);
                self.settle_audit(now);
                let _gone = reply.send(());
            }
            Urgent::Revoke { target, by, why, reply } => {
                drop(reply.send(self.revoke(&target, &by, &why, now)));
            }
            Urgent::Stop { why, reply } => {
                self.stop(&why, now);
                let _gone = reply.send(());
            }
        }
    }

    fn answer(&mut self, read: Read, clock: impl Fn() -> Now) {
        let now = clock();
        // Whoever asked may be gone.
        match read {
            Read::ConfirmPolicy { version, connected, by, reply } => {
                let confirmed = self.confirm_policy(version, connected, &by, now);
                self.settle_audit(now);
                drop(reply.send(confirmed));
            }
            Read::DiffPolicy { draft, reply } => {
                drop(reply.send(self.diff_policy(&draft, now)));
            }
            Read::List { ended, reply } => drop(reply.send(self.list(ended, now))),
            Read::PushPolicy { push, by, reply } => {
                let pushed = self.push_policy(push, &by, now);
                if pushed.as_ref().is_ok_and(|pushed| pushed.reason != "known") {
                    self.policy_applied(clock());
                }
                self.settle_audit(now);
                drop(reply.send(pushed));
            }
            Read::ShowPolicy { reply } => drop(reply.send(self.show_policy(now))),
            // The answer must show the interfaces as they are now.
            Read::Status { reply } => drop(reply.send(self.answer_status(now))),
        }
    }
}

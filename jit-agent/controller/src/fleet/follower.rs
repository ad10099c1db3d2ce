//! Follows one host: keeps the connection, asks for the status, reads events and where the audit ends.

use std::{collections::BTreeMap, future::pending, mem, sync::Arc, time::Duration};

use jit_client::{Agent, CallError};
use jit_proto::{GrantId, v1, v1::event::What};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Streaming;

use super::{
    Shared,
    backoff::{Backoff, part, random},
    compare::{Said, compare},
    connection::{Boot, Connection, Former, gone},
    held::{self, Endings},
    link::{Line, Link, STORED},
    observe::{self, SignedHead},
    outbox::answered,
    renewal,
    scribe::Note,
};
use crate::{
    checkpoint::mailboxes::Snapshot,
    clock::now_ms,
    model::{
        Answer, Host,
        host::{Alarm, Observed},
    },
    store::Delivery,
};

/// Between attempts to connect.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(30) };
/// A connection that held for this time was a good one: the next attempt comes soon.
const HELD: Duration = Duration::from_secs(30);
/// After an event that changes the status it is asked for when no other has come for this time.
const SETTLE: Duration = Duration::from_millis(200);
/// How often it is written that a host answers, if nothing else is.
const WRITTEN: Duration = Duration::from_secs(60);
/// The time in which an agent that dials out must have connected: after that it is silent.
const CONNECTS: Duration = Duration::from_secs(20);
/// An agent that dials out is asked for its status more seldom: its connection says that it is there.
const SELDOM: u32 = 4;
/// A cursor that no run of an agent has: all events that it still holds come, with the end of its audit.
const ALL_EVENTS: &str = "controller-0";

/// Follows one host. There are thousands of them, which wait nearly always: what a task does for a moment has
/// its state in a box, and not in the task for ever.
pub(super) struct Follower {
    host: Arc<Host>,
    link: Arc<Link>,
    shared: Arc<Shared>,
    observed: Observed,
    written: Option<Instant>,
    /// How often grants were used, as it was written.
    uses: BTreeMap<String, u64>,
    used_at: Option<Instant>,
    /// What was ended on the host since it was asked last, and when it is looked at.
    endings: Endings,
    look: Option<Instant>,
    /// Why the last connection that the agent has made ended; empty: it has made none.
    ended: String,
    /// The connection of another machine that is this host, too. It stays, and nothing is asked of it.
    rival: Option<Connection>,
    /// The one that another connection of the same boot replaced.
    former: Option<Former>,
    /// What is to be written.
    notes: Vec<Note>,
}

/// A turn at reading for one host.
async fn turn(shared: &Shared) -> Option<SemaphorePermit<'_>> {
    // It is never closed.
    shared.reads.acquire().await.ok()
}

impl Follower {
    /// Of a host with its connection, and what was known of it before.
    pub(super) fn new(
        host: Arc<Host>,
        link: Arc<Link>,
        observed: Observed,
        shared: Arc<Shared>,
    ) -> Self {
        let (uses, endings) = (BTreeMap::new(), Endings::default());
        if observed.alarms.iter().any(|alarm| alarm.holds) {
            link.dispute();
        }
        Self {
            host,
            link,
            shared,
            observed,
            written: None,
            uses,
            used_at: None,
            endings,
            look: None,
            ended: String::new(),
            rival: None,
            former: None,
            notes: Vec::new(),
        }
    }

    /// Follows it until the task is ended, or this process ends.
    pub(super) async fn run(mut self: Box<Self>) {
        let (link, mut draining) = (Arc::clone(&self.link), self.shared.draining.subscribe());
        tokio::select! {
            () = self.follow_always() => {}
            _ = draining.wait_for(|draining| *draining) => {}
        }
        // Calls that are under way have the connection; with the last one it is closed.
        drop(self);
        link.set(Line::Connecting);
        link.turn_away();
        pending::<()>().await;
    }

    async fn follow_always(&mut self) {
        let (mut failed, mut urgent) = (0_u32, false);
        let mut next = None;
        loop {
            let connected = match next.take() {
                Some(connection) => Ok(connection),
                None => Box::pin(self.connect(urgent)).await,
            };
            match connected {
                Ok(connection) => {
                    let since = Instant::now();
                    let why = self.follow(connection).await;
                    self.hand_over().await;
                    failed = if since.elapsed() > HELD { 0 } else { failed.saturating_add(1) };
                    if let End::Replaced { by, former } = why {
                        next = Some(*by);
                        self.former = former.peer.is_some().then(|| Former::new(*former));
                        continue;
                    }
                    self.former = None;
                    self.shared.roster.silent(&self.host.id);
                    next = self.rival.take();
                    match why {
                        End::Closed(why) if failed < 2 || self.host.address.is_empty() => {
                            self.ended = why;
                            self.link.set(Line::Connecting);
                        }
                        End::Closed(why) => self.down(&why).await,
                        End::WrongId(why) => {
                            failed = failed.max(4);
                            self.link.set(Line::Down(why));
                            self.shared.wake.notify_one();
                        }
                        End::Replaced { .. } => {}
                    }
                    if next.is_some() {
                        continue;
                    }
                }
                Err(why) => {
                    failed = failed.saturating_add(1);
                    self.down(&why).await;
                }
            }
            if self.host.address.is_empty() {
                if self.link.is_down() {
                    self.link.arrived().await;
                }
                continue;
            }
            urgent = tokio::select! {
                () = sleep(AGAIN.pause(failed, random())) => false,
                () = self.link.wanted() => true,
                () = self.link.arrived() => false,
            };
        }
    }

    /// A connection: one that the agent has made, or one to its address.
    async fn connect(&self, urgent: bool) -> Result<Connection, String> {
        if self.host.address.is_empty() {
            let arrived = timeout(CONNECTS, self.link.arrival()).await;
            return arrived.map_err(|_| {
                let before = match self.ended.as_str() {
                    "" => String::new(),
                    why => format!(" (its last connection ended: {why})"),
                };
                format!(
                    "its agent has not connected to this hub{before}, and the inventory has no address \
                     of it: look at [uplink] there, and at the page Health for connections that were refused"
                )
            });
        }
        tokio::select! {
            biased;
            uplink = self.link.arrival() => Ok(uplink),
            dialled = self.shared.dialer.dial(&self.host, urgent) => {
                dialled.map(Connection::dialled).map_err(|error| error.to_string())
            }
        }
    }

    async fn down(&mut self, why: &str) {
        self.link.set(Line::Down(why.to_owned()));
        self.shared.wake.notify_one();
        let observed = observe::unreachable(&self.observed, why, now_ms());
        self.see(observed, Vec::new());
        self.hand_over().await;
    }

    /// Follows a host that is connected, until the connection ends.
    async fn follow(&mut self, mut connection: Connection) -> End {
        let boot = match Box::pin(self.ask(&mut connection)).await {
            Ok(boot) => boot,
            Err(end) => return end,
        };
        let mut agent = connection.agent.clone();
        let mut events = match Box::pin(self.events(&mut agent)).await {
            Ok(events) => events,
            Err(error) => return End::Closed(error.to_string()),
        };
        self.link.set(Line::Up(Box::new(agent.clone())));
        let _renewal = renewal::start(&self.shared, &self.host.id, &self.link, &connection);
        self.shared.arrived.add(&self.host.id);
        // What waits only for its first attempt does not wait until something is written.
        self.shared.wake.notify_one();
        let back = Note { host: self.host.id.clone(), back: true, ..Note::default() };
        self.note(back);
        let every = self.shared.settings.follow_every;
        let every = if connection.peer.is_some() { every * SELDOM } else { every };
        let mut due = Instant::now() + part(every, random());
        let mut checkpoints = self.shared.checkpoints.subscribe();
        checkpoints.mark_changed();
        // What is to be brought, and when; whether it has waited for a rush.
        let mut brings: Option<(Instant, Arc<Snapshot>, bool)> = None;
        let (mut expected, mut said) = (true, Said::Nothing);
        loop {
            self.hand_over().await;
            let bring_at = brings.as_ref().map_or(due, |(at, ..)| *at);
            tokio::select! {
                _ = checkpoints.changed(), if expected => {
                    let made = checkpoints.borrow_and_update().clone();
                    let now = Instant::now();
                    brings = made.map(|made| (now + part(made.spread, random()), made, false));
                }
                () = sleep_until(bring_at), if brings.is_some() => {
                    let Some((_, made, waited)) = brings.take() else { continue };
                    if let Some(until) = self.shared.rush.until().filter(|_| !waited) {
                        brings = Some((until + part(made.spread, random()), made, true));
                        continue;
                    }
                    let place = (self.host.id.as_str(), &*self.link);
                    let now_says = compare(&self.shared, place, &mut agent, &made);
                    let now_says = Box::pin(now_says).await;
                    expected = now_says != Said::Unwanted;
                    self.report_said(&now_says, &said);
                    said = now_says;
                }
                event = agent.next_event(&mut events) => match event {
                    Ok(Some(event)) => {
                        if Box::pin(self.happened(event)).await {
                            due = due.min(Instant::now() + SETTLE);
                        }
                    }
                    Ok(None) => return End::Closed("the agent ended the stream of events".into()),
                    Err(error) => return End::Closed(error.to_string()),
                },
                () = sleep_until(due) => {
                    if let Err(end) = Box::pin(self.ask(&mut connection)).await {
                        return end;
                    }
                    due = Instant::now() + every * 3 / 4 + part(every / 2, random());
                }
                () = sleep_until(self.look.unwrap_or(due)), if self.look.is_some() => {
                    self.look = None;
                    let shared = Arc::clone(&self.shared);
                    let turn = turn(&shared).await;
                    if let Some(until) = shared.rush.until() {
                        self.look = Some(until + part(STORED, random()));
                        continue;
                    }
                    if self.endings.are_news(&Box::pin(self.expected(turn)).await) {
                        due = Instant::now();
                    } else {
                        self.endings.clear();
                    }
                }
                () = self.link.doubted() => due = Instant::now(),
                uplink = self.link.arrival() => {
                    let new = self.meet(uplink, &mut connection, &boot);
                    if let Some(new) = Box::pin(new).await {
                        let (by, former) = (Box::new(new), Box::new(connection));
                        return End::Replaced { by, former };
                    }
                }
                former = gone(&mut self.former) => {
                    Box::pin(self.examine(former, &connection)).await;
                }
                () = self.link.renewed(), if connection.peer.is_some() => {
                    // The agent makes the new one first. An older agent cannot, and has to come back.
                    if let Err(error) = agent.reconnect().await {
                        return End::Closed(format!("a new connection is waited for: {error}"));
                    }
                }
            }
        }
    }

    /// Reports what a host says of checkpoints, if that is news.
    fn report_said(&mut self, now_says: &Said, before: &Said) {
        if now_says == before {
            return;
        }
        let host = self.host.id.clone();
        match now_says {
            Said::Contradiction(word) => {
                let text = format!(
                    "a checkpoint that was brought to this host contradicts one that it has seen ({word}): \
                     another controller signs with the same freshness key, or plays old ones"
                );
                let alarm = Alarm { word: word.clone(), text, at_ms: now_ms(), holds: false };
                self.note(Note { host, alarms: vec![alarm], ..Note::default() });
            }
            Said::Missing => {
                tracing::info!(host, "not all that was signed for it has arrived there")
            }
            Said::Nothing | Said::Unwanted => {}
        }
    }

    async fn events(&mut self, agent: &mut Agent) -> Result<Streaming<v1::Event>, CallError> {
        if !self.observed.cursor.is_empty() {
            match agent.watch(self.observed.cursor.clone(), true).await {
                Ok(events) => return Ok(events),
                // A cursor that this agent does not understand: all that it has.
                Err(error) => tracing::debug!(%error, host = self.host.id, "another cursor"),
            }
        }
        agent.watch(ALL_EVENTS.to_owned(), true).await
    }

    /// The agent has made another connection. Returns it if it takes the place of the one in use: it is
    /// the same machine's, or the old one is dead.
    async fn meet(
        &mut self,
        mut new: Connection,
        used: &mut Connection,
        boot: &Boot,
    ) -> Option<Connection> {
        let status = match new.agent.status().await {
            Ok(status) => status,
            Err(error) => {
                tracing::info!(%error, host = self.host.id, "another connection did not answer");
                return None;
            }
        };
        let same = Boot::of(&status).is_of_the_machine_of(boot);
        if same || used.agent.status().await.is_err() {
            return Some(new);
        }
        self.dispute([used, &new], "");
        self.rival = Some(new);
        None
    }

    /// Looks whether a connection that was replaced has ended. An agent ends it after it has made another
    /// one. If it has not, there is a second machine, such as a copy of the first one as it ran, with the
    /// same boot: each would throw the other out, again and again.
    async fn examine(&mut self, mut former: Connection, used: &Connection) {
        if former.agent.status().await.is_ok() {
            let more = ", which took its place: one may be a copy of the other as it ran, such as from a \
                        snapshot";
            self.dispute([&former, used], more);
            self.rival = Some(former);
        }
    }

    /// Two machines are this host.
    fn dispute(&mut self, [one, other]: [&Connection; 2], more: &str) {
        let text = format!(
            "two machines are connected as this host: the one at {}, and the one at {}{more}. Nothing is \
             opened here until somebody has looked, and said so by clearing this alarm",
            one.place(&self.host),
            other.place(&self.host)
        );
        let alarm = Alarm { word: "clone".into(), text, at_ms: now_ms(), holds: true };
        tracing::error!(host = self.host.id, "{}", alarm.text);
        self.link.dispute();
        let host = self.host.id.clone();
        self.note(Note { host, alarms: vec![alarm], ..Note::default() });
    }

    /// Asks for the status. Returns by which boot of which machine it was answered.
    async fn ask(&mut self, connection: &mut Connection) -> Result<Boot, End> {
        let agent = &mut connection.agent;
        // Before the host is asked: what it accepts meanwhile is not missed.
        let expected = self.expected(turn(&self.shared).await).await;
        if expected.iter().any(|row| row.answer == Answer::Scheduled) {
            self.link.schedules();
        }
        let status = agent.status().await.map_err(|error| End::Closed(error.to_string()))?;
        let now_ms = now_ms();
        self.clones(&status, now_ms);
        if status.host != self.host.id {
            let text = format!(
                "the agent at {} says that it is {:?}, and not {:?}: correct the address of {:?}, or \
                 the id in the configuration of that host",
                agent.name(),
                status.host,
                self.host.id,
                self.host.id
            );
            let observed = observe::unreachable(&self.observed, &text, now_ms);
            let alarm =
                Alarm { word: "wrong_id".into(), text: text.clone(), at_ms: now_ms, holds: false };
            self.see(observed, vec![alarm]);
            return Err(End::WrongId(text));
        }
        let observed = Observed {
            uplink: connection.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            connected_ms: connection.since_ms,
            ..observe::answered(&self.observed, &status, now_ms)
        };
        self.see(observed, Vec::new());
        self.used(held::uses(&expected, &status.grants));
        let missing = held::missing(expected, &status.grants);
        if !missing.is_empty() && self.link.just_ended() {
            // What the controller itself has ended there is not in the store yet.
            self.endings.unsure();
            self.look_soon();
            return Ok(Boot::of(&status));
        }
        if !missing.is_empty() {
            self.ended(agent, &missing).await?;
        }
        self.endings.clear();
        Ok(Boot::of(&status))
    }

    /// Has it written how often grants were used: when that is new, and from time to time.
    fn used(&mut self, uses: BTreeMap<String, u64>) {
        let stale = self.used_at.is_none_or(|at| at.elapsed() >= WRITTEN);
        if uses.is_empty() || (uses == self.uses && !stale) {
            return;
        }
        self.used_at = Some(Instant::now());
        self.uses.clone_from(&uses);
        self.note(Note { host: self.host.id.clone(), uses, ..Note::default() });
    }

    /// What the host should hold by its own answers.
    async fn expected(&self, _turn: Option<SemaphorePermit<'_>>) -> Vec<Delivery> {
        let held = self.shared.outbox.store().deliveries_held(&self.host.id, now_ms()).await;
        held.unwrap_or_else(|error| {
            tracing::warn!(%error, host = self.host.id, "what it holds is not compared");
            Vec::new()
        })
    }

    /// The host does not hold these any more.
    async fn ended(&self, agent: &mut Agent, missing: &[Delivery]) -> Result<(), End> {
        let known = agent.list(true).await.map_err(|error| End::Closed(error.to_string()))?;
        let fates = held::fates(missing, &known, &self.endings);
        if let Err(error) = self.shared.outbox.hear(fates).await {
            tracing::warn!(%error, host = self.host.id, "what was ended there was not stored");
        }
        Ok(())
    }

    fn clones(&mut self, status: &v1::StatusResponse, now_ms: i64) {
        let found = self.shared.roster.names(&self.host.id, &status.host, status.started_at_ms);
        for clone in found {
            let [right, other] = &clone.addresses;
            let text = format!(
                "two agents say that they are {:?}: the one at {right}, and the one at {other}, which \
                 the inventory has as {:?}",
                clone.host, clone.other
            );
            let alarm = Alarm { word: "clone".into(), text, at_ms: now_ms, holds: false };
            for host in [clone.host, clone.other] {
                self.note(Note { host, alarms: vec![alarm.clone()], ..Note::default() });
            }
        }
    }

    /// Something happened at the host. Returns whether its status may be another one.
    async fn happened(&mut self, event: v1::Event) -> bool {
        self.observed.cursor = event.cursor;
        match event.what {
            Some(What::AuditHead(head)) => {
                if let Some(head) = SignedHead::of_event(&head, now_ms()) {
                    let host = self.host.id.clone();
                    self.note(Note { host, head: Some(head), ..Note::default() });
                }
                false
            }
            Some(What::Gate(_) | What::Policy(_) | What::Gap(_)) => true,
            Some(What::Grant(grant)) if grant.kind == "activated" => {
                self.began(&grant.grant_id).await;
                false
            }
            Some(What::Grant(grant)) if held::is_ending(&grant) => {
                if let Some(id) = GrantId::from_bytes(&grant.grant_id) {
                    self.endings.add(id, &grant);
                    self.look_soon();
                }
                false
            }
            Some(What::Grant(_) | What::Packet(_)) | None => false,
        }
    }

    /// Looks at what was ended; what the controller ended when the store has it, and not at all hosts at the
    /// same moment.
    fn look_soon(&mut self) {
        let after = match self.link.just_ended() {
            true => STORED + part(STORED, random()),
            false => SETTLE,
        };
        self.look.get_or_insert_with(|| Instant::now() + after);
    }

    /// A grant has begun: the store waits for that if it was scheduled.
    async fn began(&self, id: &[u8]) {
        if !self.link.may_begin() {
            return;
        }
        let Some(id) = GrantId::from_bytes(id) else { return };
        let outbox = &self.shared.outbox;
        let kept = async {
            let row = outbox.store().delivery(&id.to_string(), &self.host.id).await?;
            if let Some(row) = row.filter(|row| row.answer == Answer::Scheduled && !row.pending) {
                let begun = answered(&row, Answer::Open, "ok", "it has begun");
                outbox.hear(vec![begun]).await?;
            }
            Ok::<_, super::FleetError>(())
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, host = self.host.id, grant = %id, "an answer was not stored");
        }
    }

    /// Keeps what is known now, and has it written if it is new or was not written for a minute.
    fn see(&mut self, observed: Observed, alarms: Vec<Alarm>) {
        let stale = self.written.is_none_or(|written| written.elapsed() >= WRITTEN)
            && observed.seen_ms > self.observed.seen_ms;
        let news = stale || !alarms.is_empty() || observe::differs(&self.observed, &observed);
        self.observed = observed;
        if news {
            self.written = Some(Instant::now());
            let host = self.host.id.clone();
            let observed = Some(self.observed.clone());
            self.note(Note { host, observed, alarms, ..Note::default() });
        }
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Hands over what is to be written. When thousands have come back, that waits for others.
    async fn hand_over(&mut self) {
        for note in mem::take(&mut self.notes) {
            // Who writes it ends only together with this task.
            let _written = self.shared.notes.send(note).await;
        }
    }
}

/// Why a host is not followed any more for now.
enum End {
    Closed(String),
    /// By another connection of the same agent.
    Replaced {
        by: Box<Connection>,
        former: Box<Connection>,
    },
    WrongId(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_followed_takes_little_room() {
        fn room<S, F>(_of: impl FnOnce(S) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = room(Follower::run);
        assert!(bytes <= 6 * 1024, "{bytes} bytes for each host");
    }
}

//! One host that is connected to this hub: what is signed for it is given to it, and its answers are
//! reported. First the hub listens, then it reads the mailbox: what comes in between is seen twice.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jit_client::{Agent, CallError};
use jit_proto::{
    GrantId, mailbox::item, merkle::Hash, payload_type::GRANT_TYPE, printable::clean, v1,
    v1::event::What,
};
use prost::Message as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::{
        backoff::{Backoff, part, random},
        closer::PASSING,
        connection::{Boot, Connection, LEAVES},
        deliverer::{Judged, judged},
        held,
    },
    Inbox, Post, calls,
    letter::{Kind, Letter},
};
use crate::{
    bus::{Comparison, Outcome, Presence, Report, Sign, subject::HostTag},
    clock::now_ms,
    model::Answer,
};

/// How often a host is asked for its status.
const STATUS: Duration = Duration::from_secs(60);
/// After an event that changes the status it is asked for when no other has come for this time.
const SETTLE: Duration = Duration::from_millis(200);
/// Between attempts to read a mailbox.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10) };
/// The time that an agent gets to connect to another hub.
const GOES: Duration = Duration::from_secs(4);
/// The most grants of one call, and the most bytes of them: an agent reads 4 MiB.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// The most answers that are remembered.
const REMEMBERED: usize = 16_384;
/// The most bytes of what has not arrived at a host that are reported: hashes of 32 bytes.
const MISSING: usize = 192 * 32;
/// Largest status of a report, bytes; longer: only its state.
const LONGEST_STATUS: usize = 9000;

/// Answers of a host, by what they answer to.
type Answers = HashMap<Hash, Vec<Outcome>>;

/// Follows a host until it has no connection any more.
pub(super) async fn run(post: Arc<Post>, host: String, mut inbox: Inbox, first: Connection) {
    let mut next = Some((first, None));
    while let Some((connection, former)) = next.take() {
        let (since_ms, peer) = (connection.since_ms, connection.place_at_hub());
        let mut at = At {
            post: &post,
            host: &host,
            since_ms,
            peer,
            former,
            rival: String::new(),
            answers: Answers::new(),
            held: HashSet::new(),
            again: false,
            unsaid: None,
        };
        match at.follow(connection, &mut inbox).await {
            End::Replaced(by, former) => {
                next = Some((*by, Some((former, Instant::now() + LEAVES))))
            }
            End::Closed(why) => {
                tracing::debug!(host, why, "a host left");
                at.report(false, String::new()).await;
            }
        }
        if next.is_none() {
            // Under the lock: a connection that comes now finds no entry, or is found here.
            let mut hosts = post.hosts();
            match inbox.arrivals.try_recv() {
                Ok(connection) => next = Some((connection, None)),
                Err(_) => drop(hosts.remove(&HostTag::of(&host))),
            }
        }
    }
}

/// Why a host is not followed over this connection any more.
enum End {
    Closed(String),
    /// By another connection of the same machine.
    Replaced(Box<Connection>, Box<Connection>),
}

/// A host at one connection.
struct At<'p> {
    post: &'p Arc<Post>,
    host: &'p str,
    since_ms: i64,
    peer: String,
    /// A connection that this one has replaced, and when its agent must have ended it.
    former: Option<(Box<Connection>, Instant)>,
    /// Why two machines are this host, while it is reported.
    rival: String,
    answers: Answers,
    /// Grants that are open there, as its last status said.
    held: HashSet<Hash>,
    /// The host could not carry out a revocation at this moment: its mailbox is read again.
    again: bool,
    /// When it is reported that the host has come, with its status.
    unsaid: Option<(Instant, String)>,
}

impl At<'_> {
    async fn follow(&mut self, mut used: Connection, inbox: &mut Inbox) -> End {
        let closed = |error: CallError| End::Closed(error.to_string());
        let mut turn = used.turn.take();
        let mut agent = used.agent.clone();
        let boot = match self.begin(&mut agent).await {
            Ok(boot) => boot,
            Err(why) => return End::Closed(why),
        };
        let mut events = match agent.watch(String::new(), false).await {
            Ok(events) => events,
            Err(error) => return closed(error),
        };
        let mut draining = self.post.draining.subscribe();
        let (mut leaves_at, mut unread) = (None, 0_u32);
        let mut read_at = Some(Instant::now());
        let mut due = Instant::now() + part(STATUS, random());
        let mut letters = Vec::with_capacity(BATCH);
        // What was published just now, before all that stands in its mailbox.
        while let Ok(letter) = inbox.letters.try_recv() {
            letters.push(letter);
        }
        if let Err(error) = self.deliver(&mut agent, letters.drain(..), false).await {
            return closed(error);
        }
        // Beside what comes meanwhile: the servers may be busy.
        let mut reading = JoinSet::new();
        loop {
            let examined = self.former.as_ref().map(|(_, until)| *until);
            let said = self.unsaid.as_ref().map(|(at, _)| *at);
            tokio::select! {
                event = agent.next_event(&mut events) => match event {
                    Ok(Some(event)) => {
                        if self.happened(event).await {
                            due = due.min(Instant::now() + SETTLE);
                        }
                    }
                    Ok(None) => return End::Closed("the agent ended the stream of events".into()),
                    Err(error) => return closed(error),
                },
                Some(uplink) = inbox.arrivals.recv() => {
                    if let Some(new) = self.meet(uplink, &mut used, &boot).await {
                        return End::Replaced(Box::new(new), Box::new(used));
                    }
                }
                () = ends(&mut draining), if leaves_at.is_none() => {
                    // It goes to another hub first. An older agent cannot, and has to come back.
                    if let Err(error) = agent.reconnect().await {
                        return closed(error);
                    }
                    leaves_at = Some(Instant::now() + GOES);
                }
                () = at(leaves_at) => return End::Closed("this hub ends".into()),
                _ = inbox.letters.recv_many(&mut letters, BATCH) => {
                    if let Err(error) = self.deliver(&mut agent, letters.drain(..), true).await {
                        return closed(error);
                    }
                    if std::mem::take(&mut self.again) {
                        let soon = Instant::now() + AGAIN.first;
                        read_at = Some(read_at.map_or(soon, |at| at.min(soon)));
                    }
                }
                Some(question) = inbox.asked.recv() => self.here(&mut agent, question).await,
                Some(request) = inbox.comparisons.recv() => self.compare(&mut agent, &request).await,
                Some(call) = inbox.calls.recv() => {
                    if let Err(error) = calls::make(self.post, &mut agent, self.since_ms, call).await {
                        return closed(error);
                    }
                }
                () = inbox.missed.notified() => read_at = Some(Instant::now()),
                () = at(read_at) => {
                    read_at = None;
                    reading.spawn(read(Arc::clone(self.post), self.host.to_owned()));
                }
                Some(read) = reading.join_next() => {
                    let read = read.unwrap_or_else(|error| Err(error.to_string()));
                    let next = match read {
                        Ok(all) => {
                            let all = all.into_iter();
                            if let Err(error) = self.deliver(&mut agent, all, false).await {
                                return closed(error);
                            }
                            unread = if self.again { unread.saturating_add(1) } else { 0 };
                            std::mem::take(&mut self.again)
                                .then(|| Instant::now() + AGAIN.pause(unread, random()))
                        }
                        Err(why) => {
                            unread = unread.saturating_add(1);
                            tracing::info!(host = self.host, why, "its mailbox is read again");
                            Some(Instant::now() + AGAIN.pause(unread, random()))
                        }
                    };
                    read_at = next.into_iter().chain(read_at).min();
                    drop(turn.take());
                }
                () = at(examined) => self.examine().await,
                () = at(said) => self.say().await,
                () = inbox.sought.notified(), if said.is_some() => self.say().await,
                () = sleep_until(due) => {
                    if let Err(why) = self.ask(&mut agent).await {
                        return End::Closed(why);
                    }
                    due = Instant::now() + STATUS * 3 / 4 + part(STATUS / 2, random());
                }
            }
        }
    }

    /// Asks for the status, and reports that the host has come; of a crowd not of all at once.
    async fn begin(&mut self, agent: &mut Agent) -> Result<Boot, String> {
        let status = self.status(agent).await?;
        let text = STANDARD.encode(summary(&status));
        match self.post.pace.moment() {
            None => self.report(true, text).await,
            Some(moment) => self.unsaid = Some((moment, text)),
        }
        Ok(Boot::of(&status))
    }

    /// Reports that the host has come, if that was not done.
    async fn say(&mut self) {
        if let Some((_, status)) = self.unsaid.take() {
            self.report(true, status).await;
        }
    }

    /// Asks for the status, and reports that the host is here.
    async fn ask(&mut self, agent: &mut Agent) -> Result<(), String> {
        let status = self.status(agent).await?;
        self.unsaid = None;
        self.report(true, STANDARD.encode(summary(&status))).await;
        Ok(())
    }

    async fn status(&mut self, agent: &mut Agent) -> Result<v1::StatusResponse, String> {
        let status = agent.status().await.map_err(|error| error.to_string())?;
        if status.host != self.host {
            return Err(format!(
                "the agent at {} says that it is {:?}, and its certificate says {:?}",
                self.peer,
                clean(&status.host, 256),
                self.host
            ));
        }
        self.held = open_grants(&status);
        Ok(status)
    }

    /// Says that its agent answers here now.
    async fn here(&self, agent: &mut Agent, question: String) {
        let Ok(status) = agent.status().await else { return };
        let presence = self.presence(true, STANDARD.encode(summary(&status)));
        let Some(bus) = self.post.bus.borrow().clone() else { return };
        if let Err(error) = bus.sign(&Sign::Here { question, presence }).await {
            tracing::info!(%error, host = self.host, "it is not said who has it");
        }
    }

    /// Has the host compare itself with a checkpoint, and says what it says. An older agent does not know the
    /// call: it is not cut off for that. Of a connection that broke the stream of events hears.
    async fn compare(&mut self, agent: &mut Agent, request: &Bytes) {
        let Ok(request) = v1::CompareMailboxRequest::decode(request.clone()) else { return };
        let envelope = request.checkpoint.clone().unwrap_or_default();
        let Ok(checkpoint) = v1::Checkpoint::decode(envelope.payload) else { return };
        let (standing, mut missing) = match agent.compare_mailbox(request).await {
            Ok(answer) => (answer.standing, answer.first_missing),
            Err(CallError::Refused { word, .. }) => (word, Bytes::new()),
            Err(error) => {
                tracing::debug!(%error, host = self.host, "it does not compare itself");
                return;
            }
        };
        if standing == "missing" {
            // It no longer has what it has answered to: it gets it again.
            self.answers.clear();
            self.held.clear();
        }
        missing.truncate(MISSING);
        let comparison = Comparison {
            host: self.host.to_owned(),
            number: checkpoint.number,
            standing: clean(&standing, 64),
            missing: STANDARD.encode(missing),
        };
        let Some(bus) = self.post.bus.borrow().clone() else { return };
        if let Err(error) = bus.sign(&Sign::Compared(comparison)).await {
            tracing::info!(%error, host = self.host, "what it says of a checkpoint is not said");
        }
    }

    fn presence(&self, connected: bool, status: String) -> Presence {
        Presence {
            host: self.host.to_owned(),
            hub: self.post.name.clone(),
            connected,
            since_ms: self.since_ms,
            at_ms: now_ms(),
            peer: self.peer.clone(),
            status,
            rival: self.rival.clone(),
        }
    }

    async fn report(&self, connected: bool, status: String) {
        let presence = self.presence(connected, status);
        self.post.reports.add(Report::Presence(presence)).await;
    }

    /// The agent has made another connection. Returns it if it takes the place of the one in use.
    async fn meet(
        &mut self,
        mut new: Connection,
        used: &mut Connection,
        boot: &Boot,
    ) -> Option<Connection> {
        let status = new.agent.status().await.ok()?;
        let same = Boot::of(&status).is_of_the_machine_of(boot);
        if same || used.agent.status().await.is_err() {
            return Some(new);
        }
        self.dispute(&new.place_at_hub()).await;
        None
    }

    /// Looks whether a connection that was replaced has ended, as its agent ends it. If it has not, there is
    /// a second machine.
    async fn examine(&mut self) {
        if let Some((mut former, _)) = self.former.take()
            && former.agent.status().await.is_ok()
        {
            self.dispute(&former.place_at_hub()).await;
        }
    }

    async fn dispute(&mut self, other: &str) {
        self.rival = format!(
            "two machines are connected as this host: the one at {}, and the one at {other}. Nothing is \
             opened here until somebody has looked, and said so by clearing this alarm",
            self.peer
        );
        tracing::error!(host = self.host, "{}", self.rival);
        self.report(true, String::new()).await;
        // It was said; the alarm stands at the controller until a person has looked.
        self.rival.clear();
    }

    /// Something happened at the host. Returns whether its status may be another one.
    async fn happened(&self, event: v1::Event) -> bool {
        match event.what {
            Some(What::Gate(_) | What::Policy(_) | What::Gap(_)) => true,
            Some(What::Grant(grant)) => {
                let Some(id) = GrantId::from_bytes(&grant.grant_id) else { return false };
                let answer = match grant.kind.as_str() {
                    "activated" => Answer::Open,
                    _ if held::is_ending(&grant) => Answer::Closed,
                    _ => return false,
                };
                let said = format!("{} on the host by {}", grant.kind, grant.by);
                let outcome = self.outcome("", &id.to_string(), false);
                let outcome = with(outcome, answer.word(), &grant.kind, &said);
                self.post.reports.add(Report::Answer(outcome)).await;
                false
            }
            Some(What::AuditHead(_) | What::Packet(_)) | None => false,
        }
    }

    fn outcome(&self, item: &str, grant: &str, ends: bool) -> Outcome {
        Outcome {
            host: self.host.to_owned(),
            item: item.to_owned(),
            grant: grant.to_owned(),
            ends,
            answer: String::new(),
            word: String::new(),
            detail: String::new(),
            at_ms: now_ms(),
        }
    }

    /// Gives letters to the host, revocations first, and reports what it answers. What it has answered over
    /// this connection it is not asked again, and what its status has as open it does not get once more: all
    /// hosts of a hub that was killed come to another one at the same time, each with a whole mailbox.
    /// `published`: they come just now. Then somebody waits for the answer, and it is given and reported.
    async fn deliver(
        &mut self,
        agent: &mut Agent,
        letters: impl Iterator<Item = Bytes>,
        published: bool,
    ) -> Result<(), CallError> {
        let mut new: Vec<Letter> = Vec::new();
        for bytes in letters {
            match Letter::read(&bytes) {
                Ok(letter) => match self.answers.get(&letter.item) {
                    Some(_) if !published => {}
                    Some(outcomes) => {
                        for outcome in outcomes.clone() {
                            self.post.reports.add(Report::Answer(outcome)).await;
                        }
                    }
                    None if !published && self.held.contains(&letter.item) => {}
                    None if new.iter().any(|other| other.item == letter.item) => {}
                    None => new.push(letter),
                },
                Err(why) => tracing::warn!(host = self.host, why, "a letter is left out"),
            }
        }
        new.sort_by_key(Letter::order);
        let (mut grants, mut size) = (Vec::new(), 0);
        for letter in new {
            match letter.kind {
                Kind::Revocation(_) => self.revoke(agent, letter).await?,
                Kind::Grant { .. } => {
                    size += letter.envelope.encoded_len();
                    if grants.len() == BATCH || size > BATCH_BYTES {
                        self.push(agent, std::mem::take(&mut grants)).await?;
                        size = letter.envelope.encoded_len();
                    }
                    grants.push(letter);
                }
                Kind::Policy => {
                    tracing::warn!(host = self.host, "a policy does not come over the bus");
                }
            }
        }
        match grants.is_empty() {
            true => Ok(()),
            false => self.push(agent, grants).await,
        }
    }

    async fn push(&mut self, agent: &mut Agent, letters: Vec<Letter>) -> Result<(), CallError> {
        let envelopes = letters.iter().map(|letter| letter.envelope.clone()).collect();
        let (mut outcomes, refused) = match agent.push_batch(envelopes).await {
            Ok(outcomes) => (outcomes.into_iter(), None),
            Err(error @ CallError::Unavailable(_)) => return Err(error),
            Err(error) => (Vec::new().into_iter(), Some(error.to_string())),
        };
        for letter in letters {
            let Kind::Grant { id, begins_ms } = letter.kind else { continue };
            let outcome = self.outcome(&hex::encode(letter.item), &id.to_string(), false);
            let judged = match &refused {
                Some(why) => Judged::Failed(why.clone()),
                None => judged(begins_ms, outcomes.next()),
            };
            let (outcome, stays) = match judged {
                Judged::Answered { answer, word, detail } => {
                    // One that has not begun is asked for again, when it has.
                    (with(outcome, answer.word(), &word, &detail), answer != Answer::Scheduled)
                }
                Judged::Failed(why) => (with(outcome, Outcome::NOT_NOW, "", &why), false),
            };
            self.answered(letter.item, vec![outcome], stays).await;
        }
        Ok(())
    }

    async fn revoke(&mut self, agent: &mut Agent, letter: Letter) -> Result<(), CallError> {
        let Kind::Revocation(ids) = letter.kind else { return Ok(()) };
        let signed = v1::revoke_request::What::Signed(letter.envelope);
        let request = v1::RevokeRequest { what: Some(signed), ..v1::RevokeRequest::default() };
        let (answer, word, detail) = match agent.revoke(request).await {
            Ok(answer) => (Answer::Closed.word(), "ok".to_owned(), answer.warning),
            Err(error @ CallError::Unavailable(_)) => return Err(error),
            Err(CallError::Refused { word, detail }) if !PASSING.contains(&word.as_str()) => {
                (Answer::Refused.word(), word, detail)
            }
            // It is about this moment. Nobody waits for a closed port until it is published again.
            Err(error) => {
                self.again = true;
                (Outcome::NOT_NOW, String::new(), error.to_string())
            }
        };
        // One that is made for one grant names it. Others are known by their item.
        let grant = match ids.as_slice() {
            [id] => id.to_string(),
            _ => String::new(),
        };
        let outcome =
            with(self.outcome(&hex::encode(letter.item), &grant, true), answer, &word, &detail);
        self.answered(letter.item, vec![outcome], answer == Answer::Closed.word()).await;
        Ok(())
    }

    async fn answered(&mut self, item: Hash, outcomes: Vec<Outcome>, stays: bool) {
        for outcome in &outcomes {
            self.post.reports.add(Report::Answer(outcome.clone())).await;
        }
        if stays {
            if self.answers.len() >= REMEMBERED {
                self.answers.clear();
            }
            self.answers.insert(item, outcomes);
        }
    }
}

/// Everything that stands in the mailbox of a host.
async fn read(post: Arc<Post>, host: String) -> Result<Vec<Bytes>, String> {
    let mut seen = post.bus.subscribe();
    let bus = {
        let there = timeout(Duration::from_secs(5), seen.wait_for(Option::is_some)).await;
        there.ok().and_then(Result::ok).and_then(|bus| bus.clone())
    };
    let bus = bus.ok_or("the bus was not there yet")?;
    let all = bus.mailbox(&host).await.map_err(|error| error.to_string())?;
    Ok(all.into_iter().map(|stored| stored.envelope).collect())
}

fn with(outcome: Outcome, answer: &str, word: &str, detail: &str) -> Outcome {
    let (answer, word, detail) = (answer.to_owned(), word.to_owned(), detail.to_owned());
    Outcome { answer, word, detail, ..outcome }
}

/// Waits until the process ends.
async fn ends(draining: &mut watch::Receiver<bool>) {
    drop(draining.wait_for(|draining| *draining).await);
}

/// Waits until this moment; without one for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Grants that are open, as a status says.
fn open_grants(status: &v1::StatusResponse) -> HashSet<Hash> {
    let open = status.grants.iter().filter(|grant| grant.state() == v1::State::Active);
    open.map(|open| item(GRANT_TYPE, &open.grant)).collect()
}

/// What the side with the store needs of a status.
fn summary(status: &v1::StatusResponse) -> Vec<u8> {
    let short = v1::StatusResponse {
        host: status.host.clone(),
        state: status.state.clone(),
        version: status.version.clone(),
        boot_id: status.boot_id.clone(),
        started_at_ms: status.started_at_ms,
        ..v1::StatusResponse::default()
    };
    let (problems, ports) = (status.problems.clone(), status.ports.clone());
    let whole = v1::StatusResponse { problems, ports, ..short.clone() }.encode_to_vec();
    if whole.len() <= LONGEST_STATUS { whole } else { short.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_is_too_long_is_reported_without_its_lists() {
        let mut status = v1::StatusResponse {
            host: "web-1".into(),
            state: "degraded".into(),
            problems: vec!["uplink".into()],
            ..v1::StatusResponse::default()
        };
        let read = |status: &v1::StatusResponse| {
            v1::StatusResponse::decode(summary(status).as_slice()).unwrap()
        };
        assert_eq!(read(&status).problems, ["uplink"]);
        status.problems = vec!["x".repeat(LONGEST_STATUS)];
        assert_eq!(read(&status).problems, [""; 0]);
        assert_eq!(read(&status).state, "degraded");
    }
}

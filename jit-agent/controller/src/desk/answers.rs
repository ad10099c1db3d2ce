//! What hosts answer, and what that makes of a request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{CONTROLLER, Desk, DeskError, end};
use crate::{
    audit::{self, Code, Record},
    model::{Answer, State, state::of_answers},
    store::{Delivery, Request, Tx, Wanted, chains, deliveries, deliveries::Said, requests},
};

/// What was heard of a host, or that nothing was.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What the host had to hear.
    pub of: Delivery,
    /// Its answer.
    pub what: What,
}

/// What a host answered, or that it did not.
#[derive(Clone, Debug)]
pub enum What {
    /// It has answered.
    Answered {
        /// What.
        answer: Answer,
        /// Its reason word.
        word: String,
        /// Its sentence.
        detail: String,
    },
    /// It no longer knows what it had accepted: it was installed anew. What is still wanted is sent again.
    Lost {
        /// What is seen of it, in words.
        detail: String,
    },
    /// It went to the bus; whether the host has it is not known yet.
    Sent {
        /// When it goes there again, without an answer.
        next_ms: i64,
    },
    /// It has not.
    Failed {
        /// Why, in words.
        trouble: String,
        /// When it is tried again.
        next_ms: i64,
    },
}

impl Desk {
    /// Keeps what was heard of hosts, and the states of requests that follow from all answers, in one
    /// transaction. An answer to what is no longer wanted changes nothing.
    ///
    /// # Errors
    /// Those of the database: nothing of it is kept then.
    pub async fn hear(&self, heard: &[Heard], now_ms: i64) -> Result<(), DeskError> {
        let mut by_request: BTreeMap<&str, Vec<&Heard>> = BTreeMap::new();
        for one in heard {
            by_request.entry(&one.of.request).or_default().push(one);
        }
        let mut tx = self.store().begin().await?;
        let mut locked = lock_all(&mut tx, by_request.keys()).await?;
        let mut news = false;
        for (id, heard) in by_request {
            let request = locked.remove(id);
            let request = request.ok_or_else(|| DeskError::NotFound(format!("request {id}")))?;
            news |= hear_of(&mut tx, request, &heard, now_ms).await?;
        }
        if news {
            return self.commit(tx).await;
        }
        // Nobody waits for the tenth failure.
        Ok(tx.commit().await?)
    }

    /// Keeps a host's answer ([`Desk::hear`]).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn answered(
        &self,
        of: &Delivery,
        answer: Answer,
        word: &str,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), DeskError> {
        let what = What::Answered { answer, word: word.to_owned(), detail: detail.to_owned() };
        self.hear(&[Heard { of: of.clone(), what }], now_ms).await
    }

    /// Keeps that a host did not answer, and why ([`Desk::hear`]). The first time is in the audit.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn failed(
        &self,
        of: &Delivery,
        trouble: &str,
        now_ms: i64,
        next_ms: i64,
    ) -> Result<(), DeskError> {
        let what = What::Failed { trouble: trouble.to_owned(), next_ms };
        self.hear(&[Heard { of: of.clone(), what }], now_ms).await
    }
}

/// Reads these requests for a change, with what they replace: the newest first, as all who change several. So of
/// two, none waits for the other.
async fn lock_all<'i>(
    tx: &mut Tx,
    ids: impl Iterator<Item = &'i &'i str>,
) -> Result<BTreeMap<String, Request>, DeskError> {
    let mut left: BTreeSet<String> = ids.map(|id| (*id).to_owned()).collect();
    let mut locked = BTreeMap::new();
    while let Some(id) = left.pop_last() {
        if let Some(request) = requests::lock(tx, &id).await? {
            left.extend(request.proposal.replaces.clone());
            locked.insert(id, request);
        }
    }
    Ok(locked)
}

/// Keeps what was heard of the hosts of one request. Returns whether anybody waits for it.
async fn hear_of(
    tx: &mut Tx,
    request: Request,
    heard: &[&Heard],
    now_ms: i64,
) -> Result<bool, DeskError> {
    let id = &request.proposal.id.clone();
    let (mut records, mut grants_answered) = (Vec::new(), false);
    for layer in layers(heard) {
        let kept = keep(tx, &request, &layer, now_ms).await?;
        for (Heard { of, what }, _) in layer.iter().zip(&kept).filter(|(_, kept)| **kept) {
            let (answer, word, detail) = match what {
                What::Answered { answer, word, detail } => {
                    grants_answered |= of.wanted == Wanted::Grant;
                    (answer.word(), word.as_str(), detail)
                }
                What::Lost { detail } => {
                    grants_answered = true;
                    let wanted = request.state.is_on_hosts();
                    let answer = if wanted { Answer::Waiting } else { Answer::Closed };
                    (answer.word(), "lost", detail)
                }
                // Nobody waits for that.
                What::Sent { .. } => continue,
                What::Failed { trouble, .. } => ("none", "", trouble),
            };
            let fields = json!({
                "grant": of.grant_id, "host": of.host, "wanted": of.wanted.word(), "answer": answer,
                "word": word, "detail": detail,
            });
            records.push(Record::new(Code::Answered, id, &of.host, fields));
        }
    }
    if records.is_empty() {
        return Ok(false);
    }
    audit::append_all(tx, now_ms, &records).await?;
    let follows = request.state.is_on_hosts() || request.state == State::Refused;
    if grants_answered && follows {
        restate(tx, request, now_ms).await?;
    }
    Ok(true)
}

/// The same in order, in parts: none has two of one host and grant.
fn layers<'h>(heard: &[&'h Heard]) -> Vec<Vec<&'h Heard>> {
    let mut layers: Vec<Vec<&Heard>> = Vec::new();
    let mut before: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for one in heard {
        let count = before.entry((&one.of.grant_id, &one.of.host)).or_default();
        match layers.get_mut(*count) {
            Some(layer) => layer.push(one),
            None => layers.push(vec![one]),
        }
        *count += 1;
    }
    layers
}

/// Hosts that say the same to the same, each with whether it is news.
type Alike<'h, 'n> = BTreeMap<(&'h str, Wanted, Said<'h>), Vec<(&'h str, &'n mut bool)>>;

/// Writes what was heard, no two of one host and grant. Returns of each whether it is news.
async fn keep(
    tx: &mut Tx,
    request: &Request,
    heard: &[&Heard],
    now_ms: i64,
) -> Result<Vec<bool>, DeskError> {
    let mut news = vec![false; heard.len()];
    let mut alike = Alike::new();
    for (Heard { of, what }, news) in heard.iter().zip(&mut news) {
        match what {
            What::Answered { answer, word, detail } => {
                let said = Said { answer: answer.word(), word, detail };
                let alike = alike.entry((&of.grant_id, of.wanted, said)).or_default();
                alike.push((&of.host, news));
            }
            // What has ended, or was replaced, is not sent again.
            What::Lost { detail } => {
                *news = match request.state.is_on_hosts() {
                    true => deliveries::again(tx, of, detail, now_ms).await?,
                    false => {
                        let closed = Answer::Closed;
                        deliveries::answered(tx, of, closed, "lost", "", now_ms).await?
                    }
                };
            }
            What::Sent { next_ms } => {
                deliveries::sent(tx, of, *next_ms).await?;
                continue;
            }
            What::Failed { trouble, next_ms } => {
                deliveries::failed(tx, of, trouble, now_ms, *next_ms).await?;
                *news = of.trouble.is_empty();
            }
        }
    }
    let mut opened = BTreeSet::new();
    for ((grant, wanted, said), mut of) in alike {
        let hosts: Vec<_> = of.iter().map(|(host, _)| *host).collect();
        let kept = deliveries::answered_alike(tx, (grant, wanted), &hosts, said, now_ms).await?;
        for (host, news) in &mut of {
            **news = kept.contains(*host);
        }
        if said.answer == Answer::Open.word() {
            opened.extend(kept);
        }
    }
    stop(tx, request, &opened, now_ms).await?;
    Ok(news)
}

/// Keeps the state of a request that follows from what its hosts have answered.
pub(super) async fn restate(
    tx: &mut Tx,
    mut request: Request,
    now_ms: i64,
) -> Result<(), DeskError> {
    let id = &request.proposal.id.clone();
    let state = of_answers(&deliveries::tally(tx, id).await?);
    if state == State::Open || state == State::Partly {
        end::replaced(tx, &request, now_ms).await?;
    }
    if state != request.state {
        request.state = state;
        if state == State::Ended {
            request.why = "every host that had opened it has ended it".into();
            let fields = json!({ "hosts_open": 0, "hosts": request.proposal.hosts.len() });
            let record = Record::new(Code::Ended, id, CONTROLLER, fields);
            audit::append(tx, now_ms, &record).await?;
        }
        requests::update(tx, &request).await?;
    }
    Ok(())
}

/// Hosts have opened a request: what it replaces must not open there after it. The host itself ends what the
/// grant names, and cannot know of what that one replaces.
async fn stop(
    tx: &mut Tx,
    request: &Request,
    hosts: &BTreeSet<String>,
    now_ms: i64,
) -> Result<(), DeskError> {
    if hosts.is_empty() {
        return Ok(());
    }
    for (steps, old) in chains::replaced(tx, request).await?.iter().enumerate() {
        for host in hosts {
            deliveries::stop(tx, old, host, steps > 0, now_ms).await?;
        }
    }
    Ok(())
}

//! Two machines that are one host, at two hubs. When a host appears at another hub, all hubs are asked who
//! has it: another boot that answers is another machine, at once; the same boot that is at two hubs twice, with
//! more time between than an agent takes to leave one, is a copy of a running machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jit_proto::{printable::clean, v1};
use prost::Message as _;
use tokio::time::sleep;

use super::{
    super::{FleetError, backoff::random, scribe::Note},
    Office, place,
};
use crate::{bus::Presence, clock::now_ms, model::host::Alarm};

/// An agent ends a connection that it has replaced within 12 s.
const LEFT: Duration = Duration::from_secs(15);
/// Answers are waited for.
const ANSWERS: Duration = Duration::from_secs(8);
/// Hosts that are asked for at the same time, at most.
const MOST: usize = 20_000;
/// Longest word that is kept, characters.
const WORD: usize = 64;

/// Who is asked for.
#[derive(Default)]
pub(super) struct Doubles(Mutex<BTreeMap<String, Question>>);

struct Question {
    host: String,
    /// The boot that was reported last; empty: it is not known.
    boot: String,
    /// Each connection that has answered, by its hub and its beginning, and where it is.
    here: BTreeMap<(String, i64), String>,
}

impl Doubles {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Question>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host has appeared at another hub. `other_boot`: with another boot.
    pub(super) fn moved(office: &Arc<Office>, host: &str, boot: &str, other_boot: bool) {
        if office.doubles.all().len() >= MOST {
            return;
        }
        let (office, host, boot) = (Arc::clone(office), host.to_owned(), boot.to_owned());
        tokio::spawn(async move {
            if other_boot {
                ask(&office, &host, &boot).await;
            }
            sleep(LEFT).await;
            let first = ask(&office, &host, &boot).await;
            if first.len() < 2 {
                return;
            }
            sleep(LEFT).await;
            let second = ask(&office, &host, &boot).await;
            let both: BTreeSet<_> =
                first.iter().filter(|(key, _)| second.contains_key(*key)).collect();
            if both.len() < 2 {
                return;
            }
            let places: Vec<_> = both.into_iter().map(|(_, place)| place.as_str()).collect();
            if let Err(error) = alarm(&office, &host, &places).await {
                tracing::warn!(%error, host, "an alarm is not kept");
            }
        });
    }

    /// A hub has said that it has this host.
    pub(super) async fn answered(
        office: &Office,
        question: &str,
        presence: &Presence,
    ) -> Result<(), FleetError> {
        let here = place::at(&clean(&presence.peer, WORD), &clean(&presence.hub, WORD));
        let boot = status_of(presence).map(|status| status.boot_id).unwrap_or_default();
        let other = {
            let mut all = office.doubles.all();
            let Some(asked) = all.get_mut(question) else { return Ok(()) };
            if asked.host != presence.host || asked.here.len() >= WORD {
                return Ok(());
            }
            let key = (presence.hub.clone(), presence.since_ms);
            asked.here.insert(key, here.clone());
            !boot.is_empty() && !asked.boot.is_empty() && boot != asked.boot
        };
        match other {
            true => alarm(office, &presence.host, &[&here]).await,
            false => Ok(()),
        }
    }
}

/// Asks once, and returns who has answered.
async fn ask(office: &Office, host: &str, boot: &str) -> BTreeMap<(String, i64), String> {
    let question = format!("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
    let (host, boot) = (host.to_owned(), boot.to_owned());
    let of = Question { host: host.clone(), boot, here: BTreeMap::new() };
    office.doubles.all().insert(question.clone(), of);
    if let Err(error) = office.bus.ask_for(&host, &question).await {
        tracing::warn!(%error, host, "it is not asked who has it");
    }
    sleep(ANSWERS).await;
    let asked = office.doubles.all().remove(&question);
    asked.map(|asked| asked.here).unwrap_or_default()
}

/// Nothing is opened there from now on.
async fn alarm(office: &Office, host: &str, places: &[&str]) -> Result<(), FleetError> {
    let text = format!(
        "two machines are connected as this host at hubs, seen at {}. Nothing is opened here until somebody \
         has looked, and said so by clearing this alarm",
        places.join(", and at ")
    );
    tracing::error!(host, "{text}");
    let alarm = Alarm { word: "clone".into(), text, at_ms: now_ms(), holds: true };
    let note = Note { host: host.to_owned(), alarms: vec![alarm], ..Note::default() };
    let gone = |_| FleetError::Conflict("the fleet has ended".into());
    office.notes.send(note).await.map_err(gone)
}

/// The status that a hub reports; `None`: none.
pub(super) fn status_of(presence: &Presence) -> Option<v1::StatusResponse> {
    let status = STANDARD.decode(&presence.status).ok().filter(|bytes| !bytes.is_empty())?;
    v1::StatusResponse::decode(status.as_slice()).ok()
}

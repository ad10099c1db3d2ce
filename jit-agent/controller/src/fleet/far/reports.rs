//! Keeps what hubs report: it may come twice, late, and in any order, and no hub is believed more than the
//! host could have said itself. A report leaves the bus when the store has it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jit_proto::printable::clean;
use tokio::task::JoinSet;

use super::{
    super::{FleetError, deliverer::failure, observe, outbox::answered, scribe::Note},
    Office,
    doubles::{self, Doubles},
    place,
};
use crate::{
    bus::{Outcome, Presence, Received, Report},
    clock::now_ms,
    model::{Answer, host::Alarm},
    store::{Delivery, Wanted},
};

/// Reports that are written at the same time.
const AT_ONCE: usize = 256;
/// Longest word and sentence of a report that is kept, characters.
const WORD: usize = 64;
const SENTENCE: usize = 1000;
/// A boot that another one followed cannot come back. Clocks of hubs may differ by this.
const SKEW_MS: i64 = 60_000;

/// What was reported of hosts last.
#[derive(Default)]
struct Seen(Mutex<HashMap<String, Last>>);

/// What was reported of a host last.
#[derive(Clone, Debug, Default)]
struct Last {
    at_ms: i64,
    since_ms: i64,
    boot: String,
    /// Where it is; empty: nowhere.
    hub: String,
    /// Since when this boot is known, and the one before it.
    boot_ms: i64,
    boot_before: String,
}

/// What a presence means after the one before. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// There is a newer one.
    Old,
    /// It is the newest one.
    New,
    /// So it is, and two machines are this host.
    Clone,
}

impl Last {
    fn take(&mut self, of: &Presence, boot: &str) -> Meaning {
        let left = !of.connected && of.since_ms != self.since_ms && self.since_ms != 0;
        let returned = !boot.is_empty() && boot == self.boot_before;
        if returned && of.at_ms > self.boot_ms.saturating_add(SKEW_MS) {
            return Meaning::Clone;
        }
        if left || returned || of.since_ms < self.since_ms || of.at_ms < self.at_ms {
            return Meaning::Old;
        }
        if !boot.is_empty() && boot != self.boot {
            self.boot_before = std::mem::replace(&mut self.boot, boot.to_owned());
            self.boot_ms = of.at_ms;
        }
        (self.at_ms, self.since_ms) = (of.at_ms, of.since_ms);
        self.hub = if of.connected { clean(&of.hub, WORD) } else { String::new() };
        Meaning::New
    }
}

/// Takes reports until the task is ended.
pub(super) async fn run(office: Arc<Office>) {
    let seen = Arc::new(Seen::default());
    let mut reports = office.bus.reports();
    let mut under_way = JoinSet::new();
    loop {
        let received = reports.next().await;
        while under_way.len() >= AT_ONCE {
            let _ended = under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
        let (office, seen) = (Arc::clone(&office), Arc::clone(&seen));
        under_way.spawn(async move { keep(&office, &seen, received).await });
    }
}

async fn keep(office: &Arc<Office>, seen: &Seen, received: Received) {
    let kept = match &received.report {
        Report::Answer(outcome) => answer(office, outcome).await,
        Report::Presence(presence) => present(office, seen, presence).await,
    };
    match kept {
        Ok(()) => received.stored().await,
        Err(error) => tracing::warn!(%error, "a report was not kept; it comes again"),
    }
}

async fn answer(office: &Office, outcome: &Outcome) -> Result<(), FleetError> {
    if outcome.ends {
        office.closings.hear(office, outcome).await?;
    }
    if outcome.grant.is_empty() {
        return Ok(());
    }
    let row = office.outbox.store().delivery(&outcome.grant, &outcome.host).await?;
    let Some(row) = row else { return Ok(()) };
    if !office.published.has(&row) {
        let (host, grant) = (&row.host, &row.grant_id);
        tracing::warn!(host, grant, "an answer to what has not gone out is left out");
        return Ok(());
    }
    let (word, detail) = (clean(&outcome.word, WORD), clean(&outcome.detail, SENTENCE));
    match meant(&row, outcome) {
        Meant::Nothing => Ok(()),
        Meant::Failed => office.outbox.hear(vec![failure(&row, &detail)]).await,
        Meant::Answered(answer) => {
            office.outbox.hear(vec![answered(&row, answer, &word, &detail)]).await
        }
        Meant::Contradicts(answer) => {
            office.outbox.hear(vec![answered(&row, answer, &word, &detail)]).await?;
            let text = format!(
                "a hub has reported that the grant {} is {} there, and then that it is {}: one of the hubs \
                 says what is not true. Look at both",
                row.grant_id,
                row.answer.word(),
                answer.word()
            );
            tracing::error!(host = row.host, "{text}");
            let alarm = Alarm { word: "hubs_differ".into(), text, at_ms: now_ms(), holds: false };
            let note = Note { host: row.host.clone(), alarms: vec![alarm], ..Note::default() };
            let gone = || FleetError::Conflict("the fleet has ended".into());
            office.notes.send(note).await.map_err(|_| gone())
        }
    }
}

/// What an answer means for its row.
#[derive(Debug, PartialEq, Eq)]
enum Meant {
    Nothing,
    Answered(Answer),
    /// It is open after all: so it counts as open.
    Contradicts(Answer),
    Failed,
}

fn meant(row: &Delivery, outcome: &Outcome) -> Meant {
    if (row.wanted == Wanted::Revoke) != outcome.ends {
        return Meant::Nothing;
    }
    if outcome.answer == Outcome::NOT_NOW {
        return if row.pending { Meant::Failed } else { Meant::Nothing };
    }
    let answer = match Answer::of_word(&outcome.answer) {
        Some(answer @ (Answer::Open | Answer::Scheduled | Answer::Refused | Answer::Closed)) => {
            answer
        }
        Some(_) | None => return Meant::Nothing,
    };
    let holds = matches!(row.answer, Answer::Open | Answer::Scheduled);
    let by_itself = outcome.item.is_empty();
    match (outcome.ends, answer) {
        (true, Answer::Closed) if row.pending => Meant::Answered(answer),
        // It is asked again: somebody may give it the key.
        (true, Answer::Refused) if row.pending => Meant::Failed,
        // The host says by itself that what it holds has begun, or was ended there.
        (false, Answer::Closed) if by_itself && holds && !row.pending => Meant::Answered(answer),
        (false, Answer::Open) if !row.pending && row.answer == Answer::Scheduled => {
            Meant::Answered(answer)
        }
        (false, Answer::Open | Answer::Scheduled | Answer::Refused)
            if row.pending && !by_itself =>
        {
            Meant::Answered(answer)
        }
        // Of two reports that one counts by which more is open: somebody must see that, and can end it. What
        // is open may be said once more after its end, late, but is then not newer than that.
        (false, Answer::Open | Answer::Scheduled)
            if !row.pending
                && !by_itself
                && (row.answer == Answer::Refused
                    || (row.answer == Answer::Closed
                        && outcome.at_ms > row.answered_ms.saturating_add(SKEW_MS))) =>
        {
            Meant::Contradicts(answer)
        }
        _ => Meant::Nothing,
    }
}

async fn present(office: &Arc<Office>, seen: &Seen, presence: &Presence) -> Result<(), FleetError> {
    let Some(known) = office.outbox.store().host(&presence.host).await? else { return Ok(()) };
    let now_ms = now_ms();
    let status = doubles::status_of(presence);
    let boot = status.as_ref().map(|status| status.boot_id.clone()).unwrap_or_default();
    let hub = clean(&presence.hub, WORD);
    let (meaning, first, before) = {
        let mut all = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.entry(presence.host.clone()).or_default();
        let before = last.clone();
        (last.take(presence, &boot), last.since_ms != before.since_ms, before)
    };
    let here = place::at(&clean(&presence.peer, WORD), &hub);
    if meaning == Meaning::New && presence.connected {
        office.hubs.expect(&hub);
        // A process that began just now knows only what it has written before.
        let at = match before.since_ms {
            0 => place::hub_of(&known.observed.uplink).unwrap_or_default(),
            _ => before.hub.as_str(),
        };
        if first && !at.is_empty() && at != hub {
            let other = !boot.is_empty() && !before.boot.is_empty() && boot != before.boot;
            Doubles::moved(office, &presence.host, &boot, other);
        }
    }
    let mut note = Note { host: presence.host.clone(), ..Note::default() };
    let text = match (meaning, presence.rival.as_str()) {
        (Meaning::Old, "") => return Ok(()),
        (Meaning::Clone, _) => format!(
            "two machines are connected as this host at hubs, one of them from {here}. Nothing is opened \
             here until somebody has looked, and said so by clearing this alarm"
        ),
        (Meaning::New | Meaning::Old, rival) => clean(rival, SENTENCE),
    };
    if !text.is_empty() {
        note.alarms.push(Alarm { word: "clone".into(), text, at_ms: now_ms, holds: true });
    } else if let Some(status) = status {
        let mut observed = observe::answered(&known.observed, &status, presence.at_ms.min(now_ms));
        (observed.uplink, observed.connected_ms) = (here, presence.since_ms);
        note.observed = Some(observed);
        note.back = first;
    } else if !presence.connected {
        let why = format!("its agent has left {here}");
        note.observed = Some(observe::unreachable(&known.observed, &why, now_ms));
    }
    // Another report is kept before it is written; the newest one comes again within a minute.
    let gone = || FleetError::Conflict("the fleet has ended".into());
    office.notes.send(note).await.map_err(|_| gone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(wanted: Wanted, pending: bool, answer: Answer) -> Delivery {
        Delivery {
            grant_id: "01J00000000000000000000000".into(),
            host: "web-1".into(),
            request: "R".into(),
            wanted,
            pending,
            answer,
            word: String::new(),
            detail: String::new(),
            trouble: String::new(),
            trouble_since_ms: 0,
            attempts: 1,
            next_ms: 0,
            answered_ms: 0,
            until_ms: i64::MAX,
        }
    }

    #[test]
    fn only_an_answer_to_what_is_wanted_now_counts() {
        use Answer::{Closed, Open, Refused, Scheduled, Waiting};
        let (grant, revoke) = (Wanted::Grant, Wanted::Revoke);
        for (row, item, ends, answer, expected) in [
            (row(grant, true, Waiting), "a", false, "open", Meant::Answered(Open)),
            (row(grant, true, Waiting), "a", false, "refused", Meant::Answered(Refused)),
            (row(grant, true, Waiting), "a", false, "not_now", Meant::Failed),
            // It comes twice, or late.
            (row(grant, false, Open), "a", false, "open", Meant::Nothing),
            (row(grant, false, Open), "a", false, "refused", Meant::Nothing),
            (row(grant, false, Open), "a", false, "not_now", Meant::Nothing),
            (row(revoke, true, Open), "a", false, "open", Meant::Nothing),
            (row(grant, true, Waiting), "a", true, "closed", Meant::Nothing),
            (row(revoke, true, Open), "a", true, "closed", Meant::Answered(Closed)),
            (row(revoke, true, Open), "a", true, "open", Meant::Nothing),
            (row(revoke, true, Open), "a", true, "refused", Meant::Failed),
            // A hub said what was not true.
            (row(grant, false, Refused), "a", false, "open", Meant::Contradicts(Open)),
            (row(grant, false, Refused), "", false, "open", Meant::Nothing),
            (row(revoke, false, Closed), "a", false, "open", Meant::Nothing),
            (row(revoke, false, Closed), "a", true, "closed", Meant::Nothing),
            // The host says it by itself.
            (row(grant, false, Scheduled), "", false, "open", Meant::Answered(Open)),
            (row(grant, false, Open), "", false, "closed", Meant::Answered(Closed)),
            (row(grant, true, Waiting), "", false, "open", Meant::Nothing),
            (row(grant, true, Waiting), "a", false, "waiting", Meant::Nothing),
            (row(grant, true, Waiting), "a", false, "nonsense", Meant::Nothing),
        ] {
            let outcome = Outcome {
                host: "web-1".into(),
                item: item.into(),
                grant: row.grant_id.clone(),
                ends,
                answer: answer.into(),
                word: String::new(),
                detail: String::new(),
                at_ms: 1,
            };
            assert_eq!(meant(&row, &outcome), expected, "{row:?} {outcome:?}");
        }
    }

    #[test]
    fn what_is_said_to_be_open_long_after_its_end_counts_as_open() {
        let ended = row(Wanted::Grant, false, Answer::Closed);
        for (at_ms, expected) in [
            (ended.answered_ms + SKEW_MS, Meant::Nothing),
            (ended.answered_ms + SKEW_MS + 1, Meant::Contradicts(Answer::Open)),
        ] {
            let outcome = Outcome {
                host: "web-1".into(),
                item: "a".into(),
                grant: ended.grant_id.clone(),
                ends: false,
                answer: "open".into(),
                word: String::new(),
                detail: String::new(),
                at_ms,
            };
            assert_eq!(meant(&ended, &outcome), expected, "{at_ms}");
        }
    }

    #[test]
    fn late_reports_change_nothing_and_a_boot_does_not_come_back() {
        let presence = |connected, since_ms, at_ms| Presence {
            host: "web-1".into(),
            hub: "a".into(),
            connected,
            since_ms,
            at_ms,
            peer: String::new(),
            status: String::new(),
            rival: String::new(),
        };
        let mut last = Last::default();
        for (connected, since, at, boot, expected) in [
            (true, 1000, 1001, "one", Meaning::New),
            (true, 1000, 1001, "one", Meaning::New),
            // It has moved to another hub, and the first says later that it left.
            (true, 2000, 2001, "one", Meaning::New),
            (false, 1000, 2002, "", Meaning::Old),
            (true, 1000, 1500, "one", Meaning::Old),
            (false, 2000, 2500, "", Meaning::New),
            // It has booted. What was said of the boot before comes late.
            (true, 3000, 3001, "two", Meaning::New),
            (true, 2000, 2300, "one", Meaning::Old),
            (true, 4000, 3001 + SKEW_MS, "one", Meaning::Old),
            (true, 4000, 3002 + SKEW_MS, "one", Meaning::Clone),
        ] {
            let found = last.take(&presence(connected, since, at), boot);
            assert_eq!(found, expected, "{since} {at} {boot}");
        }
    }
}

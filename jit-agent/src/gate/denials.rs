//! Who was denied: the packets that were dropped, and the pushes that were refused.
//!
//! Both are kept over restarts, in one blob in the database. It goes with the transaction of each
//! minute, and at the end of the agent; no push waits for it. It decides nothing: one that is damaged
//! is dropped.

use std::{collections::BTreeMap, time::Duration};

use jit_common::{Address, Counter, Event, Family, PortCounters, PortKey, Protocol, Reason};
use jit_proto::{WallTime, v1};
use prost::{Message, bytes::Bytes};

use crate::{
    gate::{
        Gate,
        report::{address_bytes, counter, protocol},
    },
    kernel::datapath::{Counters, Datapath},
    rules::{
        clock::{BootNanos, Now},
        denials::{self, Denial, History, Kind, Query, Reading, StoredHistory},
        refusal::Refused,
        refused_pushes::{Asked, RefusedPushes, StoredRefusals},
    },
    system::{meters::meters, reports::Reports},
};

/// The first byte of the blob.
const VERSION: u8 = 1;
/// Refused pushes, and sources, that `status` shows.
const SHOWN_REFUSALS: usize = 20;
const SHOWN_SOURCES: usize = 5;
/// Milliseconds.
const HOUR: i64 = 3_600_000;
/// How often the blob is written at most.
const EACH: Duration = Duration::from_secs(60);

/// What was denied.
#[derive(Debug, Default)]
pub(super) struct Denials {
    history: History,
    refused: RefusedPushes,
    /// Refused pushes in the log, by controller and reason.
    lines: Reports,
    /// Events that the kernel delivered and the gate had no time for.
    missed: u64,
    /// Why the history is not whole; empty: it is.
    note: String,
    next_store: BootNanos,
}

/// The blob, after its version.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    history: Option<StoredHistory>,
    #[prost(message, optional, tag = "2")]
    refused: Option<StoredRefusals>,
}

impl Denials {
    /// Adds what an earlier run stored.
    fn restore(&mut self, blob: &[u8]) -> Result<(), String> {
        let stored = match blob.split_first() {
            Some((&VERSION, rest)) => Stored::decode(rest).map_err(|error| error.to_string())?,
            Some((version, _)) => return Err(format!("it has the unknown version {version}")),
            None => return Err("it is empty".into()),
        };
        let Stored { history, refused } = stored;
        self.history.restore(history.unwrap_or_default());
        self.refused.restore(refused.unwrap_or_default());
        Ok(())
    }

    /// The blob, if anything has changed since it was asked for last.
    fn save(&mut self) -> Option<Vec<u8>> {
        let Self { history, refused, .. } = self;
        (history.has_changed() || refused.has_changed()).then(|| {
            let stored = Stored { history: Some(history.save()), refused: Some(refused.save()) };
            let mut blob = vec![VERSION];
            stored.encode_raw(&mut blob);
            blob
        })
    }

    /// The packets of the last five minutes.
    pub(super) fn recent(&self, now: Now) -> v1::RecentDrops {
        let recent = self.history.recent();
        let top = recent.top(SHOWN_SOURCES, now).into_iter();
        v1::RecentDrops {
            packets: recent.dropped(now),
            by_port: by_port(&recent.ports(now)),
            top: top
                .map(|(source, packets)| v1::TopSource { source: source_bytes(source), packets })
                .collect(),
        }
    }

    /// The refused pushes of the last hour, as `status` shows them.
    pub(super) fn refused_lately(&self, now: Now) -> Vec<v1::RefusedPush> {
        let since = Some(WallTime(now.wall.0.saturating_sub(HOUR)));
        self.refused.matching(&Query { since, top: SHOWN_REFUSALS, ..Query::default() }).0
    }

    /// Whether the log gets a line about this refusal.
    pub(super) fn writes(&self, by: &str, refused: &Refused, now: Now) -> bool {
        self.lines.writes(&format!("{by} ({})", refused.refusal.word()), now.boot)
    }

    /// The refusals of minutes that have ended, of which the log got no line.
    pub(super) fn unwritten(&self, now: Now) -> Vec<(String, u64)> {
        self.lines.sums(now.boot)
    }

    /// Number of pushes that were refused in the last hour.
    pub(super) fn refused_in_the_last_hour(&self, now: Now) -> u64 {
        self.refused.in_the_last_hour(now.wall)
    }

    fn answer(&self, query: &Query) -> v1::DenialsResponse {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (denials, matching) = self.history.matching(query);
        let (refused, matching_refused) = self.refused.matching(query);
        let totals = self.history.totals();
        v1::DenialsResponse {
            denials: denials.iter().map(|(denial, count)| message(denial, count)).collect(),
            refused,
            since_ms: totals.since.map_or(0, |since| since.0),
            recorded: totals.recorded,
            unrecorded: totals.unrecorded(),
            matching: number(matching),
            matching_refused: number(matching_refused),
            note: self.note.clone(),
        }
    }
}

impl<D: Datapath> Gate<D> {
    /// Takes the denials that an earlier run stored.
    pub(super) fn restore_denials(&mut self, blob: Option<&[u8]>) {
        let Some(Err(why)) = blob.map(|blob| self.denials.restore(blob)) else { return };
        let note = format!(
            "the stored history of denials cannot be read ({why}) and was dropped: it begins with \
             this start of the agent"
        );
        tracing::error!("{note}");
        self.denials.note = note;
    }

    /// Hands the denials to the next transaction, if they have changed.
    pub(super) fn store_denials(&mut self) -> bool {
        // Before a closed database was read, they are not whole.
        if self.outbox.is_closed() {
            return false;
        }
        let blob = self.denials.save();
        let changed = blob.is_some();
        if let Some(blob) = blob {
            self.outbox.denials(blob);
        }
        changed
    }

    /// The same, at most once a minute.
    pub(super) fn store_denials_in_turn(&mut self, now: Now) {
        if now.boot >= self.denials.next_store && self.store_denials() {
            self.denials.next_store = now.boot + EACH;
        }
    }

    /// Takes the event of a dropped packet.
    pub(super) fn count_denial(&mut self, event: &Event, now: Now) {
        if let Some(denial) = denial(event) {
            self.denials.history.see(denial, event.observed != 0, now);
        }
    }

    /// Counts events that the gate had no time for.
    pub(super) fn missed_denials(&mut self, count: u64) {
        self.denials.missed = self.denials.missed.saturating_add(count);
        meters().events_missed.inc_by(count);
    }

    /// Reads the kernel's counters for the history, if there is news.
    pub(super) fn read_denials(&mut self, now: Now) {
        if !self.denials.history.wants_reading(now) {
            return;
        }
        match self.datapath.counters() {
            Ok(counters) => {
                let reading = reading(&counters, self.denials.missed);
                self.denials.history.read(reading, now);
            }
            // `status` shows it as a problem.
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// The denials that are asked for.
    pub(super) fn answer_denials(&mut self, query: &Query, now: Now) -> v1::DenialsResponse {
        self.read_denials(now);
        self.denials.answer(query)
    }

    /// Keeps a refused push. Returns what it asked for.
    pub(super) fn keep_refused(
        &mut self,
        refused: &Refused,
        payload: &Bytes,
        by: &str,
        now: Now,
    ) -> Asked {
        let asked = Asked::read(refused, payload);
        self.denials.refused.add(refused, asked.clone(), by, now.wall);
        asked
    }
}

/// The denial that an event reports; `None`: it reports none.
fn denial(event: &Event) -> Option<Denial> {
    let reason = Reason::from_number(event.reason).filter(|reason| reason.drops())?;
    let family = if event.family == 4 { Family::V4 } else { Family::V6 };
    let protocol = Protocol::from_number(event.protocol)?;
    let port = PortKey { protocol, port: event.port };
    Some(Denial { source: Address::of(family, event.source), port, reason })
}

fn reading(counters: &Counters, missed: u64) -> Reading {
    let ports = counters.ports.iter().flat_map(|(port, PortCounters { packets, .. })| {
        let dropped = Reason::ALL.into_iter().zip(packets).filter(|(reason, _)| reason.drops());
        dropped.map(|(reason, packets)| ((*port, reason), *packets))
    });
    let undelivered = [Counter::EventsSuppressed, Counter::EventsLost].map(|c| counters.total(c));
    Reading {
        dropped: counters.drops().map(|(_, packets)| packets).sum(),
        undelivered: undelivered.into_iter().sum::<u64>().saturating_add(missed),
        ports: ports.filter(|(_, packets)| *packets > 0).collect(),
    }
}

fn message(denial: &Denial, count: &denials::Count) -> v1::Denial {
    let Denial { source, port, reason } = denial;
    v1::Denial {
        source: source_bytes(*source),
        protocol: protocol(port.protocol as u8),
        port: port.port.into(),
        reason: reason.word().into(),
        first_ms: count.first.0,
        last_ms: count.last.0,
        seen: count.seen,
        error: count.error,
        packets: count.estimate(),
        observed: count.observed,
    }
}

fn by_port(counts: &BTreeMap<Kind, u64>) -> Vec<v1::PortCounter> {
    let mut ports: BTreeMap<PortKey, Vec<v1::Counter>> = BTreeMap::new();
    for ((port, reason), packets) in counts {
        ports.entry(*port).or_default().push(counter(*reason, *packets));
    }
    let ports = ports.into_iter().map(|(port, by_reason)| v1::PortCounter {
        protocol: protocol(port.protocol as u8),
        port: port.port.into(),
        by_reason,
    });
    ports.collect()
}

fn source_bytes(source: Address) -> Bytes {
    address_bytes(source.family as u8, &source.bytes()).to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_blob_is_refused_and_changes_nothing() {
        let mut denials = Denials::default();
        for blob in [&b""[..], b"\x02", b"\x01\xff\xff"] {
            assert!(denials.restore(blob).is_err(), "{blob:?}");
        }
        assert_eq!(denials.save(), None);
    }
}

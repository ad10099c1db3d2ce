//! The history of denials: which sources were dropped at which port, why, how often, and when.
//!
//! It is bounded: a sketch of the heaviest ([`sketch`]). It is fed by the packets that the kernel
//! reports one by one, and the kernel reports a limited number a second. Its counters have all, by
//! port and reason. So each reported packet stands for its share of those that were counted at its
//! port, for its reason, between two readings of the counters. While nothing went unreported, it
//! stands for itself.

mod recent;
mod sketch;
mod stored;

use std::collections::{BTreeMap, HashMap};

use jit_common::{Address, PortKey, Reason};
use jit_proto::{PortRange, SourcePrefix, WallTime};

pub(crate) use sketch::Count;
pub(crate) use stored::StoredHistory;

use crate::rules::{clock::Now, denials::recent::Recent};
use sketch::Sketch;

/// Most denials that are held: with their order, about 1 MiB.
const HELD: usize = 4_096;

/// One kind of denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Denial {
    pub(crate) source: Address,
    pub(crate) port: PortKey,
    pub(crate) reason: Reason,
}

/// What is counted together: the kernel's counters of a port have no sources.
pub(crate) type Kind = (PortKey, Reason);

/// The kernel's counters at one moment. They only grow, except when the tables are made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Packets that were dropped, or that observe mode let pass.
    pub(crate) dropped: u64,
    /// Events that were not delivered.
    pub(crate) undelivered: u64,
    /// The dropped packets of each port.
    pub(crate) ports: BTreeMap<Kind, u64>,
}

/// Which denials are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    /// Last seen at this moment or later.
    pub(crate) since: Option<WallTime>,
    /// From inside this prefix.
    pub(crate) source: Option<SourcePrefix>,
    pub(crate) port: Option<PortRange>,
    /// Refused pushes that name this requester, and no packets.
    pub(crate) requester: Option<String>,
    /// The most that are listed.
    pub(crate) top: usize,
}

/// The history.
#[derive(Debug)]
pub(crate) struct History {
    sketch: Sketch<Denial>,
    recent: Recent,
    /// Packets that were reported since the last reading.
    fresh: HashMap<Kind, u64>,
    before: Option<Reading>,
    totals: Totals,
    /// The history has changed since [`History::save`].
    changed: bool,
}

/// What is known of all denials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Since when they are counted.
    pub(crate) since: Option<WallTime>,
    /// Packets that the kernel reported one by one.
    pub(crate) recorded: u64,
    /// Packets that its counters have.
    pub(crate) counted: u64,
    /// The counter at the last reading.
    dropped: u64,
}

impl Totals {
    /// Packets that were not reported one by one.
    pub(crate) const fn unrecorded(&self) -> u64 {
        self.counted.saturating_sub(self.recorded)
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            sketch: Sketch::new(HELD),
            recent: Recent::default(),
            fresh: HashMap::new(),
            before: None,
            totals: Totals::default(),
            changed: false,
        }
    }
}

impl History {
    /// Takes a packet that the kernel reported.
    pub(crate) fn see(&mut self, denial: Denial, observed: bool, now: Now) {
        self.totals.since.get_or_insert(now.wall);
        self.totals.recorded = self.totals.recorded.saturating_add(1);
        let fresh = self.fresh.entry((denial.port, denial.reason)).or_default();
        *fresh = fresh.saturating_add(1);
        self.sketch.see(denial, observed, now.wall);
        self.recent.see(denial, observed, now);
        self.changed = true;
    }

    /// Whether the counters have to be read: packets were reported, or it was not done for long.
    pub(crate) fn wants_reading(&self, now: Now) -> bool {
        self.before.is_none() || !self.fresh.is_empty() || self.recent.wants_reading(now)
    }

    /// Takes the counters.
    pub(crate) fn read(&mut self, reading: Reading, now: Now) {
        self.count(reading.dropped, now);
        let before = self.before.take().unwrap_or_else(|| reading.clone());
        let delivered = before.undelivered == reading.undelivered;
        let grown: BTreeMap<_, _> = reading
            .ports
            .iter()
            .map(|(kind, packets)| {
                (*kind, growth(before.ports.get(kind).copied().unwrap_or(0), *packets))
            })
            .filter(|(_, packets)| *packets > 0)
            .collect();
        let fresh = std::mem::take(&mut self.fresh);
        let weigh = |denial: &Denial, sights: u64| {
            let kind = (denial.port, denial.reason);
            let reported = fresh.get(&kind).copied().unwrap_or(sights);
            let counted = grown.get(&kind).copied().unwrap_or(0).max(reported);
            if delivered { sights } else { share(sights, counted, reported) }
        };
        self.sketch.settle(weigh);
        self.recent.settle(weigh);
        self.recent.count(growth(before.dropped, reading.dropped), &grown, &fresh, now);
        self.before = Some(reading);
    }

    /// Adds what was dropped since the last reading, also by an earlier run of the agent.
    fn count(&mut self, dropped: u64, now: Now) {
        // Without any history, it begins now.
        if self.totals.since.is_some() || self.before.is_some() {
            let more = growth(self.totals.dropped, dropped);
            self.totals.counted = self.totals.counted.saturating_add(more);
            self.changed |= more > 0;
        }
        self.totals.since.get_or_insert(now.wall);
        self.totals.dropped = dropped;
    }

    /// What is known of all denials.
    pub(crate) const fn totals(&self) -> Totals {
        self.totals
    }

    /// What was dropped lately.
    pub(crate) const fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The denials that are asked for, heaviest first, and how many there are.
    pub(crate) fn matching(&self, query: &Query) -> (Vec<(Denial, Count)>, usize) {
        if query.requester.is_some() {
            return (Vec::new(), 0);
        }
        let matching = self.sketch.iter().filter(|(denial, count)| {
            query.since.is_none_or(|since| count.last >= since)
                && query.port.is_none_or(|range| range.has(denial.port))
                && query.source.is_none_or(|prefix| holds(&prefix, denial.source))
        });
        let mut denials: Vec<_> = matching.map(|(denial, count)| (*denial, *count)).collect();
        let all = denials.len();
        denials.sort_by_key(|(denial, count)| {
            let heaviest = (count.estimate(), count.last);
            (std::cmp::Reverse(heaviest), denial.source, denial.port, denial.reason)
        });
        denials.truncate(query.top);
        (denials, all)
    }
}

/// Whether an address lies inside a prefix.
fn holds(prefix: &SourcePrefix, address: Address) -> bool {
    let host = SourcePrefix::new(address, jit_proto::prefix::bits(address.family));
    host.is_ok_and(|host| prefix.contains(&host))
}

/// The growth of a counter. One that is lower than before began anew.
const fn growth(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}

/// `sights * counted / reported`, to the nearest number.
fn share(sights: u64, counted: u64, reported: u64) -> u64 {
    let reported = u128::from(reported.max(1));
    let packets = (u128::from(sights) * u128::from(counted) + reported / 2) / reported;
    u64::try_from(packets).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! What was dropped in the last five minutes, in spans of half a minute.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use jit_common::Address;

use crate::rules::{
    clock::{BootNanos, Now},
    denials::{Denial, Kind, sketch::Sketch},
};

/// Length of a span, boot nanoseconds.
const SPAN: u64 = 30_000_000_000;
/// How far it goes back.
const ALL: u64 = 10 * SPAN;
/// Denials that are held of each span.
const HELD: usize = 128;

/// What was dropped lately.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// The last spans, oldest first.
    spans: VecDeque<Span>,
    all: Tally,
    kinds: BTreeMap<Kind, Tally>,
}

/// Packets since the start of the agent. The counters alone would be too few: the first that are
/// reported may be from before the start, and then its first reading has them already.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    counted: u64,
    reported: u64,
}

#[derive(Debug)]
struct Span {
    began: BootNanos,
    dropped: u64,
    ports: BTreeMap<Kind, u64>,
    sketch: Sketch<Denial>,
}

impl Recent {
    pub(super) fn see(&mut self, denial: Denial, observed: bool, now: Now) {
        self.span(now).sketch.see(denial, observed, now.wall);
    }

    /// Whether the counters were not read for a whole span.
    pub(super) fn wants_reading(&self, now: Now) -> bool {
        self.spans.back().is_none_or(|span| span.has_ended(now))
    }

    /// Adds what was counted, and what was reported one by one, since the last reading.
    pub(super) fn count(
        &mut self,
        dropped: u64,
        counted: &BTreeMap<Kind, u64>,
        reported: &HashMap<Kind, u64>,
        now: Now,
    ) {
        let all = self.all.add(dropped, reported.values().copied().fold(0, u64::saturating_add));
        let kinds: BTreeSet<Kind> = counted.keys().chain(reported.keys()).copied().collect();
        let of = |packets: Option<&u64>| packets.copied().unwrap_or(0);
        let more = kinds.into_iter().map(|kind| {
            let tally = self.kinds.entry(kind).or_default();
            (kind, tally.add(of(counted.get(&kind)), of(reported.get(&kind))))
        });
        let more: Vec<_> = more.collect();
        let span = self.span(now);
        span.dropped = span.dropped.saturating_add(all);
        for (kind, packets) in more {
            let sum = span.ports.entry(kind).or_default();
            *sum = sum.saturating_add(packets);
        }
    }

    /// See [`Sketch::settle`].
    pub(super) fn settle(&mut self, weigh: impl Fn(&Denial, u64) -> u64) {
        // Fresh sights may be of the span before.
        for span in self.spans.iter_mut().rev().take(2) {
            span.sketch.settle(&weigh);
        }
    }

    /// All packets.
    pub(crate) fn dropped(&self, now: Now) -> u64 {
        self.spans(now).map(|span| span.dropped).fold(0, u64::saturating_add)
    }

    /// The packets of each port.
    pub(crate) fn ports(&self, now: Now) -> BTreeMap<Kind, u64> {
        sums(self.spans(now).flat_map(|span| span.ports.iter().map(|(kind, more)| (*kind, *more))))
    }

    /// The sources with the most packets, heaviest first.
    pub(crate) fn top(&self, most: usize, now: Now) -> Vec<(Address, u64)> {
        let all = self.spans(now).flat_map(|span| span.sketch.iter());
        let sums = sums(all.map(|(denial, count)| (denial.source, count.estimate())));
        let mut top: Vec<_> = sums.into_iter().collect();
        top.sort_by_key(|(source, packets)| (std::cmp::Reverse(*packets), *source));
        top.truncate(most);
        top
    }

    fn spans(&self, now: Now) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.age(now) < ALL)
    }

    /// The span of this moment.
    fn span(&mut self, now: Now) -> &mut Span {
        while self.spans.front().is_some_and(|span| span.age(now) >= ALL) {
            self.spans.pop_front();
        }
        if self.wants_reading(now) {
            self.spans.push_back(Span {
                began: now.boot,
                dropped: 0,
                ports: BTreeMap::new(),
                sketch: Sketch::new(HELD),
            });
        }
        self.spans.back_mut().expect("a span was added where there was none")
    }
}

impl Tally {
    /// Adds packets; by how many more are known now.
    fn add(&mut self, counted: u64, reported: u64) -> u64 {
        let before = self.packets();
        self.counted = self.counted.saturating_add(counted);
        self.reported = self.reported.saturating_add(reported);
        self.packets() - before
    }

    fn packets(self) -> u64 {
        self.counted.max(self.reported)
    }
}

impl Span {
    fn age(&self, now: Now) -> u64 {
        now.boot.0.saturating_sub(self.began.0)
    }

    fn has_ended(&self, now: Now) -> bool {
        self.age(now) >= SPAN
    }
}

fn sums<K: Ord>(all: impl Iterator<Item = (K, u64)>) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for (key, more) in all {
        let sum: &mut u64 = sums.entry(key).or_default();
        *sum = sum.saturating_add(more);
    }
    sums
}

//! The history as it is kept over restarts.

use jit_common::{Address, Family, PortKey, Protocol, Reason};
use jit_proto::WallTime;
use prost::Message;

use crate::rules::denials::{Count, Denial, History, Totals};

/// The history.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredHistory {
    /// Milliseconds since the Unix epoch; 0: nothing was counted.
    #[prost(int64, tag = "1")]
    since_ms: i64,
    #[prost(uint64, tag = "2")]
    recorded: u64,
    #[prost(uint64, tag = "3")]
    counted: u64,
    #[prost(uint64, tag = "4")]
    dropped: u64,
    #[prost(message, repeated, tag = "5")]
    denials: Vec<StoredDenial>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredDenial {
    /// 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    source: Vec<u8>,
    /// IANA number.
    #[prost(uint32, tag = "2")]
    protocol: u32,
    #[prost(uint32, tag = "3")]
    port: u32,
    /// The word: numbers may change with the tables' layout.
    #[prost(string, tag = "4")]
    reason: String,
    #[prost(uint64, tag = "5")]
    seen: u64,
    #[prost(uint64, tag = "6")]
    error: u64,
    #[prost(uint64, tag = "7")]
    packets: u64,
    #[prost(int64, tag = "8")]
    first_ms: i64,
    #[prost(int64, tag = "9")]
    last_ms: i64,
    #[prost(bool, tag = "10")]
    observed: bool,
}

impl History {
    /// Whether it has changed since [`History::save`].
    pub(crate) const fn has_changed(&self) -> bool {
        self.changed
    }

    /// The history as it is to be stored.
    pub(crate) fn save(&mut self) -> StoredHistory {
        self.changed = false;
        let Totals { since, recorded, counted, dropped } = self.totals;
        let denials = self.sketch.iter().map(|(denial, count)| StoredDenial::of(denial, count));
        StoredHistory {
            since_ms: since.map_or(0, |since| since.0),
            recorded,
            counted,
            dropped,
            denials: denials.collect(),
        }
    }

    /// Adds a stored history. A denial that this version does not know is left out.
    pub(crate) fn restore(&mut self, stored: StoredHistory) {
        let StoredHistory { since_ms, recorded, counted, dropped, denials } = stored;
        for (denial, count) in denials.iter().filter_map(StoredDenial::read) {
            self.sketch.add(denial, count);
        }
        let totals = &mut self.totals;
        totals.recorded = totals.recorded.saturating_add(recorded);
        totals.counted = totals.counted.saturating_add(counted);
        if self.before.is_none() {
            totals.dropped = dropped;
        }
        if since_ms > 0 {
            let since = WallTime(since_ms);
            totals.since = Some(totals.since.map_or(since, |own| own.min(since)));
        }
    }
}

impl StoredDenial {
    fn of(denial: &Denial, count: &Count) -> Self {
        let bytes = denial.source.bytes();
        let length = match denial.source.family {
            Family::V4 => 4,
            Family::V6 => 16,
        };
        Self {
            source: bytes.get(..length).unwrap_or(&bytes).to_vec(),
            protocol: u32::from(denial.port.protocol as u8),
            port: denial.port.port.into(),
            reason: denial.reason.word().into(),
            seen: count.seen,
            error: count.error,
            packets: count.estimate(),
            first_ms: count.first.0,
            last_ms: count.last.0,
            observed: count.observed,
        }
    }

    fn read(&self) -> Option<(Denial, Count)> {
        let Self {
            source, protocol, port, reason, seen, error, packets, first_ms, last_ms, ..
        } = self;
        let source = match (<[u8; 4]>::try_from(&**source), <[u8; 16]>::try_from(&**source)) {
            (Ok(bytes), _) => Address::v4(bytes),
            (_, Ok(bytes)) => Address::v6(bytes),
            _ => return None,
        };
        let protocol = Protocol::from_number(u8::try_from(*protocol).ok()?)?;
        let port = PortKey { protocol, port: u16::try_from(*port).ok()? };
        let reason = Reason::ALL.into_iter().find(|one| one.word() == reason)?;
        let times = (WallTime(*first_ms), WallTime(*last_ms));
        let count = Count::stored((*seen, *error, *packets), times, self.observed);
        Some((Denial { source, port, reason }, count))
    }
}

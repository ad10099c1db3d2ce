//! The pushes that were refused lately: who asked for what, through whom, and why not.
//!
//! Bounded: equal refusals are one with a count, and where there is no room, the oldest one of the
//! controller with the most of them goes. So no controller pushes out those of the others.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
};

use jit_proto::{
    GrantId, Refusal, SourcePrefix, WallTime, dsse::MAX_ENVELOPE_BYTES, printable::clean,
    text::MAX_NAME_BYTES, v1,
};
use prost::{Message, bytes::Bytes};

use crate::rules::{denials::Query, refusal::Refused};

/// Most refusals that are held.
const HELD: usize = 256;
/// Most sources, and most port ranges, that are kept of one.
const LISTED: usize = 16;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// What `detail` ends with where no signature vouches for the names.
const UNVOUCHED: &str = "; no good signature vouches for the names";

/// The refused pushes, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RefusedPushes {
    held: VecDeque<v1::RefusedPush>,
    /// Number of refusals in each minute of the last hour, by the minute's number.
    minutes: BTreeMap<i64, u64>,
    changed: bool,
}

/// The refused pushes as they are kept over restarts.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredRefusals {
    #[prost(message, repeated, tag = "1")]
    held: Vec<v1::RefusedPush>,
    #[prost(btree_map = "int64, uint64", tag = "2")]
    minutes: BTreeMap<i64, u64>,
}

/// What an envelope asks for, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    pub(crate) id: Option<GrantId>,
    pub(crate) requester: String,
    pub(crate) sources: Vec<v1::Source>,
    pub(crate) ports: Vec<v1::PortRange>,
    /// A good signature vouches for it.
    pub(crate) vouched: bool,
}

impl Asked {
    /// Reads what a refused envelope asked for. Nothing may depend on it, except what people see.
    pub(crate) fn read(refused: &Refused, payload: &Bytes) -> Self {
        // Of a peer that sends false signatures without end, and of what is no grant, nothing is
        // decoded.
        let unread = matches!(
            refused.refusal,
            Refusal::BadType | Refusal::Throttled | Refusal::NotPermitted
        );
        let readable = !unread && payload.len() <= MAX_ENVELOPE_BYTES;
        let grant = readable.then(|| v1::Grant::decode(payload.clone()).ok()).flatten();
        let Some(grant) = grant else {
            return Self { id: refused.id, vouched: refused.id.is_some(), ..Self::default() };
        };
        let good = |source: &v1::Source| SourcePrefix::try_from(source).is_ok();
        Self {
            id: refused.id.or_else(|| GrantId::from_bytes(&grant.id)),
            requester: clean(&grant.requester, MAX_NAME_BYTES),
            sources: grant.sources.into_iter().filter(good).take(LISTED).collect(),
            ports: grant.ports.into_iter().take(LISTED).collect(),
            vouched: refused.id.is_some() || refused.refusal == Refusal::Malformed,
        }
    }

    /// Whether there is anything that nobody vouches for.
    pub(crate) fn is_hearsay(&self) -> bool {
        !self.vouched && (self.id.is_some() || !self.requester.is_empty())
    }
}

impl RefusedPushes {
    /// Adds a refusal.
    pub(crate) fn add(&mut self, refused: &Refused, asked: Asked, by: &str, now: WallTime) {
        let hearsay = if asked.is_hearsay() { UNVOUCHED } else { "" };
        let Asked { id, requester, sources, ports, vouched: _ } = asked;
        let mut push = v1::RefusedPush {
            time_ms: now.0,
            grant_id: id.map(|id| id.0.to_vec()).unwrap_or_default().into(),
            requester,
            sources,
            ports,
            by: by.to_owned(),
            reason: refused.refusal.word().into(),
            detail: format!("{}{hearsay}", refused.detail),
            count: 1,
        };
        if let Some(before) = self.held.iter().position(|held| is_same(held, &push))
            && let Some(before) = self.held.remove(before)
        {
            push.count = before.count.saturating_add(1);
        }
        if self.held.len() >= HELD {
            self.make_room();
        }
        self.held.push_back(push);
        let minute = self.minutes.entry(now.0.div_euclid(MINUTE)).or_default();
        *minute = minute.saturating_add(1);
        self.minutes = self.minutes.split_off(&now.0.saturating_sub(HOUR).div_euclid(MINUTE));
        self.changed = true;
    }

    /// Those that are asked for, newest first, and how many there are.
    pub(crate) fn matching(&self, query: &Query) -> (Vec<v1::RefusedPush>, usize) {
        let mut matching: Vec<_> = self.held.iter().filter(|push| is_wanted(push, query)).collect();
        matching.sort_by_key(|push| Reverse(push.time_ms));
        let all = matching.len();
        (matching.into_iter().take(query.top).cloned().collect(), all)
    }

    /// Number of refusals in the last hour.
    pub(crate) fn in_the_last_hour(&self, now: WallTime) -> u64 {
        let since = now.0.saturating_sub(HOUR).div_euclid(MINUTE).saturating_add(1);
        self.minutes.range(since..).map(|(_, count)| *count).fold(0, u64::saturating_add)
    }

    /// Whether they have changed since [`RefusedPushes::save`].
    pub(crate) const fn has_changed(&self) -> bool {
        self.changed
    }

    /// The refused pushes as they are to be stored.
    pub(crate) fn save(&mut self) -> StoredRefusals {
        self.changed = false;
        let held = self.held.iter().cloned().collect();
        StoredRefusals { held, minutes: self.minutes.clone() }
    }

    /// Adds what was stored, before what has come since.
    pub(crate) fn restore(&mut self, stored: StoredRefusals) {
        let StoredRefusals { held, minutes } = stored;
        let room = HELD.saturating_sub(self.held.len());
        let skipped = held.len().saturating_sub(room);
        for push in held.into_iter().skip(skipped).rev() {
            self.held.push_front(push);
        }
        for (minute, count) in minutes {
            let sum = self.minutes.entry(minute).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    fn make_room(&mut self) {
        let mut by: HashMap<&str, usize> = HashMap::new();
        for push in &self.held {
            *by.entry(push.by.as_str()).or_default() += 1;
        }
        // Of two with as many, the one whose oldest is older.
        let most = by.values().max().copied().unwrap_or(0);
        let oldest = self.held.iter().position(|push| by.get(push.by.as_str()) == Some(&most));
        if let Some(oldest) = oldest {
            self.held.remove(oldest);
        }
    }
}

/// Whether two refusals are of the same push, for the same reason.
fn is_same(one: &v1::RefusedPush, other: &v1::RefusedPush) -> bool {
    let v1::RefusedPush { time_ms: _, detail: _, count: _, grant_id, requester, .. } = one;
    let v1::RefusedPush { sources, ports, by, reason, .. } = one;
    *reason == other.reason
        && *by == other.by
        && *grant_id == other.grant_id
        && *requester == other.requester
        && *sources == other.sources
        && *ports == other.ports
}

fn is_wanted(push: &v1::RefusedPush, query: &Query) -> bool {
    let touches = |prefix: &SourcePrefix| {
        let named = push.sources.iter().filter_map(|source| SourcePrefix::try_from(source).ok());
        named.into_iter().any(|named| prefix.contains(&named) || named.contains(prefix))
    };
    let opens = |range: &jit_proto::PortRange| {
        push.ports.iter().any(|named| {
            named.protocol() == v1::PortRange::from(*range).protocol()
                && named.first <= range.last.into()
                && named.last >= range.first.into()
        })
    };
    query.since.is_none_or(|since| push.time_ms >= since.0)
        && query.source.as_ref().is_none_or(touches)
        && query.port.as_ref().is_none_or(opens)
        && query.requester.as_ref().is_none_or(|name| *name == push.requester)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_780_272_000_000);

    fn payload(requester: &str, source: &str) -> Bytes {
        let prefix: SourcePrefix = source.parse().unwrap();
        let port = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 };
        let grant = v1::Grant {
            id: vec![7; 16].into(),
            requester: requester.into(),
            sources: vec![v1::Source::from(&prefix)],
            ports: vec![port],
            ..v1::Grant::default()
        };
        grant.encode_to_vec().into()
    }

    fn add(pushes: &mut RefusedPushes, requester: &str, by: &str, at: i64) {
        let refused = Refused::new(Refusal::Lifetime, "too long").of(GrantId([7; 16]));
        let asked = Asked::read(&refused, &payload(requester, "192.0.2.7"));
        pushes.add(&refused, asked, by, WallTime(NOW.0 + at));
    }

    fn found(pushes: &RefusedPushes, query: Query) -> Vec<(String, u64)> {
        let (found, _) = pushes.matching(&Query { top: HELD, ..query });
        found.into_iter().map(|push| (push.requester, push.count)).collect()
    }

    #[test]
    fn equal_refusals_are_one_with_a_count() {
        let mut pushes = RefusedPushes::default();
        for at in [0, 1, 2] {
            add(&mut pushes, "ana", "hub", at);
        }
        add(&mut pushes, "li", "hub", 3);
        add(&mut pushes, "ana", "other", 4);
        let all = [("ana", 1), ("li", 1), ("ana", 3)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(found(&pushes, Query::default()), all);
        assert_eq!(pushes.in_the_last_hour(NOW), 5);
        assert_eq!(pushes.in_the_last_hour(WallTime(NOW.0 + HOUR + MINUTE)), 0);
        let wanted = |query| found(&pushes, query).len();
        assert_eq!(wanted(Query { requester: Some("ana".into()), ..Query::default() }), 2);
        assert_eq!(wanted(Query { since: Some(WallTime(NOW.0 + 3)), ..Query::default() }), 2);
        for (source, count) in [("192.0.2.0/24", 3), ("192.0.2.8", 0)] {
            let source = Some(source.parse().unwrap());
            assert_eq!(wanted(Query { source, ..Query::default() }), count);
        }
        for (port, count) in [("20-30/tcp", 3), ("22/udp", 0)] {
            let port = Some(port.parse().unwrap());
            assert_eq!(wanted(Query { port, ..Query::default() }), count);
        }
        let mut after = RefusedPushes::default();
        after.restore(pushes.save());
        assert_eq!(found(&after, Query::default()), all);
        assert_eq!(after.in_the_last_hour(NOW), 5);
    }

    #[test]
    fn one_controller_does_not_push_out_those_of_another() {
        let mut pushes = RefusedPushes::default();
        add(&mut pushes, "ana", "hub", 0);
        for number in 0..10_000 {
            add(&mut pushes, &format!("eve {number}"), "noisy", number);
        }
        let all = found(&pushes, Query::default());
        assert_eq!(all.len(), HELD);
        assert!(all.contains(&("ana".into(), 1)) && all.contains(&("eve 9999".into(), 1)));
    }

    #[test]
    fn without_a_good_signature_nobody_vouches_for_the_names() {
        let mut pushes = RefusedPushes::default();
        let refused = Refused::new(Refusal::BadSignature, "not good");
        let asked = Asked::read(&refused, &payload("eve\n", "192.0.2.7"));
        assert!(asked.is_hearsay() && !asked.requester.contains('\n'));
        pushes.add(&refused, asked, "hub", NOW);
        let (found, _) = pushes.matching(&Query { top: 1, ..Query::default() });
        assert!(found[0].detail.ends_with(UNVOUCHED), "{}", found[0].detail);
        assert_eq!(*found[0].grant_id, [7; 16]);
        for payload in
            [Bytes::from_static(b"\xff\xff"), Bytes::from(vec![0; MAX_ENVELOPE_BYTES + 1])]
        {
            assert_eq!(Asked::read(&refused, &payload), Asked::default());
        }
    }
}

//! What a host holds, beside what it has answered: a grant can be ended on the host itself, and a host that
//! was installed anew holds nothing. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jit_proto::{
    GrantId,
    printable::clean,
    v1::{self, State},
};
use prost::Message as _;

use super::outbox::answered;
use crate::{
    desk::{Heard, What},
    model::Answer,
    store::Delivery,
};

/// The most grants for which it is remembered who ended them on the host.
const MOST: usize = 256;
/// Longest sentence of a host about one, characters.
const LONGEST: usize = 300;

/// Who ended which grants on the host, in words, since the host was asked last.
#[derive(Debug, Default)]
pub(super) struct Endings {
    known: BTreeMap<GrantId, String>,
    /// There were more than have room, or it is not sure which there were.
    more: bool,
}

impl Endings {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Something that the host should hold is missing there, and it may be that the controller ended it.
    pub(super) fn unsure(&mut self) {
        self.more = true;
    }

    /// Whether one of them may be of these, which the host should hold. What the controller itself ended is
    /// no news.
    pub(super) fn are_news(&self, expected: &[Delivery]) -> bool {
        let ended =
            |one: &Delivery| one.grant_id.parse().is_ok_and(|id| self.known.contains_key(&id));
        expected.iter().any(|one| self.more || ended(one))
    }

    /// Remembers an event, if there is room: without it the sentence only says less.
    pub(super) fn add(&mut self, id: GrantId, event: &v1::GrantEvent) {
        self.more |= self.known.len() >= MOST;
        if self.known.len() < MOST {
            let why = if event.detail.is_empty() { "" } else { ": " };
            let text = format!("{} on the host by {}{why}{}", event.kind, event.by, event.detail);
            self.known.insert(id, clean(&text, LONGEST));
        }
    }
}

/// Whether it means that a grant lets nobody in any more.
pub(super) fn is_ending(event: &v1::GrantEvent) -> bool {
    matches!(event.kind.as_str(), "replaced" | "revoked")
}

/// Which of these the host does not hold among its live grants.
pub(super) fn missing(expected: Vec<Delivery>, live: &[v1::GrantState]) -> Vec<Delivery> {
    if expected.is_empty() {
        return expected;
    }
    let live: BTreeSet<_> = live.iter().filter_map(id).collect();
    expected.into_iter().filter(|one| !live.contains(one.grant_id.as_str())).collect()
}

/// How many connections these have let in, by id.
pub(super) fn uses(expected: &[Delivery], live: &[v1::GrantState]) -> BTreeMap<String, u64> {
    if expected.is_empty() {
        return BTreeMap::new();
    }
    let expected: BTreeSet<_> = expected.iter().map(|one| one.grant_id.as_str()).collect();
    let live = live.iter().filter_map(|grant| Some((id(grant)?, grant.hits)));
    live.filter(|(id, _)| expected.contains(id.as_str())).collect()
}

/// What has become of them, by all grants that the host knows, also those that have ended.
pub(super) fn fates(
    missing: &[Delivery],
    known: &[v1::GrantState],
    endings: &Endings,
) -> Vec<Heard> {
    let known: BTreeMap<_, _> =
        known.iter().filter_map(|grant| Some((id(grant)?, grant.state()))).collect();
    missing.iter().filter_map(|one| fate(one, known.get(&one.grant_id), endings)).collect()
}

fn fate(one: &Delivery, state: Option<&State>, endings: &Endings) -> Option<Heard> {
    let said = || {
        let id: Option<GrantId> = one.grant_id.parse().ok();
        id.and_then(|id| endings.known.get(&id)).cloned()
    };
    let (word, otherwise) = match state {
        Some(State::Revoked) => ("revoked", "it was ended on the host"),
        Some(State::Replaced) => ("replaced", "another grant has replaced it on the host"),
        Some(State::Expired) => ("expired", "it has ended by the host's clock"),
        // It is there: it was accepted while the host was asked.
        Some(State::Active | State::Exhausted | State::Scheduled | State::Unspecified) => {
            return None;
        }
        None => {
            let detail = "the host no longer knows it".into();
            return Some(Heard { of: one.clone(), what: What::Lost { detail } });
        }
    };
    let detail = said().unwrap_or_else(|| otherwise.to_owned());
    Some(answered(one, Answer::Closed, word, &detail))
}

fn id(grant: &v1::GrantState) -> Option<String> {
    let grant = v1::Grant::decode(grant.grant.clone()).ok()?;
    GrantId::from_bytes(&grant.id).map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Wanted;

    fn grant_id(number: u8) -> GrantId {
        GrantId([number; 16])
    }

    fn row(number: u8) -> Delivery {
        Delivery {
            grant_id: grant_id(number).to_string(),
            host: "web-1".into(),
            request: "R".into(),
            wanted: Wanted::Grant,
            pending: false,
            answer: Answer::Open,
            word: "ok".into(),
            detail: String::new(),
            trouble: String::new(),
            trouble_since_ms: 0,
            attempts: 1,
            next_ms: 0,
            answered_ms: 1,
            until_ms: 9,
        }
    }

    fn held(number: u8, state: State) -> v1::GrantState {
        let grant = v1::Grant { id: grant_id(number).0.to_vec().into(), ..v1::Grant::default() };
        let grant = grant.encode_to_vec().into();
        v1::GrantState { grant, state: state.into(), ..v1::GrantState::default() }
    }

    #[test]
    fn what_the_host_holds_is_not_missing() {
        let live = [held(1, State::Active), held(2, State::Scheduled), held(3, State::Exhausted)];
        let expected = vec![row(1), row(2), row(3), row(4)];
        assert_eq!(missing(expected, &live), [row(4)]);
    }

    #[test]
    fn what_the_controller_itself_ended_is_no_news() {
        let event = v1::GrantEvent { kind: "revoked".into(), ..v1::GrantEvent::default() };
        let mut endings = Endings::default();
        endings.add(grant_id(1), &event);
        assert!(endings.are_news(&[row(2), row(1)]), "the host should hold it");
        assert!(!endings.are_news(&[row(2)]) && !endings.are_news(&[]));
        for number in 0..=u64::try_from(MOST).unwrap() {
            let id = [[7; 8], number.to_be_bytes()].concat();
            endings.add(GrantId::from_bytes(&id).unwrap(), &event);
        }
        assert!(endings.are_news(&[row(2)]), "one that had no room may be of it");
        assert!(!endings.are_news(&[]), "the host should hold nothing");
        endings.clear();
        assert!(!endings.are_news(&[row(1)]));
    }

    #[test]
    fn the_use_of_what_the_controller_delivered_is_counted() {
        let with = |number, hits| v1::GrantState { hits, ..held(number, State::Active) };
        let live = [with(1, 3), with(2, 0), with(3, 7)];
        // Another controller, or a person, has signed the third.
        let counted = uses(&[row(1), row(2), row(4)], &live);
        let expected = [(grant_id(1).to_string(), 3), (grant_id(2).to_string(), 0)];
        assert_eq!(counted, expected.into());
    }

    #[test]
    fn each_end_has_its_word_and_what_is_unknown_is_sent_again() {
        let known = [
            held(1, State::Revoked),
            held(2, State::Replaced),
            held(3, State::Expired),
            held(4, State::Active),
        ];
        let mut endings = Endings::default();
        let event = v1::GrantEvent {
            kind: "revoked".into(),
            by: "local".into(),
            detail: "on\ncall".into(),
            ..v1::GrantEvent::default()
        };
        assert!(is_ending(&event));
        endings.add(grant_id(1), &event);
        let rows: Vec<_> = (1..=5).map(row).collect();
        let fates = fates(&rows, &known, &endings);
        let said: Vec<_> = fates
            .iter()
            .map(|heard| match &heard.what {
                What::Answered { answer: Answer::Closed, word, detail } => {
                    (heard.of.clone(), word.as_str(), detail.as_str())
                }
                What::Lost { detail } => (heard.of.clone(), "lost", detail.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            said,
            [
                (row(1), "revoked", "revoked on the host by local: on\\ncall"),
                (row(2), "replaced", "another grant has replaced it on the host"),
                (row(3), "expired", "it has ended by the host's clock"),
                (row(5), "lost", "the host no longer knows it"),
            ]
        );
    }

    #[test]
    fn what_is_missing_for_an_unknown_reason_is_asked_about_again() {
        let mut endings = Endings::default();
        endings.unsure();
        endings.add(grant_id(1), &v1::GrantEvent { kind: "revoked".into(), ..Default::default() });
        assert!(endings.are_news(&[row(2)]), "another one was missing");
        assert!(!endings.are_news(&[]), "the store has the end of all");
        endings.clear();
        assert!(!endings.are_news(&[row(2)]));
    }
}

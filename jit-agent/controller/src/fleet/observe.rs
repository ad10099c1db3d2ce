//! What an agent's answers say of its host. Pure.

use jit_proto::{SourcePrefix, printable::clean, v1, words::range_text};
use serde_json::Value;

use crate::{
    model::host::{Alarm, Condition, Observed, ObservedExemption, ObservedPort},
    store::AuditHead,
};

/// Longest text of an agent that is kept, characters.
const MAX_TEXT: usize = 500;
/// The most problems and ports of a host that are kept.
const MAX_LIST: usize = 256;
/// The most alarms of a host that are kept.
const MAX_ALARMS: usize = 20;

/// What is known of a host after this status.
pub(super) fn answered(before: &Observed, status: &v1::StatusResponse, now_ms: i64) -> Observed {
    let text = |text: &String| clean(text, MAX_TEXT);
    let condition = Condition::of_word(&status.state);
    let port = |port: &v1::Port| ObservedPort {
        port: range_text(port.range.as_ref()),
        mode: clean(&port.mode, MAX_TEXT),
        max_duration_ms: port.max_duration_ms,
        approvals: port.approvals,
        exemptions: port.exemptions.iter().take(MAX_LIST).map(exemption).collect(),
    };
    Observed {
        condition,
        seen_ms: now_ms,
        since_ms: if before.condition == condition { before.since_ms } else { now_ms },
        trouble: String::new(),
        version: clean(&status.version, MAX_TEXT),
        problems: status.problems.iter().take(MAX_LIST).map(text).collect(),
        ports: status.ports.iter().take(MAX_LIST).map(port).collect(),
        ..before.clone()
    }
}

fn exemption(of: &v1::Exemption) -> ObservedExemption {
    let source = of.source.as_ref().and_then(|source| SourcePrefix::try_from(source).ok());
    ObservedExemption {
        source: source.map_or_else(|| "?".to_owned(), |source| source.to_string()),
        owner: clean(&of.owner, MAX_TEXT),
        reason: clean(&of.reason, MAX_TEXT),
        until_ms: of.until_ms,
    }
}

/// What is known of a host that does not answer.
pub(super) fn unreachable(before: &Observed, why: &str, now_ms: i64) -> Observed {
    let condition = Condition::Unreachable;
    Observed {
        condition,
        since_ms: if before.condition == condition { before.since_ms } else { now_ms },
        trouble: clean(why, 2 * MAX_TEXT),
        uplink: String::new(),
        connected_ms: 0,
        ..before.clone()
    }
}

/// Whether a person would see a difference.
pub(super) fn differs(one: &Observed, other: &Observed) -> bool {
    let shown = |observed: &Observed| Observed {
        seen_ms: 0,
        cursor: String::new(),
        alarms: Vec::new(),
        ..observed.clone()
    };
    shown(one) != shown(other)
}

/// Adds an alarm that is not there yet. Returns whether it was added.
pub(super) fn add_alarm(observed: &mut Observed, alarm: &Alarm) -> bool {
    let known = |old: &Alarm| old.word == alarm.word && old.text == alarm.text;
    if observed.alarms.len() >= MAX_ALARMS || observed.alarms.iter().any(known) {
        return false;
    }
    observed.alarms.push(alarm.clone());
    true
}

/// The end of a host's audit, and who signed it when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedHead {
    pub(super) head: AuditHead,
    /// Id of the key.
    pub(super) key: String,
    /// By the host's clock, milliseconds since the Unix epoch.
    pub(super) signed_ms: i64,
}

impl SignedHead {
    /// A head as an agent reports it; `None`: it is none.
    pub(super) fn of_event(event: &v1::AuditHead, now_ms: i64) -> Option<Self> {
        let head = AuditHead {
            seq: i64::try_from(event.seq).ok()?,
            hash: hex::encode(&event.hash),
            signed: event.signed.clone(),
            at_ms: now_ms,
        };
        (head.hash.len() == 64 && head.signed.len() < 4096).then(|| Self::of(head)).flatten()
    }

    /// A head that was kept.
    pub(super) fn of(head: AuditHead) -> Option<Self> {
        let value: Value = serde_json::from_str(&head.signed).ok()?;
        let key = value.get("key")?.as_str()?.to_owned();
        let signed_ms = value.get("time_ms")?.as_i64()?;
        Some(Self { head, key, signed_ms })
    }
}

/// What a new head means, after the newest one that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeadVerdict {
    /// The audit went on.
    Good,
    /// It is kept, or older than one that is.
    Old,
    /// Something is wrong: the word of the alarm, and what was seen.
    Alarm(&'static str, String),
}

/// Compares a head with the newest one of the same host.
pub(super) fn judge(kept: &SignedHead, new: &SignedHead) -> HeadVerdict {
    let (was, is) = (&kept.head, &new.head);
    if kept.key != new.key {
        return HeadVerdict::Alarm(
            "clone",
            format!(
                "its audit is signed with the key {}, and was with {} before: another machine answers \
                 with this id, or it was installed anew",
                clean(&new.key, 64),
                clean(&kept.key, 64)
            ),
        );
    }
    if was.seq == is.seq && was.hash == is.hash {
        return HeadVerdict::Old;
    }
    if was.seq == is.seq {
        return HeadVerdict::Alarm(
            "audit_cut",
            format!(
                "record {} of its audit is another one than it reported before ({:.16}, now {:.16}): \
                 the audit was written anew, or two machines have this id",
                is.seq, was.hash, is.hash
            ),
        );
    }
    if is.seq < was.seq && new.signed_ms > kept.signed_ms {
        return HeadVerdict::Alarm(
            "audit_cut",
            format!(
                "its audit ends at record {} now, and had {} before: its end was cut off, or an old \
                 copy of the machine's disk is back",
                is.seq, was.seq
            ),
        );
    }
    // Events that an agent repeats to a reader that had lost its place.
    if is.seq < was.seq { HeadVerdict::Old } else { HeadVerdict::Good }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: i64, hash: &str, key: &str, signed_ms: i64) -> SignedHead {
        let signed = format!(r#"{{"key":"{key}","time_ms":{signed_ms}}}"#);
        let head = AuditHead { seq, hash: hash.repeat(64), signed, at_ms: 7 };
        SignedHead::of(head).unwrap()
    }

    #[test]
    fn a_cut_audit_and_another_key_are_seen_and_a_repeated_event_is_not() {
        let kept = head(100, "a", "k1", 5000);
        let word = |new: &SignedHead| match judge(&kept, new) {
            HeadVerdict::Alarm(word, _) => word,
            HeadVerdict::Good => "good",
            HeadVerdict::Old => "old",
        };
        for (new, expected) in [
            (head(101, "b", "k1", 6000), "good"),
            (head(100, "a", "k1", 5000), "old"),
            (head(90, "c", "k1", 4000), "old"),
            (head(90, "c", "k1", 6000), "audit_cut"),
            (head(100, "b", "k1", 6000), "audit_cut"),
            (head(200, "b", "k2", 6000), "clone"),
            (head(1, "b", "k2", 6000), "clone"),
        ] {
            assert_eq!(word(&new), expected, "{new:?}");
        }
    }

    #[test]
    fn only_what_a_person_sees_is_a_difference() {
        let status = v1::StatusResponse { state: "enforcing".into(), ..Default::default() };
        let first = answered(&Observed::default(), &status, 1000);
        assert_eq!((first.condition, first.since_ms), (Condition::Enforcing, 1000));
        let second = answered(&first, &status, 2000);
        assert_eq!((second.seen_ms, second.since_ms), (2000, 1000));
        assert!(!differs(&first, &second));
        let down = unreachable(&second, "it does not answer", 3000);
        assert!(differs(&second, &down));
        assert_eq!((down.seen_ms, down.since_ms), (2000, 3000));
    }

    #[test]
    fn an_alarm_is_added_once_and_their_number_is_bounded() {
        let mut observed = Observed::default();
        for number in 0..100 {
            let text = format!("{}", number / 2);
            let alarm = Alarm { word: "clone".into(), text, at_ms: number, holds: false };
            assert_eq!(add_alarm(&mut observed, &alarm), number % 2 == 0 && number < 40);
        }
    }
}

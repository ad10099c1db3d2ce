//! What a person sees of a revocation: what ended, what stays open, and whether there was anything.

use jit_proto::{v1, words::counted};
use serde_json::{Map, Value};

/// Whether a revocation found something: a grant, or sessions of one that had ended before.
pub const fn found_something(answer: &v1::RevokeResponse) -> bool {
    answer.revoked > 0 || answer.sessions_ended > 0 || answer.sessions_open > 0
}

/// The same for programs (docs/json.md).
pub fn json(answer: &v1::RevokeResponse) -> Map<String, Value> {
    let v1::RevokeResponse { revoked, warning, sessions_open, sessions_ended, unseen, reason: _ } =
        answer;
    [
        ("revoked", Value::from(*revoked)),
        ("sessions_ended", (*sessions_ended).into()),
        ("sessions_open", (*sessions_open).into()),
        ("unseen", (*unseen).into()),
        ("warning", warning.as_str().into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

/// What a revocation did, on lines. `what`: what was to be revoked, as in "no grant of ana". `cut`:
/// it was asked to end sessions, too.
pub fn text(answer: &v1::RevokeResponse, what: &str, agent: &str, cut: bool) -> String {
    let v1::RevokeResponse {
        revoked,
        sessions_open,
        sessions_ended,
        unseen,
        warning: _,
        reason: _,
    } = *answer;
    let mut out = if revoked > 0 {
        format!("revoked {} on {agent}\n", counted(revoked, "grant"))
    } else {
        format!("nothing matched: no {what} was open or scheduled on {agent}\n")
    };
    if unseen > 0 {
        out += "the agent has never seen this id; it is barred from now on\n";
    }
    if (cut && found_something(answer)) || sessions_ended > 0 {
        out += &format!("ended {}\n", counted(sessions_ended, "session"));
    }
    if sessions_open > 0 {
        let (verb, end) = if sessions_open == 1 { ("stays", "it") } else { ("stay", "them") };
        let cure = if cut { String::new() } else { format!(" (drain); --cut ends {end}") };
        out += &format!("{} {verb} open{cure}\n", counted(sessions_open, "session"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(revoked: u32, sessions_open: u32, sessions_ended: u32) -> v1::RevokeResponse {
        v1::RevokeResponse {
            revoked,
            sessions_open,
            sessions_ended,
            ..v1::RevokeResponse::default()
        }
    }

    #[test]
    fn a_revocation_says_how_many_sessions_stay_and_what_ends_them() {
        let text = |open, ended, cut| text(&answer(1, open, ended), "grant", "web-1", cut);
        assert_eq!(text(0, 0, false), "revoked 1 grant on web-1\n");
        let said = "revoked 1 grant on web-1\n1 session stays open (drain); --cut ends it\n";
        assert_eq!(text(1, 0, false), said);
        let said = "revoked 1 grant on web-1\nended 2 sessions\n3 sessions stay open (drain); \
                    --cut ends them\n";
        assert_eq!(text(3, 2, false), said);
        assert_eq!(text(0, 1, true), "revoked 1 grant on web-1\nended 1 session\n");
        let said = "revoked 1 grant on web-1\nended 0 sessions\n1 session stays open\n";
        assert_eq!(text(1, 0, true), said);
    }

    #[test]
    fn a_revocation_that_matched_nothing_says_so() {
        let none = answer(0, 0, 0);
        assert!(!found_something(&none));
        let said = text(&none, "grant of ana", "web-1", true);
        assert_eq!(said, "nothing matched: no grant of ana was open or scheduled on web-1\n");
        let unseen = v1::RevokeResponse { unseen: 1, ..none };
        let said = text(&unseen, "grant with this id", "web-1", false);
        assert!(said.ends_with("\nthe agent has never seen this id; it is barred from now on\n"));
        assert!(found_something(&answer(0, 1, 0)) && found_something(&answer(0, 0, 1)));
    }
}

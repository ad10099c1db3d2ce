//! What a request came to, as an exit code: of many hosts the worst outcome decides.

use jit_client::{controller::types::RequestView, exit::Exit};

/// Whether nothing new is to be expected from a host or a person.
pub(super) fn is_settled(view: &RequestView) -> bool {
    let answered = !view.answers.is_empty()
        && view.answers.len() >= view.hosts.len()
        && view.answers.iter().all(|answer| !answer.pending);
    view.is_final || matches!(view.state.as_str(), "open" | "scheduled") || answered
}

/// Whether every host has accepted it, for now or later.
pub(super) fn is_open(view: &RequestView) -> bool {
    matches!(view.state.as_str(), "open" | "scheduled")
}

/// 0: every host lets the sources in, or will. 77: a person, a rule or a host refuses. 69: something has
/// not answered.
pub(super) fn exit(view: &RequestView) -> Exit {
    match view.state.as_str() {
        "open" | "scheduled" => Exit::Success,
        _ if view.is_final => Exit::Permission,
        _ if is_settled(view) => Exit::Permission,
        _ => Exit::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use jit_client::controller::types::AnswerView;

    use super::*;

    fn view(state: &str, is_final: bool, pending: &[bool]) -> RequestView {
        RequestView {
            state: state.into(),
            is_final,
            hosts: pending.iter().map(|_| "h".to_owned()).collect(),
            answers: pending
                .iter()
                .map(|pending| AnswerView { pending: *pending, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_worst_outcome_decides() {
        for (view, settled, code) in [
            (view("open", false, &[false, false]), true, Exit::Success),
            (view("scheduled", false, &[false]), true, Exit::Success),
            (view("partly", false, &[false, false]), true, Exit::Permission),
            (view("partly", false, &[false, true]), false, Exit::Unavailable),
            (view("delivering", false, &[true]), false, Exit::Unavailable),
            (view("refused", true, &[false]), true, Exit::Permission),
            (view("denied", true, &[]), true, Exit::Permission),
            (view("pending", false, &[]), false, Exit::Unavailable),
            (view("a state of a later version", false, &[]), false, Exit::Unavailable),
        ] {
            assert_eq!((is_settled(&view), exit(&view)), (settled, code), "{view:?}");
        }
    }
}

//! The answer of `why` as text and as JSON.

use jit_client::status::{GrantsJson, Style};
use jit_common::PortKey;
use jit_proto::{
    prefix::ip,
    printable::clean,
    v1,
    words::{id_text, source_text},
};
use serde_json::{Value, json};

use crate::oncall::why::explain::{Explanation, Known};

/// Longest text of others that is shown, characters.
const WIDTH: usize = 200;

/// A screen: the answer, each interface, the guard, and what else there is to know.
pub(super) fn text(known: &Known<'_>, explained: &Explanation, style: Style) -> String {
    let (word, colour) = if explained.open { ("OPEN", "1;32") } else { ("CLOSED", "1;31") };
    let mut out = format!("{}: {}\n", style.paint(colour, word), explained.sentence);
    let mut line = |head: &str, text: &str| {
        out.push_str(format!("{head:<8} {text}").trim_end());
        out.push('\n');
    };
    for reason in &explained.more {
        line("", reason);
    }
    for way in known.interfaces() {
        line("gate", &way_text(way));
    }
    match &known.answer.guard {
        Some(guard) => line("guard", &format!("socket guard: {}", verdict_text(guard))),
        None => line("guard", "no socket guard is in force"),
    }
    for refused in known.refused.iter().rev() {
        let who = if refused.requester.is_empty() {
            String::new()
        } else {
            format!(" of {}", clean(&refused.requester, WIDTH))
        };
        let text = format!(
            "{}  {}: grant {}{who}, pushed by {}: {}",
            clean(&refused.time, 40),
            clean(&refused.reason, 40),
            clean(&refused.grant, 40),
            clean(&refused.by, WIDTH),
            clean(&refused.detail, WIDTH)
        );
        line("refused", &text);
    }
    if known.answer.from_tables {
        let text = "no agent answers: this is what the kernel enforces, with names from the database \
                    and the audit";
        line("agent", text);
        if explained.ask.is_some() {
            let PortKey { port, protocol } = known.question.port;
            let text = format!(
                "until an agent runs, only root lets it in: jit-agent break-glass --source {} \
                 --port {port}/{} --for 30m --reason 'TEXT'",
                ip(known.question.source),
                protocol.word()
            );
            line("", &text);
        }
    }
    if let Some(ask) = &explained.ask {
        line("ask", ask);
    }
    out
}

fn way_text(way: &v1::WhyInterface) -> String {
    let mut text = format!("{}  {}: ", clean(&way.name, 40), way.hook);
    match (&way.gate, &way.guard) {
        (Some(gate), _) if !gate.open => text.push_str(&verdict_text(gate)),
        (Some(gate), None) => text.push_str(&verdict_text(gate)),
        (Some(gate), Some(guard)) => {
            let (gate, guard) = (verdict_text(gate), verdict_text(guard));
            text.push_str(&format!("{gate}; then the socket guard {guard}"));
        }
        (None, Some(guard)) => {
            text.push_str(&format!("no gate; the socket guard {}", verdict_text(guard)));
        }
        (None, None) => text.push_str("no gate and no socket guard: open"),
    }
    if !way.note.is_empty() {
        text.push_str(&format!(" ({})", clean(&way.note, WIDTH)));
    }
    text
}

fn verdict_text(verdict: &v1::WhyVerdict) -> String {
    let word = if verdict.open { "lets it in" } else { "drops it" };
    match &*verdict.reason {
        "" => word.into(),
        reason => format!("{word} ({reason})"),
    }
}

/// The same for programs.
pub(super) fn json(known: &Known<'_>, explained: &Explanation) -> Value {
    let port = known.question.port;
    let verdict = |verdict: &v1::WhyVerdict| {
        let reason = (!verdict.reason.is_empty()).then_some(&verdict.reason);
        json!({ "open": verdict.open, "reason": reason })
    };
    let interface = |way: &v1::WhyInterface| {
        json!({
            "name": way.name, "hook": way.hook, "open": way.open, "note": way.note,
            "gate": way.gate.as_ref().map(verdict), "guard": way.guard.as_ref().map(verdict),
        })
    };
    let entry = |entry: &v1::WhyEntry| {
        json!({
            "source": entry.source.as_ref().map(source_text),
            "left_ms": (!entry.forever).then_some(entry.left_ms),
            "exempt": entry.exempt,
            "grant": (!entry.grant_id.is_empty()).then(|| id_text(&entry.grant_id)),
            "hits": entry.hits,
            "max_connections": (entry.max_connections > 0).then_some(entry.max_connections),
        })
    };
    let refused: Vec<_> = known
        .refused
        .iter()
        .map(|one| {
            json!({
                "time": one.time, "reason": one.reason, "detail": one.detail, "by": one.by,
                "grant": one.grant, "requester": one.requester,
            })
        })
        .collect();
    json!({
        "open": explained.open,
        "answer": explained.sentence,
        "more": explained.more,
        "source": ip(known.question.source),
        "port": format!("{}/{}", port.port, port.protocol.word()),
        "interfaces": known.interfaces().map(interface).collect::<Vec<_>>(),
        "socket_guard": known.answer.guard.as_ref().map(verdict),
        "decides": known.deciding().filter(|_| explained.open).map(entry),
        "entries": known.answer.entries.iter().map(entry).collect::<Vec<_>>(),
        "grants": GrantsJson(&known.answer.grants),
        "not_grantable": (!known.answer.not_grantable.is_empty()).then_some(&known.answer.not_grantable),
        "refused": refused,
        "ask": explained.ask,
        "from_tables": known.answer.from_tables,
    })
}

//! Events of `watch`, one line each.

use jit_proto::{
    WallTime,
    printable::clean,
    v1,
    words::{address_text, counted, id_text, protocol_word},
};
use serde_json::{Value, json};

use super::words::time;

/// One event on one line.
pub fn event_text(event: &v1::Event) -> String {
    use v1::event::What;
    let what = match &event.what {
        Some(What::Grant(grant)) => {
            let v1::GrantEvent { kind, grant_id, reason, by, detail } = grant;
            clean(&words(&["grant", kind, &id_text(grant_id), "by", by, reason, detail]), 400)
        }
        Some(What::Packet(packet)) => {
            let v1::PacketEvent { reason, source, port, grant_id, observed, .. } = packet;
            let to = format!("{port}/{}", protocol_word(packet.protocol()));
            let id = if grant_id.is_empty() { String::new() } else { id_text(grant_id) };
            let observed = if *observed { "(observed: it passed)" } else { "" };
            words(&["packet", reason, &address_text(source), "->", &to, &id, observed])
        }
        Some(What::AuditHead(head)) => {
            format!("audit head {}:{}", head.seq, hex::encode(&head.hash))
        }
        Some(What::Gap(gap)) if gap.missed == 0 => "gap: an unknown number of events".to_owned(),
        Some(What::Gap(gap)) => {
            format!("gap: {}, no longer held", counted(gap.missed, "event"))
        }
        Some(What::Policy(policy)) => {
            let v1::PolicyEvent { kind, version, reason, by, detail } = policy;
            let version = format!("version {version}");
            clean(&words(&["policy", kind, &version, "by", by, reason, detail]), 400)
        }
        Some(What::Gate(gate)) => {
            clean(&words(&["gate", &gate.kind, &gate.interface, &gate.detail]), 400)
        }
        None => "unknown event".to_owned(),
    };
    // Some texts are also cleaned above, where they are cut to a length.
    format!("{} {}", WallTime(event.time_ms), clean(&what, usize::MAX))
}

/// The words that are not empty, separated by spaces.
fn words(all: &[&str]) -> String {
    let some: Vec<_> = all.iter().copied().filter(|word| !word.is_empty()).collect();
    some.join(" ")
}

/// One event as JSON.
pub fn event_json(event: &v1::Event) -> Value {
    use v1::event::What;
    let (kind, detail) = match &event.what {
        Some(What::Grant(grant)) => (
            "grant",
            json!({
                "kind": grant.kind,
                "grant_id": id_text(&grant.grant_id),
                "reason": grant.reason,
                "by": grant.by,
                "detail": grant.detail,
            }),
        ),
        Some(What::Packet(packet)) => (
            "packet",
            json!({
                "reason": packet.reason,
                "source": address_text(&packet.source),
                "destination": address_text(&packet.destination),
                "source_port": packet.source_port,
                "port": format!("{}/{}", packet.port, protocol_word(packet.protocol())),
                "grant_id": (!packet.grant_id.is_empty()).then(|| id_text(&packet.grant_id)),
                "observed": packet.observed,
                "interface_index": packet.interface_index,
            }),
        ),
        Some(What::AuditHead(head)) => (
            "audit_head",
            json!({
                "head": format!("{}:{}", head.seq, hex::encode(&head.hash)),
                "signed": head.signed,
            }),
        ),
        Some(What::Gap(gap)) => ("gap", json!({ "missed": gap.missed })),
        Some(What::Policy(policy)) => (
            "policy",
            json!({
                "kind": policy.kind,
                "version": policy.version,
                "reason": policy.reason,
                "by": policy.by,
                "detail": policy.detail,
            }),
        ),
        Some(What::Gate(gate)) => (
            "gate",
            json!({ "kind": gate.kind, "interface": gate.interface, "detail": gate.detail }),
        ),
        None => ("unknown", Value::Null),
    };
    json!({ "cursor": event.cursor, "time": time(event.time_ms), kind: detail })
}

//! What happens, as a line for people and as an object for scripts.

use jit_client::status;
use jit_proto::{
    WallTime,
    v1::{self, event::What},
    words::id_text,
};
use serde_json::json;

use crate::support::NOW;

#[test]
fn each_kind_of_event_is_a_line_and_an_object() {
    let id = vec![1; 16];
    let text = id_text(&id);
    let packet = v1::PacketEvent {
        reason: "granted".into(),
        source: vec![203, 0, 113, 7].into(),
        destination: vec![198, 51, 100, 1].into(),
        source_port: 40_000,
        protocol: v1::Protocol::Tcp.into(),
        port: 22,
        grant_id: id.clone().into(),
        observed: false,
        interface_index: 2,
    };
    let dropped = v1::PacketEvent {
        reason: "denied".into(),
        grant_id: Vec::new().into(),
        observed: true,
        ..packet.clone()
    };
    let grant = v1::GrantEvent {
        kind: "refused".into(),
        grant_id: id.into(),
        reason: "expired".into(),
        by: "local".into(),
        detail: "over".into(),
    };
    let policy = v1::PolicyEvent {
        kind: "applied".into(),
        version: 8,
        reason: String::new(),
        by: "hub".into(),
        detail: "closes 3389/tcp".into(),
    };
    let gate =
        v1::GateEvent { kind: "lost".into(), interface: "eth0".into(), detail: "detached".into() };
    let head = v1::AuditHead { seq: 5, hash: vec![0xab, 0xcd].into(), signed: "{}".into() };
    for (what, line, object) in [
        (
            Some(What::Grant(grant)),
            format!("grant refused {text} by local expired over"),
            json!({ "grant": {
                "kind": "refused", "grant_id": text, "reason": "expired", "by": "local",
                "detail": "over",
            }}),
        ),
        (
            Some(What::Packet(packet)),
            format!("packet granted 203.0.113.7 -> 22/tcp {text}"),
            json!({ "packet": {
                "reason": "granted", "source": "203.0.113.7", "destination": "198.51.100.1",
                "source_port": 40_000, "port": "22/tcp", "grant_id": text, "observed": false,
                "interface_index": 2,
            }}),
        ),
        (
            Some(What::Packet(dropped)),
            "packet denied 203.0.113.7 -> 22/tcp (observed: it passed)".into(),
            json!({ "packet": {
                "reason": "denied", "source": "203.0.113.7", "destination": "198.51.100.1",
                "source_port": 40_000, "port": "22/tcp", "grant_id": null, "observed": true,
                "interface_index": 2,
            }}),
        ),
        (
            Some(What::AuditHead(head)),
            "audit head 5:abcd".into(),
            json!({ "audit_head": { "head": "5:abcd", "signed": "{}" }}),
        ),
        (
            Some(What::Gap(v1::Gap { missed: 0 })),
            "gap: an unknown number of events".into(),
            json!({ "gap": { "missed": 0 }}),
        ),
        (
            Some(What::Gap(v1::Gap { missed: 3 })),
            "gap: 3 events, no longer held".into(),
            json!({ "gap": { "missed": 3 }}),
        ),
        (
            Some(What::Policy(policy)),
            "policy applied version 8 by hub closes 3389/tcp".into(),
            json!({ "policy": {
                "kind": "applied", "version": 8, "reason": "", "by": "hub",
                "detail": "closes 3389/tcp",
            }}),
        ),
        (
            Some(What::Gate(gate)),
            "gate lost eth0 detached".into(),
            json!({ "gate": { "kind": "lost", "interface": "eth0", "detail": "detached" }}),
        ),
        (None, "unknown event".into(), json!({ "unknown": null })),
    ] {
        let event = v1::Event { cursor: "c1".into(), time_ms: NOW.wall.0, what };
        assert_eq!(status::event_text(&event), format!("{} {line}", WallTime(NOW.wall.0)));
        let mut object = object;
        object["cursor"] = "c1".into();
        object["time"] = WallTime(NOW.wall.0).to_string().into();
        assert_eq!(status::event_json(&event), object);
    }
}

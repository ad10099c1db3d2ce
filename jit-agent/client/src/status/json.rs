//! Status, grants and policy as JSON; documented in docs/json.md.
//!
//! What may be long is written as it is read, without a tree of values in memory.

use jit_proto::{
    v1,
    words::{address_text, id_text, protocol_word, range_text, sessions_word, source_text},
};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Value, json};

use super::{grants::readable, words::time};

const GRANTS: &str = "grants";
/// Version of the schema (docs/status.schema.json). Goes up when a field goes or changes its
/// meaning, not when one is added.
const SCHEMA_VERSION: u32 = 1;

/// `status --json`; documented in docs/json.md.
#[derive(Clone, Copy, Debug)]
pub struct StatusJson<'a>(pub &'a v1::StatusResponse);

impl Serialize for StatusJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(status) = self;
        let all = without_grants(status);
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in all.as_object().into_iter().flatten() {
            if key == GRANTS {
                map.serialize_entry(key, &GrantsJson(&status.grants))?;
            } else {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

/// The status; its grants are written into this place.
fn without_grants(status: &v1::StatusResponse) -> Value {
    let v1::StatusResponse {
        state,
        problems,
        version,
        host,
        mode,
        interfaces,
        ports,
        grants: _,
        drops,
        control,
        capacity,
        soon,
        started_at_ms,
        policy,
        guard,
        log,
        configuration,
        foreign,
        revoked_before,
        refused,
        recent,
        refused_last_hour,
        trial,
        front,
        host_id_source,
        uplink,
        freshness,
        // For controllers: by it two machines differ.
        boot_id: _,
    } = status;
    json!({
        "schema_version": SCHEMA_VERSION,
        "state": state,
        "problems": problems,
        "version": version,
        "host": host,
        "host_id_source": host_id_source,
        "mode": mode,
        "started_at": time(*started_at_ms),
        "interfaces": interfaces.iter().map(interface_json).collect::<Vec<_>>(),
        "socket_guard": guard.as_ref().map(|guard| json!({
            "wanted": guard.wanted,
            "attached": guard.attached,
            "since": time(guard.since_ms),
            "note": guard.note,
        })),
        "ports": ports.iter().map(port_json).collect::<Vec<_>>(),
        GRANTS: null,
        "dropped": drops_json(drops.as_ref()),
        "dropped_lately": recent.as_ref().map(recent_json),
        "refused": refused.iter().map(refused_json).collect::<Vec<_>>(),
        "refused_last_hour": refused_last_hour,
        "control": control.as_ref().map(control_json),
        "front": front.as_ref().map(front_json),
        "uplink": uplink.as_ref().map(uplink_json),
        "freshness": freshness.as_ref().map(freshness_json),
        "configuration": configuration.as_ref().map(configuration_json),
        "capacity": capacity.as_ref().map(|capacity| json!({
            "host_entries": capacity.host_entries,
            "host_entries_max": capacity.host_entries_max,
            "prefix_entries": capacity.prefix_entries,
            "prefix_entries_max": capacity.prefix_entries_max,
        })),
        "policy": policy.as_ref().map(policy_json),
        "revoked_before": revoked_before.as_ref().map(floors_json),
        "soon": soon,
        "log": log.as_ref().map(|log| json!({
            "dropped_lines": log.dropped_lines,
            "problem": (!log.problem.is_empty()).then_some(&log.problem),
        })),
        "foreign": foreign,
        "trial": trial.as_ref().map(trial_json),
    })
}

fn trial_json(trial: &v1::TrialState) -> Value {
    json!({
        "left_ms": trial.left_ms,
        "begun": time(trial.begun_ms),
        "of_file": trial.of_file,
        "closes": trial.closes,
        "ended": (!trial.ended.is_empty()).then_some(&trial.ended),
        "ended_at": time(trial.ended_ms),
    })
}

fn control_json(control: &v1::Control) -> Value {
    json!({
        "listen": control.listen,
        "certificate_not_after": time(control.certificate_not_after_ms),
        "last_push": time(control.last_push_ms),
        "last_controller": control.last_controller,
        "listening": control.listening,
        "problem": control.problem,
        "connections": control.connections,
        "connections_max": control.connections_max,
    })
}

fn front_json(front: &v1::Front) -> Value {
    json!({
        "pid": (front.pid != 0).then_some(front.pid),
        "since": time(front.since_ms),
        "ends": front.ends,
        "last_end_at": time(front.last_end_ms),
        "last_end": front.last_end,
        "keeps": front.keeps,
    })
}

fn uplink_json(uplink: &v1::Uplink) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "connected": uplink.connected,
        "hub": uplink.hub,
        "since": time(uplink.since_ms),
        "last_error": some(&uplink.last_error),
        "last_error_at": time(uplink.last_error_ms),
        "proxy": some(&uplink.proxy),
        "certificate_not_after": time(uplink.certificate_not_after_ms),
        "next_attempt_in_ms": uplink.next_attempt_in_ms,
        "connects": uplink.connects,
        "failures": uplink.failures,
        "last_push": time(uplink.last_push_ms),
        "last_controller": some(&uplink.last_controller),
        "spare": some(&uplink.spare),
    })
}

fn freshness_json(freshness: &v1::Freshness) -> Value {
    let v1::Freshness {
        epoch,
        number,
        issued_at_ms,
        state,
        for_ms,
        missing,
        contradictions,
        contradiction,
        contradiction_ms,
    } = freshness;
    json!({
        "state": state,
        "for_ms": for_ms,
        "missing": (*missing > 0).then_some(missing),
        "epoch": epoch,
        "number": number,
        "issued_at": time(*issued_at_ms),
        "contradictions": contradictions,
        "contradiction": (!contradiction.is_empty()).then_some(contradiction),
        "contradiction_at": time(*contradiction_ms),
    })
}

fn configuration_json(configuration: &v1::ConfigurationState) -> Value {
    json!({
        "path": configuration.path,
        "in_force_since": time(configuration.in_force_since_ms),
        "last_good": configuration.last_good,
        "refused": configuration.refused,
        "refused_at": time(configuration.refused_at_ms),
    })
}

/// Floors of revocations as JSON.
fn floors_json(floors: &v1::RevocationFloor) -> Value {
    let v1::RevocationFloor { all_ms, by_requester } = floors;
    let by_requester = by_requester.iter().map(|(name, at)| (name.clone(), time(*at)));
    json!({
        "all": time(*all_ms),
        "by_requester": by_requester.collect::<serde_json::Map<_, _>>(),
    })
}

fn interface_json(interface: &v1::Interface) -> Value {
    json!({
        "name": interface.name,
        "index": interface.index,
        "hook": interface.hook,
        "attached": interface.attached,
        "since": time(interface.since_ms),
        "note": interface.note,
        "excluded": (interface.hook == "excluded").then_some(&interface.excluded),
    })
}

fn port_json(port: &v1::Port) -> Value {
    json!({
        "port": range_text(port.range.as_ref()),
        "mode": port.mode,
        "sessions": sessions_word(port.sessions()),
        "terminates": port.terminates,
        "max_duration_s": port.max_duration_ms / 1000,
        "exemptions": port.exemptions.iter().map(exemption_json).collect::<Vec<_>>(),
        "open_to_all": port.open_to_all,
        "sources_allowed": (port.sources_allowed > 0).then_some(port.sources_allowed),
        "approvals": (port.approvals > 0).then_some(port.approvals),
    })
}

/// What was dropped in the last five minutes.
fn recent_json(recent: &v1::RecentDrops) -> Value {
    let v1::RecentDrops { packets, by_port, top } = recent;
    let top = top
        .iter()
        .map(|top| json!({ "source": address_text(&top.source), "packets": top.packets }));
    json!({
        "packets": packets,
        "by_port": ports_json(by_port),
        "top": top.collect::<Vec<_>>(),
    })
}

/// A push that was refused.
fn refused_json(push: &v1::RefusedPush) -> Value {
    let v1::RefusedPush { time_ms, grant_id, requester, sources, ports, by, reason, detail, count } =
        push;
    let ports = ports.iter().map(|range| range_text(Some(range)));
    json!({
        "time": time(*time_ms),
        "grant_id": (!grant_id.is_empty()).then(|| id_text(grant_id)),
        "requester": requester,
        "sources": sources.iter().map(source_text).collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "by": by,
        "reason": reason,
        "detail": detail,
        "count": count,
    })
}

fn drops_json(drops: Option<&v1::Drops>) -> Value {
    let drops = drops.cloned().unwrap_or_default();
    json!({
        "by_reason": counters_json(&drops.by_reason),
        "by_port": ports_json(&drops.by_port),
        "observed": drops.observed,
        "events_suppressed": drops.events_suppressed,
        "events_lost": drops.events_lost,
        "by_socket_guard": drops.guard,
    })
}

/// Port to reason word to packets.
fn ports_json(by_port: &[v1::PortCounter]) -> Value {
    let of_port = |port: &v1::PortCounter| {
        let key = format!("{}/{}", port.port, protocol_word(port.protocol()));
        (key, counters_json(&port.by_reason))
    };
    by_port.iter().map(of_port).collect::<serde_json::Map<_, _>>().into()
}

/// Which policy is in force, as JSON.
pub fn policy_json(policy: &v1::PolicyState) -> Value {
    let v1::PolicyState {
        version,
        highest_version,
        signers,
        author,
        justification,
        issued_at_ms,
        confirm_left_ms,
        previous_version,
        accepts_policies,
    } = policy;
    json!({
        "version": version,
        "highest_version": highest_version,
        "signers": signers,
        "author": author,
        "justification": justification,
        "issued_at": time(*issued_at_ms),
        "confirm_left_ms": (*confirm_left_ms > 0).then_some(confirm_left_ms),
        "previous_version": (*confirm_left_ms > 0).then_some(previous_version),
        "accepts_policies": accepts_policies,
    })
}

/// An exemption as JSON.
pub fn exemption_json(exemption: &v1::Exemption) -> Value {
    let v1::Exemption { source, reason, owner, until_ms } = exemption;
    json!({
        "source": source.as_ref().map(source_text),
        "reason": reason,
        "owner": owner,
        "until": time(*until_ms),
    })
}

/// `grants --json`, written grant by grant: there may be very many.
#[derive(Clone, Copy, Debug)]
pub struct GrantsJson<'a>(pub &'a [v1::GrantState]);

impl Serialize for GrantsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(GrantJson))
    }
}

/// A grant. Its keys are in the order of the alphabet, as everywhere in this JSON.
struct GrantJson<'a>(&'a v1::GrantState);

impl Serialize for GrantJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(state) = self;
        let grant = readable(state);
        let ports: Vec<_> = grant.ports.iter().map(|range| range_text(Some(range))).collect();
        let sources: Vec<_> = grant.sources.iter().map(source_text).collect();
        let limit = (grant.max_connections > 0).then_some(grant.max_connections);
        let replaces = (!grant.replaces.is_empty()).then(|| id_text(&grant.replaces));
        let says = grant.sessions() != v1::Sessions::Unspecified;
        let mut map = serializer.serialize_map(Some(19))?;
        map.serialize_entry("approvers", &grant.approvers)?;
        map.serialize_entry("hits", &state.hits)?;
        map.serialize_entry("hosts", &grant.hosts)?;
        map.serialize_entry("id", &id_text(&grant.id))?;
        map.serialize_entry("issued_at", &time(grant.issued_at_ms))?;
        map.serialize_entry("justification", &grant.justification)?;
        map.serialize_entry("left_ms", &state.left_ms)?;
        map.serialize_entry("max_connections", &limit)?;
        map.serialize_entry("not_after", &time(grant.not_after_ms))?;
        map.serialize_entry("not_before", &time(grant.not_before_ms))?;
        map.serialize_entry("outside", &(!state.outside.is_empty()).then_some(&state.outside))?;
        map.serialize_entry("ports", &ports)?;
        map.serialize_entry("replaces", &replaces)?;
        map.serialize_entry("requester", &grant.requester)?;
        map.serialize_entry("sessions", &says.then(|| sessions_word(grant.sessions())))?;
        map.serialize_entry("signers", &state.signers)?;
        map.serialize_entry("sources", &sources)?;
        map.serialize_entry("state", state_word(state.state()))?;
        map.serialize_entry("ticket", &grant.ticket)?;
        map.end()
    }
}

fn state_word(state: v1::State) -> &'static str {
    match state {
        v1::State::Active => "active",
        v1::State::Exhausted => "exhausted",
        v1::State::Expired => "expired",
        v1::State::Replaced => "replaced",
        v1::State::Revoked => "revoked",
        v1::State::Scheduled => "scheduled",
        v1::State::Unspecified => "unknown",
    }
}

fn counters_json(counters: &[v1::Counter]) -> Value {
    counters
        .iter()
        .map(|counter| (counter.reason.clone(), json!(counter.packets)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

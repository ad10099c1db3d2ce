//! Hosts.

use jit_client::controller::types::{AlarmView, HostPortView, HostView};

use super::{duration, moment, time};
use crate::{
    model::{
        Host,
        host::{Alarm, Observed, ObservedPort},
    },
    store::StoredHost,
};

/// A host.
pub(in crate::api) fn host(of: StoredHost) -> HostView {
    let Host { id, address, server_name, labels, groups } = of.host;
    let Observed {
        condition,
        seen_ms,
        since_ms,
        trouble,
        version,
        problems,
        ports,
        audit_head,
        audit_key,
        alarms,
        cursor: _,
        uplink,
        connected_ms,
    } = of.observed;
    let (since, since_ms) = moment(since_ms);
    let (seen, seen_ms) = moment(seen_ms);
    let (connected, connected_ms) = moment(connected_ms);
    HostView {
        id,
        address,
        server_name,
        labels,
        groups,
        condition: condition.word().to_owned(),
        since,
        since_ms,
        seen,
        seen_ms,
        trouble,
        version,
        problems,
        ports: ports.into_iter().map(port).collect(),
        audit_head,
        audit_key,
        alarms: alarms.into_iter().map(alarm).collect(),
        uplink,
        connected,
        connected_ms,
    }
}

fn port(of: ObservedPort) -> HostPortView {
    let ObservedPort { port, mode, max_duration_ms, approvals, exemptions: _ } = of;
    let max_duration = duration(max_duration_ms);
    HostPortView { port, mode, max_duration_ms, max_duration, approvals }
}

fn alarm(of: Alarm) -> AlarmView {
    let Alarm { word, text, at_ms, holds: _ } = of;
    AlarmView { word, text, at: time(at_ms), at_ms }
}

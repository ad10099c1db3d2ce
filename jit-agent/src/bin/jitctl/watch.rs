//! `jitctl watch`: events as they happen, resumed behind the last one when a connection breaks.

use std::{net::IpAddr, time::Duration};

use jit_agent::grant::GrantId;
use jit_proto::v1::{self, event::What};
use serde_json::{Value, json};

use crate::{
    agent::{self, Agent},
    cli::{AgentArgs, WatchArgs},
    failure::{Exit, Failure},
    target::Target,
    text,
};

/// First wait before connecting again; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Prints events until interrupted. Only the first connection may fail.
pub(crate) fn run(agent_args: &AgentArgs, args: &WatchArgs) -> Result<Exit, Failure> {
    let target = agent::target(agent_args)?;
    let mut cursor = args.cursor.clone();
    agent::block_on(async {
        let mut agent = Agent::connect(&target).await?;
        loop {
            let failure = match follow(&mut agent, &mut cursor, args.json).await {
                Ok(()) => Failure::unavailable(format!("{} ended the stream", target.way)),
                Err(failure) if failure.exit == Exit::Unavailable => failure,
                Err(failure) => return Err(failure),
            };
            failure.report();
            agent = reconnect(&target).await?;
        }
    })
}

/// Prints events until the stream ends; `cursor` is always behind the last one printed.
async fn follow(agent: &mut Agent, cursor: &mut String, json: bool) -> Result<(), Failure> {
    let mut events = agent.watch(cursor.clone()).await?;
    while let Some(event) = agent.next_event(&mut events).await? {
        if json {
            text::print_json(&event_json(&event))?;
        } else {
            text::print(&event_line(&event))?;
        }
        *cursor = event.cursor;
    }
    Ok(())
}

async fn reconnect(target: &Target) -> Result<Agent, Failure> {
    let mut wait = FIRST_WAIT;
    loop {
        tokio::time::sleep(wait).await;
        match Agent::connect(target).await {
            Ok(agent) => return Ok(agent),
            Err(failure) if failure.exit == Exit::Unavailable => failure.report(),
            Err(failure) => return Err(failure),
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn event_line(event: &v1::Event) -> String {
    let what = match &event.what {
        None => "an event that this version does not know".to_owned(),
        Some(What::Gap(v1::Gap { missed: 0 })) => "gap: some events were missed".to_owned(),
        Some(What::Gap(v1::Gap { missed })) => format!("gap: {missed} events were missed"),
        Some(What::Gate(v1::GateEvent { kind, interface, detail })) => {
            joined(&["gate", kind, interface, detail])
        }
        Some(What::Grant(grant)) => {
            let v1::GrantEvent { kind, grant_id, reason, by, detail } = grant;
            let by = if by.is_empty() { String::new() } else { format!("by {by}") };
            joined(&["grant", kind, &id(grant_id).unwrap_or_default(), reason, &by, detail])
        }
        Some(What::Packet(packet)) => {
            let source = ip(&packet.source).map_or("?".to_owned(), |ip| ip.to_string());
            let grant = id(&packet.grant_id).map(|id| format!("grant {id}")).unwrap_or_default();
            let observed = if packet.observed { "(observed, let through)" } else { "" };
            let port = format!("{}/{}", packet.port, protocol(packet.protocol()));
            joined(&["packet", &packet.reason, &source, "->", &port, &grant, observed])
        }
    };
    format!("{}  {}  {what}\n", text::moment(event.time_ms), text::printable(&event.cursor))
}

fn event_json(event: &v1::Event) -> Value {
    let (kind, body) = match &event.what {
        None => ("unknown", Value::Null),
        Some(What::Gap(gap)) => ("gap", json!({ "missed": gap.missed })),
        Some(What::Gate(v1::GateEvent { kind, interface, detail })) => {
            ("gate", json!({ "kind": kind, "interface": interface, "detail": detail }))
        }
        Some(What::Grant(v1::GrantEvent { kind, grant_id, reason, by, detail })) => (
            "grant",
            json!({
                "kind": kind, "id": id(grant_id), "reason": reason, "by": by, "detail": detail,
            }),
        ),
        Some(What::Packet(packet)) => (
            "packet",
            json!({
                "reason": packet.reason,
                "source": ip(&packet.source),
                "source_port": packet.source_port,
                "destination": ip(&packet.destination),
                "protocol": protocol(packet.protocol()),
                "port": packet.port,
                "grant": id(&packet.grant_id),
                "observed": packet.observed,
                "interface_index": packet.interface_index,
            }),
        ),
    };
    json!({ "cursor": event.cursor, "time": text::moment(event.time_ms), "event": kind, kind: body })
}

/// The words that are there, printable, with a space between.
fn joined(words: &[&str]) -> String {
    let words: Vec<_> =
        words.iter().filter(|word| !word.is_empty()).map(|word| text::printable(word)).collect();
    words.join(" ")
}

fn id(bytes: &[u8]) -> Option<String> {
    GrantId::from_bytes(bytes).map(|id| id.to_string())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

const fn protocol(protocol: v1::Protocol) -> &'static str {
    match protocol {
        v1::Protocol::Unspecified => "?",
        v1::Protocol::Tcp => "tcp",
        v1::Protocol::Udp => "udp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: What) -> v1::Event {
        v1::Event { cursor: "a-1".into(), time_ms: 1_803_888_000_000, what: Some(what) }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let event = event(What::Grant(v1::GrantEvent {
            kind: "refused".into(),
            grant_id: vec![0; 16].into(),
            reason: "wrong_host".into(),
            by: "spiffe://example.org/jit-controller".into(),
            detail: "for\ndb-1".into(),
        }));
        assert_eq!(
            event_line(&event),
            "2027-03-01T08:00:00Z  a-1  grant refused 00000000000000000000000000 wrong_host by \
             spiffe://example.org/jit-controller for\\ndb-1\n"
        );
    }

    #[test]
    fn a_packet_shows_who_knocked_where() {
        let packet = event(What::Packet(v1::PacketEvent {
            reason: "denied".into(),
            source: vec![198, 51, 100, 9].into(),
            protocol: v1::Protocol::Tcp.into(),
            port: 22,
            ..v1::PacketEvent::default()
        }));
        assert_eq!(
            event_line(&packet),
            "2027-03-01T08:00:00Z  a-1  packet denied 198.51.100.9 -> 22/tcp\n"
        );
        let value = event_json(&packet);
        assert_eq!(value["event"], "packet");
        assert_eq!(value["packet"]["source"], "198.51.100.9");
        assert_eq!(value["packet"]["grant"], Value::Null);
    }
}

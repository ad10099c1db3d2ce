//! `jit-agent denials`: the packets that were dropped and the pushes that were refused, from the
//! agent's history. With `--follow` it prints new ones as they happen.

use std::{path::Path, process::ExitCode};

use jit_client::{local::LocalClient, status};
use jit_proto::{
    PortRange, SourcePrefix,
    printable::json_line,
    v1::{self, event::What},
};
use tonic::Streaming;

use crate::{
    oncall::{
        agent::{reach, undone},
        audit::{Since, parse_since},
        failure::Failure,
        output::{Colours, print, print_json, print_while_open},
    },
    system::sys,
};

const LIST: &str = "list the denials";
const FOLLOW: &str = "follow the denials";

/// What `denials` lists, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only what was last seen since then: a duration (1h, 7d) or a time (2026-06-01T12:00:00Z).
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<Since>,
    /// Only packets from this address or prefix, and refused pushes that name a part of it.
    #[arg(long, value_name = "IP|PREFIX")]
    source: Option<SourcePrefix>,
    /// Only this port: 22/tcp, 5000-5010/udp.
    #[arg(long, value_name = "PORT/PROTOCOL")]
    port: Option<PortRange>,
    /// Only refused pushes that name this requester: who was refused by which word.
    #[arg(long, value_name = "NAME", conflicts_with = "follow")]
    user: Option<String>,
    /// List at most this many of each, heaviest or newest first.
    #[arg(long, value_name = "NUMBER", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    top: u32,
    /// Then print new ones as they happen, until interrupted.
    #[arg(long)]
    follow: bool,
    /// Print JSON (docs/json.md); with --follow, one line for the list and one for each new one.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    colours: Colours,
}

/// Prints the denials.
pub async fn run(config: &Path, options: Options) -> Result<ExitCode, Failure> {
    let mut client = reach(config).await?;
    // It begins before the list, so that nothing is missed in between.
    let events = if options.follow { Some(watch(&mut client).await?) } else { None };
    let answer = client.denials(options.request()).await;
    let answer = answer.map_err(|status| undone(LIST, status))?.into_inner();
    match (options.json, options.follow) {
        // Lines of JSON.
        (true, true) => print(&format!("{}\n", json_line(&status::denials_json(&answer))))?,
        (true, false) => print_json(&status::denials_json(&answer))?,
        (false, _) => print(&status::denials_text(&answer, options.colours.style()))?,
    }
    if let Some(events) = events {
        options.follow(events).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(client: &mut LocalClient) -> Result<Streaming<v1::Event>, Failure> {
    let answer = client.watch(v1::WatchRequest::default()).await;
    Ok(answer.map_err(|status| undone(FOLLOW, status))?.into_inner())
}

impl Options {
    fn request(&self) -> v1::DenialsRequest {
        let now = sys::now().wall;
        let since = self.since.map_or(0, |since| since.moment(now).0);
        v1::DenialsRequest {
            since_ms: since,
            source: self.source.as_ref().map(v1::Source::from),
            port: self.port.map(v1::PortRange::from),
            top: self.top,
            requester: self.user.clone().unwrap_or_default(),
        }
    }

    /// Prints new denials until the agent ends the stream.
    async fn follow(&self, mut events: Streaming<v1::Event>) -> Result<(), Failure> {
        while let Some(event) = events.message().await.map_err(|status| undone(FOLLOW, status))? {
            if !self.wants(&event) {
                continue;
            }
            let text = if self.json {
                json_line(&status::event_json(&event))
            } else {
                status::event_text(&event)
            };
            if !print_while_open(&format!("{text}\n"))? {
                break;
            }
        }
        Ok(())
    }

    /// Whether an event is a denial that is asked for. A gap in the events always is.
    fn wants(&self, event: &v1::Event) -> bool {
        match &event.what {
            Some(What::Gap(_)) => true,
            // An event of a refused push has neither sources nor ports.
            Some(What::Grant(grant)) => {
                grant.kind == "refused" && self.source.is_none() && self.port.is_none()
            }
            Some(What::Packet(packet)) => packet.reason != "granted" && self.wants_packet(packet),
            _ => false,
        }
    }

    fn wants_packet(&self, packet: &v1::PacketEvent) -> bool {
        let v1::PacketEvent { source, port, .. } = packet;
        let length = u32::try_from(source.len() * 8).unwrap_or(0);
        let host = v1::Source { address: source.clone(), prefix_length: length };
        let host = SourcePrefix::try_from(&host).ok();
        let range = v1::PortRange { protocol: packet.protocol, first: *port, last: *port };
        let range = PortRange::try_from(&range).ok();
        self.source.is_none_or(|prefix| host.is_some_and(|host| prefix.contains(&host)))
            && self.port.is_none_or(|wanted| {
                range.is_some_and(|one| one.ports().all(|port| wanted.has(port)))
            })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::try_parse_from(["denials"].iter().chain(words)).unwrap().options
    }

    fn packet(reason: &str, source: [u8; 4], port: u32) -> v1::Event {
        let packet = v1::PacketEvent {
            reason: reason.into(),
            source: source.to_vec().into(),
            protocol: v1::Protocol::Tcp.into(),
            port,
            ..v1::PacketEvent::default()
        };
        v1::Event { what: Some(What::Packet(packet)), ..v1::Event::default() }
    }

    #[test]
    fn only_what_is_asked_for_is_followed() {
        let all = options(&["--follow"]);
        assert!(all.wants(&packet("denied", [192, 0, 2, 7], 22)));
        assert!(!all.wants(&packet("granted", [192, 0, 2, 7], 22)));
        let some = options(&["--follow", "--source", "192.0.2.0/24", "--port", "22/tcp"]);
        assert!(some.wants(&packet("denied", [192, 0, 2, 7], 22)));
        assert!(!some.wants(&packet("denied", [192, 0, 2, 7], 23)));
        assert!(!some.wants(&packet("denied", [198, 51, 100, 7], 22)));
        let refused = v1::GrantEvent { kind: "refused".into(), ..v1::GrantEvent::default() };
        let refused = v1::Event { what: Some(What::Grant(refused)), ..v1::Event::default() };
        assert!(all.wants(&refused) && !some.wants(&refused));
    }

    #[test]
    fn the_request_is_as_the_options_say() {
        let request = options(&["--user", "ana", "--top", "5"]).request();
        assert_eq!((request.requester.as_str(), request.top, request.since_ms), ("ana", 5, 0));
        assert!(options(&["--since", "1h"]).request().since_ms > 0);
    }
}

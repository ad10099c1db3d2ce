//! The way to the hubs: what the agent says of its connection, and whether each hub, or the proxy
//! before it, can be found and reached from here. No byte is sent.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;

use super::{
    finding::Finding,
    host::{Agent, Host},
};
use crate::config::{Hub, Proxy, Uplink};

const NAME: &str = "uplink";
/// The longest wait for all of them. A name server may take longer.
const WAIT: Duration = Duration::from_secs(5);
/// The same for one connection.
const CONNECT: Duration = Duration::from_secs(2);

/// The findings; none without an `[uplink]`.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let Ok(config) = &host.config else { return Vec::new() };
    let Some(uplink) = &config.uplink else { return Vec::new() };
    let said = host.status.as_ref().ok().filter(|_| host.agent == Agent::Answers);
    let said = said.and_then(|status| status.uplink.as_ref()).map(said_by_agent);
    said.into_iter().chain(reached(uplink)).collect()
}

fn said_by_agent(uplink: &v1::Uplink) -> Finding {
    let v1::Uplink { connected, hub, last_error, .. } = uplink;
    if *connected {
        return Finding::ok(NAME, format!("the agent is connected to {hub}"));
    }
    let seen = match last_error.as_str() {
        "" => format!("the agent is not connected yet; it tries {hub}"),
        why => format!("the agent is not connected: {why}"),
    };
    Finding::failure(NAME, seen).fix("jit-agent status; docs/runbook.md, heading `uplink`")
}

/// Whether each place that the agent connects to answers.
fn reached(uplink: &Uplink) -> Vec<Finding> {
    let (what, places) = match &uplink.proxy {
        Proxy::None => ("the hub", uplink.hubs.clone()),
        Proxy::At(proxy) => ("the proxy", vec![proxy.clone()]),
        Proxy::Environment => {
            let seen = "[uplink] proxy is \"environment\": only the service sees its own";
            return vec![
                Finding::unseen(NAME, seen).fix("systemctl show jit-agent -p Environment"),
            ];
        }
    };
    let (sender, tried) = mpsc::channel();
    for (index, place) in places.iter().cloned().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            // Nobody may wait any more.
            let _late = sender.send((index, reach(&place)));
        });
    }
    drop(sender);
    let end = Instant::now() + WAIT;
    let mut answers = vec![Some("it is not found or reached within 5 s".to_owned()); places.len()];
    while let Ok((index, answer)) =
        tried.recv_timeout(end.saturating_duration_since(Instant::now()))
    {
        if let Some(place) = answers.get_mut(index) {
            *place = answer;
        }
    }
    let found = places.iter().zip(answers).map(|(place, answer)| match answer {
        None => Finding::ok(NAME, format!("{what} {place} takes connections")),
        Some(why) => {
            let Hub { host, port } = place;
            Finding::warning(NAME, format!("{what} {place}: {why}"))
                .about(place.to_string())
                .at("uplink.hubs")
                .fix(format!("getent hosts {host}; nc -vz {host} {port}"))
        }
    });
    found.collect()
}

/// Why a place cannot be reached; `None`: it can.
fn reach(Hub { host, port }: &Hub) -> Option<String> {
    let addresses = match (host.as_str(), *port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Some(format!("its address cannot be found: {error}")),
    };
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return None,
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Some(why)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::PathBuf};

    use super::{super::finding::Level, *};

    #[test]
    fn each_hub_is_tried_and_one_that_does_not_answer_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let hub = |text: &str| Hub::parse(text).unwrap();
        let uplink = |proxy| Uplink {
            hubs: vec![hub(&open), hub(&closed)],
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            ca: PathBuf::new(),
            proxy,
            proxy_credentials: None,
        };
        let found = reached(&uplink(Proxy::None));
        let levels: Vec<_> = found.iter().map(|one| one.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warning], "{found:?}");
        assert!(found[1].seen.contains(&closed) && found[1].seen.contains("refused"), "{found:?}");
        let found = reached(&uplink(Proxy::At(hub(&closed))));
        assert!(matches!(&found[..], [one] if one.seen.starts_with("the proxy")), "{found:?}");
        assert_eq!(reached(&uplink(Proxy::Environment))[0].level, Level::Unseen);
    }
}

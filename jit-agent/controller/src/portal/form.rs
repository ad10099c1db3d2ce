//! The form of *Open a port*: ports that the hosts protect, the address that they see, and who must
//! agree.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use askama::Template;
use axum::{http::StatusCode, response::Response};
use jit_proto::{PortRange, words};
use tokio::time::timeout;

use super::{
    files,
    page::{Shell, page},
    who::{self, Who},
    wish::Wish,
};
use crate::{
    api::{ApiState, Call, Failure},
    clock,
    people::session::SignedIn,
    store::StoredHost,
};

/// Durations to choose from, milliseconds.
const TIMES: [(i64, &str); 6] = [
    (900_000, "15m"),
    (1_800_000, "30m"),
    (3_600_000, "1h"),
    (7_200_000, "2h"),
    (14_400_000, "4h"),
    (28_800_000, "8h"),
];
/// The one that is chosen at first.
const USUAL: &str = "1h";
/// How far back a host is asked for what it dropped, milliseconds.
const WITHIN_MS: i64 = 10 * 60 * 1000;
/// Longest wait for a host's answer to that.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Template)]
#[template(path = "ask.html")]
struct AskPage<'f> {
    shell: Shell,
    wish: &'f Wish,
    ports: Vec<KnownPort>,
    /// Ports that no host names.
    other_ports: String,
    times: Vec<String>,
    /// The address as the controller sees it.
    address: String,
    /// A proxy named it.
    forwarded: bool,
    /// Addresses that the host has dropped lately; `None`: it was not asked.
    seen: Option<Vec<Seen>>,
    /// Why the host did not say.
    trouble: String,
    /// Addresses that are not to choose from.
    other_sources: String,
    /// The address of this page that asks the host.
    ask_host: String,
    wrong: Wrong,
    who: Who,
    key: String,
    script: &'static str,
}

/// A port that the chosen hosts protect.
struct KnownPort {
    port: String,
    chosen: bool,
    note: String,
}

/// An address that a host has dropped.
struct Seen {
    address: String,
    ago: String,
    chosen: bool,
}

/// A field that is wrong, and why; empty: none is.
#[derive(Default)]
pub(super) struct Wrong {
    pub(super) field: String,
    pub(super) why: String,
}

/// The form, with what is filled in already.
///
/// # Errors
/// A host that the account does not see; or the database.
pub(super) async fn form(
    state: &ApiState,
    signed_in: &SignedIn,
    call: &Call,
    mut wish: Wish,
    asks_host: bool,
    wrong: Wrong,
) -> Result<Response, Failure> {
    let hosts = wish.known_hosts(state, signed_in).await?;
    let (mut ports, limit_ms) = known(&hosts, &wish.ports);
    if let ([only], true) = (ports.as_mut_slice(), wish.ports.is_empty()) {
        only.chosen = true;
    }
    let times: Vec<_> = TIMES
        .iter()
        .filter(|(millis, _)| limit_ms.is_none_or(|limit| *millis <= limit))
        .map(|(_, word)| (*word).to_owned())
        .collect();
    if !times.contains(&wish.duration) {
        let usual = times.iter().find(|word| *word == USUAL).or(times.last());
        wish.duration = usual.cloned().unwrap_or_else(|| words::duration(limit_ms.unwrap_or(0)));
    }
    let times = if times.is_empty() { vec![wish.duration.clone()] } else { times };
    let address = call.origin.address.to_string();
    if wish.sources.is_empty() {
        wish.sources.push(address.clone());
    }
    if wish.ports.is_empty() {
        wish.ports.extend(ports.iter().filter(|port| port.chosen).map(|port| port.port.clone()));
    }
    let (mut seen, mut trouble) = (None, String::new());
    if asks_host {
        match dropped(state, &hosts, &ports).await {
            Ok(found) => {
                let best = found.iter().find(|(one, _)| *one == call.origin.address);
                let best = best.or(found.first()).map(|(one, _)| *one);
                let now_ms = clock::now_ms();
                let one = |(address, at_ms): &(IpAddr, i64)| Seen {
                    address: address.to_string(),
                    ago: words::duration(now_ms.saturating_sub(*at_ms)),
                    chosen: best == Some(*address),
                };
                if let Some(best) = best {
                    wish.sources = vec![best.to_string()];
                }
                seen = Some(found.iter().take(8).map(one).collect::<Vec<_>>());
            }
            Err(why) => trouble = why,
        }
    }
    let ask_host = address_that_asks(&wish.hosts);
    let status = match wrong.why.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let who = who::of(state, signed_in, call, &wish).await?;
    let is_known = |port: &&String| ports.iter().any(|known| known.port == **port);
    let other_ports: Vec<_> = wish.ports.iter().filter(|port| !is_known(port)).cloned().collect();
    let offered = |source: &&String| match &seen {
        Some(seen) if !seen.is_empty() => seen.iter().any(|one| one.address == **source),
        _ => **source == address,
    };
    let other_sources = wish.sources.iter().filter(|source| !offered(source)).cloned();
    let form = AskPage {
        shell: Shell::of(signed_in, "open"),
        other_ports: other_ports.join(", "),
        other_sources: other_sources.collect::<Vec<_>>().join(", "),
        wish: &wish,
        ports,
        times,
        address,
        forwarded: call.origin.forwarded,
        seen,
        trouble,
        ask_host,
        wrong,
        who,
        key: ulid::Ulid::generate().to_string(),
        script: files::htmx(),
    };
    page(status, &form)
}

/// The address of this form that asks the first host which addresses it has dropped.
fn address_that_asks(hosts: &[String]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(hosts.iter().map(|host| ("host", host)));
    format!("/open?{}", query.append_pair("seen", "1").finish())
}

/// The ports that these hosts protect, and the longest time that all of them allow, milliseconds.
fn known(hosts: &[StoredHost], chosen: &[String]) -> (Vec<KnownPort>, Option<i64>) {
    let mut ports: BTreeMap<(u16, String), (usize, bool)> = BTreeMap::new();
    let mut limit_ms = None::<i64>;
    for port in hosts.iter().flat_map(|known| &known.observed.ports) {
        let number = port.port.parse::<PortRange>().ok().and_then(|range| range.ports().next());
        let key = (number.map_or(0, |number| number.port), port.port.clone());
        let (count, observes) = ports.entry(key).or_default();
        *count += 1;
        *observes |= port.mode == "observe";
        if port.max_duration_ms > 0 {
            limit_ms = Some(limit_ms.unwrap_or(i64::MAX).min(port.max_duration_ms));
        }
    }
    let ports = ports.into_iter().map(|((_, port), (count, observes))| {
        let mut note = String::new();
        if count < hosts.len() {
            note = format!("on {count} of {} hosts", hosts.len());
        }
        if observes {
            note.push_str(if note.is_empty() { "" } else { ", " });
            note.push_str("only observed: it is open anyway");
        }
        let is_chosen = chosen.contains(&port);
        KnownPort { port, chosen: is_chosen, note }
    });
    (ports.collect(), limit_ms)
}

/// Addresses that the first host has dropped at its first port, the latest first.
async fn dropped(
    state: &ApiState,
    hosts: &[StoredHost],
    ports: &[KnownPort],
) -> Result<Vec<(IpAddr, i64)>, String> {
    let fleet = state.fleet().ok_or("this part of the controller does not talk to hosts")?;
    let host = hosts.first().ok_or("no host is chosen")?;
    let chosen = ports.iter().find(|port| port.chosen).or(ports.first());
    let port = chosen.and_then(|port| port.port.parse().ok()).ok_or("no port is known there")?;
    let id = &host.host.id;
    match timeout(PATIENCE, fleet.recent_denials(id, port, WITHIN_MS)).await {
        Ok(Ok(found)) => {
            Ok(found.into_iter().map(|(address, at)| (address.to_canonical(), at)).collect())
        }
        Ok(Err(error)) => Err(format!("{id} was asked in vain: {error}")),
        Err(_) => Err(format!("{id} does not answer")),
    }
}

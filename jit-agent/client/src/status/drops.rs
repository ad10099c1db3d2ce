//! What was dropped and refused lately, and since the gate was first put in force.

use std::fmt::Write as _;

use jit_proto::{
    printable::clean,
    v1,
    words::{address_text, duration, protocol_word, range_text, source_text},
};

use super::words::{WIDTH, listed, thousands};

/// The most ports that are listed.
const MOST_PORTS: usize = 6;

/// `1,204 in 5 min (22/tcp 1,180; 3389/tcp 24), most from 198.51.100.9 (612)`.
pub(super) fn recent(recent: &v1::RecentDrops) -> String {
    let v1::RecentDrops { packets, by_port, top } = recent;
    let mut text = format!("{} in 5 min{}", thousands(*packets), ports(by_port));
    let sources: Vec<_> = top
        .iter()
        .take(3)
        .map(|top| format!("{} ({})", address_text(&top.source), thousands(top.packets)))
        .collect();
    if !sources.is_empty() {
        let _never = write!(text, ", most from {}", sources.join(", "));
    }
    text
}

/// Drops since the gate was first put in force, the busiest ports first.
pub(super) fn since_start(drops: &v1::Drops) -> String {
    let total: u64 = drops.by_reason.iter().map(|counter| counter.packets).sum();
    let mut text = format!("{} packets{}", thousands(total), ports(&drops.by_port));
    let reasons: Vec<_> = drops
        .by_reason
        .iter()
        .map(|counter| format!("{} {}", clean(&counter.reason, 40), thousands(counter.packets)))
        .collect();
    if !reasons.is_empty() {
        let _never = write!(text, ": {}", reasons.join(", "));
    }
    if drops.observed > 0 {
        let _never = write!(text, "; {} of them only observed", thousands(drops.observed));
    }
    text
}

/// ` (22/tcp 1,180; 3389/tcp 24)`; empty without any.
fn ports(by_port: &[v1::PortCounter]) -> String {
    let mut ports: Vec<_> =
        by_port.iter().map(|port| (dropped(port), port)).filter(|(n, _)| *n > 0).collect();
    ports.sort_by_key(|(packets, _)| std::cmp::Reverse(*packets));
    let ports: Vec<_> = ports
        .into_iter()
        .take(MOST_PORTS)
        .map(|(packets, port)| {
            format!("{}/{} {}", port.port, protocol_word(port.protocol()), thousands(packets))
        })
        .collect();
    if ports.is_empty() { String::new() } else { format!(" ({})", ports.join("; ")) }
}

fn dropped(port: &v1::PortCounter) -> u64 {
    let drops = |word: &str| {
        jit_common::Reason::ALL.iter().any(|reason| reason.drops() && reason.word() == word)
    };
    port.by_reason.iter().filter(|counter| drops(&counter.reason)).map(|one| one.packets).sum()
}

/// A refused push on one line: when, who, from where, to what, and why.
pub(super) fn refused(push: &v1::RefusedPush, now: i64) -> String {
    let requester = match clean(&push.requester, WIDTH) {
        none if none.is_empty() => "?".to_owned(),
        name => name,
    };
    let times = match push.count {
        0 | 1 => String::new(),
        count => format!(" {} times", thousands(count)),
    };
    let sources = listed(&push.sources, source_text);
    let ports = listed(&push.ports, |range| range_text(Some(range)));
    let (reason, detail) = (clean(&push.reason, WIDTH), clean(&push.detail, 200));
    let ago = duration(now.saturating_sub(push.time_ms));
    format!("{ago} ago{times}  {requester}  {sources}  {ports}  {reason}: {detail}")
}

//! What was dropped and refused lately, and since the gate was first put in force.

use std::{fmt::Write as _, time::Duration};

use jit_proto::{
    printable::clean,
    v1,
    words::{address_text, duration, protocol_word, range_text, source_text},
};

use super::words::{WIDTH, listed, many, thousands};

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
    let mut text = format!("{}{}", many(total, "packet"), ports(&drops.by_port));
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

/// `120 a second (22/tcp 118; 3389/tcp 2)`: the difference of two counts, this long apart. A count
/// that is smaller than before was begun anew, and counts from zero.
pub(super) fn a_second(before: &v1::Drops, after: &v1::Drops, apart: Duration) -> String {
    let rate = |new: u64, old: u64| {
        let packets = u128::from(new.checked_sub(old).unwrap_or(new));
        u64::try_from(packets * 1_000 / apart.as_millis().max(1)).unwrap_or(u64::MAX)
    };
    let total = |drops: &v1::Drops| drops.by_reason.iter().map(|one| one.packets).sum();
    let old = |port: &v1::PortCounter| {
        let same = |old: &&v1::PortCounter| old.port == port.port && old.protocol == port.protocol;
        before.by_port.iter().find(same).map_or(0, dropped)
    };
    let ports = after.by_port.iter().map(|port| (rate(dropped(port), old(port)), port));
    format!("{} a second{}", thousands(rate(total(after), total(before))), most_of(ports.collect()))
}

/// ` (22/tcp 1,180; 3389/tcp 24)`; empty without any.
fn ports(by_port: &[v1::PortCounter]) -> String {
    most_of(by_port.iter().map(|port| (dropped(port), port)).collect())
}

fn most_of(mut ports: Vec<(u64, &v1::PortCounter)>) -> String {
    ports.retain(|(packets, _)| *packets > 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(ssh: u64, rdp: u64) -> v1::Drops {
        let counter = |packets| v1::Counter { reason: "denied".into(), packets };
        let port = |port, packets| v1::PortCounter {
            protocol: v1::Protocol::Tcp.into(),
            port,
            by_reason: vec![counter(packets), v1::Counter { reason: "granted".into(), packets: 9 }],
        };
        v1::Drops {
            by_reason: vec![counter(ssh + rdp)],
            by_port: vec![port(22, ssh), port(3_389, rdp)],
            ..v1::Drops::default()
        }
    }

    #[test]
    fn drops_a_second_are_the_difference_of_two_counts() {
        let second = Duration::from_secs(1);
        let rate = |before, after, apart| a_second(&before, &after, apart);
        let shown = rate(drops(10, 5), drops(2_010, 8), second);
        assert_eq!(shown, "2,003 a second (22/tcp 2,000; 3389/tcp 3)");
        assert_eq!(rate(drops(0, 0), drops(3_000, 0), second * 2), "1,500 a second (22/tcp 1,500)");
        assert_eq!(rate(drops(7, 7), drops(7, 7), second), "0 a second");
        // Counted anew, or no time between.
        assert_eq!(rate(drops(500, 0), drops(4, 0), second), "4 a second (22/tcp 4)");
        assert!(
            rate(drops(0, 0), drops(u64::MAX, 0), Duration::ZERO)
                .ends_with("a second (22/tcp 18,446,744,073,709,551,615)")
        );
    }
}

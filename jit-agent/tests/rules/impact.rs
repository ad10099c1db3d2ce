//! What a policy changes, compared with the question who gets in without a grant, for each port and
//! source. And which ports of the file stay, whatever is pushed.

use std::time::Duration;

use jit_agent::rules::{ceiling::Ceiling, impact::Impact, policy::Policy};
use jit_common::{PortKey, Protocol};
use jit_proto::{Exemption, PortRange, PortSection, Sessions, SourcePrefix, WallTime};
use proptest::prelude::*;

const NOW: WallTime = WallTime(1_000_000);
const HOUR: Duration = Duration::from_secs(3600);
/// Sources of the questions.
const SOURCES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1"];
/// Sources that are exempt.
const EXEMPT: [&str; 5] = ["10.0.0.1", "10.0.0.0/24", "10.0.0.0/8", "2001:db8::/32", "192.0.2.1"];

fn prefix(text: &str) -> SourcePrefix {
    text.parse().unwrap()
}

fn exemption() -> impl Strategy<Value = Exemption> {
    let until = prop::sample::select(vec![500_000_i64, 2_000_000, 3_000_000]);
    (prop::sample::select(&EXEMPT[..]), prop::option::of(until)).prop_map(|(source, until)| {
        Exemption {
            source: prefix(source),
            reason: "r".into(),
            owner: "o".into(),
            until: until.map(WallTime),
        }
    })
}

/// Sections for some of the ports 1 to 12. `None`: that range is not protected.
fn policy() -> impl Strategy<Value = Policy> {
    let section = (any::<bool>(), prop::collection::vec(exemption(), 0..3), 1..4_u16);
    let stretch = (prop::option::weighted(0.7, section), 1..5_u16);
    prop::collection::vec(stretch, 1..6).prop_map(|stretches| {
        let mut next = 1;
        let mut sections = Vec::new();
        for (section, length) in stretches {
            let last = (next + length - 1).min(12);
            if next > 12 {
                break;
            }
            if let Some((observe, exemptions, hours)) = section {
                sections.push(PortSection {
                    range: PortRange { protocol: Protocol::Tcp, first: next, last },
                    observe,
                    sources: vec![prefix("0.0.0.0/0")],
                    widest_v4: 24,
                    widest_v6: 48,
                    max_duration: HOUR * u32::from(hours),
                    approvals: 1,
                    sessions: Sessions::Drain,
                    forwarded: false,
                    exemptions,
                });
            }
            next = last + 1;
        }
        Policy::new(sections, HOUR * 24).unwrap()
    })
}

fn ports() -> impl Iterator<Item = PortKey> {
    (1..=12).map(|port| PortKey { protocol: Protocol::Tcp, port })
}

/// Whether a source gets in without a grant, at this time.
fn gets_in(policy: &Policy, port: PortKey, source: &str, at: WallTime) -> bool {
    policy.port(port).is_none_or(|section| {
        section.observe
            || section.exemptions.iter().any(|one| {
                one.until.is_none_or(|until| until > at) && one.source.contains(&prefix(source))
            })
    })
}

fn closed(policy: &Policy, port: PortKey) -> bool {
    policy.port(port).is_some_and(|section| !section.observe)
}

fn ports_in(ranges: &[PortRange]) -> Vec<PortKey> {
    ranges.iter().flat_map(|range| range.ports()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_shut_out_unreported(old in policy(), new in policy()) {
        let impact = Impact::between(&old, &new, NOW);
        let all: Vec<_> = ports().collect();
        let wanted = |before: bool| -> Vec<PortKey> {
            let changes = all.iter().filter(|port| {
                closed(&old, **port) == before && closed(&new, **port) != before
            });
            changes.copied().collect()
        };
        prop_assert_eq!(ports_in(&impact.closed), wanted(false));
        prop_assert_eq!(ports_in(&impact.opened), wanted(true));
        let mut shut_out = false;
        for port in &all {
            for source in SOURCES {
                for at in [NOW, WallTime(1_999_999), WallTime(2_500_000), WallTime(9_000_000)] {
                    let lost = gets_in(&old, *port, source, at) && !gets_in(&new, *port, source, at);
                    shut_out |= lost;
                    let reported = ports_in(&impact.closed).contains(port)
                        || impact.lost.iter().any(|(range, one)| {
                            range.has(*port) && one.source.contains(&prefix(source))
                        });
                    prop_assert!(!lost || reported, "{port:?} {source} {impact:?}");
                }
            }
        }
        prop_assert!(!shut_out || impact.shuts_out());
        // A policy changes nothing against itself. The way back opens what was closed.
        prop_assert!(Impact::between(&new, &new, NOW).is_empty());
        let back = Impact::between(&new, &old, NOW);
        prop_assert_eq!(&back.opened, &impact.closed);
        prop_assert_eq!(&back.closed, &impact.opened);
    }

    #[test]
    fn a_policy_leaves_out_only_ports_of_the_file_that_may_be_disarmed(
        file in policy(),
        pushed in policy(),
        disarm in prop::collection::vec((1..13_u16, 0..4_u16), 0..3),
        control_port in prop::option::of(1..13_u16),
    ) {
        let disarm: Vec<_> = disarm
            .into_iter()
            .map(|(first, more)| PortRange { protocol: Protocol::Tcp, first, last: first + more })
            .collect();
        let ceiling = Ceiling {
            approvals: None,
            arm: Vec::new(),
            disarm: disarm.clone(),
            drain: true,
            exemptions: true,
            forwarded: false,
            max_duration: None,
            observe: true,
            policy_approvals: 1,
            sources: Vec::new(),
            widest_v4: None,
            widest_v6: None,
        };
        let control_port = control_port.map(|port| PortKey { protocol: Protocol::Tcp, port });
        let in_force = ceiling.in_force(pushed.sections(), &file, control_port);
        prop_assert_eq!(in_force.max_duration(), file.max_duration());
        for port in ports() {
            let own = file.port(port).filter(|_| !disarm.iter().any(|range| range.has(port)));
            let expected = pushed.port(port).or(own).filter(|_| control_port != Some(port));
            let rules = |section: &PortSection| {
                PortSection { range: PortRange { protocol: Protocol::Tcp, first: 1, last: 1 }, ..section.clone() }
            };
            prop_assert_eq!(in_force.port(port).map(rules), expected.map(rules));
        }
    }
}

//! Sessions that end with their grants: which end, when, and what is reported.

use std::collections::BTreeSet;

use jit_agent::{
    gate::{Revoked, Target},
    rules::clock::Now,
};
use jit_common::{Address, HostKey, PortKey, Protocol, Tables as _, session_has_ended};
use jit_proto::v1;

use crate::{
    host::Host,
    support::{MINUTE, NOW, grant, later, v4},
};

const CLIENT: &str = "203.0.113.7";
const STRANGER: &str = "203.0.113.9";
/// Port 22 drains, this one cuts.
const CUT: u16 = 2222;
const SECTION: &str = "[[port]]\nport = 2222\nprotocol = \"tcp\"\nsessions = \"cut\"\n\
                       sources = [\"0.0.0.0/0\"]\n";

fn host() -> Host {
    Host::with(SECTION)
}

/// A grant for both ports.
fn both(id: u8, sources: &[&str]) -> v1::Grant {
    let ports = vec![crate::support::port(22), crate::support::port(CUT.into())];
    v1::Grant { ports, ..grant(id, sources) }
}

impl Host {
    /// A session of each address at both ports.
    fn sessions(&mut self, peers: &[&str]) {
        for peer in peers {
            for port in [22, CUT] {
                self.kernel.open_socket(v4(peer), 40_000, port);
            }
        }
    }

    fn left(&self) -> BTreeSet<(Address, u16)> {
        self.kernel.sockets().into_iter().map(|(peer, _, port)| (peer, port)).collect()
    }

    /// Whether the session of an address at the port that cuts is there.
    fn lives(&self, peer: &str) -> bool {
        assert!(self.left().contains(&(v4(peer), 22)), "whatever happens, port 22 drains");
        self.left().contains(&(v4(peer), CUT))
    }

    fn advance(&mut self, now: Now) {
        self.gate().advance(now);
    }
}

#[test]
fn a_session_ends_with_its_grant_however_that_ends() {
    type End = fn(&mut Host) -> Now;
    let ends: [(&str, End); 4] = [
        ("expired", |_| later(10 * MINUTE)),
        ("revoked", |host| {
            host.gate().revoke(&Target::All, "test", "", later(MINUTE));
            later(MINUTE)
        }),
        ("replaced", |host| {
            let replaces = vec![1; 16].into();
            host.push(&v1::Grant { replaces, ..both(2, &[STRANGER]) }).unwrap();
            later(MINUTE)
        }),
        ("clock set forward", |_| Now { boot: later(MINUTE).boot, ..later(10 * MINUTE) }),
    ];
    for (how, end) in ends {
        let mut host = host();
        host.push(&both(1, &[CLIENT])).unwrap();
        host.sessions(&[CLIENT]);
        host.advance(later(MINUTE / 2));
        assert!(host.lives(CLIENT), "{how}");
        let now = end(&mut host);
        host.advance(now);
        assert!(!host.lives(CLIENT), "{how}");
        let reported = host.codes().iter().filter(|code| *code == "C003").count();
        assert_eq!(reported, 1, "{how}");
    }
}

#[test]
fn what_another_grant_or_an_exemption_covers_is_kept() {
    let exempt = format!(
        "{SECTION}exempt = [{{ source = \"{STRANGER}\", reason = \"probe\", owner = \"netops\", \
         until = \"2026-06-01T00:01:00Z\" }}]\n"
    );
    let mut host = Host::with(&exempt);
    host.push(&both(1, &[CLIENT])).unwrap();
    host.push(&both(2, &["203.0.113.0/29"])).unwrap();
    host.sessions(&[CLIENT, STRANGER]);
    host.gate().revoke(&Target::Ids(vec![jit_proto::GrantId([1; 16])]), "test", "", NOW);
    host.advance(later(MINUTE - 100));
    assert!(host.lives(CLIENT) && host.lives(STRANGER));
    // Nobody pushes or revokes anything: time alone ends the exemption.
    host.advance(later(MINUTE));
    assert!(host.lives(CLIENT) && !host.lives(STRANGER));
}

#[test]
fn what_was_over_while_no_agent_ran_is_cut_at_its_start() {
    let mut host = host();
    host.push(&both(1, &[CLIENT])).unwrap();
    host.sessions(&[CLIENT, STRANGER]);
    host.restart("boot-1", later(MINUTE));
    assert!(host.lives(CLIENT) && !host.lives(STRANGER), "whom no grant covers");
    host.restart("boot-1", later(10 * MINUTE));
    assert!(!host.lives(CLIENT));
}

#[test]
fn a_session_that_was_just_being_opened_is_found_by_the_second_look() {
    let mut host = host();
    host.push(&both(1, &[CLIENT])).unwrap();
    host.advance(later(MINUTE - 100));
    host.gate().revoke(&Target::All, "test", "", later(MINUTE));
    host.advance(later(MINUTE));
    host.sessions(&[CLIENT]);
    host.advance(later(MINUTE + 1_000));
    assert!(host.lives(CLIENT), "nothing to look for in between");
    host.advance(later(MINUTE + 2_000));
    assert!(!host.lives(CLIENT));
}

#[test]
fn a_kernel_that_cannot_destroy_sockets_is_reported_until_nothing_needs_it() {
    let mut host = host();
    host.kernel.keep_sockets(true);
    host.push(&both(1, &[CLIENT])).unwrap();
    host.sessions(&[CLIENT]);
    host.gate().revoke(&Target::All, "test", "", NOW);
    host.advance(later(100));
    assert!(host.lives(CLIENT));
    let reports = |host: &mut Host| {
        let problems = host.gate().status(NOW).problems;
        problems.iter().any(|problem| problem.contains("CONFIG_INET_DIAG_DESTROY"))
    };
    assert!(reports(&mut host));
    host.restart("boot-1", NOW);
    assert!(reports(&mut host), "at the start");
    let mut without = Host::start();
    without.kernel.keep_sockets(true);
    without.restart("boot-1", NOW);
    assert!(!reports(&mut without), "no port cuts");
}

/// Whoever leaves an interface out and has no socket guard has sessions that are nobody's business.
#[test]
fn without_the_guard_what_comes_by_other_interfaces_is_left_alone_unless_a_grant_covered_it() {
    let partial = format!("[gate]\nsocket_guard = false\ninterfaces = [\"eth0\"]\n{SECTION}");
    let mut host = Host::with(&partial);
    host.push(&both(1, &[CLIENT])).unwrap();
    host.sessions(&[CLIENT, STRANGER]);
    host.restart("boot-1", NOW);
    host.gate().revoke(&Target::All, "test", "", NOW);
    host.advance(later(MINUTE));
    assert!(!host.lives(CLIENT) && host.lives(STRANGER));
    let whole = format!("[gate]\nsocket_guard = false\ninterfaces = [\"*\"]\n{SECTION}");
    let mut host = Host::with(&whole);
    host.sessions(&[STRANGER]);
    host.restart("boot-1", NOW);
    assert!(!host.lives(STRANGER));
}

#[test]
fn observing_cuts_nothing() {
    for observing in [
        format!("[gate]\nmode = \"observe\"\n{SECTION}"),
        SECTION.replace("protocol", "mode = \"observe\"\nprotocol"),
    ] {
        let mut host = Host::with(&observing);
        host.push(&both(1, &[CLIENT])).unwrap();
        host.sessions(&[CLIENT, STRANGER]);
        host.gate().revoke(&Target::All, "test", "", NOW);
        host.restart("boot-1", later(MINUTE));
        assert!(host.lives(CLIENT) && host.lives(STRANGER), "{observing}");
    }
}

/// Without the guard only the places of grants say where to look: none of many may be lost.
#[test]
fn however_many_places_end_at_once_all_their_sessions_end() {
    const PORTS: std::ops::Range<u16> = 2222..2272;
    let section = SECTION.replace("port = 2222", "port = \"2222-2271\"");
    let mut host =
        Host::with(&format!("[gate]\nsocket_guard = false\ninterfaces = [\"eth0\"]\n{section}"));
    let peers: Vec<String> = (1..=160).map(|last| format!("203.0.113.{last}")).collect();
    let range = v1::PortRange { last: u32::from(PORTS.end) - 1, ..crate::support::port(2222) };
    for (id, peers) in (1..).zip(peers.chunks(80)) {
        let sources: Vec<&str> = peers.iter().map(String::as_str).collect();
        let ports = vec![range];
        host.push(&v1::Grant { ports, ..grant(id, &sources) }).unwrap();
    }
    host.advance(later(MINUTE / 2));
    let stranger = v4("203.0.113.200");
    for port in PORTS {
        host.kernel.open_socket(stranger, 40_000, port);
        for peer in &peers {
            host.kernel.open_socket(v4(peer), 40_000, port);
        }
    }
    host.gate().revoke(&Target::All, "test", "", later(MINUTE));
    host.advance(later(MINUTE));
    let left = host.left();
    assert_eq!(left.len(), PORTS.len(), "nobody had a grant for the stranger's");
    assert!(left.iter().all(|(peer, _)| *peer == stranger), "{left:?}");
}

#[test]
fn what_only_lasts_longer_is_no_reason_to_look_at_the_sockets() {
    let mut host = host();
    host.push(&both(1, &[CLIENT])).unwrap();
    host.advance(later(1_000));
    host.advance(later(4_000));
    host.kernel.take_cuts();
    // Renewed, with and without a limit to its connections.
    for (id, max_connections) in [(2, 0), (3, 5)] {
        let ends = NOW.wall.0 + i64::from(id) * 10 * MINUTE;
        let longer = v1::Grant { not_after_ms: ends, max_connections, ..both(id, &[CLIENT]) };
        host.push_at(&longer, later(i64::from(id) * 10_000)).unwrap();
        host.advance(later(i64::from(id) * 10_000));
        host.advance(later(i64::from(id) * 10_000 + 4_000));
    }
    assert_eq!(host.kernel.take_cuts(), 0);
    // The end of the one that lasts longest leaves another: looked at, and kept.
    host.sessions(&[CLIENT]);
    let last = Target::Ids(vec![jit_proto::GrantId([3; 16])]);
    host.gate().revoke(&last, "test", "", later(40_000));
    host.advance(later(40_000));
    assert!(host.lives(CLIENT));
    assert_eq!(host.kernel.take_cuts(), 1);
    host.advance(later(42_000));
    assert_eq!(host.kernel.take_cuts(), 1, "once more a tick later");
}

#[test]
fn slow_looks_leave_three_quarters_of_the_time_to_everything_else() {
    const TOOK: i64 = 200;
    let mut host = host();
    host.kernel.cuts_take(std::time::Duration::from_millis(TOOK.unsigned_abs()));
    for id in 1..=40 {
        host.push(&both(id, &[CLIENT])).unwrap();
    }
    host.advance(later(MINUTE));
    host.advance(later(2 * MINUTE));
    host.kernel.take_cuts();
    // One ends every tenth of a second: what each look takes is time that passes.
    let (mut now, mut looks) = (3 * MINUTE, 0);
    for id in 1..=40 {
        let one = Target::Ids(vec![jit_proto::GrantId([id; 16])]);
        host.push_at(&both(id + 100, &[STRANGER]), later(now)).unwrap();
        let other = Target::Ids(vec![jit_proto::GrantId([id + 100; 16])]);
        host.gate().revoke(&one, "test", "", later(now));
        host.gate().revoke(&other, "test", "", later(now));
        host.advance(later(now));
        let seen = host.kernel.take_cuts();
        assert!(seen < 2);
        looks += i64::from(seen);
        now += 100 + i64::from(seen) * TOOK;
    }
    let all = now - 3 * MINUTE;
    assert!(looks > 4 && looks * TOOK * 4 <= all + 4 * TOOK, "{looks} looks in {all} ms");
}

/// How many sessions an answer counts as open, and as ended.
const fn counts(revoked: &Revoked) -> [u32; 2] {
    [revoked.sessions_open, revoked.sessions_ended]
}

#[test]
fn the_answer_counts_what_stays_open_and_an_order_to_cut_ends_it() {
    let mut host = host();
    host.push(&both(1, &[CLIENT])).unwrap();
    host.push(&both(2, &[STRANGER])).unwrap();
    host.sessions(&[CLIENT, STRANGER]);
    let one = Target::Ids(vec![jit_proto::GrantId([1; 16])]);
    let revoked = host.gate().revoke(&one, "test", "", later(MINUTE));
    assert_eq!(counts(&revoked), [1, 1], "at the port that drains, and at the one that cuts");
    assert_eq!(revoked.warning, "");
    // The grant has ended, its session has not; the other's is covered.
    let revoked = host.gate().revoke_and_cut(&one, "test", "now", later(2 * MINUTE));
    assert_eq!((revoked.ended, counts(&revoked)), (0, [0, 1]));
    assert_eq!(host.left(), [(v4(STRANGER), 22), (v4(STRANGER), CUT)].into());
    assert_eq!(host.codes().iter().filter(|code| *code == "C004").count(), 1);
    // Nobody ever had a grant for this one.
    host.kernel.open_socket(v4("203.0.113.200"), 40_000, 22);
    let revoked = host.gate().revoke(&Target::All, "test", "", later(3 * MINUTE));
    assert_eq!((revoked.ended, counts(&revoked)), (1, [2, 1]));
    let revoked = host.gate().revoke_and_cut(&Target::All, "test", "", later(3 * MINUTE));
    assert_eq!((revoked.ended, counts(&revoked)), (0, [0, 2]));
    assert!(host.left().is_empty());
}

#[test]
fn an_order_to_cut_keeps_what_another_grant_or_an_exemption_covers() {
    let exempt = format!(
        "[[port]]\nport = 2223\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n\
         exempt = [{{ source = \"{STRANGER}\", reason = \"probe\", owner = \"netops\" }}]\n"
    );
    let mut host = Host::with(&exempt);
    let ports = vec![crate::support::port(2223)];
    let to = |id, source| v1::Grant { ports: ports.clone(), ..grant(id, &[source]) };
    host.push(&v1::Grant { requester: "mallory@example.org".into(), ..to(1, CLIENT) }).unwrap();
    host.push(&to(2, "203.0.113.0/29")).unwrap();
    for peer in [CLIENT, STRANGER] {
        host.kernel.open_socket(v4(peer), 40_000, 2223);
    }
    let mallory = Target::Requester("mallory@example.org".into());
    let revoked = host.gate().revoke_and_cut(&mallory, "test", "", later(1_000));
    assert_eq!((revoked.ended, counts(&revoked)), (1, [0, 0]), "the wide grant covers it");
    let revoked = host.gate().revoke_and_cut(&Target::All, "test", "", later(2_000));
    assert_eq!((revoked.ended, counts(&revoked)), (1, [0, 1]), "the exemption stays");
    assert_eq!(host.left(), [(v4(STRANGER), 2223)].into());
}

/// A forwarded port has no socket here, and some kernels destroy none: the answer says so, and the
/// tables let nothing of these sessions in.
#[test]
fn what_an_order_to_cut_cannot_end_is_said_and_gets_no_packet_in() {
    let forwarded = "[[port]]\nport = 8022\nprotocol = \"tcp\"\nterminates = \"forwarded\"\n\
                     sources = [\"0.0.0.0/0\"]\n";
    let mut host = Host::with(forwarded);
    host.kernel.keep_sockets(true);
    let ports = vec![crate::support::port(22), crate::support::port(8022)];
    host.push(&v1::Grant { ports, ..grant(1, &[CLIENT]) }).unwrap();
    host.kernel.open_socket(v4(CLIENT), 40_000, 22);
    let revoked = host.gate().revoke_and_cut(&Target::All, "test", "", later(1_000));
    assert_eq!(counts(&revoked), [1, 0]);
    for said in ["CONFIG_INET_DIAG_DESTROY", "port 8022 is forwarded", "neither end is reset"] {
        assert!(revoked.warning.contains(said), "{}", revoked.warning);
    }
    let tables = host.kernel.tables();
    for number in [22, 8022] {
        let port = PortKey { protocol: Protocol::Tcp, port: number };
        let entry = tables.host_grant(&HostKey::new(v4(CLIENT), port)).copied();
        let rule = tables.rule(port);
        assert_ne!(rule.drain, 0);
        assert!(session_has_ended(entry.as_ref(), None, rule, later(2_000).boot.0), "{number}");
    }
    let revoked = host.gate().revoke(&Target::All, "test", "", later(2_000));
    assert_ne!(revoked.warning, "", "what an earlier order cut has to end still");
    let mut without = Host::start();
    without.kernel.keep_sockets(true);
    without.kernel.open_socket(v4(CLIENT), 40_000, 22);
    let revoked = without.gate().revoke(&Target::All, "test", "", NOW);
    assert_eq!((counts(&revoked), revoked.warning.as_str()), ([1, 0], ""), "nobody asked");
}

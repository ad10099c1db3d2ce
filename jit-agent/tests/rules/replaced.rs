//! Grants that end when another begins, and grants that cut their sessions.

use jit_agent::{
    gate::{Pusher, Target},
    rules::ledger::Admission,
};
use jit_common::{Address, HostKey};
use jit_proto::{GrantId, Refusal, payload_type::GRANT_TYPE, v1};
use prost::Message as _;

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, fresh_grant, grant, later, port, sign, try_config, v4},
};

const SOURCE: &str = "203.0.113.7";

fn replacing(id: u8, old: u8, source: &str) -> v1::Grant {
    v1::Grant { replaces: vec![old; 16].into(), ..grant(id, &[source]) }
}

impl Host {
    fn stands(&mut self, id: u8) -> Option<v1::State> {
        let listed = self.gate().list(true, NOW);
        let found = listed.iter().find(|state| state.signed().unwrap().id.first() == Some(&id));
        found.map(v1::GrantState::state)
    }
}

#[test]
fn a_successor_shortens_what_it_replaces() {
    let mut host = Host::start();
    host.push(&grant(1, &[SOURCE])).unwrap();
    let shorter = v1::Grant { not_after_ms: NOW.wall.0 + MINUTE, ..replacing(2, 1, SOURCE) };
    assert_eq!(host.push(&shorter), Ok(Admission::Active));
    assert_eq!(host.stands(1), Some(v1::State::Replaced));
    assert!(host.opens(MINUTE - 1) && !host.opens(MINUTE));
    assert_eq!(host.push(&grant(1, &[SOURCE])), Err(Refusal::Revoked), "nobody brings it back");
    host.restart("boot-1", NOW);
    assert!(host.opens(MINUTE - 1) && !host.opens(MINUTE));
    assert_eq!(host.push(&grant(1, &[SOURCE])), Err(Refusal::Revoked));
}

#[test]
fn what_is_replaced_lives_until_its_successor_begins() {
    let mut host = Host::start();
    host.push(&grant(1, &[SOURCE])).unwrap();
    let next = v1::Grant { not_before_ms: NOW.wall.0 + MINUTE, ..replacing(2, 1, "203.0.113.9") };
    assert_eq!(host.push(&next), Ok(Admission::Scheduled));
    host.gate().advance(later(MINUTE - 1));
    assert!(host.opens(MINUTE - 1));
    assert_eq!(host.stands(1), Some(v1::State::Active));
    host.gate().advance(later(MINUTE));
    assert!(!host.opens(MINUTE));
    assert_eq!(host.stands(1), Some(v1::State::Replaced));
    host.restart("boot-1", later(MINUTE));
    assert!(!host.opens(MINUTE));
}

#[test]
fn a_successor_that_is_revoked_before_it_begins_replaces_nothing() {
    let mut host = Host::start();
    host.push(&grant(1, &[SOURCE])).unwrap();
    let next = v1::Grant { not_before_ms: NOW.wall.0 + MINUTE, ..replacing(2, 1, SOURCE) };
    host.push(&next).unwrap();
    host.gate().revoke(&Target::Ids(vec![GrantId([2; 16])]), "test", "", NOW);
    host.gate().advance(later(2 * MINUTE));
    assert!(host.opens(2 * MINUTE));
}

#[test]
fn a_grant_that_comes_after_its_successor_is_refused() {
    let mut host = Host::start();
    host.push(&replacing(2, 1, "203.0.113.9")).unwrap();
    assert_eq!(host.push(&grant(1, &[SOURCE])), Err(Refusal::Revoked));
    host.restart("boot-1", NOW);
    assert_eq!(host.push(&grant(1, &[SOURCE])), Err(Refusal::Revoked));
    assert!(!host.opens(0));
}

#[test]
fn an_id_stays_refused_until_the_last_grant_that_was_refused_for_it_has_ended() {
    let lasts = |millis| v1::Grant { not_after_ms: NOW.wall.0 + millis, ..grant(1, &[SOURCE]) };
    let mut host = Host::start();
    host.push(&lasts(10 * MINUTE)).unwrap();
    host.push(&replacing(2, 1, "203.0.113.9")).unwrap();
    // Other content under the id that was replaced. It is refused now, and for all of its time.
    let longer = lasts(30 * MINUTE);
    assert_eq!(host.push(&longer), Err(Refusal::Revoked));
    host.gate().advance(later(12 * MINUTE));
    assert_eq!(host.push_at(&longer, later(12 * MINUTE)), Err(Refusal::Revoked));
    for boot in ["boot-1", "boot-2"] {
        host.restart(boot, later(20 * MINUTE));
        host.gate().advance(later(20 * MINUTE));
        assert_eq!(host.push_at(&longer, later(20 * MINUTE)), Err(Refusal::Revoked), "{boot}");
    }
    assert!(!host.opens(20 * MINUTE));
    // When nothing under it can be replayed any more, the id is nobody's.
    host.gate().advance(later(32 * MINUTE));
    let fresh = lasts(40 * MINUTE);
    assert_eq!(host.push_at(&fresh, later(32 * MINUTE)), Ok(Admission::Active));
    assert!(host.opens(32 * MINUTE));
}

#[test]
fn a_successor_that_does_not_get_in_leaves_the_first_as_it_was() {
    let mut host = Host::start();
    host.push(&grant(1, &[SOURCE])).unwrap();
    host.kernel.count(1, 3);
    host.kernel.refuse_openings(true);
    assert_eq!(host.push(&replacing(2, 1, "203.0.113.9")), Err(Refusal::Capacity));
    host.kernel.refuse_openings(false);
    host.gate().advance(NOW);
    assert!(host.opens(0));
    assert_eq!(host.stands(1), Some(v1::State::Active));
    assert_eq!(host.gate().list(false, NOW)[0].hits, 3);
    assert_eq!(host.push(&grant(1, &[SOURCE])), Ok(Admission::Known));
    host.restart("boot-1", NOW);
    assert!(host.opens(0));
    assert_eq!(host.gate().list(false, NOW).len(), 1);
}

#[test]
fn in_full_tables_a_successor_takes_the_place_of_the_first() {
    let mut host = Host::with("[limits]\nhosts = 4\nprefixes = 1\n");
    for id in 1..=4 {
        host.push(&grant(id, &[&format!("203.0.113.{id}")])).unwrap();
    }
    assert_eq!(host.push(&grant(5, &["203.0.113.5"])), Err(Refusal::Capacity));
    assert_eq!(host.push(&replacing(6, 2, "203.0.113.6")), Ok(Admission::Active));
    assert!(host.kernel.opens(SSH, v4("203.0.113.6"), NOW.boot));
    assert!(!host.kernel.opens(SSH, v4("203.0.113.2"), NOW.boot));
    assert_eq!(host.kernel.tables().hosts.len(), 4);
}

#[test]
fn a_successor_has_an_id_of_another_grant() {
    let mut host = Host::start();
    for replaces in [vec![1; 16], vec![0; 16], vec![2; 15], vec![2; 17]] {
        let grant = v1::Grant { replaces: replaces.into(), ..grant(1, &[SOURCE]) };
        assert_eq!(host.push(&grant), Err(Refusal::Malformed));
    }
}

fn cutting(id: u8, source: &str) -> v1::Grant {
    v1::Grant { sessions: v1::Sessions::Cut.into(), ..grant(id, &[source]) }
}

/// What the kernel knows of the last grant that covered the source: its end, and whether it cuts.
fn last(host: &Host) -> Option<(u64, bool)> {
    let address: Address = v4(SOURCE);
    let tables = host.kernel.tables();
    let entry = tables.hosts.get(&HostKey::new(address, SSH))?.unlimited;
    Some((entry.deadline, entry.cut != 0))
}

#[test]
fn a_grant_that_cuts_its_sessions_says_so_in_the_kernel_also_after_its_end() {
    let mut host = Host::start();
    host.push(&cutting(1, SOURCE)).unwrap();
    let end = later(10 * MINUTE);
    assert_eq!(last(&host), Some((end.boot.0, true)));
    host.gate().advance(end);
    assert_eq!(last(&host), Some((end.boot.0, true)), "closed, and its sessions are cut");
    assert!(!host.opens(10 * MINUTE));
    // Over a restart, for a day.
    host.restart("boot-1", later(11 * MINUTE));
    assert_eq!(last(&host), Some((end.boot.0, true)));
    host.gate().advance(later(25 * 60 * MINUTE));
    assert_eq!(last(&host), None);
}

#[test]
fn a_revoked_grant_cuts_its_sessions_at_once() {
    let mut host = Host::start();
    host.push(&cutting(1, SOURCE)).unwrap();
    host.gate().revoke(&Target::All, "test", "", later(MINUTE));
    assert_eq!(last(&host), Some((later(MINUTE).boot.0, true)));
    assert!(!host.opens(MINUTE));
}

#[test]
fn whoever_covered_the_source_last_decides_about_sessions() {
    let mut host = Host::start();
    host.push(&cutting(1, SOURCE)).unwrap();
    let longer = v1::Grant { not_after_ms: NOW.wall.0 + 20 * MINUTE, ..grant(2, &[SOURCE]) };
    host.push(&longer).unwrap();
    host.gate().advance(later(10 * MINUTE));
    assert_eq!(last(&host), Some((later(20 * MINUTE).boot.0, false)));
    host.gate().advance(later(20 * MINUTE));
    assert_eq!(last(&host), None, "the port's own rule is all that is left");
}

#[test]
fn what_lingers_for_sessions_makes_room_for_grants() {
    let mut host = Host::with("[limits]\nhosts = 1\nprefixes = 1\n");
    host.push(&cutting(1, SOURCE)).unwrap();
    host.gate().revoke(&Target::All, "test", "", NOW);
    assert!(last(&host).is_some());
    assert_eq!(host.push(&fresh_grant(2, &["203.0.113.9"])), Ok(Admission::Active));
    assert_eq!(last(&host), None);
}

/// As after a change of the tables' layout: the disk alone remembers.
#[test]
fn a_grant_that_ended_with_no_agent_cuts_its_sessions_also_in_tables_that_never_knew_it() {
    let mut host = Host::start();
    host.push(&cutting(1, SOURCE)).unwrap();
    host.kernel = jit_agent::kernel::datapath::memory::MemoryDatapath::default();
    let end = later(10 * MINUTE);
    host.restart("boot-1", end);
    assert_eq!(last(&host), Some((end.boot.0, true)));
    // After a reboot there are no sessions of before.
    let mut host = Host::start();
    host.push(&cutting(1, SOURCE)).unwrap();
    host.kernel = jit_agent::kernel::datapath::memory::MemoryDatapath::default();
    host.restart("boot-2", end);
    assert_eq!(last(&host), None);
}

/// A host whose keys may sign for some ports only: key 3 for 22, key 4 for one source.
const LIMITED: &str = "[[signer]]\nid = \"ssh\"\npublic_key = \"3.pem\"\nports = [\"22\"]\n\
    [[signer]]\nid = \"lan\"\npublic_key = \"4.pem\"\nsources = [\"198.51.100.0/24\"]\n";

/// Pushes a grant that these keys signed.
fn push_by(
    host: &mut Host,
    grant: &v1::Grant,
    keys: &[u8],
    may_revoke: bool,
) -> Result<String, Refusal> {
    let envelope = sign(GRANT_TYPE, &grant.encode_to_vec(), keys);
    let by = Pusher { may_revoke, ..Pusher::from("hub") };
    let outcome = host.gate().push(vec![envelope], by, NOW).remove(0);
    outcome.map(|accepted| accepted.warning).map_err(|refused| refused.refusal)
}

/// Grant 1 opens 3389, which asks for two keys.
fn rdp() -> v1::Grant {
    let not_after_ms = NOW.wall.0 + MINUTE;
    v1::Grant { ports: vec![port(3389)], not_after_ms, ..grant(1, &[SOURCE]) }
}

#[test]
fn only_who_may_open_the_whole_of_a_grant_or_revoke_ends_it_by_replacing() {
    let next =
        |id, source| v1::Grant { requester: "eve@example.org".into(), ..replacing(id, 1, source) };
    for (old, old_keys, keys, refusal) in [
        (rdp(), &[1, 2][..], &[3][..], Refusal::PortNotAllowed),
        (rdp(), &[1, 2], &[1], Refusal::ApprovalsMissing),
        (grant(1, &[SOURCE]), &[1], &[4], Refusal::SourceNotAllowed),
    ] {
        let mut host = Host::with(LIMITED);
        push_by(&mut host, &old, old_keys, false).unwrap();
        let new = next(2, "198.51.100.1");
        assert_eq!(push_by(&mut host, &new, keys, false), Err(refusal), "{keys:?}");
        assert_eq!(host.stands(1), Some(v1::State::Active), "{keys:?}");
        assert_eq!(host.stands(2), None, "{keys:?}");
        let outcome = push_by(&mut host, &new, keys, true);
        assert_eq!(outcome, Ok(String::new()), "the controller may revoke");
        assert_eq!(host.stands(1), Some(v1::State::Replaced));
        assert_eq!(push_by(&mut host, &new, keys, false), Ok(String::new()), "known");
    }
    let mut host = Host::with(LIMITED);
    push_by(&mut host, &grant(1, &[SOURCE]), &[1], false).unwrap();
    assert_eq!(push_by(&mut host, &next(2, SOURCE), &[3], false), Ok(String::new()));
    assert_eq!(host.stands(1), Some(v1::State::Replaced), "the key may open all of it");
}

#[test]
fn the_answer_says_when_there_is_nothing_to_replace() {
    let mut host = Host::with(LIMITED);
    let unknown = push_by(&mut host, &replacing(2, 1, SOURCE), &[3], false).unwrap();
    assert!(unknown.contains("which it replaces, is not known on this host"), "{unknown}");
    assert_eq!(host.push(&grant(1, &[SOURCE])), Err(Refusal::Revoked), "and stays closed");
    host.push(&grant(3, &["203.0.113.9"])).unwrap();
    host.gate().revoke(&Target::Ids(vec![GrantId([3; 16])]), "test", "", NOW);
    let ended = push_by(&mut host, &replacing(4, 3, SOURCE), &[3], false).unwrap();
    assert!(ended.contains("which it replaces, has ended before"), "{ended}");
    let again = push_by(&mut host, &replacing(4, 3, SOURCE), &[3], false);
    assert_eq!(again, Ok(String::new()), "said once");
}

/// The grant that it replaces may come late.
#[test]
fn a_scheduled_successor_is_checked_again_when_it_begins() {
    let half = MINUTE / 2;
    let next = v1::Grant { not_before_ms: NOW.wall.0 + half, ..replacing(2, 1, SOURCE) };
    for (may_revoke, restarts, begins) in
        [(false, false, false), (true, false, true), (false, true, true)]
    {
        let mut host = Host::with(LIMITED);
        push_by(&mut host, &next, &[3], may_revoke).unwrap();
        push_by(&mut host, &rdp(), &[1, 2], false).unwrap();
        if restarts {
            // What the controller may do is known no longer. It was checked when it pushed.
            host.restart("boot-1", NOW);
        }
        host.gate().advance(later(half - 1));
        assert_eq!(host.stands(1), Some(v1::State::Active));
        host.gate().advance(later(half));
        let (old, new) = (host.stands(1), host.stands(2));
        let expected = if begins {
            (Some(v1::State::Replaced), Some(v1::State::Active))
        } else {
            (Some(v1::State::Active), None)
        };
        assert_eq!((old, new), expected, "may revoke {may_revoke}, restarts {restarts}");
        assert_eq!(host.codes().contains(&"G004".to_owned()), !begins);
    }
}

#[test]
fn a_scheduled_successor_whose_key_may_sign_less_now_is_refused_at_the_reload() {
    let mut host = Host::with(LIMITED);
    host.push(&grant(1, &[SOURCE])).unwrap();
    let next = v1::Grant { not_before_ms: NOW.wall.0 + MINUTE, ..replacing(2, 1, "198.51.100.1") };
    push_by(&mut host, &next, &[3], false).unwrap();
    let less = "ports = [\"22\"]\nsources = [\"198.51.100.0/24\"]";
    let (_keys, config) = try_config(&LIMITED.replace("ports = [\"22\"]", less)).unwrap();
    host.gate().reconfigure(config, NOW).unwrap();
    assert_eq!((host.stands(1), host.stands(2)), (Some(v1::State::Active), None));
}

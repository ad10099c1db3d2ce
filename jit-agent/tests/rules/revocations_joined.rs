//! What a host holds is a join: grants, revocations and policies may come in any order, twice and late,
//! with restarts and openings by root between, and the host is the same as if each had come once and in
//! order. Of policies the last version is left. What root opened stays until the next boot: no
//! revocation of before is about it, whenever it comes.
//!
//! Compared are the live grants, the floors, the ids that are refused by name, what the kernel lets
//! in, the answer to each grant that comes once more, and the policy. Not compared is how an id came to be
//! refused: a grant that was held when a floor rose above it leaves a tombstone, one that comes later
//! is refused by the floor alone. There is room for all grants, no two of them have the same id, and
//! none ends before the comparison: who came first counts for those by intention.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jit_agent::{
    gate::PolicyPush,
    rules::{
        clock::Now,
        grant::break_glass::{self, BreakGlass},
    },
};
use jit_proto::{Refusal, SourcePrefix, payload_type::POLICY_TYPE, v1};
use prost::Message as _;

use crate::{
    host::Host,
    policy_host::section,
    support::{
        HOST, MINUTE, NOW, REVOKER, envelope, grant, later, revocation, sign, signed_revocation, v4,
    },
};

/// Key 4 signs policies, which may only tighten.
const RELEASE: &str =
    "[[signer]]\nid = \"release\"\npublic_key = \"4.pem\"\nsigns = [\"policy\"]\n[ceiling]\n";

const REQUESTERS: [&str; 3] = ["ana@example.org", "bo@example.org", "cy@example.org"];
const GRANTS: u8 = 8;
/// Sources that root may let in.
const BY_ROOT: u8 = 2;

/// Numbers from a seed (splitmix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(u64::try_from(last).unwrap() + 1);
            items.swap(last, usize::try_from(other).unwrap());
        }
    }

    fn requester(&mut self) -> &'static str {
        let whose = usize::try_from(self.below(3)).unwrap();
        REQUESTERS.get(whose).unwrap()
    }

    fn moment(&mut self) -> i64 {
        i64::try_from(self.below(12)).unwrap() * 1_000
    }
}

#[derive(Clone, Debug)]
enum Message {
    BreakGlass(u8),
    Grant(v1::Grant),
    Policy(v1::Policy),
    Revocation(v1::Revocation),
}

/// The ports of the file, with another longest time for RDP: that shuts nobody out.
fn policy(version: u64) -> v1::Policy {
    let of_file = |number, sources: &[&str]| v1::PolicyPort {
        sources: sources
            .iter()
            .map(|text| v1::Source::from(&text.parse::<SourcePrefix>().unwrap()))
            .collect(),
        ..section(number)
    };
    let ssh = of_file(22, &["0.0.0.0/0", "2001:db8::/32"]);
    let minutes = i64::try_from(version).unwrap() + 10;
    let rdp = v1::PolicyPort {
        approvals: 2,
        max_duration_ms: minutes * MINUTE,
        ..of_file(3389, &["203.0.113.0/24"])
    };
    v1::Policy {
        hosts: vec![HOST.into()],
        version,
        issued_at_ms: NOW.wall.0,
        ports: vec![v1::PolicyPort { widest_v4: Some(8), ..ssh }, rdp],
        author: "ana@example.org".into(),
        justification: format!("CHG-{version}"),
        ..v1::Policy::default()
    }
}

fn messages(random: &mut Random) -> Vec<Message> {
    let mut all = Vec::new();
    for id in 1..=GRANTS {
        let issued_at_ms = NOW.wall.0 + random.moment();
        let scheduled = i64::from(random.below(4) == 0) * 30 * MINUTE;
        all.push(Message::Grant(v1::Grant {
            issued_at_ms,
            not_before_ms: issued_at_ms + scheduled,
            not_after_ms: issued_at_ms + 60 * MINUTE,
            requester: random.requester().into(),
            ..grant(id, &[&format!("203.0.113.{id}")])
        }));
    }
    for _ in 0..random.below(5) {
        let base = v1::Revocation { all: false, ..revocation(random.moment()) };
        all.push(Message::Revocation(match random.below(4) {
            0 => v1::Revocation { all: true, ..base },
            1 => v1::Revocation { requester: random.requester().into(), ..base },
            _ => {
                let first = u8::try_from(1 + random.below(GRANTS.into())).unwrap();
                // Also one that no grant has.
                let ids = [first, 200 + first];
                let grant_ids = ids.iter().map(|id| vec![*id; 16].into()).collect();
                v1::Revocation { grant_ids, ..base }
            }
        }));
    }
    all.extend((1..=1 + random.below(3)).map(|version| Message::Policy(policy(version))));
    for source in 1..=BY_ROOT {
        if random.below(2) == 0 {
            all.push(Message::BreakGlass(source));
        }
    }
    all
}

fn deliver(host: &mut Host, message: &Message, now: Now) {
    match message {
        Message::BreakGlass(source) => {
            let asked = BreakGlass {
                source: format!("198.51.100.{source}").parse().unwrap(),
                ports: "22".parse().unwrap(),
                lasts: Duration::from_secs(1800),
                reason: "the controller is away".into(),
            };
            host.gate().break_glass(&asked, "root", now).unwrap();
        }
        Message::Policy(policy) => {
            let before = version(host, now);
            let envelope = sign(POLICY_TYPE, &policy.encode_to_vec(), &[4]);
            let push = PolicyPush { envelope, ..PolicyPush::default() };
            let pushed = host.gate().push_policy(push, "test", now);
            assert!(pushed.is_ok() || before > policy.version, "{before}: {pushed:?}");
            if pushed.is_ok() {
                host.gate().policy_applied(now);
            }
        }
        Message::Grant(grant) => {
            let outcome = host.gate().push(vec![envelope(grant)], "test", now).remove(0);
            assert!(outcome.is_ok_and(|_| true) || is_revoked(host, grant, now), "{grant:?}");
        }
        Message::Revocation(revocation) => {
            let envelope = signed_revocation(revocation);
            let revoked = host.gate().revoke_signed(&envelope, "test", now).unwrap();
            assert_eq!(revoked.warning, "");
        }
    }
}

fn is_revoked(host: &mut Host, grant: &v1::Grant, now: Now) -> bool {
    let outcome = host.gate().push(vec![envelope(grant)], "test", now).remove(0);
    outcome.is_err_and(|refused| refused.refusal == Refusal::Revoked)
}

fn version(host: &mut Host, now: Now) -> u64 {
    host.gate().show_policy(now).state.unwrap().version
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    live: Vec<Vec<u8>>,
    all_ms: i64,
    by_requester: BTreeMap<String, i64>,
    /// Sources of the grants, and of root.
    open: Vec<bool>,
    open_by_root: Vec<bool>,
    /// Grants that come once more.
    refused: Vec<bool>,
    /// Ids that no grant had.
    by_name: Vec<bool>,
    policy: u64,
}

fn state(host: &mut Host, all: &[Message], now: Now) -> State {
    let live = host.gate().list(false, now);
    let live = live.iter().map(|one| v1::Grant::decode(&*one.grant).unwrap());
    let by_controllers = live.filter(|one| one.requester != break_glass::REQUESTER);
    let mut live: Vec<_> = by_controllers.map(|one| one.id.to_vec()).collect();
    live.sort();
    let floors = host.gate().status(now).revoked_before.unwrap_or_default();
    let by_requester = floors.by_requester.into_iter().collect();
    let opens = |text: String| host.kernel.opens(crate::support::SSH, v4(&text), now.boot);
    let open = (1..=GRANTS).map(|id| opens(format!("203.0.113.{id}"))).collect();
    let open_by_root = (1..=BY_ROOT).map(|source| opens(format!("198.51.100.{source}"))).collect();
    let mut refused = Vec::new();
    for message in all {
        if let Message::Grant(grant) = message {
            refused.push(is_revoked(host, grant, now));
        }
    }
    // Ids that are refused by name, whenever a grant with them was signed.
    let named = all.iter().filter_map(|message| match message {
        Message::Revocation(one) => one.grant_ids.get(1),
        Message::BreakGlass(_) | Message::Grant(_) | Message::Policy(_) => None,
    });
    let mut by_name = Vec::new();
    for id in named {
        let late = v1::Grant {
            id: id.clone(),
            issued_at_ms: now.wall.0,
            not_after_ms: now.wall.0 + MINUTE,
            ..grant(1, &["203.0.113.99"])
        };
        by_name.push(is_revoked(host, &late, now));
    }
    let (all_ms, policy) = (floors.all_ms, version(host, now));
    State { live, all_ms, by_requester, open, open_by_root, refused, by_name, policy }
}

#[test]
fn any_order_of_grants_revocations_and_policies_gives_the_same_state() {
    let first: u64 = std::env::var("JIT_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (mut ended, mut lived, mut by_root, mut policies) = (0, 0, 0, 0);
    for seed in first..first + 10 {
        let mut random = Random(seed);
        let all = messages(&mut random);
        let now = later(20_000);
        let mut in_order = Host::with(&[REVOKER, RELEASE].concat());
        for message in &all {
            deliver(&mut in_order, message, now);
        }
        let expected = state(&mut in_order, &all, now);
        ended += expected.refused.iter().filter(|refused| **refused).count();
        lived += expected.live.len();
        by_root += expected.open_by_root.iter().filter(|open| **open).count();
        policies += usize::from(expected.policy > 1);
        let opened = all.iter().filter(|one| matches!(one, Message::BreakGlass(_))).count();
        assert_eq!(expected.open_by_root.iter().filter(|open| **open).count(), opened);
        assert!(expected.by_name.iter().all(|refused| *refused), "seed {seed}");
        for turn in 0..3 {
            let mut shuffled = all.clone();
            match turn {
                0 => shuffled.reverse(),
                _ => {
                    let again: Vec<_> =
                        all.iter().filter(|_| random.below(2) == 0).cloned().collect();
                    shuffled.extend(again);
                    random.shuffle(&mut shuffled);
                }
            }
            let mut host = Host::with(&[REVOKER, RELEASE].concat());
            // What root opened lives in the boot in which it was opened (docs/grants.md, section "Break glass").
            let (mut boot, mut opened) = ("boot-1", BTreeSet::new());
            for message in &shuffled {
                if turn == 2 && random.below(4) == 0 {
                    let next = if random.below(2) == 0 { "boot-1" } else { "boot-2" };
                    host.restart(next, now);
                    if next != boot {
                        opened.clear();
                    }
                    boot = next;
                }
                deliver(&mut host, message, now);
                if let Message::BreakGlass(source) = message {
                    opened.insert(*source);
                }
            }
            let open_by_root = (1..=BY_ROOT).map(|source| opened.contains(&source)).collect();
            let expected = State { open_by_root, ..expected.clone() };
            let got = state(&mut host, &all, now);
            assert_eq!(got, expected, "seed {seed}, turn {turn}: {shuffled:#?}");
            host.restart(boot, now);
            let got = state(&mut host, &all, now);
            assert_eq!(got, expected, "seed {seed}, turn {turn}: restarted");
            host.restart("boot-3", now);
            let expected = State { open_by_root: vec![false; BY_ROOT.into()], ..expected };
            let got = state(&mut host, &all, now);
            assert_eq!(got, expected, "seed {seed}, turn {turn}: rebooted");
        }
    }
    assert!(
        ended > 10 && lived > 10 && by_root > 2 && policies > 2,
        "{ended} {lived} {by_root} {policies}: the histories say too little"
    );
}

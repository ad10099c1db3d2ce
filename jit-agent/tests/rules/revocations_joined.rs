//! What a host holds is a join: grants and revocations may come in any order, twice and late, with
//! restarts between, and the host is the same as if each had come once and in order.
//!
//! Compared are the live grants, the floors, the ids that are refused by name, what the kernel lets
//! in, and the answer to each grant that comes once more. Not compared is how an id came to be
//! refused: a grant that was held when a floor rose above it leaves a tombstone, one that comes later
//! is refused by the floor alone. There is room for all grants, no two of them have the same id, and
//! none ends before the comparison: who came first counts for those by intention.

use std::collections::BTreeMap;

use jit_agent::rules::clock::Now;
use jit_proto::{Refusal, v1};

use crate::{
    host::Host,
    support::{MINUTE, NOW, REVOKER, envelope, grant, later, revocation, signed_revocation, v4},
};

const REQUESTERS: [&str; 3] = ["ana@example.org", "bo@example.org", "cy@example.org"];
const GRANTS: u8 = 8;

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
    Grant(v1::Grant),
    Revocation(v1::Revocation),
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
    all
}

fn deliver(host: &mut Host, message: &Message, now: Now) {
    match message {
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

type State = (Vec<Vec<u8>>, i64, BTreeMap<String, i64>, Vec<bool>, Vec<bool>, Vec<bool>);

fn state(host: &mut Host, all: &[Message], now: Now) -> State {
    let mut live: Vec<_> =
        host.gate().list(false, now).iter().map(|one| id_of(one).to_vec()).collect();
    live.sort();
    let floors = host.gate().status(now).revoked_before.unwrap_or_default();
    let by_requester = floors.by_requester.into_iter().collect();
    let opens = |id: u8| {
        let address = v4(&format!("203.0.113.{id}"));
        host.kernel.opens(crate::support::SSH, address, now.boot)
    };
    let open = (1..=GRANTS).map(opens).collect();
    let mut refused = Vec::new();
    for message in all {
        if let Message::Grant(grant) = message {
            refused.push(is_revoked(host, grant, now));
        }
    }
    // Ids that are refused by name, whenever a grant with them was signed.
    let named = all.iter().filter_map(|message| match message {
        Message::Revocation(one) => one.grant_ids.get(1),
        Message::Grant(_) => None,
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
    (live, floors.all_ms, by_requester, open, refused, by_name)
}

fn id_of(state: &v1::GrantState) -> [u8; 16] {
    let message: v1::Grant = prost::Message::decode(&*state.grant).unwrap();
    message.id[..].try_into().unwrap()
}

#[test]
fn any_order_of_grants_and_revocations_gives_the_same_state() {
    let first: u64 = std::env::var("JIT_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (mut ended, mut lived) = (0, 0);
    for seed in first..first + 10 {
        let mut random = Random(seed);
        let all = messages(&mut random);
        let now = later(20_000);
        let mut in_order = Host::with(REVOKER);
        for message in &all {
            deliver(&mut in_order, message, now);
        }
        let expected = state(&mut in_order, &all, now);
        ended += expected.4.iter().filter(|refused| **refused).count();
        lived += expected.0.len();
        assert!(expected.5.iter().all(|refused| *refused), "seed {seed}");
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
            let mut host = Host::with(REVOKER);
            for message in &shuffled {
                if turn == 2 && random.below(4) == 0 {
                    let boot = if random.below(2) == 0 { "boot-1" } else { "boot-2" };
                    host.restart(boot, now);
                }
                deliver(&mut host, message, now);
            }
            let got = state(&mut host, &all, now);
            assert_eq!(got, expected, "seed {seed}, turn {turn}: {shuffled:#?}");
            host.restart("boot-3", now);
            assert_eq!(
                state(&mut host, &all, now),
                expected,
                "seed {seed}, turn {turn}: restarted"
            );
        }
    }
    assert!(ended > 10 && lived > 10, "{ended} {lived}: the histories say too little");
}

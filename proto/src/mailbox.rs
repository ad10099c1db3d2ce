//! A host's mailbox: what was signed for it and still counts. The controller has it as it should be, the
//! host has what has arrived, and both compute one digest of it. If they differ, something was withheld.
//!
//! What counts depends only on what was signed, on what was ended, and on the moment that is asked about,
//! never on whether the host accepted it: a grant that the host refuses has arrived all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use crate::{GrantId, WallTime, merkle::Hash};

/// Begins the content of every leaf of the tree of mailboxes.
const LEAF: &[u8] = b"jit-agent mailbox v1";
/// Begins what a piece is the hash of.
const ITEM: &[u8] = b"jit-agent item v1";
/// The type of the end of a grant. Nobody signs it.
const ENDED: &str = "ended";

/// The most hashes of one list.
pub const MAX_LISTED: usize = 10_000;
/// How often a checkpoint is made, and for how long it counts as fresh, if nobody says otherwise.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// See [`CHECKPOINT_EVERY`].
pub const CHECKPOINT_VALID_FOR: Duration = Duration::from_secs(25);

/// What identifies a signed payload.
pub fn item(payload_type: &str, payload: &[u8]) -> Hash {
    item_of(payload_type, &Sha256::digest(payload).into())
}

/// The same of the payload's SHA-256.
pub fn item_of(payload_type: &str, digest: &Hash) -> Hash {
    hashed(payload_type, digest)
}

/// What stands for a grant in a mailbox after it was revoked or replaced.
pub fn ended(id: GrantId) -> Hash {
    hashed(ENDED, &id.0)
}

fn hashed(kind: &str, content: &[u8]) -> Hash {
    // A kind and a content of one length each cannot be taken for another pair.
    let length = u64::try_from(kind.len()).unwrap_or(u64::MAX).to_be_bytes();
    let digest = Sha256::new_with_prefix(ITEM).chain_update(length).chain_update(kind);
    digest.chain_update(content).finalize().into()
}

/// The leaf of a host with a mailbox of this digest.
pub fn leaf(host: &str, mailbox: &Hash) -> Hash {
    let length = u64::try_from(host.len()).unwrap_or(u64::MAX).to_be_bytes();
    crate::merkle::leaf(&[LEAF, &length, host.as_bytes(), mailbox].concat())
}

/// The digest of these items, which are in ascending order.
pub fn digest<'a>(items: impl Iterator<Item = &'a Hash>) -> Hash {
    items.fold(Sha256::new(), |digest, item| digest.chain_update(item)).finalize().into()
}

/// Which grants a revocation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revokes {
    /// All that were issued at this moment or before it.
    All(WallTime),
    /// Those with these ids.
    Ids(Vec<GrantId>),
    /// Those of a requester that were issued at this moment or before it.
    Requester(String, WallTime),
}

/// A signed payload, as whoever delivers it must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A grant, until its end.
    Grant {
        /// Its id.
        id: GrantId,
        /// Who asked for it.
        requester: Arc<str>,
        /// When it was made.
        issued_at: WallTime,
        /// Its end.
        not_after: WallTime,
    },
    /// A policy, until there is a higher version.
    Policy {
        /// Its version.
        version: u64,
    },
    /// A revocation.
    Revocation {
        /// What it ends.
        of: Revokes,
        /// From then on nobody needs it any more.
        keep_until: WallTime,
    },
}

/// What is in a mailbox. Adding pieces in another order, or twice, makes no difference.
#[derive(Clone, Debug, Default)]
pub struct Mailbox {
    /// Grants: their ids and ends.
    grants: BTreeMap<Hash, (GrantId, WallTime)>,
    /// Other signed payloads, and until when they count.
    others: BTreeMap<Hash, WallTime>,
}

impl Mailbox {
    /// Adds a grant, which counts until its end.
    pub fn add_grant(&mut self, item: Hash, id: GrantId, not_after: WallTime) {
        self.grants.insert(item, (id, not_after));
    }

    /// Adds another signed payload, which counts until this moment.
    pub fn add(&mut self, item: Hash, until: WallTime) {
        self.others.insert(item, until);
    }

    /// Whether this was added.
    pub fn has(&self, item: &Hash) -> bool {
        self.grants.contains_key(item) || self.others.contains_key(item)
    }

    /// Forgets what no longer counted at this moment.
    pub fn forget(&mut self, at: WallTime) {
        self.grants.retain(|_, (_, not_after)| *not_after > at);
        self.others.retain(|_, until| *until > at);
    }

    /// What counts at this moment, in ascending order. `is_ended`: whether a grant was revoked or replaced.
    pub fn items(&self, at: WallTime, is_ended: impl Fn(GrantId) -> bool) -> BTreeSet<Hash> {
        let grants = self.grants.iter().filter(|(_, (_, not_after))| *not_after > at);
        let grants = grants.map(|(item, (id, _))| if is_ended(*id) { ended(*id) } else { *item });
        let others = self.others.iter().filter(|(_, until)| **until > at);
        grants.chain(others.map(|(item, _)| *item)).collect()
    }

    /// The ids of its grants.
    pub fn ids(&self) -> impl Iterator<Item = GrantId> + '_ {
        self.grants.values().map(|(id, _)| *id)
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.grants.len() + self.others.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: fn(GrantId) -> bool = |_| false;

    fn id(number: u8) -> GrantId {
        GrantId([number; 16])
    }

    fn mailbox(order: &[usize]) -> (Mailbox, Vec<Hash>) {
        let items: Vec<_> =
            (0..4).map(|number| item(if number < 3 { "g" } else { "r" }, &[number; 32])).collect();
        let mut mailbox = Mailbox::default();
        for place in order {
            let number = u8::try_from(*place).unwrap();
            match place {
                3 => mailbox.add(items[3], WallTime(70)),
                _ => mailbox.add_grant(items[*place], id(number), WallTime(100)),
            }
        }
        (mailbox, items)
    }

    #[test]
    fn the_order_and_repetitions_make_no_difference() {
        let expected = mailbox(&[0, 1, 2, 3]).0.items(WallTime(50), NONE);
        for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]] {
            let twice = [order, order].concat();
            assert_eq!(mailbox(&twice).0.items(WallTime(50), NONE), expected, "{order:?}");
        }
    }

    #[test]
    fn what_has_ended_at_the_moment_does_not_count_and_is_forgotten() {
        let (mut both, items) = mailbox(&[0, 3]);
        assert_eq!(both.items(WallTime(69), NONE), [items[0], items[3]].into());
        assert_eq!(both.items(WallTime(70), NONE), [items[0]].into());
        assert!(both.items(WallTime(100), NONE).is_empty(), "the end itself is no longer in it");
        both.forget(WallTime(70));
        assert_eq!((both.len(), both.has(&items[0]), both.has(&items[3])), (1, true, false));
        both.forget(WallTime(100));
        assert!(both.is_empty());
    }

    #[test]
    fn each_missing_piece_and_each_end_shows_in_the_digest() {
        let of = |items: BTreeSet<Hash>| digest(items.iter());
        let (whole, items) = mailbox(&[0, 1, 2, 3]);
        let all = of(whole.items(WallTime(50), NONE));
        for (withheld, item) in items.iter().enumerate() {
            let rest: Vec<_> = (0..4).filter(|place| *place != withheld).collect();
            let (rest, _) = mailbox(&rest);
            assert_ne!(of(rest.items(WallTime(50), NONE)), all, "{withheld}");
            assert!(!rest.has(item) && whole.has(item));
        }
        let ended_one = whole.items(WallTime(50), |one| one == id(1));
        assert!(ended_one.contains(&ended(id(1))) && !ended_one.contains(&items[1]));
        assert_ne!(of(ended_one), all);
    }

    #[test]
    fn leaves_of_two_hosts_differ_also_with_the_same_mailbox() {
        let same = digest([].iter());
        assert_ne!(leaf("web-1", &same), leaf("web-2", &same));
        assert_ne!(item("ended", &[7; 32]), item("endedx", &[7; 32]));
    }
}

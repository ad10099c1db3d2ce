//! A host's mailbox: what was signed for it and still counts. The controller has it as it should be, the
//! host has what has arrived, and both compute one digest of it. If they differ, something was withheld.
//!
//! What counts depends only on what is signed and on the moment that is asked about, never on whether the
//! host accepted it: a grant that the host refuses has arrived all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use crate::{GrantId, WallTime, dsse::pre_authentication_encoding, merkle::Hash};

/// Begins the content of every leaf of the tree of mailboxes.
const LEAF: &[u8] = b"jit-agent mailbox v1";

/// What identifies a signed payload: SHA-256 of the bytes that keys sign.
pub fn item(payload_type: &str, payload: &[u8]) -> Hash {
    Sha256::digest(pre_authentication_encoding(payload_type, payload)).into()
}

/// The leaf of a host with a mailbox of this digest.
///
/// # Panics
/// Never: a host's id is shorter than 64 KiB.
pub fn leaf(host: &str, mailbox: &Hash) -> Hash {
    let length = u16::try_from(host.len()).unwrap_or(u16::MAX).to_be_bytes();
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

/// A signed payload in a mailbox.
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
    grants: BTreeMap<Hash, (GrantId, Arc<str>, WallTime, WallTime)>,
    by_id: BTreeSet<(GrantId, Hash)>,
    revocations: BTreeMap<Hash, (Revokes, WallTime)>,
    policy: Option<(u64, Hash)>,
}

impl Mailbox {
    /// Adds a piece. A grant that a revocation in here is about is left out, and a revocation puts out the
    /// grants that it is about.
    pub fn add(&mut self, item: Hash, piece: Piece) {
        match piece {
            Piece::Grant { id, requester, issued_at, not_after } => {
                let ended = |(of, _): &(Revokes, WallTime)| of.covers(id, &requester, issued_at);
                if !self.revocations.values().any(ended) {
                    self.grants.insert(item, (id, requester, issued_at, not_after));
                    self.by_id.insert((id, item));
                }
            }
            Piece::Policy { version } => {
                self.policy = self.policy.max(Some((version, item)));
            }
            Piece::Revocation { of, keep_until } => {
                self.put_out(&of);
                self.revocations.insert(item, (of, keep_until));
            }
        }
    }

    /// Whether this was added, and was not put out.
    pub fn has(&self, item: &Hash) -> bool {
        self.grants.contains_key(item)
            || self.revocations.contains_key(item)
            || self.policy.is_some_and(|(_, policy)| policy == *item)
    }

    /// Forgets what no longer counts at this moment.
    pub fn forget(&mut self, at: WallTime) {
        let ended: Vec<_> = self
            .grants
            .iter()
            .filter(|(_, (.., not_after))| *not_after <= at)
            .map(|(item, (id, ..))| (*item, *id))
            .collect();
        for (item, id) in ended {
            self.grants.remove(&item);
            self.by_id.remove(&(id, item));
        }
        self.revocations.retain(|_, (_, keep_until)| *keep_until > at);
    }

    /// What counts at this moment, in ascending order.
    pub fn items(&self, at: WallTime) -> BTreeSet<Hash> {
        let grants = self.grants.iter().filter(|(_, (.., not_after))| *not_after > at);
        let revocations = self.revocations.iter().filter(|(_, (_, keep_until))| *keep_until > at);
        let signed = grants.map(|(item, _)| *item).chain(revocations.map(|(item, _)| *item));
        signed.chain(self.policy.map(|(_, item)| item)).collect()
    }

    /// The digest of what counts at this moment.
    pub fn digest(&self, at: WallTime) -> Hash {
        digest(self.items(at).iter())
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.grants.len() + self.revocations.len() + usize::from(self.policy.is_some())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put_out(&mut self, of: &Revokes) {
        let ended: Vec<(GrantId, Hash)> = match of {
            Revokes::Ids(ids) => ids
                .iter()
                .flat_map(|id| self.by_id.range((*id, [0; 32])..=(*id, [u8::MAX; 32])))
                .copied()
                .collect(),
            Revokes::All(_) | Revokes::Requester(..) => self
                .grants
                .iter()
                .filter(|(_, (id, requester, issued_at, _))| of.covers(*id, requester, *issued_at))
                .map(|(item, (id, ..))| (*id, *item))
                .collect(),
        };
        for (id, item) in ended {
            self.grants.remove(&item);
            self.by_id.remove(&(id, item));
        }
    }
}

impl Revokes {
    fn covers(&self, id: GrantId, requester: &str, issued_at: WallTime) -> bool {
        match self {
            Self::All(until) => issued_at <= *until,
            Self::Ids(ids) => ids.contains(&id),
            Self::Requester(name, until) => name == requester && issued_at <= *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(id: u8, requester: &str, issued: i64, end: i64) -> (Hash, Piece) {
        let piece = Piece::Grant {
            id: GrantId([id; 16]),
            requester: requester.into(),
            issued_at: WallTime(issued),
            not_after: WallTime(end),
        };
        (item("grant", &[id, u8::try_from(end).unwrap()]), piece)
    }

    fn revocation(of: Revokes, keep: i64) -> (Hash, Piece) {
        let item = item("revocation", format!("{of:?}").as_bytes());
        (item, Piece::Revocation { of, keep_until: WallTime(keep) })
    }

    fn policy(version: u64) -> (Hash, Piece) {
        (item("policy", &version.to_be_bytes()), Piece::Policy { version })
    }

    fn mailbox<'a>(pieces: impl IntoIterator<Item = &'a (Hash, Piece)>) -> Mailbox {
        let mut mailbox = Mailbox::default();
        pieces.into_iter().for_each(|(item, piece)| mailbox.add(*item, piece.clone()));
        mailbox
    }

    #[test]
    fn the_order_and_repetitions_make_no_difference() {
        let pieces = [
            grant(1, "ana", 10, 100),
            grant(2, "bo", 10, 100),
            grant(2, "bo", 10, 101),
            grant(3, "ana", 30, 100),
            revocation(Revokes::Ids(vec![GrantId([2; 16])]), 90),
            revocation(Revokes::Requester("ana".into(), WallTime(20)), 80),
            revocation(Revokes::All(WallTime(5)), 70),
            policy(7),
            policy(3),
        ];
        let expected = mailbox(&pieces).digest(WallTime(50));
        for first in 0..pieces.len() {
            for second in 0..pieces.len() {
                let mut other = pieces.to_vec();
                other.swap(first, second);
                other.rotate_left(second);
                other.push(pieces[first].clone());
                assert_eq!(mailbox(&other).digest(WallTime(50)), expected, "{first} {second}");
            }
        }
        let left = mailbox(&pieces).items(WallTime(50));
        let counted: BTreeSet<_> = [3, 4, 5, 6, 7].map(|at: usize| pieces[at].0).into();
        assert_eq!(left, counted, "one grant, three revocations, the highest policy");
    }

    #[test]
    fn what_has_ended_at_the_moment_does_not_count_and_is_forgotten() {
        let pieces = [grant(1, "ana", 10, 100), revocation(Revokes::All(WallTime(5)), 70)];
        let mut both = mailbox(&pieces);
        assert_eq!(both.items(WallTime(69)).len(), 2);
        assert_eq!(both.items(WallTime(70)), [pieces[0].0].into());
        assert!(both.items(WallTime(100)).is_empty(), "the end itself is no longer in it");
        let before = both.digest(WallTime(80));
        both.forget(WallTime(80));
        assert_eq!((both.digest(WallTime(80)), both.len()), (before, 1));
        both.forget(WallTime(100));
        assert!(both.is_empty());
    }

    #[test]
    fn each_missing_piece_shows_in_the_digest() {
        let pieces = [
            grant(1, "ana", 10, 100),
            grant(2, "bo", 10, 100),
            revocation(Revokes::Ids(vec![GrantId([9; 16])]), 90),
            policy(7),
        ];
        let whole = mailbox(&pieces).digest(WallTime(50));
        for withheld in 0..pieces.len() {
            let rest = pieces.iter().enumerate().filter(|(at, _)| *at != withheld);
            let rest = mailbox(rest.map(|(_, piece)| piece));
            assert_ne!(rest.digest(WallTime(50)), whole, "{withheld}");
            assert!(!rest.has(&pieces[withheld].0));
        }
    }

    #[test]
    fn leaves_of_two_hosts_differ_also_with_the_same_mailbox() {
        let same = Mailbox::default().digest(WallTime(0));
        assert_ne!(leaf("web-1", &same), leaf("web-2", &same));
    }
}

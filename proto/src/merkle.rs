//! Merkle trees as in RFC 9162 (Certificate Transparency 2.0), section 2.1: the hashes, and the proof that
//! a leaf is in a tree of which only the root is known.
//!
//! Whoever builds a tree keeps its nodes by [`node`] and [`leaf`]; this file has what both sides need.

use sha2::{Digest as _, Sha256};

/// A hash in the tree.
pub type Hash = [u8; 32];

/// Longest path: a tree has at most 2^32 leaves.
pub const MAX_PATH: usize = 32;

/// The hash of a leaf with this content.
pub fn leaf(content: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(content).finalize().into()
}

/// The hash of a node above two others.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the tree of `size` leaves that has this leaf at `index` (counted from 0), by the hashes
/// beside the way up, the lowest first (RFC 9162 section 2.1.3.2). `None`: there is no such place, or the
/// path has another length.
///
/// Nothing here vouches for `size`: compare it with the one that was signed together with the root.
pub fn root(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size || path.len() > MAX_PATH {
        return None;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for beside in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            hash = node(beside, &hash);
            // The last node of an odd level has nothing beside it: it goes up as it is.
            while at % 2 == 0 && at != 0 {
                (at, last) = (at / 2, last / 2);
            }
        } else {
            hash = node(&hash, beside);
        }
        (at, last) = (at / 2, last / 2);
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of all leaves, as RFC 9162 section 2.1.1 defines it.
    fn tree(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            more => {
                let split = more.len().next_power_of_two() / 2;
                let (left, right) = more.split_at(split);
                node(&tree(left), &tree(right))
            }
        }
    }

    /// The path of one leaf, as RFC 9162 section 2.1.3.1 defines it.
    fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return Vec::new();
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        let (mut way, beside) = match index < split {
            true => (path(left, index), tree(right)),
            false => (path(right, index - split), tree(left)),
        };
        way.push(beside);
        way
    }

    fn leaves(count: u8) -> Vec<Hash> {
        (0..count).map(|number| leaf(&[number])).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_leads_to_its_root() {
        for count in 1..=40 {
            let all = leaves(count);
            for (index, own) in all.iter().enumerate() {
                let way = path(&all, index);
                let found = root(own, index as u64, all.len() as u64, &way);
                assert_eq!(found, Some(tree(&all)), "leaf {index} of {count}");
            }
        }
    }

    #[test]
    fn no_other_leaf_place_size_or_path_leads_there() {
        for count in [1, 2, 3, 7, 8, 13] {
            let all = leaves(count);
            let (size, wanted) = (all.len() as u64, Some(tree(&all)));
            for (index, own) in all.iter().enumerate() {
                let (at, way) = (index as u64, path(&all, index));
                assert_ne!(root(&leaf(b"other"), at, size, &way), wanted);
                for other in (0..size + 3).filter(|other| *other != at) {
                    assert_ne!(root(own, other, size, &way), wanted, "{other} for {index}/{count}");
                }
                let mut longer = way.clone();
                longer.push([7; 32]);
                assert_ne!(root(own, at, size, &longer), wanted);
                for cut in 0..way.len() {
                    assert_ne!(root(own, at, size, &way[..cut]), wanted);
                    let mut changed = way.clone();
                    changed[cut][31] ^= 1;
                    assert_ne!(root(own, at, size, &changed), wanted);
                }
            }
        }
        assert_eq!(root(&[0; 32], 0, 0, &[]), None, "an empty tree has no leaf");
        assert_eq!(root(&[0; 32], 0, u64::MAX, &[[0; 32]; MAX_PATH + 1]), None, "too long");
    }

    /// RFC 9162 has no vectors; these roots are of RFC 6962's reference implementation
    /// (certificate-transparency-go, merkle trees of the eight inputs "", 00, 10, 2021, ...).
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let all: Vec<_> = inputs.iter().map(|text| leaf(&hex::decode(text).unwrap())).collect();
        for (count, expected) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(hex::encode(tree(&all[..count])), expected);
        }
    }
}

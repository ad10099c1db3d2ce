//! The Merkle tree over the mailboxes of all hosts (RFC 9162, section 2.1), kept so that a changed mailbox
//! costs one way to the root.

use jit_proto::merkle::{Hash, node};

/// A tree of at least one leaf.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The leaves first, the root last. A node without one beside it is the same a level higher.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Of these leaves. `None`: there are none.
    pub fn new(leaves: Vec<Hash>) -> Option<Self> {
        if leaves.is_empty() {
            return None;
        }
        let mut levels = vec![leaves];
        while let Some(last) = levels.last().filter(|last| last.len() > 1) {
            levels.push(last.chunks(2).map(above).collect());
        }
        Some(Self { levels })
    }

    /// Number of leaves.
    pub fn size(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// The root.
    pub fn root(&self) -> Hash {
        self.levels.last().and_then(|top| top.first()).copied().unwrap_or_default()
    }

    /// Puts another leaf in this place. Returns whether there is such a place.
    pub fn set(&mut self, index: usize, leaf: Hash) -> bool {
        let Some(place) = self.levels.first_mut().and_then(|leaves| leaves.get_mut(index)) else {
            return false;
        };
        *place = leaf;
        let mut at = index / 2;
        for level in 1..self.levels.len() {
            let (below, from) = self.levels.split_at_mut(level);
            let pair = below.last().and_then(|below| below.chunks(2).nth(at));
            let place = from.first_mut().and_then(|level| level.get_mut(at));
            let (Some(pair), Some(place)) = (pair, place) else { return false };
            *place = above(pair);
            at /= 2;
        }
        true
    }

    /// The hashes beside the way from this leaf to the root, the lowest first.
    pub fn path(&self, index: usize) -> Vec<Hash> {
        let mut at = index;
        let mut path = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            path.extend(level.get(at ^ 1));
            at /= 2;
        }
        path
    }
}

/// What is above one or two nodes.
fn above(pair: &[Hash]) -> Hash {
    match pair {
        [left, right] => node(left, right),
        [one] => *one,
        _ => Hash::default(),
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::merkle::{leaf, root};

    use super::*;

    fn leaves(count: u32) -> Vec<Hash> {
        (0..count).map(|number| leaf(&number.to_be_bytes())).collect()
    }

    fn proven(tree: &Tree, index: usize, own: &Hash) -> bool {
        let (index_u64, size) = (index as u64, tree.size() as u64);
        root(own, index_u64, size, &tree.path(index)) == Some(tree.root())
    }

    #[test]
    fn every_leaf_of_every_tree_is_proven_and_no_other() {
        for count in (1..=70).chain([1023, 1024, 1025]) {
            let all = leaves(count);
            let tree = Tree::new(all.clone()).unwrap();
            for (index, own) in all.iter().enumerate() {
                assert!(proven(&tree, index, own), "leaf {index} of {count}");
                assert!(!proven(&tree, index, &leaf(b"other")));
            }
        }
    }

    #[test]
    fn a_changed_leaf_gives_the_tree_that_is_built_anew() {
        for count in 1..=40 {
            let mut all = leaves(count);
            let mut tree = Tree::new(all.clone()).unwrap();
            for index in 0..all.len() {
                all[index] = leaf(format!("new {index}").as_bytes());
                assert!(tree.set(index, all[index]));
                assert_eq!(tree.levels, Tree::new(all.clone()).unwrap().levels, "{index}/{count}");
            }
            assert!(!tree.set(all.len(), [0; 32]), "there is no such place");
        }
    }

    #[test]
    fn no_leaves_make_no_tree_and_a_path_has_544_bytes_for_100_000() {
        assert!(Tree::new(Vec::new()).is_none());
        let tree = Tree::new(leaves(100_000)).unwrap();
        assert_eq!(tree.path(4_711).len() * size_of::<Hash>(), 544);
    }
}

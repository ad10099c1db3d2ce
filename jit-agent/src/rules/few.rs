//! A list that has one item most often, and never none. One item needs no room beside it.

use std::ops::Deref;

/// One item, or more.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    One(T),
    #[expect(clippy::box_collection, reason = "a list is rare, and one item shall stay small")]
    More(Box<Vec<T>>),
}

impl<T> Few<T> {
    /// The items of a list; `None`: it is empty.
    pub(crate) fn of(mut items: Vec<T>) -> Option<Self> {
        let last = items.pop()?;
        if items.is_empty() {
            return Some(Self::One(last));
        }
        items.push(last);
        items.shrink_to_fit();
        Some(Self::More(Box::new(items)))
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::One(item) => std::slice::from_mut(item),
            Self::More(items) => items,
        }
    }
}

impl<T: Copy> Few<T> {
    pub(crate) fn push(&mut self, item: T) {
        match self {
            Self::One(first) => *self = Self::More(Box::new(vec![*first, item])),
            Self::More(items) => items.push(item),
        }
    }

    /// Removes the item at this place; the last one takes its place. An only item stays. Returns
    /// whether the item was removed.
    pub(crate) fn swap_remove(&mut self, index: usize) -> bool {
        let Self::More(items) = self else { return false };
        items.swap_remove(index);
        if let [only] = items[..] {
            *self = Self::One(only);
        }
        true
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::More(items) => items,
        }
    }
}

/// The items count, not how they are kept.
impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_and_go_and_the_only_one_stays() {
        let mut few = Few::One(1);
        assert!(!few.swap_remove(0));
        few.push(2);
        few.push(3);
        assert_eq!(*few, [1, 2, 3]);
        assert!(few.swap_remove(0));
        assert_eq!(*few, [3, 2]);
        assert!(few.swap_remove(1) && matches!(few, Few::One(3)));
        few.as_mut_slice().fill(4);
        assert_eq!(*few, [4]);
    }

    #[test]
    fn a_list_of_one_item_is_that_item() {
        assert!(Few::<u8>::of(Vec::new()).is_none());
        assert!(matches!(Few::of(vec![1]), Some(Few::One(1))));
        assert_eq!(*Few::of(vec![1, 2]).unwrap(), [1, 2]);
    }
}

//! Floors of revocations: what was signed at or before one is refused, whether this host has seen
//! it or not. A revocation of everything or of a requester sets one.
//!
//! A floor is never forgotten: a grant names its window itself, so an old signature can have a late
//! one. There are at most [`MAX_REQUESTERS`] floors of requesters. The lowest of more than these
//! becomes the floor of everybody: that refuses more, never less.

use std::collections::BTreeMap;

use jit_proto::{Refusal, WallTime, text::MAX_NAME_BYTES};

use crate::rules::{grant::VerifiedGrant, refusal::Refused};

/// Largest number of floors of requesters.
const MAX_REQUESTERS: usize = 1024;

/// One floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Whose grants it refuses; `None`: everybody's.
    pub requester: Option<String>,
    /// Grants that were issued at this moment or before it are refused.
    pub at: WallTime,
}

/// All floors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    all: Option<WallTime>,
    /// Each is later than `all`.
    by_requester: BTreeMap<String, WallTime>,
}

impl Floors {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.by_requester.is_empty()
    }

    /// The floor of everybody.
    pub const fn all(&self) -> Option<WallTime> {
        self.all
    }

    /// The floors of requesters that are later than that of everybody.
    pub const fn by_requester(&self) -> &BTreeMap<String, WallTime> {
        &self.by_requester
    }

    /// The floor that a requester's grants are under.
    pub fn of(&self, requester: &str) -> Option<WallTime> {
        self.by_requester.get(requester).copied().max(self.all)
    }

    /// Every floor by itself, that of everybody first.
    pub fn iter(&self) -> impl Iterator<Item = Floor> + '_ {
        let all = self.all.map(|at| Floor { requester: None, at });
        let each = self.by_requester.iter();
        all.into_iter()
            .chain(each.map(|(name, at)| Floor { requester: Some(name.clone()), at: *at }))
    }

    /// Adds a floor. No floor gets lower by it.
    pub fn raise(&mut self, floor: Floor) {
        match floor.requester {
            None => self.raise_all(floor.at),
            // No grant has such a requester.
            Some(name) if name.is_empty() || name.len() > MAX_NAME_BYTES => {}
            Some(name) if self.of(&name).is_some_and(|old| old >= floor.at) => {}
            Some(name) => {
                self.by_requester.insert(name, floor.at);
                self.bound();
            }
        }
    }

    /// Adds all floors of another collection.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|floor| self.raise(floor));
    }

    /// Refuses a grant that was issued at or before its floor.
    pub(super) fn check(&self, grant: &VerifiedGrant) -> Result<(), Refused> {
        let requester = grant.requester();
        let Some(floor) = self.of(requester).filter(|floor| grant.issued_at() <= *floor) else {
            return Ok(());
        };
        let what = match self.all {
            Some(all) if all == floor => "every grant".to_owned(),
            _ => format!("every grant of {requester}"),
        };
        let detail = format!(
            "issued at {}, and {what} that was signed until {floor} is revoked: sign a new one",
            grant.issued_at()
        );
        Err(Refused::new(Refusal::Revoked, detail).of(grant.id()))
    }

    fn raise_all(&mut self, at: WallTime) {
        self.all = self.all.max(Some(at));
        self.by_requester.retain(|_, floor| *floor > at);
    }

    fn bound(&mut self) {
        while self.by_requester.len() > MAX_REQUESTERS {
            let Some(lowest) = self.by_requester.values().min().copied() else { return };
            self.raise_all(lowest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(requester: Option<&str>, at: i64) -> Floor {
        Floor { requester: requester.map(str::to_owned), at: WallTime(at) }
    }

    #[test]
    fn a_floor_only_rises_and_the_higher_one_counts() {
        let mut floors = Floors::default();
        assert!(floors.is_empty() && floors.of("ana").is_none());
        floors.raise(floor(Some("ana"), 20));
        floors.raise(floor(Some("ana"), 10));
        assert_eq!([floors.of("ana"), floors.of("bo")], [Some(WallTime(20)), None]);
        floors.raise(floor(None, 15));
        assert_eq!([floors.of("ana"), floors.of("bo")], [20, 15].map(|at| Some(WallTime(at))));
        floors.raise(floor(Some("bo"), 15));
        floors.raise(floor(None, 20));
        assert_eq!(floors.iter().collect::<Vec<_>>(), [floor(None, 20)], "the others say no more");
        floors.raise(floor(None, 5));
        assert_eq!(floors.all(), Some(WallTime(20)));
    }

    #[test]
    fn of_too_many_floors_the_lowest_becomes_that_of_everybody() {
        let mut floors = Floors::default();
        let many = i64::try_from(MAX_REQUESTERS).unwrap();
        for number in 1..=many {
            floors.raise(floor(Some(&format!("user {number}")), 100 + number));
        }
        assert_eq!((floors.all(), floors.by_requester().len()), (None, MAX_REQUESTERS));
        floors.raise(floor(Some("one more"), 5_000));
        assert_eq!(floors.all(), Some(WallTime(101)), "wider, and nothing is dropped");
        assert_eq!(floors.of("user 1"), Some(WallTime(101)));
        assert_eq!(floors.of("one more"), Some(WallTime(5_000)));
        assert_eq!(floors.by_requester().len(), MAX_REQUESTERS);
    }

    #[test]
    fn a_name_that_no_grant_can_have_takes_no_room() {
        let mut floors = Floors::default();
        floors.raise(floor(Some(&"x".repeat(MAX_NAME_BYTES + 1)), 5));
        floors.raise(floor(Some(""), 5));
        assert!(floors.is_empty());
    }
}

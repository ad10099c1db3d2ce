//! Places for streams of events: a number for all accounts, and one for each, so that one account
//! takes nobody else's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::problem::{Failure, Word};

/// A client tries again after this time, seconds.
const RETRY_S: u64 = 10;

/// The places.
#[derive(Debug)]
pub(super) struct Streams {
    most: usize,
    most_of_one: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_account: HashMap<String, usize>,
}

/// A place, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    streams: Arc<Streams>,
    account: String,
}

impl Streams {
    /// `most`: places of all accounts. `most_of_one`: of each.
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, open: Mutex::default() })
    }

    /// A place for a stream of this account.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn take(self: &Arc<Self>, account: &str) -> Result<Place, Failure> {
        let full = |what: String| Err(Failure::new(Word::TooMany, what).retry_after(RETRY_S));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.most {
            return full("there are too many streams of events".to_owned());
        }
        let own = open.by_account.get(account).copied().unwrap_or_default();
        if own >= self.most_of_one {
            return full(format!(
                "this account has {own} open pages and streams of events, which is the most; close \
                 some, or let an administrator raise `[api] account_streams`"
            ));
        }
        open.all += 1;
        open.by_account.insert(account.to_owned(), own + 1);
        drop(open);
        Ok(Place { streams: Arc::clone(self), account: account.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(own) = open.by_account.get_mut(&self.account) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.by_account.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_takes_no_other_ones_places() {
        let streams = Streams::new(3, 2);
        let places = ["ana", "ana", "bo"].map(|name| streams.take(name).unwrap());
        assert!(streams.take("eve").is_err(), "all are taken");
        let [first, second, third] = places;
        drop(third);
        let refused = streams.take("ana").unwrap_err();
        assert!(refused.parts().detail.contains("account_streams"), "{refused:?}");
        let of_bo = streams.take("bo").unwrap();
        drop(first);
        let again = streams.take("ana").unwrap();
        drop((second, again, of_bo));
        assert_eq!(streams.open.lock().unwrap().all, 0);
        assert!(streams.open.lock().unwrap().by_account.is_empty());
    }
}

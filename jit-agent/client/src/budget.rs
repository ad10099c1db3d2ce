//! A bound on answers that a process holds at the same time, of all agents together.
//!
//! One answer may be large: a list of 100,000 grants has about 20 MiB. Of ten thousand agents none may be
//! believed that its answer is such a list. So the first bytes of each answer are free, and what is more is
//! taken from a budget that all share. Without room in it the call fails, and only this one.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tonic::{Status, codegen::Bytes};

/// Bytes of an answer that need no room: the status of a host with few grants has fewer.
const FREE: usize = 16 * 1024;

/// Room for answers.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    taken: AtomicUsize,
}

impl Budget {
    /// Room for this number of bytes.
    pub const fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0) }
    }

    /// Bytes that are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// An answer as it arrives. Its room comes from a budget.
pub(crate) struct Answer {
    body: Incoming,
    budget: Arc<Budget>,
    /// Bytes that have come, and those of them that are taken from the budget.
    seen: usize,
    taken: usize,
}

impl Answer {
    pub(crate) const fn new(body: Incoming, budget: Arc<Budget>) -> Self {
        Self { body, budget, seen: 0, taken: 0 }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = frame.map(|frame| frame.map_err(|error| Status::from_error(error.into())));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.seen = self.seen.saturating_add(data.len());
            let more = self.seen.saturating_sub(FREE).saturating_sub(self.taken);
            if !self.budget.take(more) {
                return Poll::Ready(Some(Err(Status::resource_exhausted(
                    "its answer is large, and there is no room for it beside those of other agents",
                ))));
            }
            self.taken += more;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.budget.give(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_up_to_the_bound_and_given_back() {
        let budget = Budget::new(10);
        assert!(budget.take(6) && budget.take(4));
        assert!(!budget.take(1) && !budget.take(usize::MAX));
        budget.give(6);
        assert!(budget.take(5));
        assert_eq!(budget.taken(), 9);
    }
}

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

use h2::RecvStream;
use http_body::Frame;
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

/// An answer as it arrives. With a budget its room comes from that.
pub(crate) struct Answer {
    stream: RecvStream,
    budget: Option<Arc<Budget>>,
    /// All of it has come, but for what follows a message: how the call ended.
    whole: bool,
    /// Bytes that have come, and those of them that are taken from the budget.
    seen: usize,
    taken: usize,
}

impl Answer {
    pub(crate) const fn new(stream: RecvStream, budget: Option<Arc<Budget>>) -> Self {
        Self { stream, budget, whole: false, seen: 0, taken: 0 }
    }

    /// Takes room for more bytes.
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let Some(budget) = &self.budget else { return Ok(()) };
        self.seen = self.seen.saturating_add(bytes);
        let more = self.seen.saturating_sub(FREE).saturating_sub(self.taken);
        if !budget.take(more) {
            return Err(Status::resource_exhausted(
                "its answer is large, and there is no room for it beside those of other agents",
            ));
        }
        self.taken += more;
        Ok(())
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.whole {
            if let Some(data) = ready!(self.stream.poll_data(context)) {
                let data = data?;
                self.stream.flow_control().release_capacity(data.len())?;
                self.hold(data.len())?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.whole = true;
        }
        let trailers = ready!(self.stream.poll_trailers(context))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give(self.taken);
        }
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

//! Work that is served in turns: each peer has a queue of its own, and the peers take turns. So
//! whoever sends much delays only what comes after it from the same peer. Pure.

use std::collections::{HashMap, VecDeque};

/// Work of several peers. A peer without work costs nothing.
#[derive(Debug)]
pub(in crate::gate) struct Turns<T> {
    /// Never empty queues, by peer.
    queues: HashMap<String, VecDeque<T>>,
    /// The peers with work, the next one first; each is in it once.
    order: VecDeque<String>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Adds work after all other work of this peer.
    pub(in crate::gate) fn add(&mut self, by: &str, work: T) {
        self.queue(by).push_back(work);
    }

    /// Puts back what is not done yet: it is the first of this peer, whose turn comes after those
    /// of all others.
    pub(in crate::gate) fn put_back(&mut self, by: &str, work: T) {
        self.queue(by).push_front(work);
    }

    /// Takes the next work.
    pub(in crate::gate) fn next(&mut self) -> Option<(String, T)> {
        let by = self.order.pop_front()?;
        let queue = self.queues.get_mut(&by)?;
        let work = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&by);
        } else {
            self.order.push_back(by.clone());
        }
        Some((by, work))
    }

    /// Whether nobody waits.
    pub(in crate::gate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Drops everything.
    pub(in crate::gate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn queue(&mut self, by: &str) -> &mut VecDeque<T> {
        if !self.queues.contains_key(by) {
            self.order.push_back(by.to_owned());
        }
        self.queues.entry(by.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(turns: &mut Turns<u32>) -> String {
        let served = std::iter::from_fn(|| turns.next());
        served.map(|(by, work)| format!("{by}{work}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn whoever_sends_much_delays_only_itself() {
        let mut turns = Turns::default();
        for work in 1..=3 {
            turns.add("a", work);
        }
        turns.add("b", 1);
        turns.add("c", 1);
        turns.add("c", 2);
        assert_eq!(all(&mut turns), "a1 b1 c1 a2 c2 a3");
        turns.add("b", 2);
        assert_eq!(all(&mut turns), "b2");
    }

    #[test]
    fn what_is_put_back_stays_before_the_peers_later_work_and_lets_others_go_first() {
        let mut turns = Turns::default();
        turns.add("a", 1);
        turns.add("a", 2);
        turns.add("b", 1);
        let (by, work) = turns.next().unwrap();
        turns.put_back(&by, work);
        assert_eq!(all(&mut turns), "b1 a1 a2");
        turns.add("a", 1);
        let (by, work) = turns.next().unwrap();
        turns.add("b", 1);
        turns.put_back(&by, work);
        assert_eq!(all(&mut turns), "b1 a1");
    }
}

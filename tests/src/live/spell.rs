//! A flood that goes on while something else is measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Flood, flood_cpu, stay_on};
use crate::netns::Namespace;

/// Longest wait for the first frames.
const START: Duration = Duration::from_secs(10);

/// A flood on one CPU, until it is stopped or dropped.
#[derive(Debug)]
pub struct Spell {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Spell {
    /// Starts it in the sender's namespace, and waits until this number of frames has been sent.
    pub fn start(flood: Flood, sender: &Namespace, portion: u32) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = sender.spawn(move || {
            stay_on(flood_cpu());
            while !stopped.load(Ordering::Relaxed) {
                flood.send(portion);
                counted.fetch_add(u64::from(portion), Ordering::Relaxed);
            }
        });
        let spell = Self { stop, sent, thread: Some(thread) };
        let end = Instant::now() + START;
        while spell.sent() == 0 {
            let ended = spell.thread.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended && Instant::now() < end, "the flood does not start");
            thread::sleep(Duration::from_millis(1));
        }
        spell
    }

    /// Frames sent until now, of whole portions.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and returns the number of frames that were sent.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("there until stopped").join().expect("the flood ends");
        self.sent()
    }
}

impl Drop for Spell {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

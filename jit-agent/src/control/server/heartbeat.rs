//! When the front is asked whether it answers. The gate's tick drives it: a timer of its own would wake
//! an idle agent twice as often.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::Notify;

/// Ticks of the gate from one question to the next: six seconds.
const EVERY: u32 = 3;

/// Clones beat together.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    ticks: Arc<AtomicU32>,
    due: Arc<Notify>,
}

impl Heartbeat {
    /// Called at each tick of the gate.
    pub fn tick(&self) {
        if self.ticks.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
            self.due.notify_one();
        }
    }

    /// Waits until the front is to be asked.
    pub(super) async fn due(&self) {
        self.due.notified().await;
    }
}

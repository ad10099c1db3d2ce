//! While very many hosts hear that something ends, nothing else is done that can wait: they are not compared
//! with a checkpoint, no other checkpoint is made, and nobody looks whether somebody else has ended something
//! there.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Fewer hosts hear of it in no time.
const MANY: usize = 256;
/// What can wait does so for this time, and not at all times if something ends again and again.
const WAITS: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(6);

/// Whether many hosts hear of an end now.
#[derive(Default)]
pub(super) struct Rush(Mutex<Option<Instant>>);

impl Rush {
    /// This number of hosts is about to hear of one.
    pub(super) fn begins(&self, hosts: usize) {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts >= MANY && began.is_none_or(|began| began.elapsed() >= AGAIN) {
            *began = Some(Instant::now());
        }
    }

    /// Until when what can wait does so; `None`: there is no rush.
    pub(super) fn until(&self) -> Option<Instant> {
        let began = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        began.map(|began| began + WAITS).filter(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_does_not_go_on_for_ever() {
        let rush = Rush::default();
        rush.begins(MANY - 1);
        assert_eq!(rush.until(), None, "they are few");
        let began = Instant::now();
        while began.elapsed() < AGAIN {
            rush.begins(MANY);
            assert_eq!(rush.until().is_some(), began.elapsed() < WAITS);
            advance(WAITS / 4).await;
        }
        rush.begins(MANY);
        assert_eq!(rush.until(), Some(began + AGAIN + WAITS));
    }
}

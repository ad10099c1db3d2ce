//! A spare connection: to another hub than the one in use, with the handshakes made, and silent. When the
//! one in use is lost, it takes its place at once. Without it all agents of a hub that was killed would
//! make their handshakes with the other hubs at the same time, and nothing would reach them meanwhile.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::{Dialling, Held, connect, random, younger};
use crate::{
    config::Hub,
    control::server::{Fate, Phase, Uplinks},
};

/// It is made between this time and twice as long after the connection in use: what connects just now
/// goes first.
const AFTER: Duration = Duration::from_secs(5);
/// The longest pause between two attempts. It doubles from [`AFTER`].
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest time from its use until the front has said so.
const USED: Duration = Duration::from_secs(2);

/// The spare connection, or when the next attempt is made.
pub(super) struct Spare {
    uplinks: Uplinks,
    held: Option<Held>,
    /// The hub that is tried next, counted from the one in use.
    next: usize,
    tries: u32,
    due: Option<Instant>,
}

impl Spare {
    pub(super) const fn new(uplinks: Uplinks) -> Self {
        Self { uplinks, held: None, next: 0, tries: 0, due: None }
    }

    /// Ends it.
    pub(super) fn leave(&mut self) {
        (self.held, self.due, self.tries) = (None, None, 0);
    }

    /// Whether it waits.
    pub(super) fn is_there(&self) -> bool {
        self.held.as_ref().is_some_and(|held| *held.phases.borrow() == Phase::Waits)
    }

    /// Hands it out, if it waits and was made by the same configuration.
    pub(super) fn take(&mut self, by: &Arc<Dialling>) -> Option<Held> {
        let there = self.is_there();
        let held = self.held.take().filter(|held| there && Arc::ptr_eq(&held.by, by));
        self.leave();
        held
    }

    /// Keeps one to another hub than this one, for as long as it is asked to. It is never older than `age`.
    pub(super) async fn keep(
        &mut self,
        by: &Arc<Dialling>,
        used: &Hub,
        age: Duration,
    ) -> Infallible {
        let others: Vec<_> = by.uplink.hubs.iter().filter(|hub| *hub != used).collect();
        if self.held.take_if(|held| held.hub == *used || !Arc::ptr_eq(&held.by, by)).is_some() {
            self.leave();
        }
        loop {
            if let Some(held) = &mut self.held {
                let until = held.since + younger(age, random());
                tokio::select! {
                    why = held.ended() => tracing::debug!(hub = %held.hub, why, "the spare connection ended"),
                    () = sleep_until(until) => {}
                }
                self.leave();
            }
            let due = *self.due.get_or_insert_with(|| Instant::now() + pause(0, random()));
            sleep_until(due).await;
            let Some(hub) = self.next.checked_rem(others.len()).and_then(|at| others.get(at))
            else {
                return pending().await;
            };
            match connect(&self.uplinks, by, hub, true).await {
                Ok(held) => self.held = Some(held),
                // The one in use is there: what is wrong with a hub is seen when it is needed.
                Err(why) => {
                    tracing::debug!(why, "no spare connection");
                    self.next = self.next.wrapping_add(1);
                    self.tries = self.tries.saturating_add(1);
                    self.due = Some(Instant::now() + pause(self.tries, random()));
                }
            }
        }
    }
}

/// Takes a spare connection into use.
pub(super) async fn use_it(mut held: Held) -> Result<Held, String> {
    (held.by.order)(held.number, Fate::IsUsed);
    let used = timeout(USED, held.reaches(|phase| matches!(phase, Phase::Connected(_)))).await;
    used.unwrap_or_else(|_| Err(format!("{}: the spare connection cannot be used", held.hub)))?;
    Ok(held)
}

/// Before an attempt, after this number of ones that failed: by chance, but not at once.
fn pause(tries: u32, random: u32) -> Duration {
    let least = AFTER.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE / 2);
    least + least.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_with_seconds_and_grow_to_minutes() {
        let longest: Vec<_> = (0..8).map(|tries| pause(tries, u32::MAX).as_secs()).collect();
        assert_eq!(longest, [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(pause(0, 0), AFTER);
        assert_eq!(pause(9, 0), LONGEST_PAUSE / 2);
    }
}

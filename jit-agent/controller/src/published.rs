//! What somebody else publishes, such as keys: read once an hour, and anew for a key that is not
//! among them, once a minute at most. Who does not answer is asked again after a pause; what was
//! read before is used for a day.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

/// After this time it is read again.
const FRESH: Duration = Duration::from_secs(3600);
/// For this time it is used if nobody answers.
const USABLE: Duration = Duration::from_secs(24 * 3600);
/// Shortest time between two readings for an unknown key.
const FORCED: Duration = Duration::from_secs(60);
/// Shortest time between an attempt that failed and the next one.
const PAUSE: Duration = Duration::from_secs(5);

/// What was read, and when.
pub(crate) struct Published<T> {
    /// Whose it is, for the log.
    name: String,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    read: Option<(Arc<T>, Instant)>,
    failed: Option<(String, Instant)>,
    forced: Option<Instant>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { read: None, failed: None, forced: None }
    }
}

/// What to do for who asks.
#[derive(Debug)]
enum Step<T> {
    Use(Arc<T>),
    Read,
    Fail(String),
}

impl<T> Published<T> {
    /// Nothing is read yet.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), kept: Mutex::default() }
    }

    /// What is published. `read` reads it, if that is due.
    ///
    /// # Errors
    /// It cannot be read; in words.
    pub(crate) async fn current(
        &self,
        read: impl Future<Output = Result<T, String>>,
    ) -> Result<Arc<T>, String> {
        // Who waits here gets the answer of who is first.
        let mut kept = self.kept.lock().await;
        match kept.step(Instant::now()) {
            Step::Use(found) => Ok(found),
            Step::Fail(why) => Err(why),
            Step::Read => {
                let read = read.await;
                kept.take(&self.name, read, Instant::now())
            }
        }
    }

    /// What is newer than `old`; `None`: nothing is, or it was read just now.
    ///
    /// # Errors
    /// It cannot be read; in words.
    pub(crate) async fn newer(
        &self,
        old: &Arc<T>,
        read: impl Future<Output = Result<T, String>>,
    ) -> Result<Option<Arc<T>>, String> {
        let mut kept = self.kept.lock().await;
        if let Some((found, _)) = kept.read.as_ref().filter(|(one, _)| !Arc::ptr_eq(one, old)) {
            return Ok(Some(Arc::clone(found)));
        }
        let now = Instant::now();
        if !kept.may_force(now) {
            return Ok(None);
        }
        kept.forced = Some(now);
        let read = read.await?;
        kept.take(&self.name, Ok(read), Instant::now()).map(Some)
    }
}

impl<T> Kept<T> {
    fn step(&self, now: Instant) -> Step<T> {
        let age = |since: Instant| now.saturating_duration_since(since);
        let paused = self.failed.as_ref().filter(|(_, when)| age(*when) < PAUSE);
        match (&self.read, paused) {
            (Some((found, read)), None) if age(*read) < FRESH => Step::Use(Arc::clone(found)),
            (Some((found, read)), Some(_)) if age(*read) < USABLE => Step::Use(Arc::clone(found)),
            (_, Some((why, _))) => Step::Fail(why.clone()),
            (_, None) => Step::Read,
        }
    }

    /// Takes what was read; what is there stays if that failed.
    fn take(
        &mut self,
        name: &str,
        read: Result<T, String>,
        now: Instant,
    ) -> Result<Arc<T>, String> {
        match read {
            Ok(found) => {
                let found = Arc::new(found);
                self.read = Some((Arc::clone(&found), now));
                self.failed = None;
                Ok(found)
            }
            Err(why) => {
                tracing::warn!("{name}: {why}");
                self.failed = Some((why, now));
                match self.step(now) {
                    Step::Use(found) => Ok(found),
                    Step::Fail(why) => Err(why),
                    Step::Read => Err("it was not read".into()),
                }
            }
        }
    }

    fn may_force(&self, now: Instant) -> bool {
        self.forced.is_none_or(|last| now.saturating_duration_since(last) >= FORCED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_once_an_hour_and_kept_for_a_day_if_there_is_no_answer() {
        let began = Instant::now();
        let mut kept = Kept::default();
        assert!(matches!(kept.step(began), Step::Read));
        let first = kept.take("x", Ok(1), began).unwrap();
        let at = |after: Duration| began + after;
        assert!(matches!(kept.step(at(FRESH - PAUSE)), Step::Use(_)));
        assert!(matches!(kept.step(at(FRESH)), Step::Read));
        let same = kept.take("x", Err("down".into()), at(FRESH)).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(matches!(kept.step(at(FRESH)), Step::Use(_)), "no attempt for a while");
        assert!(matches!(kept.step(at(FRESH + PAUSE)), Step::Read));
        assert_eq!(kept.take("x", Err("down".into()), at(USABLE)).unwrap_err(), "down");
        assert!(matches!(kept.step(at(USABLE)), Step::Fail(why) if why == "down"));
        assert!(matches!(kept.step(at(USABLE + PAUSE)), Step::Read));
    }

    #[tokio::test]
    async fn unknown_keys_do_not_make_it_read_again_and_again() {
        let published = Published::new("x");
        let unread = async { Err("it is fresh".to_owned()) };
        let first = published.current(async { Ok(1) }).await.unwrap();
        assert_eq!(*published.current(unread).await.unwrap(), 1);
        assert_eq!(*published.newer(&first, async { Ok(2) }).await.unwrap().unwrap(), 2);
        let second = published.current(async { Ok(3) }).await.unwrap();
        assert_eq!(*second, 2);
        assert_eq!(*published.newer(&first, async { Ok(3) }).await.unwrap().unwrap(), 2);
        assert!(published.newer(&second, async { Ok(3) }).await.unwrap().is_none(), "too soon");
        let began = Instant::now();
        let kept = Kept::<i32> { forced: Some(began), ..Kept::default() };
        assert!(Kept::<i32>::default().may_force(began));
        assert!(!kept.may_force(began + Duration::from_secs(59)));
        assert!(kept.may_force(began + FORCED));
    }
}

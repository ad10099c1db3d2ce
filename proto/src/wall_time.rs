//! Wall time, as the contract and the database write it.

use std::{fmt, ops::Add, time::Duration};

/// Wall clock: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// From `earlier` to this moment; `None` when this moment is not later.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let millis = u64::try_from(self.0.checked_sub(earlier.0)?).ok()?;
        (millis > 0).then(|| Duration::from_millis(millis))
    }
}

impl WallTime {
    /// RFC 3339 in UTC, to the millisecond; far years as the plain number.
    pub fn exact(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{} ms since 1970", self.0),
        }
    }
}

impl Add<Duration> for WallTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// RFC 3339, seconds, UTC; far years as the plain number.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.0}"),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

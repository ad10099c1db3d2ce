//! The wall clock, and its moments as people read them. Only the edges read the clock: everything
//! else gets the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A moment for people: `2027-03-01 10:00:00 UTC`; of milliseconds since the Unix epoch.
pub(crate) fn moment(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "at no time that there is".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn a_moment_is_shown_to_the_second() {
        assert_eq!(moment(1_803_888_059_999), "2027-03-01 08:00:59 UTC");
        assert_eq!(moment(i64::MAX), "at no time that there is");
    }
}

//! The time of a report.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, ISOWeekDate, Weekday},
    tz::TimeZone,
};

/// From a moment to another one, which does not belong to it. Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first moment.
    pub from_ms: i64,
    /// The moment after the last.
    pub to_ms: i64,
}

/// `2026-W48`
pub(super) fn week(text: &str) -> Result<Period, String> {
    let wrong = || format!("{text:?} is no week; write it like 2026-W48");
    let (year, week) = text.split_once("-W").ok_or_else(wrong)?;
    let (year, week) = (year.parse().map_err(|_| wrong())?, week.parse().map_err(|_| wrong())?);
    let monday = ISOWeekDate::new(year, week, Weekday::Monday).map_err(|_| wrong())?;
    of_monday(monday.date())
}

/// The last whole week before this moment.
pub(super) fn last_week(now_ms: i64) -> Result<Period, String> {
    let now = Timestamp::from_millisecond(now_ms).map_err(|why| why.to_string())?;
    let today = now.to_zoned(TimeZone::UTC).date();
    let since = i64::from(today.weekday().to_monday_zero_offset());
    let monday = today.checked_sub((since + 7).days()).map_err(|why| why.to_string())?;
    of_monday(monday)
}

/// `2026-11-01`, or a moment as in RFC 3339.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    if let Ok(date) = text.parse::<Date>()
        && text.len() == 10
    {
        return begin(date);
    }
    let moment = text.parse::<Timestamp>();
    let moment = moment.map_err(|_| {
        format!("{text:?} is neither a day (2026-11-01) nor a moment (2026-11-01T12:00:00Z)")
    })?;
    Ok(moment.as_millisecond())
}

fn of_monday(monday: Date) -> Result<Period, String> {
    let next = monday.checked_add(7.days()).map_err(|why| why.to_string())?;
    Ok(Period { from_ms: begin(monday)?, to_ms: begin(next)? })
}

fn begin(date: Date) -> Result<i64, String> {
    let zoned = date.to_zoned(TimeZone::UTC).map_err(|why| why.to_string())?;
    Ok(zoned.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn a_week_begins_on_its_monday() {
        let first = moment("2026-11-23").unwrap();
        assert_eq!(week("2026-W48"), Ok(Period { from_ms: first, to_ms: first + 7 * DAY }));
        // The first week of a year may begin in the one before.
        assert_eq!(week("2026-W01").unwrap().from_ms, moment("2025-12-29").unwrap());
        for wrong in ["2026", "2026-W54", "W48", "2026-48", "x-Wy"] {
            assert!(week(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_whole_week_is_the_one_before_this_one() {
        let monday = moment("2026-11-23").unwrap();
        for now_ms in [monday + 7 * DAY, monday + 13 * DAY + 5] {
            assert_eq!(last_week(now_ms).unwrap().from_ms, monday);
        }
        assert_eq!(last_week(monday + 7 * DAY - 1).unwrap().to_ms, monday);
    }

    #[test]
    fn a_moment_is_a_day_or_has_its_hour() {
        let day = moment("2026-11-23").unwrap();
        assert_eq!(moment("2026-11-23T00:00:01Z"), Ok(day + 1000));
        assert!(moment("yesterday").is_err());
    }
}

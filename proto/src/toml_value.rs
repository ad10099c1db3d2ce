//! Checks of values in TOML files: durations, moments, prefix lengths. `key` names the value in
//! errors.

use std::time::Duration;

use jit_common::Family;

use crate::{WallTime, prefix::bits};

/// A duration as people write it: `90m`, `3h`, `1h30m`, `45s`. A second or more.
pub fn duration(key: &str, text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration >= Duration::from_secs(1))
        .ok_or_else(|| {
            let what = format!("{key}: {text:?} is not a duration of a second or more, like 3h");
            match duration_meant(text) {
                Some(right) => format!("{what}; write {right:?}"),
                None => what,
            }
        })
}

/// What was most likely meant. Days and weeks (`1d`, `P1D`) have no fixed length everywhere: they are
/// written in hours.
fn duration_meant(text: &str) -> Option<String> {
    let upper = text.trim().to_uppercase();
    let upper = upper.strip_prefix('P').unwrap_or(&upper);
    let number = upper.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let count: u32 = number.trim().parse().ok().filter(|count| *count > 0)?;
    let hours = match upper.get(number.len()..)? {
        "" => return Some(format!("{count}s")),
        "D" | "DAY" | "DAYS" => 24,
        "W" | "WEEK" | "WEEKS" => 168,
        _ => return None,
    };
    Some(format!("{}h", count.checked_mul(hours)?))
}

/// An RFC 3339 time.
pub fn moment(key: &str, text: Option<String>) -> Result<Option<WallTime>, String> {
    text.map(|text| {
        text.parse::<jiff::Timestamp>().map(|time| WallTime(time.as_millisecond())).map_err(
            |error| match text.trim().parse::<jiff::civil::Date>() {
                Ok(date) => format!(
                    "{key}: {text:?} is a day, and not a moment of it; write \"{date}T00:00:00Z\""
                ),
                Err(_) => format!(
                    "{key}: {text:?} is not a time like 2027-03-01T00:00:00Z (RFC 3339): {error}"
                ),
            },
        )
    })
    .transpose()
}

/// A prefix length, at most the bits of the family's addresses.
pub fn width(key: &str, value: Option<u8>, family: Family) -> Result<Option<u8>, String> {
    let most = bits(family);
    match value {
        Some(width) if width > most => Err(format!("{key}: {width} is more than {most}")),
        width => Ok(width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_no_moment() {
        let error = moment("until", Some("2027-06-30".into())).unwrap_err();
        assert!(error.ends_with("write \"2027-06-30T00:00:00Z\""), "{error}");
        let error = moment("until", Some("tomorrow".into())).unwrap_err();
        assert!(error.contains("\"tomorrow\" is not a time like"), "{error}");
    }

    #[test]
    fn days_are_refused_with_their_hours() {
        for (typed, right) in [
            ("1d", "write \"24h\""),
            ("P2D", "write \"48h\""),
            ("1 week", "write \"168h\""),
            ("3600", "write \"3600s\""),
        ] {
            let error = duration("max_duration", typed).unwrap_err();
            assert!(error.starts_with("max_duration: ") && error.ends_with(right), "{error}");
        }
        for typed in ["0d", "4000000000d", "d", "soon"] {
            let error = duration("max_duration", typed).unwrap_err();
            assert!(error.ends_with("like 3h"), "{error}");
        }
        assert_eq!(duration("max_duration", "90m"), Ok(Duration::from_secs(5400)));
    }
}

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
            match in_hours(text) {
                Some(right) => format!("{what}; write {right:?}"),
                None => what,
            }
        })
}

/// Days (`1d`, `P1D`), which have no fixed length everywhere, in hours.
fn in_hours(text: &str) -> Option<String> {
    let upper = text.to_uppercase();
    let days = upper.strip_prefix('P').unwrap_or(&upper).strip_suffix('D')?;
    let days: u32 = days.trim().parse().ok()?;
    Some(format!("{}h", days.checked_mul(24).filter(|hours| *hours > 0)?))
}

/// An RFC 3339 time.
pub fn moment(key: &str, text: Option<String>) -> Result<Option<WallTime>, String> {
    text.map(|text| {
        text.parse::<jiff::Timestamp>()
            .map(|time| WallTime(time.as_millisecond()))
            .map_err(|error| format!("{key}: {error}"))
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
    fn days_are_refused_with_their_hours() {
        for (typed, right) in [("1d", "write \"24h\""), ("P2D", "write \"48h\"")] {
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

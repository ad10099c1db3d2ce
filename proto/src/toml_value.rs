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
        .ok_or_else(|| format!("{key}: {text:?} is not a duration of a second or more, like 3h"))
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

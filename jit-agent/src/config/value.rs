//! Single values as people write them: lists, times, sizes, widths.

use std::{fmt, str::FromStr, time::Duration};

use jit_common::Family;

use crate::{prefix, rules::clock::WallTime};

/// A list that is either left out or not empty: an empty one would look like no limit.
pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
    key: &str,
    texts: Option<Vec<String>>,
) -> Result<Option<Vec<T>>, String> {
    let Some(texts) = texts else { return Ok(None) };
    if texts.is_empty() {
        return Err(format!("{key} is empty: that allows nothing; leave it out for no limit"));
    }
    each(key, &texts).map(Some)
}

pub(super) fn each<T: FromStr<Err: fmt::Display>>(
    key: &str,
    texts: &[String],
) -> Result<Vec<T>, String> {
    texts.iter().map(|text| text.parse().map_err(|error| format!("{key}: {error}"))).collect()
}

/// An RFC 3339 time.
pub(super) fn moment(key: &str, text: Option<String>) -> Result<Option<WallTime>, String> {
    text.map(|text| {
        text.parse::<jiff::Timestamp>()
            .map(|time| WallTime(time.as_millisecond()))
            .map_err(|error| format!("{key}: {error}"))
    })
    .transpose()
}

/// The widest prefix of a family.
pub(super) fn width(key: &str, value: Option<u8>, family: Family) -> Result<Option<u8>, String> {
    let most = prefix::bits(family);
    match value {
        Some(width) if width > most => Err(format!("{key}: {width} is more than {most}")),
        width => Ok(width),
    }
}

/// A size as people write it: `64KiB`, `32MiB`, `1GiB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(number.len()..)? {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// A duration as people write it: `90m`, `3h`, `1h30m`, `45s`.
pub(super) fn duration(key: &str, text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration >= Duration::from_secs(1))
        .ok_or_else(|| format!("{key}: {text:?} is not a duration of a second or more, like 3h"))
}

//! Durations as people write them: `8h`, `30m`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

pub(super) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}ms", duration.as_millis()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bad = || D::Error::custom(format!("`{text}` is not a duration such as 45s, 30m or 1h30m"));
    let span: Span = text.parse().map_err(|_| bad())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    Duration::try_from(signed).map_err(|_| bad())
}

//! Small texts: durations and moments as people write and read them, and standard output.

use std::{
    io::{ErrorKind, Write as _},
    time::Duration,
};

use jiff::{Span, SpanRelativeTo, Timestamp};
use jit_agent::printable::{clean, json_line, json_pretty};

use crate::failure::Failure;

/// Longest text of the agent that is shown, characters.
const MAX_TEXT: usize = 1000;

/// Writes to standard output. A reader that went away ends the command without an error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::output_closed(),
        _ => Failure::files(format!("cannot write to standard output: {error}")),
    })
}

/// Writes a JSON document and a newline to standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{}\n", json_line(value)))
}

/// The same on many lines.
pub(crate) fn print_pretty(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{}\n", json_pretty(value)))
}

/// Parses `90d`, `1h30m`, `45s`, `2h 5min`; a day is 24 hours. Zero and less are refused.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 45s, 30m, 1h30m or 90d");
    let span: Span = text.parse().map_err(|_| bad())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    match Duration::try_from(signed) {
        Ok(duration) if duration >= Duration::from_millis(1) => Ok(duration),
        _ => Err(format!("`{text}` is not longer than nothing")),
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
pub(crate) fn moment(milliseconds: i64) -> String {
    match Timestamp::from_millisecond(milliseconds) {
        Ok(timestamp) => timestamp.to_string(),
        Err(_) => format!("{milliseconds} ms since 1970"),
    }
}

/// `1h 30m`, `45s`, `250ms`; never more than two units.
pub(crate) fn duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{small_unit}"),
    };
    match seconds {
        0 => format!("{millis}ms"),
        1..60 if millis != 0 => format!("{seconds}.{millis:03}s"),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `3.2 ms`: how long something took.
pub(crate) fn took(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// A text from elsewhere, safe for a terminal.
pub(crate) fn printable(text: &str) -> String {
    clean(text, MAX_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in
            [("45s", 45), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("90d", 90 * 86_400)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "1", "h", "-1h", "0s", "1 fortnight", "1y", "99999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_in_two_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("1.500s", 1500),
            ("45s", 45_000),
            ("1m", 60_000),
            ("1h 30m", 5_400_000),
            ("2d 1h", 176_400_000),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("übung"), "übung");
    }
}

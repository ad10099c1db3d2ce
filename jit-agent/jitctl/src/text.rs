//! Durations and times as people write and read them, and standard output.

use std::{
    io::{ErrorKind, Write as _},
    time::Duration,
};

use jiff::{Span, SpanRelativeTo};
pub(crate) use jit_client::text::{duration, printable};
use jit_proto::{
    WallTime,
    printable::{json_line, json_pretty},
};

use crate::failure::Failure;

/// Writes to standard output. A reader that has closed it (`| head`) is not an error: the command
/// goes on without it, and its exit code means the same.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match follow(text) {
        Err(failure) if failure == Failure::output_closed() => Ok(()),
        other => other,
    }
}

/// The same for a command without an end of its own: it ends, without an error, when the reader
/// has closed standard output.
pub(crate) fn follow(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What became of a text on standard output.
pub(crate) fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::output_closed(),
        _ => Failure::files(format!("cannot write to standard output: {error}")),
    })
}

/// Writes a JSON document and a newline to standard output.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{}\n", json_line(value)))
}

/// As [`print_json`], on several lines.
pub(crate) fn print_pretty(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", json_pretty(value)))
}

/// Parses `90d`, `1h30m`, `45s`, `2h 5min`; a day is 24 hours. Zero and less are refused.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 45s, 30m, 1h30m or 90d");
    let span: Span = text.parse().map_err(|_| bad())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    match Duration::try_from(signed) {
        Ok(duration) if duration >= Duration::from_millis(1) => Ok(duration),
        _ => Err(format!("`{text}` is not longer than zero")),
    }
}

/// `env=prod`
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
pub(crate) fn moment(milliseconds: i64) -> String {
    WallTime(milliseconds).exact()
}

/// `3.2 ms`: how long something took.
pub(crate) fn took(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_name() {
        assert_eq!(parse_label("env = a=b"), Ok(("env".into(), "a=b".into())));
        assert_eq!(parse_label("env="), Ok(("env".into(), String::new())));
        for bad in ["", "env", "=prod"] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
    }

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
}

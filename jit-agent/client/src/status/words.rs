//! Words of text and JSON: a line, a time as JSON, thousands, the first of a list.

use std::fmt::Write as _;

use jit_proto::WallTime;
use serde_json::{Value, json};

/// Longest free text in a table, characters.
pub(super) const WIDTH: usize = 40;

/// RFC 3339, or null for zero.
pub(super) fn time(millis: i64) -> Value {
    if millis == 0 { Value::Null } else { json!(WallTime(millis).to_string()) }
}

pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 packet`, `12,345 packets`: for nouns that take an `s`.
pub(super) fn many(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _never = writeln!(out, "{text}");
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The first of a list, and the number of the others: `203.0.113.7 +1`.
pub(super) fn listed<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    match items {
        [] => "none".into(),
        [one] => text(one),
        [one, rest @ ..] => format!("{} +{}", text(one), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::words::duration;

    use super::*;

    #[test]
    fn durations_and_numbers_read_well() {
        for (millis, expected) in [
            (0, "0s"),
            (59_999, "59s"),
            (61_000, "1m01s"),
            (41 * 60_000, "41m"),
            (62 * 60_000, "1h02m"),
            (3 * 3_600_000, "3h"),
            (76 * 3_600_000, "3d04h"),
            (-5, "0s"),
        ] {
            assert_eq!(duration(millis), expected);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
    }
}

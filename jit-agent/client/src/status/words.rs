//! Helpers of text and JSON: a line, a time as JSON, thousands, the width of a column.

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

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _never = writeln!(out, "{text}");
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

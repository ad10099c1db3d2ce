//! Parses lists and sizes, and finds lines. Other values are in `jit_proto::toml_value`.

use std::{fmt, str::FromStr};

use jit_proto::wrong::Wrongs;

/// A list that is left out, or not empty: an empty one would look like no limit.
pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
    key: &str,
    texts: Option<Vec<String>>,
    at: impl Fn(String) -> String,
    wrongs: &mut Wrongs,
) -> Option<Vec<T>> {
    let texts = texts?;
    if texts.is_empty() {
        let what = format!("{key} is empty, which allows nothing; leave it out for no limit");
        wrongs.add(key, at(what));
    }
    Some(wrongs.each(key, &texts, at))
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

/// The number of the line with this byte, from 1.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

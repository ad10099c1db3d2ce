//! Texts from elsewhere, made safe for a terminal, a log and a line of JSON.
//!
//! It escapes control characters (newlines, ANSI escapes, C1 controls), and the characters that
//! change how the text beside them reads: bidirectional controls, line and paragraph separators,
//! and invisible letters. The list names each one, not "everything but ASCII": people's names stay
//! as they are written.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

/// Whether a letter must be escaped before it reaches a terminal.
pub fn is_hostile(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator: invisible, or reorder
            // text.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero width, joiners, left-to-right and right-to-left marks.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separator, bidirectional embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, bidirectional isolates.
            | '\u{2060}'..='\u{206f}'
            // Byte order mark, interlinear annotation, tags.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Whether a byte is an ASCII letter that is not hostile.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Text for a terminal: hostile letters escaped as in Rust (`\u{202e}`), cut after `most`
/// characters.
pub fn clean(text: &str, most: usize) -> String {
    if text.len() <= most && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    let mut out = String::new();
    for (count, letter) in text.chars().enumerate() {
        if count >= most {
            out.push('…');
            break;
        }
        if is_hostile(letter) {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

/// Text of several lines for a terminal, such as an error that quotes a file: hostile letters escaped,
/// newlines kept.
pub fn clean_lines(text: &str) -> String {
    text.split('\n').map(|line| clean(line, usize::MAX)).collect::<Vec<_>>().join("\n")
}

/// The same JSON, with hostile letters as `\u` and four hex digits: it reads back as the same value.
/// (JSON text has them only inside strings. Newlines between tokens, as pretty JSON has them, stay.)
pub fn escape_json(json: String) -> String {
    let hostile = |letter: char| is_hostile(letter) && letter != '\n';
    // A look at all bytes is quick, and most often enough.
    let plain = json.bytes().fold(true, |plain, byte| plain & (byte == b'\n' || is_plain(byte)));
    if plain || !json.contains(hostile) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 32);
    for letter in json.chars() {
        if hostile(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _never = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(letter);
        }
    }
    out
}

/// A JSON document on one line.
pub fn json_line(value: &Value) -> String {
    escape_json(value.to_string())
}

/// A JSON document on many lines.
pub fn json_pretty(value: &impl Serialize) -> String {
    escape_json(serde_json::to_string_pretty(value).expect("it is JSON"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_that_could_rewrite_a_screen_is_escaped_and_names_stay() {
        let text = "a\x1b[2J\r\n\u{9b}31m\u{202e}\u{2066}\u{200b}\u{2028}\u{e0041}\u{7f}b";
        let safe = clean(text, 1000);
        assert!(safe.is_ascii() && !safe.contains(char::is_control), "{safe}");
        assert_eq!(clean("Ana Müller 山田 Ωmega", 1000), "Ana Müller 山田 Ωmega");
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean_lines("a\x1b[2J\nb\r\n"), "a\\u{1b}[2J\nb\\r\n");
    }

    #[test]
    fn escaped_json_reads_back_as_the_same_value() {
        let value = json!({ "name": "x\u{1b}[31m\u{9b}\u{7f}\u{202e}\u{e0041}\n\"Müller\\\"" });
        for text in [json_line(&value), json_pretty(&value)] {
            assert!(!text.chars().any(|letter| is_hostile(letter) && letter != '\n'), "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
        assert!(!json_line(&value).contains('\n'));
        assert!(json_line(&value).contains("Müller"));
    }
}

//! A section as TOML that can be edited and pushed again. It has every key, and escapes every
//! character that could rewrite the screen.

use std::{fmt::Write as _, time::Duration};

use crate::{
    WallTime,
    printable::is_hostile,
    v1,
    words::{mode_word, protocol_word, sessions_word, source_text, terminates_word},
};

/// A `[[port]]` section with every key.
pub fn to_toml(port: &v1::PolicyPort) -> String {
    let range = port.range.unwrap_or_default();
    let number = match range.first == range.last {
        true => range.first.to_string(),
        false => format!("\"{}-{}\"", range.first, range.last),
    };
    let sources: Vec<_> = port.sources.iter().map(|source| quoted(&source_text(source))).collect();
    let mut out = String::from("[[port]]\n");
    let mut key = |key: &str, value: String| {
        // Writing to a string does not fail.
        let _never = writeln!(out, "{key} = {value}");
    };
    key("port", number);
    key("protocol", quoted(protocol_word(range.protocol())));
    key("mode", quoted(mode_word(port.mode())));
    key("sources", format!("[{}]", sources.join(", ")));
    key("widest_v4", port.widest_v4().to_string());
    key("widest_v6", port.widest_v6().to_string());
    key("max_duration", quoted(&duration(port.max_duration_ms)));
    key("approvals", port.approvals.to_string());
    key("sessions", quoted(sessions_word(port.sessions())));
    key("terminates", quoted(terminates_word(port.terminates())));
    if !port.exemptions.is_empty() {
        let lines: Vec<_> = port.exemptions.iter().map(exemption).collect();
        key("exempt", format!("[\n    {},\n]", lines.join(",\n    ")));
    }
    out
}

fn exemption(exemption: &v1::Exemption) -> String {
    let v1::Exemption { source, reason, owner, until_ms } = exemption;
    let source = source.as_ref().map(source_text).unwrap_or_default();
    let until = match until_ms {
        0 => String::new(),
        until => format!(", until = {}", quoted(&WallTime(*until).exact())),
    };
    format!(
        "{{ source = {}, reason = {}, owner = {}{until} }}",
        quoted(&source),
        quoted(reason),
        quoted(owner)
    )
}

/// A TOML basic string on one line; hostile letters are escaped.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if is_hostile(letter) => {
                let _never = write!(out, "\\U{:08X}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// `3h`, `1h30m`, `45s`: exact, as the configuration reads it.
fn duration(milliseconds: i64) -> String {
    let seconds = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)).as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::PolicyFile;

    #[test]
    fn a_shown_policy_reads_back_as_the_same_policy() {
        let text = r#"
            [[port]]
            port = 22
            protocol = "tcp"
            sources = ["203.0.113.7", "10.0.0.0/8", "::/0"]
            max_duration = "1h1s"
            [[port]]
            port = "5985-5986"
            protocol = "udp"
            mode = "observe"
            sources = ["0.0.0.0/0"]
            widest_v4 = 0
            sessions = "cut"
            terminates = "forwarded"
            exempt = [{ source = "10.0.0.5", reason = "a \"probe\" \\ \u001b[2J", owner = "\U000E0041x", until = "2030-01-01T00:00:00Z" },
                      { source = "10.0.1.0/24", reason = "r", owner = "o" }]
        "#;
        let file: PolicyFile = text.parse().unwrap();
        let shown: String =
            file.sections.iter().map(|section| to_toml(&v1::PolicyPort::from(section))).collect();
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert_eq!(shown.parse::<PolicyFile>().as_ref(), Ok(&file), "{shown}");
    }
}

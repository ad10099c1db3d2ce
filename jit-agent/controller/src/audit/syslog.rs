//! A record as a message of syslog (RFC 5424). Over TLS each has its length in front (RFC 5425, section
//! 4.3).

use super::{
    Code, Line,
    ocsf::{Severity, severity_of},
};

/// `log audit` (RFC 5424, section 6.2.1).
const FACILITY: u8 = 13;
/// The number for examples (RFC 5612): this project has none of its own.
const STRUCTURE: &str = "jit@32473";
const PROGRAM: &str = "jit-controller";

/// The message, without its length. `text`: the record in some form.
pub fn message(line: &Line, host: &str, text: &str) -> String {
    let code = Code::of_id(&line.code);
    let severity = match code.map_or(Severity::Informational, severity_of) {
        Severity::Informational => 6,
        Severity::Medium => 4,
        Severity::High => 1,
    };
    let priority = FACILITY * 8 + severity;
    let time = jit_proto::WallTime(line.time_ms).exact();
    let (host, id) = (name(host, 255), name(&line.code, 32));
    let request = match line.request.as_str() {
        "" => String::new(),
        request => format!(" request=\"{}\"", parameter(request)),
    };
    format!(
        "<{priority}>1 {time} {host} {PROGRAM} - {id} [{STRUCTURE} seq=\"{}\"{request}] {text}",
        line.seq
    )
}

/// The message with its length in front, as it goes over TLS.
pub fn frame(line: &Line, host: &str, text: &str) -> Vec<u8> {
    let message = message(line, host, text);
    format!("{} {message}", message.len()).into_bytes()
}

/// A name in the head: visible ASCII only, `-` for none.
fn name(text: &str, most: usize) -> String {
    let name: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if name.is_empty() { "-".into() } else { name }
}

/// The value of a parameter (RFC 5424, section 6.3.3).
fn parameter(text: &str) -> String {
    let escaped = |letter: char| {
        let escape = matches!(letter, '"' | '\\' | ']').then_some('\\');
        escape.into_iter().chain([letter])
    };
    text.chars().flat_map(escaped).collect()
}

/// The name of this machine.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_form_of_the_standard() {
        let line = Line {
            seq: 7,
            time_ms: 1_803_888_000_000,
            code: "R014".into(),
            request: "a\"]\\b".into(),
            hash: String::new(),
            line: "{\"by\":\"ünal\"}".into(),
        };
        let said = message(&line, "ctl 1\n", &line.line);
        let time = jit_proto::WallTime(line.time_ms).exact();
        assert_eq!(
            said,
            format!(
                "<108>1 {time} ctl1 jit-controller - R014 [jit@32473 seq=\"7\" \
                 request=\"a\\\"\\]\\\\b\"] {{\"by\":\"ünal\"}}"
            )
        );
        let framed = frame(&line, "", &line.line);
        let text = String::from_utf8(framed).unwrap();
        let (length, rest) = text.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), rest.len());
        assert!(rest.contains(" - jit-controller - "), "{rest}");
    }
}

//! Durations as text, and an agent's texts made safe for a terminal.

use std::time::Duration;

use jit_proto::printable::clean;

/// Longest text from an agent that is shown, characters.
const MAX_TEXT: usize = 1000;

/// `1h 30m`, `45s`, `250ms`; never more than two units.
pub fn duration(duration: Duration) -> String {
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

/// A text from an agent or a file, made safe for a terminal and cut to 1000 characters.
pub fn printable(text: &str) -> String {
    clean(text, MAX_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

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

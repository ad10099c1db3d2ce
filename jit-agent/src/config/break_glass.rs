//! `[break_glass]`: what root on the host may open without a grant.

use std::time::Duration;

use jit_proto::toml_value::duration;

use crate::config::raw;

/// The longest opening where the file does not set it.
const DEFAULT: Duration = Duration::from_secs(3600);
/// The most that the file may allow.
const MOST: Duration = Duration::from_secs(24 * 3600);
/// The value that allows none.
const OFF: &str = "off";

/// The longest opening; `None`: root may open nothing.
pub(super) fn longest(raw: raw::BreakGlass) -> Result<Option<Duration>, String> {
    let raw::BreakGlass { max_duration } = raw;
    let key = "[break_glass] max_duration";
    match max_duration.as_deref() {
        None => Ok(Some(DEFAULT)),
        Some(OFF) => Ok(None),
        Some(text) => match duration(key, text)? {
            longest if longest <= MOST => Ok(Some(longest)),
            _ => Err(format!("{key}: {text:?} is longer than 24h, the most that root may open")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_unless_the_file_says_less_or_more_or_off() {
        let of =
            |text: Option<&str>| longest(raw::BreakGlass { max_duration: text.map(Into::into) });
        assert_eq!(of(None), Ok(Some(DEFAULT)));
        assert_eq!(of(Some("24h")), Ok(Some(MOST)));
        assert_eq!(of(Some("5m")), Ok(Some(Duration::from_secs(300))));
        assert_eq!(of(Some("off")), Ok(None));
        for bad in ["25h", "0s", "soon", ""] {
            assert!(of(Some(bad)).unwrap_err().contains("[break_glass] max_duration"), "{bad}");
        }
    }
}

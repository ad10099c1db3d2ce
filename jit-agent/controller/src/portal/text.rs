//! Moments and addresses, as pages show them.

use std::fmt;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use jit_proto::{WallTime, words};

use crate::{api::Failure, clock};

/// A moment, milliseconds since the Unix epoch: for people by `Display`.
#[derive(Clone, Copy)]
pub(super) struct When(pub(super) i64);

impl When {
    /// For browsers, in the attribute `datetime`: RFC 3339, UTC.
    pub(super) fn exact(self) -> String {
        WallTime(self.0).to_string()
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clock::moment(self.0))
    }
}

/// A moment, and how long ago it is.
pub(super) struct Moment {
    pub(super) at: When,
    /// `5m ago`
    pub(super) ago: String,
}

impl Moment {
    /// `None`: it never was.
    pub(super) fn of(at_ms: i64, now_ms: i64) -> Option<Self> {
        if at_ms == 0 {
            return None;
        }
        let ago = match now_ms.saturating_sub(at_ms) {
            ..1000 => "just now".to_owned(),
            millis => format!("{} ago", words::duration(millis)),
        };
        Some(Self { at: When(at_ms), ago })
    }
}

/// A moment that somebody wrote, UTC: RFC 3339, as a field for a date and a time gives it, or a
/// day.
///
/// # Errors
/// It is none of them.
pub(super) fn moment_ms(field: &str, text: &str) -> Result<Option<i64>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let civil = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    let moment = text.parse::<Timestamp>().ok();
    let moment = moment.or_else(|| civil().map(|zoned| zoned.timestamp()));
    let moment = moment.ok_or_else(|| {
        let why = format!("{text:?} is no time such as 2027-03-01T10:00:00 (UTC)");
        Failure::field(field, why)
    });
    Ok(Some(moment?.as_millisecond()))
}

/// A part of a path.
pub(super) fn segment(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// A path with these parameters; empty ones are left out.
pub(super) fn address(path: &str, parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_stay_parts_of_an_address() {
        assert_eq!(segment("a/b ?#\"<ü"), "a%2Fb%20%3F%23%22%3C%C3%BC");
        assert_eq!(address("/hosts", &[("q", "a&b=c"), ("after", "")]), "/hosts?q=a%26b%3Dc");
        assert_eq!(address("/hosts", &[("q", "")]), "/hosts");
    }

    #[test]
    fn a_moment_is_read_as_browsers_and_people_write_it() {
        for text in
            ["1970-01-02T00:00:00Z", "1970-01-02T01:00:00+01:00", "1970-01-02T00:00", "1970-01-02"]
        {
            assert_eq!(moment_ms("at", text).unwrap(), Some(86_400_000), "{text}");
        }
        assert_eq!(moment_ms("at", "").unwrap(), None);
        assert_eq!(moment_ms("at", "noon").unwrap_err().parts().field, "at");
    }

    #[test]
    fn a_moment_says_how_long_ago_it_was() {
        assert!(Moment::of(0, 5).is_none());
        let of = |now_ms| Moment::of(1000, now_ms).map(|moment| moment.ago);
        assert_eq!(of(1500).as_deref(), Some("just now"));
        assert_eq!(of(500).as_deref(), Some("just now"));
        assert_eq!(of(61_000).as_deref(), Some("1m00s ago"));
    }
}

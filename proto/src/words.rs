//! The contract's messages as text: ids, sources, ports, words, durations.

use std::{fmt::Display, time::Duration};

use crate::{GrantId, SourcePrefix, v1};

/// A grant's id as a ULID; hex digits when it does not have 16 bytes.
pub fn id_text(id: &[u8]) -> String {
    GrantId::from_bytes(id).map_or_else(|| hex::encode(id), |id| id.to_string())
}

/// `22/tcp, 5985-5986/tcp`.
pub fn ranges_text(ranges: &[v1::PortRange]) -> String {
    ranges.iter().map(|range| range_text(Some(range))).collect::<Vec<_>>().join(", ")
}

/// `22/tcp`, `5985-5986/tcp`; `?` for none.
pub fn range_text(range: Option<&v1::PortRange>) -> String {
    let Some(range) = range else { return "?".into() };
    let protocol = protocol_word(range.protocol());
    if range.first == range.last {
        format!("{}/{protocol}", range.first)
    } else {
        format!("{}-{}/{protocol}", range.first, range.last)
    }
}

/// `203.0.113.7`, `2001:db8::/32`.
pub fn source_text(source: &v1::Source) -> String {
    SourcePrefix::try_from(source)
        .map_or_else(|_| hex::encode(&source.address), |prefix| prefix.to_string())
}

/// An address of 4 or 16 bytes as text; hex digits for any other length.
pub fn address_text(bytes: &[u8]) -> String {
    let length = u32::try_from(bytes.len() * 8).unwrap_or(0);
    source_text(&v1::Source { address: bytes.to_vec().into(), prefix_length: length })
}

/// The configuration's word for a protocol.
pub const fn protocol_word(protocol: v1::Protocol) -> &'static str {
    match protocol {
        v1::Protocol::Tcp => "tcp",
        v1::Protocol::Udp => "udp",
        v1::Protocol::Unspecified => "?",
    }
}

/// The configuration's word for what happens to sessions.
pub const fn sessions_word(sessions: v1::Sessions) -> &'static str {
    match sessions {
        v1::Sessions::Cut => "cut",
        v1::Sessions::Drain => "drain",
        v1::Sessions::Unspecified => "?",
    }
}

/// `1 session`, `2 sessions`: for nouns that take an `s`.
pub fn counted<N: Display + From<u8> + PartialEq>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// As [`duration`], from a [`Duration`].
pub fn duration_text(time: Duration) -> String {
    duration(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds in two units at most: `41m`, `1h02m`, `3d04h`.
pub fn duration(millis: i64) -> String {
    let seconds = Duration::from_millis(u64::try_from(millis).unwrap_or(0)).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) if minutes < 10 => format!("{minutes}m{:02}s", seconds % 60),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, 0) => format!("{hours}h"),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, 0, _) => format!("{days}d"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

/// The configuration's word for a mode.
pub const fn mode_word(mode: v1::Mode) -> &'static str {
    match mode {
        v1::Mode::Enforce => "enforce",
        v1::Mode::Observe => "observe",
        v1::Mode::Unspecified => "?",
    }
}

/// The configuration's word for where sessions end: on this host, or forwarded.
pub const fn terminates_word(place: v1::Terminates) -> &'static str {
    match place {
        v1::Terminates::Forwarded => "forwarded",
        v1::Terminates::Host => "host",
        v1::Terminates::Unspecified => "?",
    }
}

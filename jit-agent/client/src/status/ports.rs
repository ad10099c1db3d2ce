//! The protected ports and their exemptions.

use jit_proto::{
    WallTime,
    printable::clean,
    v1,
    words::{self, duration, range_text, sessions_word, source_text},
};

use super::{
    RED, YELLOW,
    layout::Piece,
    words::{WIDTH, now_ms},
};

/// `22/tcp enforce drain <=3h  from 4 sources, 2 approvals, exempt 3`.
pub(super) fn piece(port: &v1::Port, now: i64) -> Piece {
    let most = match port.max_duration_ms {
        0 => String::new(),
        most => format!(" <={}", duration(most)),
    };
    let forwarded = if port.terminates == "forwarded" { " forwarded" } else { "" };
    let mode = clean(&port.mode, 20);
    let range = range_text(port.range.as_ref());
    let mut text = format!("{range} {mode} {}{forwarded}{most}", sessions_word(port.sessions()));
    let live = port.exemptions.iter().filter(|one| one.until_ms == 0 || one.until_ms > now);
    let details: Vec<_> = [
        counted(port.sources_allowed, "source").map(|sources| format!("from {sources}")),
        counted(port.approvals, "approval"),
        Some(live.count()).filter(|live| *live > 0).map(|live| format!("exempt {live}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !details.is_empty() {
        text = format!("{text}  {}", details.join(", "));
    }
    match (port.open_to_all, mode.as_str()) {
        (true, _) => Piece::coloured(format!("{text} OPEN TO ALL"), RED),
        (false, "observe") => Piece::coloured(text, YELLOW),
        (false, _) => Piece::plain(text),
    }
}

fn counted(number: u32, noun: &str) -> Option<String> {
    (number > 0).then(|| words::counted(number, noun))
}

/// Each exemption on a line, with its port.
pub(super) fn exemptions(ports: &[v1::Port]) -> impl Iterator<Item = String> {
    ports.iter().flat_map(|port| {
        port.exemptions.iter().map(|exemption| {
            format!("{} {}", range_text(port.range.as_ref()), exemption_text(exemption))
        })
    })
}

/// An exemption on one line: source, reason, owner, end.
pub fn exemption_text(exemption: &v1::Exemption) -> String {
    let v1::Exemption { source, reason, owner, until_ms } = exemption;
    let source = source.as_ref().map_or_else(|| "?".into(), source_text);
    let until = match until_ms {
        0 => String::new(),
        until if *until <= now_ms() => format!(", ended {}", WallTime(*until)),
        until => format!(", until {}", WallTime(*until)),
    };
    let reason = clean(reason, WIDTH);
    // The kernel's tables do not hold the owner.
    if owner.is_empty() {
        return format!("{source}  {reason}{until}");
    }
    format!("{source}  {reason} (owner {}{until})", clean(owner, WIDTH))
}

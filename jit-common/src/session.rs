//! Which established sessions go on, by the entries in the grant tables for their source.

use crate::{
    GrantEntry, PortRule,
    grant_entry::{limited, unlimited},
};

/// State of the session that a segment's 4-tuple belongs to, on this host: a TCP session, or a
/// connected UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// No session, or only a listening socket or a half-open request (LISTEN, NEW_SYN_RECV), which
    /// a grant has not let in completely.
    None,
    /// Any later state.
    Established,
}

/// Whether an established session of a source has ended: no grant covers the source any more, and
/// the port or the last grant of the source cuts sessions. [`crate::decide`] gives the same answer
/// for the session's segments. This is for callers that have the socket and no segment.
pub fn session_has_ended(
    host: Option<&GrantEntry>,
    prefix: Option<&GrantEntry>,
    rule: PortRule,
    now: u64,
) -> bool {
    let live = |entry| unlimited(entry, now).or(limited(entry, now)).is_some();
    let drain = rule.drain != 0 && !ends_cut(host, prefix);
    !live(host) && !live(prefix) && !drain
}

/// Whether the last grant of the source cuts its sessions. They are then cut from its deadline on,
/// for as long as its entry stands.
#[inline(always)]
pub(crate) fn ends_cut(host: Option<&GrantEntry>, prefix: Option<&GrantEntry>) -> bool {
    let (host_end, host_cut) = last_claim(host);
    let (prefix_end, prefix_cut) = last_claim(prefix);
    if prefix_end > host_end { prefix_cut } else { host_cut }
}

/// Deadline of the claim that lasts longest, and whether its sessions are cut.
#[inline(always)]
fn last_claim(entry: Option<&GrantEntry>) -> (u64, bool) {
    let Some(GrantEntry { unlimited, limited }) = entry else {
        return (0, false);
    };
    let last = if limited.deadline > unlimited.deadline { limited } else { unlimited };
    (last.deadline, last.deadline != 0 && last.cut != 0)
}

//! What `status` says of the socket guard. `socket_guard` loads and attaches it.

use jit_proto::WallTime;

use crate::{kernel::datapath::state::LinkChange, rules::problem::ProblemKind};

/// The guard's name in messages about problems.
pub const NAME: &str = "the socket guard";

/// The socket guard, and whether it is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardState {
    /// The configuration wants it.
    pub wanted: bool,
    /// The kernel says that our program is on this network namespace.
    pub attached: bool,
    /// Wall time at which it was attached.
    pub since: Option<WallTime>,
    /// Why it is not in force, or another note about it.
    pub note: String,
    /// Another version's guard is in force in its place. Nobody fills its tables, which have these
    /// layouts.
    pub held_by: Option<u32>,
    /// Ids of other programs that the kernel asks for the same look-ups.
    pub others: Vec<u32>,
    /// What happened to it since it was last looked at, in this order.
    pub changes: Vec<LinkChange>,
}

impl GuardState {
    /// Why the wanted guard is not in force, or not alone: a stable name, and the text.
    pub fn problem(&self) -> Option<(ProblemKind, String)> {
        if !self.wanted {
            return None;
        }
        if !self.attached {
            let note = &self.note;
            let text = match self.held_by {
                Some(version) => format!(
                    "{NAME} is not in force: {note}: that of another version (layouts {version}) \
                     holds, which knows only the grants from before this one's start and refuses \
                     all newer ones; go back to that version, or take it off with `[gate] \
                     socket_guard = false` and a reload"
                ),
                None => format!(
                    "{NAME} is not in force: {note}: what comes by a tunnel, a port redirect or an \
                     interface without a gate is not stopped"
                ),
            };
            return Some((ProblemKind::SocketGuard, text));
        }
        let ids: Vec<_> = self.others.iter().map(u32::to_string).collect();
        (!ids.is_empty()).then(|| {
            let text = format!(
                "beside {NAME} the kernel asks other programs where a connection goes (sk_lookup, \
                 id {}): one that selects a socket is followed, whatever the guard says, and what \
                 comes so by a tunnel, a port redirect or an interface without a gate is not \
                 stopped; `bpftool prog show` names their owners",
                ids.join(", ")
            );
            (ProblemKind::SocketGuardOverruled, text)
        })
    }
}

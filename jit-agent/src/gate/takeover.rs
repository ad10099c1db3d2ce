//! During an upgrade two gates may count one grant. Ours lets in no connection of such a grant until
//! the old gate is gone. So both together never exceed the limit.

use std::collections::BTreeMap;

use jit_proto::GrantId;

use crate::{
    gate::Gate,
    kernel::datapath::{Datapath, Elsewhere},
    rules::clock::Now,
};

/// A grant that the tables of another version count.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) slot: u32,
    pub(super) generation: u32,
    /// Connections before those.
    pub(super) before: u64,
    /// How many of them are known.
    hits: u64,
    /// Our own tables let in none.
    held: bool,
}

/// Result of a look at the other version's tables.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// Connections that were not known.
    more: u64,
    /// Our tables get the rest of the limit.
    give: bool,
    /// The other tables are gone.
    gone: bool,
}

impl Carried {
    pub(super) const fn new(slot: u32, generation: u32, before: u64, hits: u64) -> Self {
        Self { slot, generation, before, hits, held: true }
    }

    /// Number of all known connections.
    pub(super) const fn counted(&self) -> u64 {
        self.before.saturating_add(self.hits)
    }

    /// Notes the count of those tables. `None`: they have none.
    fn look(&mut self, elsewhere: Elsewhere) -> Option<Look> {
        let counted = match elsewhere {
            Elsewhere::Counted(hits) => hits,
            Elsewhere::Nowhere => self.hits,
            Elsewhere::Unknown => return None,
        };
        let more = counted.saturating_sub(self.hits);
        self.hits = counted;
        let gone = elsewhere == Elsewhere::Nowhere;
        Some(Look { more, give: more > 0 || self.held, gone })
    }
}

/// All such grants.
#[derive(Debug, Default)]
pub(super) struct Takeover(BTreeMap<GrantId, Carried>);

impl Takeover {
    pub(super) fn add(&mut self, id: GrantId, carried: Carried) {
        self.0.insert(id, carried);
    }

    pub(super) fn of(&self, id: GrantId) -> Option<&Carried> {
        self.0.get(&id)
    }
}

impl<D: Datapath> Gate<D> {
    /// Takes over the connections that another version's gate let in since the last look. The rest
    /// of each limit may be used from now on. When those tables are gone, the disk is updated with
    /// the place of the count. Called only when our gate has replaced the other.
    pub(super) fn count_carried(&mut self, now: Now) {
        if self.takeover.0.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.takeover.0);
        all.retain(|id, carried| {
            let elsewhere = self.datapath.elsewhere(carried.slot, carried.generation);
            let Some(Look { more, give, gone }) = carried.look(elsewhere) else { return true };
            if give {
                carried.held = !self.count_more(*id, more, now);
            }
            let has_ended = gone && !carried.held;
            if has_ended {
                self.outbox.progress(*id);
            }
            !has_ended
        });
        self.takeover.0 = all;
        if self.takeover.0.is_empty() {
            self.settle_or_log(now);
        }
    }

    /// Whether the kernel has the rest of the limit.
    fn count_more(&mut self, id: GrantId, more: u64, now: Now) -> bool {
        let limit = self.ledger.count_elsewhere(id, more);
        let slot = self.ledger.grant(id).and_then(|held| held.stage.slot());
        let (Some(slot), Some(limit)) = (slot, limit) else { return true };
        if let Err(error) = self.datapath.set_limit(slot, limit) {
            tracing::error!(grant = %id, "what another version counted of it: {error}");
            return false;
        }
        self.count(slot, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_gate_let_in_is_counted_once() {
        let mut carried = Carried::new(1, 1, 3, 2);
        assert_eq!(carried.counted(), 5);
        let look = carried.look(Elsewhere::Counted(6));
        assert_eq!(look, Some(Look { more: 4, give: true, gone: false }));
        carried.held = false;
        let look = carried.look(Elsewhere::Counted(6));
        assert_eq!(look, Some(Look { more: 0, give: false, gone: false }));
        let look = carried.look(Elsewhere::Nowhere);
        assert_eq!(look, Some(Look { more: 0, give: false, gone: true }));
    }

    #[test]
    fn tables_that_cannot_be_read_change_nothing() {
        let mut carried = Carried::new(1, 1, 0, 2);
        assert_eq!(carried.look(Elsewhere::Unknown), None);
        assert_eq!(carried.counted(), 2);
    }
}

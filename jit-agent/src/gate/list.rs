//! Lists grants, oldest first, for `list` and `status`.

use jit_proto::{GrantId, WallTime, v1};

use crate::{
    gate::Gate,
    kernel::datapath::Datapath,
    rules::{
        clock::Now,
        ledger::{HeldGrant, Stage},
        refusal::Refused,
    },
};

/// When a grant was issued, and its id: the order of a list.
pub(super) type Age = (WallTime, GrantId);
/// A grant of a list. Its message stays encoded, as it was signed.
pub(super) type Listed = (Age, v1::GrantState);

impl<D: Datapath> Gate<D> {
    /// Grants, oldest first.
    pub fn list(&self, ended: bool, now: Now) -> Vec<v1::GrantState> {
        let ids: Vec<_> = self.grant_ids().into_iter().map(|(_, id)| id).collect();
        let mut grants = self.grant_states(&ids, now);
        if ended {
            grants.extend(self.ended_states(now));
        }
        oldest_first(grants)
    }

    /// The live and scheduled grants, in no order.
    pub(super) fn grant_ids(&self) -> Vec<Age> {
        self.ledger.grants().map(age).collect()
    }

    /// Those of these grants that are still there.
    pub(super) fn grant_states(&self, ids: &[GrantId], now: Now) -> Vec<Listed> {
        let held: Vec<_> = ids.iter().filter_map(|id| self.ledger.grant(*id)).collect();
        let slots: Vec<_> = held.iter().filter_map(|held| held.stage.slot()).collect();
        let mut counts = self.datapath.slots(&slots).into_iter();
        let mut state = |held: &HeldGrant| {
            let counted = held.stage.slot().and_then(|_| counts.next()).unwrap_or_default();
            grant_state(held, counted.hits, self.outside(held), now)
        };
        held.into_iter().map(|held| (age(held), state(held))).collect()
    }

    /// A grant that is held or has ended.
    pub(super) fn state_of(&self, held: &HeldGrant, now: Now) -> v1::GrantState {
        let counted = held.stage.slot().map_or(0, |slot| self.datapath.slot(slot).hits);
        grant_state(held, counted, self.outside(held), now)
    }

    /// The grants that have ended lately.
    pub(super) fn ended_states(&self, now: Now) -> Vec<Listed> {
        let state = |held| grant_state(held, 0, None, now);
        self.ledger.ended().map(|held| (age(held), state(held))).collect()
    }
}

/// `counted`: connections in its slot.
fn grant_state(
    held: &HeldGrant,
    counted: u64,
    outside: Option<&Refused>,
    now: Now,
) -> v1::GrantState {
    let HeldGrant { grant, stage, hits } = held;
    let counted = hits.saturating_add(counted);
    let (state, left, hits) = match stage {
        Stage::Active { deadline, .. } => (v1::State::Active, now.until(*deadline), counted),
        Stage::Exhausted { deadline, .. } => (v1::State::Exhausted, now.until(*deadline), counted),
        Stage::Replaced => (v1::State::Replaced, Default::default(), *hits),
        Stage::Expired => (v1::State::Expired, Default::default(), *hits),
        Stage::Revoked => (v1::State::Revoked, Default::default(), *hits),
        Stage::Scheduled { .. } => {
            (v1::State::Scheduled, grant.not_after().since(now.wall).unwrap_or_default(), 0)
        }
    };
    v1::GrantState {
        grant: grant.payload().to_vec().into(),
        state: state.into(),
        signers: grant.signers().to_vec(),
        left_ms: i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
        hits,
        outside: outside.map(ToString::to_string).unwrap_or_default(),
    }
}

fn age(held: &HeldGrant) -> Age {
    (held.grant.issued_at(), held.grant.id())
}

pub(super) fn oldest_first(mut grants: Vec<Listed>) -> Vec<v1::GrantState> {
    grants.sort_by_key(|(age, _)| *age);
    grants.into_iter().map(|(_, state)| state).collect()
}

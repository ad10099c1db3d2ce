//! Open grants that the configuration in force would refuse: it became narrower after they opened.
//! They stay until their end, and `status` shows them until somebody ends them.

use std::collections::BTreeMap;

use jit_proto::GrantId;

use crate::{
    gate::Gate,
    kernel::datapath::Datapath,
    rules::{
        ledger::{HeldGrant, Stage},
        refusal::Refused,
    },
};

/// Open grants that would be refused now, and why. Some may have ended since.
pub(super) type Outside = BTreeMap<GrantId, Refused>;

impl<D: Datapath> Gate<D> {
    /// Looks for open grants that the policy in force, or the keys, would refuse. Called whenever one
    /// of them has changed.
    pub(in crate::gate) fn note_outside(&mut self) {
        let judge = |held: &HeldGrant| {
            held.stage.deadline()?;
            let refused = self.config.policy.check_open(&held.grant, &self.config.keyring).err()?;
            Some((held.grant.id(), refused))
        };
        self.policies.outside = self.ledger.grants().filter_map(judge).collect();
    }

    /// Why an open grant would be refused now.
    pub(in crate::gate) fn outside(&self, held: &HeldGrant) -> Option<&Refused> {
        let open = matches!(held.stage, Stage::Active { .. } | Stage::Exhausted { .. });
        self.policies.outside.get(&held.grant.id()).filter(|_| open)
    }

    /// The open grants that would be refused now.
    pub(super) fn ids_outside(&self) -> impl Iterator<Item = GrantId> + '_ {
        let open = |id: &&GrantId| {
            self.ledger.grant(**id).is_some_and(|held| self.outside(held).is_some())
        };
        self.policies.outside.keys().filter(open).copied()
    }

    /// What is wrong with them, for `status`.
    pub(in crate::gate) fn outside_problem(&self) -> Option<String> {
        let first = self.ids_outside().next()?;
        let refused = self.policies.outside.get(&first)?;
        let (count, verb) = match self.ids_outside().count() {
            1 => ("1 open grant is".to_owned(), "it stays until its end"),
            count => (format!("{count} open grants are"), "they stay until their end"),
        };
        Some(format!(
            "{count} outside the present configuration ({first}: {refused}): {verb}; \
             `jit-agent grants --end-outside` ends what is outside"
        ))
    }
}

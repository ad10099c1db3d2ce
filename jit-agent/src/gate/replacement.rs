//! Who may end a grant by a grant that replaces it: whoever may open the whole of it, or revoke.
//!
//! The keys answer for what they may open. The permission to revoke is the controller's, and is
//! known only while the grant is pushed. After a restart a scheduled grant counts as permitted: it
//! was checked when it was admitted.

use std::collections::HashSet;

use jit_proto::GrantId;

use crate::{
    gate::Gate,
    kernel::datapath::Datapath,
    rules::{
        clock::Now,
        grant::VerifiedGrant,
        ledger::{HeldGrant, Stage},
        refusal::Refused,
    },
};

/// A controller that pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pusher {
    /// Its name.
    pub name: String,
    /// Whether it may also revoke.
    pub may_revoke: bool,
}

impl From<&str> for Pusher {
    /// A controller that may only push.
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), may_revoke: false }
    }
}

/// Scheduled grants of this run that replace another one, pushed by controllers that may not revoke.
#[derive(Debug, Default)]
pub(super) struct Replacements(HashSet<GrantId>);

impl<D: Datapath> Gate<D> {
    /// Whether a new grant may end the one that it replaces. Returns a warning if that one is not
    /// held here; empty: it is, or there is none.
    pub(super) fn check_replaced(
        &self,
        grant: &VerifiedGrant,
        by: &Pusher,
        now: Now,
    ) -> Result<String, Refused> {
        let Some(old) = grant.replaces().filter(|_| self.ledger.grant(grant.id()).is_none()) else {
            return Ok(String::new());
        };
        let Some(held) = self.ledger.grant(old) else {
            let seen = self.ledger.has_ended(old);
            let what = if seen { "has ended before" } else { "is not known on this host" };
            return Ok(format!("{old}, which it replaces, {what}"));
        };
        if !by.may_revoke {
            self.may_open(grant, held, now)?;
        }
        Ok(String::new())
    }

    /// Notes that a scheduled grant is checked again when it begins: the keys may have changed, and
    /// the grant that it replaces may only come later.
    pub(super) fn check_replaced_later(&mut self, id: GrantId, by: &Pusher) {
        let scheduled = self.ledger.grant(id).filter(|held| {
            matches!(held.stage, Stage::Scheduled { .. }) && held.grant.replaces().is_some()
        });
        if scheduled.is_some() && !by.may_revoke {
            self.replacements.0.insert(id);
        }
    }

    /// Why a scheduled grant may not end the one that it replaces.
    pub(super) fn replacement_refused(&self, held: &HeldGrant, now: Now) -> Option<Refused> {
        let old = self.ledger.grant(held.grant.replaces()?)?;
        self.replacements.0.get(&held.grant.id())?;
        self.may_open(&held.grant, old, now).err()
    }

    /// Forgets grants that have begun or ended.
    pub(super) fn sweep_replacements(&mut self) {
        let scheduled = |id: &GrantId| {
            let held = self.ledger.grant(*id);
            held.is_some_and(|held| matches!(held.stage, Stage::Scheduled { .. }))
        };
        self.replacements.0.retain(scheduled);
    }

    fn may_open(&self, grant: &VerifiedGrant, old: &HeldGrant, now: Now) -> Result<(), Refused> {
        let checked =
            self.config.policy.check_replaced(grant, &old.grant, &self.config.keyring, now);
        checked.map_err(|refused| {
            let detail = format!(
                "it replaces {}, which its keys may not open: {}; a controller that may revoke can \
                 push it",
                old.grant.id(),
                refused.detail
            );
            Refused::new(refused.refusal, detail).of(grant.id())
        })
    }
}

//! Which pushed policy is in force, and whether it stays: versions that only rise, and policies that
//! return unless they are confirmed in time over a fresh connection.
//!
//! Pure: time is an argument, nothing is applied or stored here. The gate asks, applies and persists
//! what [`Commit::accept`] and the others answer, and only then keeps it.

use std::time::Duration;

use jit_proto::confirm::MAX_WINDOW;

use crate::rules::clock::{BootNanos, Now};

/// A policy that was accepted, with what it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Its version; never 0.
    pub version: u64,
    /// SHA-256 of what was signed.
    pub digest: [u8; 32],
    /// The policy.
    pub policy: T,
}

/// A policy that returns unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending<T> {
    /// What is in force meanwhile.
    pub policy: Versioned<T>,
    /// Connections that were made after this are fresh.
    pub applied: BootNanos,
    /// From here on it is over.
    pub deadline: BootNanos,
}

/// The policies that were pushed to this host. Without any the file's own sections are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit<T> {
    /// The highest version that was ever accepted.
    highest: u64,
    confirmed: Option<Versioned<T>>,
    pending: Option<Pending<T>>,
}

/// What a version is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The very policy that is in force.
    Known,
    /// Higher than all before.
    New,
}

/// Why a version is not taken, or not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The connection was there before the policy.
    #[error(
        "this connection was open before version {0} was applied: it does not show that a new one \
         gets through; connect anew and confirm again"
    )]
    NotFresh(u64),
    /// Nothing waits, or something else.
    #[error("version {asked} does not wait for a confirmation; in force is version {in_force}")]
    NothingPending {
        /// The version that was to be confirmed.
        asked: u64,
        /// The version in force, 0 for the file's sections.
        in_force: u64,
    },
    /// Not higher.
    #[error("version {asked} is not higher than {highest}, the highest that was accepted here")]
    Stale {
        /// The version that came.
        asked: u64,
        /// The highest so far.
        highest: u64,
    },
}

impl<T> Default for Commit<T> {
    fn default() -> Self {
        Self { highest: 0, confirmed: None, pending: None }
    }
}

impl<T> Commit<T> {
    /// What was stored, put together again: the highest version, and policies. `pending` has its deadline when that was set in this boot:
    /// after a reboot, or with the time over, the policy before it returns.
    pub fn restore(
        stored: u64,
        confirmed: Option<Versioned<T>>,
        pending: Option<(Versioned<T>, Option<BootNanos>)>,
        now: Now,
    ) -> Self {
        let versions = [confirmed.as_ref(), pending.as_ref().map(|(policy, _)| policy)];
        let highest = versions.into_iter().flatten().map(|policy| policy.version).max();
        let highest = highest.unwrap_or(0).max(stored);
        let pending = pending.and_then(|(policy, deadline)| {
            let deadline = deadline.filter(|deadline| *deadline > now.boot)?;
            Some(Pending { policy, applied: now.boot, deadline })
        });
        Self { highest, confirmed, pending }
    }

    /// What is in force; `None`: the file's own sections.
    pub fn in_force(&self) -> Option<&Versioned<T>> {
        self.pending.as_ref().map(|pending| &pending.policy).or(self.confirmed.as_ref())
    }

    /// What is in force for good, and returns when nobody confirms what is not.
    pub const fn confirmed(&self) -> Option<&Versioned<T>> {
        self.confirmed.as_ref()
    }

    /// What waits for its confirmation.
    pub const fn pending(&self) -> Option<&Pending<T>> {
        self.pending.as_ref()
    }

    /// The highest version that was ever accepted; 0 before the first.
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether a policy is one to accept.
    pub fn standing(&self, version: u64, digest: &[u8; 32]) -> Result<Standing, CommitError> {
        let known = |policy: &Versioned<T>| policy.version == version && policy.digest == *digest;
        if self.in_force().is_some_and(known) {
            return Ok(Standing::Known);
        }
        if version <= self.highest {
            return Err(CommitError::Stale { asked: version, highest: self.highest });
        }
        Ok(Standing::New)
    }

    /// Takes a policy. With a window it waits for its confirmation, and what returns otherwise is what
    /// was last confirmed: a policy that replaces one that still waits does not make that one stand.
    pub fn accept(&mut self, policy: Versioned<T>, window: Option<Duration>, now: Now) {
        self.highest = self.highest.max(policy.version);
        match window {
            None => {
                self.confirmed = Some(policy);
                self.pending = None;
            }
            Some(window) => {
                let nanos = u64::try_from(window.min(MAX_WINDOW).as_nanos()).unwrap_or(u64::MAX);
                let deadline = BootNanos(now.boot.0.saturating_add(nanos));
                self.pending = Some(Pending { policy, applied: now.boot, deadline });
            }
        }
    }

    /// The policy is in force in the kernel now: only connections made from here on are fresh.
    pub fn applied(&mut self, now: Now) {
        if let Some(pending) = &mut self.pending {
            pending.applied = pending.applied.max(now.boot);
        }
    }

    /// Keeps what waits. `connected` is when the connection was accepted that the word came over.
    pub fn confirm(
        &mut self,
        version: u64,
        connected: BootNanos,
        now: Now,
    ) -> Result<Standing, CommitError> {
        let in_force = self.in_force().map_or(0, |policy| policy.version);
        match self.pending.take_if(|pending| pending.policy.version == version) {
            None if in_force == version && self.pending.is_none() && version != 0 => {
                Ok(Standing::Known)
            }
            None => Err(CommitError::NothingPending { asked: version, in_force }),
            Some(pending) if pending.deadline <= now.boot => {
                self.pending = Some(pending);
                let in_force = self.confirmed.as_ref().map_or(0, |policy| policy.version);
                Err(CommitError::NothingPending { asked: version, in_force })
            }
            Some(pending) if connected <= pending.applied => {
                self.pending = Some(pending);
                Err(CommitError::NotFresh(version))
            }
            Some(pending) => {
                self.confirmed = Some(pending.policy);
                Ok(Standing::New)
            }
        }
    }

    /// Whether the time for the confirmation is over.
    pub fn is_over(&self, now: Now) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.deadline <= now.boot)
    }

    /// Takes back what waits: the policy before it is in force again. Its version stays used.
    pub fn give_up(&mut self) -> Option<Versioned<T>> {
        self.pending.take().map(|pending| pending.policy)
    }

    /// No pushed policy is in force any more; versions stay used.
    pub fn clear(&mut self) {
        self.confirmed = None;
        self.pending = None;
    }

    /// When [`Commit::is_over`] becomes true; `None` when nothing waits.
    pub fn next_change(&self, now: Now) -> Option<Duration> {
        self.pending.as_ref().map(|pending| now.until(pending.deadline))
    }
}

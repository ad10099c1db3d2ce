//! Which pushed policy is in force, and whether it stays. Versions only rise. A policy that needs a
//! confirmation is taken back unless it is confirmed in time, over a connection made after it.
//!
//! Pure: time is an argument, nothing is applied or stored here. The gate changes a copy, applies
//! and stores it, and only then keeps it.

use std::time::Duration;

use jit_proto::confirm::MAX_WINDOW;

use crate::rules::clock::{BootNanos, Now};

/// The highest version: what JSON readers hold exactly.
pub const MAX_VERSION: u64 = 1 << 53;
/// The furthest that a version may be above the highest before: one mistake must not use up all
/// versions. A first version that is a time in milliseconds, or written as 20260601120000, is less.
pub const MAX_JUMP: u64 = 1 << 45;

/// An accepted policy, with its version and the digest of what was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Its version; never 0.
    pub version: u64,
    /// SHA-256 of the signed payload.
    pub digest: [u8; 32],
    /// The policy.
    pub policy: T,
}

/// A policy that is taken back unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending<T> {
    /// The policy, in force until then.
    pub policy: Versioned<T>,
    /// When it was applied. A confirmation must come over a connection that was made later.
    pub applied: BootNanos,
    /// From this moment on it can no longer be confirmed.
    pub deadline: BootNanos,
}

/// The policies that were pushed to this host. Without one, the file's own sections are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit<T> {
    /// The highest version that this host has ever accepted.
    highest: u64,
    confirmed: Option<Versioned<T>>,
    pending: Option<Pending<T>>,
}

/// What an accepted version is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the policy in force.
    Known,
    /// It is higher than all versions before.
    New,
}

/// Why a version is not accepted, or not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The connection was made before the policy was applied.
    #[error(
        "this connection was open before version {0} was applied, so it does not show that a new \
         connection gets through; connect again and confirm"
    )]
    NotFresh(u64),
    /// This version does not wait for a confirmation.
    #[error("version {asked} does not wait for a confirmation; version {in_force} is in force")]
    NothingPending {
        /// The version that was to be confirmed.
        asked: u64,
        /// The version in force, 0 for the file's sections.
        in_force: u64,
    },
    /// The version is not higher than all before.
    #[error(
        "version {asked} is not higher than {highest}, the highest that this host has accepted"
    )]
    Stale {
        /// The version that was pushed.
        asked: u64,
        /// The highest version that was accepted before.
        highest: u64,
    },
    /// The version is too far above all before.
    #[error(
        "version {asked} is too high: after {highest}, the highest that this host has accepted, it \
         takes {most} at most"
    )]
    TooHigh {
        /// The version that was pushed.
        asked: u64,
        /// The highest version that was accepted before.
        highest: u64,
        /// The highest version that would be accepted.
        most: u64,
    },
}

impl<T> Default for Commit<T> {
    fn default() -> Self {
        Self { highest: 0, confirmed: None, pending: None }
    }
}

impl<T> Commit<T> {
    /// Builds the state from what was stored: the highest version, and the policies. `pending` has
    /// a deadline only when it was set in this boot. After a reboot, or when the deadline has
    /// passed, the confirmed policy is in force again.
    pub fn restore(
        stored: u64,
        confirmed: Option<Versioned<T>>,
        pending: Option<(Versioned<T>, Option<BootNanos>)>,
        now: Now,
    ) -> Self {
        let versions = [confirmed.as_ref(), pending.as_ref().map(|(policy, _)| policy)];
        let highest = versions.into_iter().flatten().map(|policy| policy.version).max();
        // It may be lower than the version in force: root may set it back.
        let highest = if stored == 0 { highest.unwrap_or(0) } else { stored };
        let pending = pending.and_then(|(policy, deadline)| {
            let deadline = deadline.filter(|deadline| *deadline > now.boot)?;
            Some(Pending { policy, applied: now.boot, deadline })
        });
        Self { highest, confirmed, pending }
    }

    /// The policy in force; `None`: the file's own sections are in force.
    pub fn in_force(&self) -> Option<&Versioned<T>> {
        self.pending.as_ref().map(|pending| &pending.policy).or(self.confirmed.as_ref())
    }

    /// The policy that was last confirmed. It returns when nobody confirms the pending one.
    pub const fn confirmed(&self) -> Option<&Versioned<T>> {
        self.confirmed.as_ref()
    }

    /// The policy that waits for its confirmation.
    pub const fn pending(&self) -> Option<&Pending<T>> {
        self.pending.as_ref()
    }

    /// The highest version that was ever accepted; 0 before the first.
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether a policy of this version may be accepted.
    pub fn standing(&self, version: u64, digest: &[u8; 32]) -> Result<Standing, CommitError> {
        let known = |policy: &Versioned<T>| policy.version == version && policy.digest == *digest;
        if self.in_force().is_some_and(known) {
            return Ok(Standing::Known);
        }
        if version <= self.highest {
            return Err(CommitError::Stale { asked: version, highest: self.highest });
        }
        let most = self.highest.saturating_add(MAX_JUMP).min(MAX_VERSION);
        if version > most {
            return Err(CommitError::TooHigh { asked: version, highest: self.highest, most });
        }
        Ok(Standing::New)
    }

    /// Sets the version that the next policy must be higher than; returns the one before.
    pub const fn set_highest(&mut self, version: u64) -> u64 {
        std::mem::replace(&mut self.highest, version)
    }

    /// Accepts a policy. With a window it waits for its confirmation; without one in time, the
    /// policy that was last confirmed returns. When it replaces a policy that still waits, that one
    /// is not confirmed thereby.
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

    /// Notes that the policy is in force in the kernel: a confirmation needs a connection made
    /// later.
    pub fn applied(&mut self, now: Now) {
        if let Some(pending) = &mut self.pending {
            pending.applied = pending.applied.max(now.boot);
        }
    }

    /// Confirms the pending policy. `connected` is when the confirmation's connection was accepted.
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

    /// Whether the time for the confirmation has passed.
    pub fn deadline_passed(&self, now: Now) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.deadline <= now.boot)
    }

    /// Takes back the pending policy: the confirmed one is in force again. The version stays used.
    pub fn give_up(&mut self) -> Option<Versioned<T>> {
        self.pending.take().map(|pending| pending.policy)
    }

    /// Removes all pushed policies: the file's own sections are in force. Versions stay used.
    pub fn clear(&mut self) {
        self.confirmed = None;
        self.pending = None;
    }

    /// The time left until [`Commit::deadline_passed`] becomes true; `None` when nothing waits.
    pub fn next_change(&self, now: Now) -> Option<Duration> {
        self.pending.as_ref().map(|pending| now.until(pending.deadline))
    }
}

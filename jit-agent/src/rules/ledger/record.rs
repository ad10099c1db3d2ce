//! A grant and where it stands; what happens to it, and what is left of it when it was revoked.

use std::{num::NonZeroU32, sync::Arc};

use jit_proto::{GrantId, Sessions, WallTime};

use crate::rules::{
    claims::{Held, Kind},
    clock::{BootNanos, Now},
    grant::VerifiedGrant,
    reconcile::{Claim, EntryKey},
};

/// Deadline of what has not begun: over at every time.
const NOT_YET: BootNanos = BootNanos(0);

/// Where a grant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Open in the kernel until the deadline.
    Active {
        /// Its end on the boot clock.
        deadline: BootNanos,
        /// Where its connections are counted.
        slot: u32,
    },
    /// It has let in as many connections as it may; they live on until the deadline.
    Exhausted {
        /// Another grant with a limit may have its places.
        aside: bool,
        /// Its end on the boot clock.
        deadline: BootNanos,
        /// Where its connections were counted.
        slot: u32,
    },
    /// Over.
    Expired,
    /// Another grant began in its stead.
    Replaced,
    /// Closed before its end.
    Revoked,
    /// Its window has not begun. Its places in the kernel's tables are taken already, with a deadline
    /// that is over, so that there is room when it begins.
    Scheduled {
        /// Where its connections will be counted.
        slot: u32,
    },
}

impl Stage {
    /// Where its connections are counted, until it is over.
    pub const fn slot(self) -> Option<u32> {
        match self {
            Self::Active { slot, .. } | Self::Exhausted { slot, .. } | Self::Scheduled { slot } => {
                Some(slot)
            }
            Self::Expired | Self::Replaced | Self::Revoked => None,
        }
    }

    /// Its end on the boot clock, once it has begun and until it is over.
    pub const fn deadline(self) -> Option<BootNanos> {
        match self {
            Self::Active { deadline, .. } | Self::Exhausted { deadline, .. } => Some(deadline),
            Self::Expired | Self::Replaced | Self::Revoked | Self::Scheduled { .. } => None,
        }
    }
}

/// A grant and where it stands.
#[derive(Clone, Debug)]
pub struct Record {
    /// The grant.
    pub grant: Arc<VerifiedGrant>,
    /// Where it stands.
    pub stage: Stage,
    /// Connections that it let in and that the kernel does not count: those before a reboot, and all
    /// of them once it is over.
    pub hits: u64,
}

impl Record {
    /// Connections that it may still let in, of those that the kernel is to count; zero for any
    /// number.
    pub fn limit(&self) -> u32 {
        self.grant.limit().map_or(0, |limit| {
            limit.get().saturating_sub(u32::try_from(self.hits).unwrap_or(u32::MAX))
        })
    }

    /// Places that are kept for its connections, until it is over.
    pub(super) fn places(&self) -> u32 {
        self.grant.limit().map_or(0, NonZeroU32::get)
    }

    /// What it claims at each of its places, until it is over.
    pub(super) fn held(&self) -> Option<Held> {
        let limited = match self.stage {
            Stage::Exhausted { aside: true, .. } => Kind::UsedUp,
            _ => Kind::Limited,
        };
        let kind = if self.grant.limit().is_some() { limited } else { Kind::Unlimited };
        let deadline = self.stage.deadline().unwrap_or(NOT_YET);
        let claim = Claim { deadline, cut: self.cuts(), slot: self.stage.slot()? };
        Some(Held { claim, kind })
    }

    /// The same with all its connections.
    pub(super) fn counted(self, hits: impl FnOnce(u32) -> u64) -> Self {
        let counted = self.stage.slot().map_or(0, hits);
        Self { hits: self.hits.saturating_add(counted), ..self }
    }

    pub(super) fn cuts(&self) -> bool {
        self.grant.sessions() == Some(Sessions::Cut)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = EntryKey> + '_ {
        self.grant.entries().map(|(port, source)| EntryKey { port, source })
    }
}

/// What an admission was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is active now.
    Active,
    /// The same grant is here already; nothing changed.
    Known,
    /// Its window begins later.
    Scheduled,
}

impl Admission {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "ok",
            Self::Known => "known",
            Self::Scheduled => "scheduled",
        }
    }
}

/// What an earlier run knew of a stored grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Its end, if it had begun in this same boot.
    pub deadline: Option<BootNanos>,
    /// Its slot, if the kernel still counts it there.
    pub slot: Option<u32>,
    /// As [`Record::hits`].
    pub hits: u64,
}

/// A change of a grant, for the store, the record and the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Scheduled before, active now.
    Activated(GrantId),
    /// Over.
    Expired(GrantId),
    /// Revoked or replaced once, and by both clocks no longer to be refused.
    Forgotten(GrantId),
    /// Another one began in its stead.
    Replaced(Replacement),
}

/// A grant, seen or not, that ended because another began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The one that began.
    pub by: GrantId,
    /// Whether there was anything to end.
    pub ended: bool,
    /// The one that ended.
    pub id: GrantId,
    /// Until when it stays refused.
    pub until: Tombstone,
}

/// How long an id stays refused: until both clocks say that it is over, so that a wall clock that is
/// wrong for a while does not bring a grant back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// By the wall clock.
    pub until: WallTime,
    /// By the boot clock of this boot.
    pub boot: BootNanos,
}

impl Tombstone {
    /// Over when the wall clock will read `until`, if nobody sets it.
    pub fn new(until: WallTime, now: Now) -> Self {
        Self { until, boot: now.deadline(until) }
    }

    pub(super) fn is_over(&self, now: Now) -> bool {
        self.until <= now.wall && self.boot <= now.boot
    }

    /// Over when both are.
    pub fn later(self, other: Self) -> Self {
        Self { until: self.until.max(other.until), boot: self.boot.max(other.boot) }
    }
}

//! A grant and where it stands, and what happens to it.

use std::{num::NonZeroU32, sync::Arc};

use jit_proto::{GrantId, Sessions};

use crate::rules::{
    claims::{Kind, PlaceClaim},
    clock::BootNanos,
    grant::VerifiedGrant,
    ledger::Tombstone,
    reconcile::{Access, EntryKey},
};

/// Deadline of a grant that has not begun: it lets nobody in at any time.
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
        /// Its end on the boot clock.
        deadline: BootNanos,
        /// Where its connections were counted.
        slot: u32,
        /// Other grants with a limit may have its places.
        yields_places: bool,
    },
    /// Its end has come.
    Expired,
    /// Another grant began in its place.
    Replaced,
    /// Closed before its end.
    Revoked,
    /// Its window has not begun. It holds its places in the kernel's tables already, with a deadline
    /// that has passed, so that there is room when it begins.
    Scheduled {
        /// Where its connections will be counted.
        slot: u32,
    },
}

impl Stage {
    /// Where its connections are counted, until it ends.
    pub const fn slot(self) -> Option<u32> {
        match self {
            Self::Active { slot, .. } | Self::Exhausted { slot, .. } | Self::Scheduled { slot } => {
                Some(slot)
            }
            Self::Expired | Self::Replaced | Self::Revoked => None,
        }
    }

    /// Its end on the boot clock, once it has begun and until it ends.
    pub const fn deadline(self) -> Option<BootNanos> {
        match self {
            Self::Active { deadline, .. } | Self::Exhausted { deadline, .. } => Some(deadline),
            Self::Expired | Self::Replaced | Self::Revoked | Self::Scheduled { .. } => None,
        }
    }
}

/// A grant and where it stands.
#[derive(Clone, Debug)]
pub struct HeldGrant {
    /// The grant.
    pub grant: Arc<VerifiedGrant>,
    /// Where it stands.
    pub stage: Stage,
    /// Connections that it let in and that the kernel does not count: those before a reboot, and all
    /// of them once it has ended.
    pub hits: u64,
}

impl HeldGrant {
    /// Connections that it may still let in, of those that the kernel is to count; zero for any
    /// number.
    pub fn limit(&self) -> u32 {
        self.grant.limit().map_or(0, |limit| {
            limit.get().saturating_sub(u32::try_from(self.hits).unwrap_or(u32::MAX))
        })
    }

    /// Connections that it may have together with all others that have a limit; zero for no limit.
    pub(super) fn places(&self) -> u32 {
        self.grant.limit().map_or(0, NonZeroU32::get)
    }

    /// What it claims at each of its places, until it ends.
    pub(super) fn claim(&self) -> Option<PlaceClaim> {
        let limited = match self.stage {
            Stage::Exhausted { yields_places: true, .. } => Kind::UsedUp,
            _ => Kind::Limited,
        };
        let kind = if self.grant.limit().is_some() { limited } else { Kind::Unlimited };
        let deadline = self.stage.deadline().unwrap_or(NOT_YET);
        let access = Access { deadline, cut: self.cuts(), slot: self.stage.slot()? };
        Some(PlaceClaim { access, kind })
    }

    /// It has ended like this; `counted`: connections in its slot.
    pub(super) fn ended(self, stage: Stage, counted: u64) -> Self {
        Self { stage, hits: self.hits.saturating_add(counted), ..self }
    }

    /// Whether its sessions end with it.
    pub(super) fn cuts(&self) -> bool {
        self.grant.sessions() == Some(Sessions::Cut)
    }

    /// Its places in the kernel's tables.
    pub fn keys(&self) -> impl Iterator<Item = EntryKey> + '_ {
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
pub struct Progress {
    /// Its end, if it had begun in this same boot.
    pub deadline: Option<BootNanos>,
    /// Its slot, if the kernel still counts it there.
    pub slot: Option<u32>,
    /// As [`HeldGrant::hits`].
    pub hits: u64,
}

/// A change of a grant, for the store, the record and the watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Scheduled before, active now.
    Activated(GrantId),
    /// Its end has come.
    Expired(GrantId),
    /// Revoked or replaced once; by both clocks its id need not be refused any more.
    Forgotten(GrantId),
    /// Another one began in its place.
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

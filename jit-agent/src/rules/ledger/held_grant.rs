//! A grant with its stage, and the changes of a grant.

use std::{num::NonZeroU32, sync::Arc};

use jit_proto::{GrantId, Sessions};

use crate::rules::{
    claims::{Kind, PlaceClaim},
    clock::BootNanos,
    grant::VerifiedGrant,
    ledger::Tombstone,
    reconcile::{Access, EntryKey},
};

/// Deadline of a grant that has not begun: with it, the grant lets nobody in at any time.
const NOT_YET: BootNanos = BootNanos(0);

/// Stage of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Open in the kernel until the deadline.
    Active {
        /// Its end on the boot clock.
        deadline: BootNanos,
        /// Where its connections are counted.
        slot: u32,
    },
    /// It has let in as many connections as it may. They go on until the deadline.
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
    /// Another grant has replaced it.
    Replaced,
    /// It was closed before its end.
    Revoked,
    /// Its window has not begun. It holds its places in the kernel's tables already, with a
    /// deadline that has passed, so that there is room when it begins.
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

/// A grant with its stage.
#[derive(Clone, Debug)]
pub struct HeldGrant {
    /// The grant.
    pub grant: Arc<VerifiedGrant>,
    /// Its stage.
    pub stage: Stage,
    /// Number of connections that it let in and that the kernel does not count: those before a
    /// reboot, and all of them after its end.
    pub hits: u64,
}

impl HeldGrant {
    /// The limit for the kernel's count: connections that it may still let in. Zero: any number.
    pub fn limit(&self) -> u32 {
        self.grant.limit().map_or(0, |limit| {
            limit.get().saturating_sub(u32::try_from(self.hits).unwrap_or(u32::MAX))
        })
    }

    /// Its part of the places that all grants with a limit share. Zero: it has no limit.
    pub(super) fn places(&self) -> u32 {
        self.grant.limit().map_or(0, NonZeroU32::get)
    }

    /// Its claim at each of its places, until it ends.
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

    /// Ends the grant with this stage. `counted`: connections in its slot.
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

/// Result of an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The grant is active now.
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

/// Progress of a stored grant, from an earlier run.
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
    /// It was revoked or replaced. By both clocks its id need not be refused any more.
    Forgotten(GrantId),
    /// Another grant has replaced it.
    Replaced(Replacement),
}

/// A grant, known or not, that ended because another began.
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

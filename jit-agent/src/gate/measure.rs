//! What a scrape of the metrics asks the gate for: the status, and some numbers that it does not
//! have.

use std::path::PathBuf;

use jit_proto::{WallTime, v1};

use crate::{
    gate::Gate,
    kernel::datapath::Datapath,
    rules::{clock::Now, ledger::Stage},
};

/// The gate in numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// Without its grants.
    pub(crate) status: v1::StatusResponse,
    pub(crate) grants: Grants,
    /// Signers whose key is in use, and those whose key cannot be used.
    pub(crate) signers: usize,
    pub(crate) signers_unusable: usize,
    /// Controllers of the configuration.
    pub(crate) controllers: usize,
    pub(crate) clock: Clock,
    /// The most that the audit's files can take, bytes.
    pub(crate) audit_limit: u64,
    /// The state directory.
    pub(crate) state: PathBuf,
}

/// Numbers of grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    pub(crate) active: usize,
    pub(crate) scheduled: usize,
    /// Of the active ones, those that root opened.
    pub(crate) break_glass: usize,
}

/// The wall clock as the gate trusts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) wall: WallTime,
    /// The latest time that was ever trusted.
    pub(crate) floor: WallTime,
    pub(crate) trusted: bool,
}

impl<D: Datapath> Gate<D> {
    /// The gate in numbers. A changed attachment is repaired, as for `status`.
    pub(super) fn measure(&mut self, now: Now) -> Measured {
        let status = self.answer_status(now);
        let config = &self.config;
        Measured {
            status,
            grants: self.count_grants(),
            signers: config.keyring.signers().len(),
            signers_unusable: config.absent_signers.len(),
            controllers: config.controllers.len(),
            clock: Clock {
                wall: now.wall,
                floor: self.clock.floor(),
                trusted: self.clock.is_trusted(now),
            },
            audit_limit: config.audit.most(),
            state: config.paths.state.clone(),
        }
    }

    fn count_grants(&self) -> Grants {
        let mut grants = Grants::default();
        for held in self.ledger.grants() {
            match held.stage {
                Stage::Active { .. } | Stage::Exhausted { .. } => {
                    grants.active += 1;
                    grants.break_glass += usize::from(held.grant.is_break_glass());
                }
                Stage::Scheduled { .. } => grants.scheduled += 1,
                Stage::Expired | Stage::Replaced | Stage::Revoked => {}
            }
        }
        grants
    }
}

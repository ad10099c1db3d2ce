//! Why something of the fleet was not done.

use jit_client::CallError;

use crate::{desk::DeskError, store::StoreError};

/// Why something of the fleet was not done.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The agent refused, or a file of the controller is missing.
    #[error("{0}")]
    Agent(#[from] CallError),
    /// It does not go together with what there is.
    #[error("{0}")]
    Conflict(String),
    /// The desk could not keep an answer.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// A value is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is no such host, rollout or policy.
    #[error("there is no {0}")]
    NotFound(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host does not answer.
    #[error("{0}")]
    Unreachable(String),
}

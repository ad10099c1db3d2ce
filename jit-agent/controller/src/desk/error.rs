//! Why the desk did not do what was asked.

use crate::store::StoreError;

/// Why the desk did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// It does not fit to what is there now.
    #[error("{0}")]
    Conflict(String),
    /// This person may not, or not now.
    #[error("{word}: {detail}")]
    Forbidden {
        /// A stable word: `self_approval`, `not_eligible`, `already_decided`, `changed`, `too_late`,
        /// `not_pending`, `not_open`, `account_disabled`, `not_permitted`, `already_signed`, `not_your_key`,
        /// `unknown_key`, `wrong_signature`.
        word: &'static str,
        /// What it means here, and what to do.
        detail: String,
    },
    /// A field is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// The field, as the API names it.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signer does not answer; it is tried again.
    #[error("the signer does not answer: {0}")]
    Signer(String),
}

impl From<crate::model::ProposalError> for DeskError {
    fn from(error: crate::model::ProposalError) -> Self {
        Self::Invalid { field: error.field, why: error.why }
    }
}

//! Why a grant is refused: the control plane's reason words.

use std::fmt;

use jit_proto::{GrantId, Refusal, printable::clean};

/// Longest detail, in characters.
const MAX_DETAIL: usize = 1_000;

/// A refusal with what a person needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The word.
    pub refusal: Refusal,
    /// One sentence: what was tried, on what, why.
    pub detail: String,
    /// The grant's id, once it was decoded behind a good signature.
    pub id: Option<GrantId>,
}

impl Refused {
    /// A refusal before the id is known. The detail, which may quote what came from outside, is cut
    /// to a length that logs, journal and answers can hold.
    pub fn new(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self { refusal, detail: clean(&detail.into(), MAX_DETAIL), id: None }
    }

    /// The same, for this grant.
    #[must_use]
    pub fn of(self, id: GrantId) -> Self {
        Self { id: Some(id), ..self }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.refusal.word(), self.detail)
    }
}

impl std::error::Error for Refused {}

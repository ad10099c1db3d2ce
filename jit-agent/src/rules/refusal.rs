//! A refusal with its reason word and a sentence for a person.

use std::fmt;

use jit_proto::{GrantId, Refusal, printable::clean};

/// Longest detail, in characters.
const MAX_DETAIL: usize = 1_000;

/// Why a grant or a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The stable reason word.
    pub refusal: Refusal,
    /// One sentence: what was tried, on what, why.
    pub detail: String,
    /// The grant's id; `None` when no signature was good, or the payload did not decode.
    pub id: Option<GrantId>,
}

impl Refused {
    /// A refusal without an id. The detail may quote text from outside: it is made printable, and
    /// cut to a length that logs, journal and answers can hold.
    pub fn new(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self { refusal, detail: clean(&detail.into(), MAX_DETAIL), id: None }
    }

    /// The same refusal, for the grant with this id.
    #[must_use]
    pub fn of(self, id: GrantId) -> Self {
        Self { id: Some(id), ..self }
    }
}

/// Which host this is, in a refusal.
pub(super) fn this_host(host: &str) -> String {
    if host.is_empty() {
        return "this host's id is not known yet: [host] id is \"auto\", and no metadata service has \
                answered; `jit-agent identity` says what each answers"
            .into();
    }
    format!("this host is {host:?}")
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.refusal.word(), self.detail)
    }
}

impl std::error::Error for Refused {}

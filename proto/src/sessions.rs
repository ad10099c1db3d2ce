//! What happens to sessions when their grant ends.

use serde::Deserialize;

/// What happens to established sessions when a grant ends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Sessions {
    /// They end with the grant.
    Cut,
    /// They stay open; no new connection opens.
    Drain,
}

impl Sessions {
    /// The configuration's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
        }
    }
}

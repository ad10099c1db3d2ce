//! What becomes of sessions when their grant ends.

use serde::Deserialize;

/// What becomes of established sessions when a grant ends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Sessions {
    /// They end with it.
    Cut,
    /// They live on; nothing new opens.
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

//! What one signing key may sign: its own limits, below those of the host.
//!
//! Whether a key counts for a grant is decided in `approvals`. Pure: time is an argument.

use std::time::Duration;

use jit_proto::{PayloadType, PortRange, Refusal, SourcePrefix, WallTime};

/// The limits of a `[[signer]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mandate {
    /// Whether it signs grants.
    pub grants: bool,
    /// The longest grant.
    pub max_duration: Duration,
    /// From this moment on the key counts for nothing new.
    pub not_after: Option<WallTime>,
    /// Before this moment the key counts for nothing.
    pub not_before: Option<WallTime>,
    /// Whether it signs policies.
    pub policies: bool,
    /// The ports that its grants may open; `None`: whatever the host allows.
    pub ports: Option<Vec<PortRange>>,
    /// The sources that its grants may open to; `None`: whatever the host allows.
    pub sources: Option<Vec<SourcePrefix>>,
}

/// Why a key does not count: the word that would refuse a grant signed by no other key, and a
/// sentence that begins with the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The word.
    pub refusal: Refusal,
    /// The sentence, to stand behind the key's name.
    pub detail: String,
}

impl Mandate {
    /// Signs grants of this length at most, without other limits.
    pub const fn grants(max_duration: Duration) -> Self {
        Self {
            grants: true,
            max_duration,
            not_after: None,
            not_before: None,
            policies: false,
            ports: None,
            sources: None,
        }
    }

    /// Whether the key may sign payloads of this type at all.
    pub const fn signs(&self, payload: PayloadType) -> bool {
        match payload {
            PayloadType::Grant => self.grants,
            PayloadType::Policy => self.policies,
        }
    }

    /// Whether the key counts at this moment. Outside its window it is as good as not listed.
    pub fn valid_at(&self, now: WallTime) -> Result<(), Beyond> {
        let unknown = |detail| Beyond { refusal: Refusal::UnknownKey, detail };
        match (self.not_before, self.not_after) {
            (Some(from), _) if now < from => Err(unknown(format!("counts only from {from} on"))),
            (_, Some(to)) if to <= now => Err(unknown(format!("counts no longer since {to}"))),
            _ => Ok(()),
        }
    }
}

//! What one signing key may sign: its own limits, below those of the host.
//!
//! `approvals` decides whether a key counts for a grant. Pure: time is an argument.

use std::time::Duration;

use jit_proto::{PayloadType, PortRange, Refusal, SourcePrefix, WallTime};

/// The limits in a `[[signer]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mandate {
    /// Whether the key may sign checkpoints; then it signs nothing else.
    pub checkpoints: bool,
    /// Whether the key may sign grants.
    pub grants: bool,
    /// The longest grant that it may sign.
    pub max_duration: Duration,
    /// From this moment on the key does not count; `None`: there is no such end.
    pub not_after: Option<WallTime>,
    /// Before this moment the key does not count; `None`: it counts from the start.
    pub not_before: Option<WallTime>,
    /// Whether the key may sign policies.
    pub policies: bool,
    /// The ports that its grants may open; `None`: all that the host allows.
    pub ports: Option<Vec<PortRange>>,
    /// Whether the key may sign revocations.
    pub revocations: bool,
    /// The sources that its grants may let in; `None`: all that the host allows.
    pub sources: Option<Vec<SourcePrefix>>,
}

/// Why a key does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The reason word of a grant that no other key signed.
    pub refusal: Refusal,
    /// The rest of a sentence that begins with the key's name.
    pub detail: String,
}

impl Mandate {
    /// A key that signs grants up to this length, without other limits.
    pub const fn grants(max_duration: Duration) -> Self {
        Self {
            checkpoints: false,
            grants: true,
            max_duration,
            not_after: None,
            not_before: None,
            policies: false,
            ports: None,
            revocations: false,
            sources: None,
        }
    }

    /// Whether the key may sign payloads of this type at all.
    pub const fn signs(&self, payload: PayloadType) -> bool {
        match payload {
            PayloadType::Checkpoint => self.checkpoints,
            PayloadType::Grant => self.grants,
            PayloadType::Policy => self.policies,
            PayloadType::Revocation => self.revocations,
        }
    }

    /// Whether the key counts at this moment. Outside its window it counts as unknown.
    pub fn valid_at(&self, now: WallTime) -> Result<(), Beyond> {
        let unknown = |detail| Beyond { refusal: Refusal::UnknownKey, detail };
        match (self.not_before, self.not_after) {
            (Some(from), _) if now < from => Err(unknown(format!("counts only from {from} on"))),
            (_, Some(to)) if to <= now => Err(unknown(format!("counts no longer since {to}"))),
            _ => Ok(()),
        }
    }
}

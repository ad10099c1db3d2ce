//! The kinds of payload that are signed.

/// Payload type of a [`crate::v1::Grant`].
pub const GRANT_TYPE: &str = "application/vnd.jit-agent.grant.v1+protobuf";
/// Payload type of a [`crate::v1::Policy`].
pub const POLICY_TYPE: &str = "application/vnd.jit-agent.policy.v1+protobuf";

/// Payload type of a [`crate::v1::Revocation`].
pub const REVOCATION_TYPE: &str = "application/vnd.jit-agent.revocation.v1+protobuf";

/// Payload type of a [`crate::v1::Checkpoint`].
pub const CHECKPOINT_TYPE: &str = "application/vnd.jit-agent.checkpoint.v1+protobuf";

/// Type of the envelope in which an agent stores an opening by root on its host, a
/// [`crate::v1::Grant`]. It has no signature, and nobody can push one.
pub const BREAK_GLASS_TYPE: &str = "application/vnd.jit-agent.break-glass.v1+protobuf";

/// The kind of payload in an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadType {
    /// [`crate::v1::Checkpoint`].
    Checkpoint,
    /// [`crate::v1::Grant`].
    Grant,
    /// [`crate::v1::Policy`].
    Policy,
    /// [`crate::v1::Revocation`].
    Revocation,
}

impl PayloadType {
    /// Every kind, in the order in which people read them.
    pub const ALL: [Self; 4] = [Self::Grant, Self::Policy, Self::Revocation, Self::Checkpoint];

    /// The name in the envelope's `payload_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => CHECKPOINT_TYPE,
            Self::Grant => GRANT_TYPE,
            Self::Policy => POLICY_TYPE,
            Self::Revocation => REVOCATION_TYPE,
        }
    }

    /// The word in `signs` of a `[[signer]]`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Grant => "grant",
            Self::Policy => "policy",
            Self::Revocation => "revocation",
        }
    }
}

//! The kinds of payload that are signed.

/// Payload type of a [`crate::v1::Grant`].
pub const GRANT_TYPE: &str = "application/vnd.jit-agent.grant.v1+protobuf";
/// Payload type of a policy.
pub const POLICY_TYPE: &str = "application/vnd.jit-agent.policy.v1+protobuf";
/// What is in an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadType {
    /// A grant.
    Grant,
    /// A policy.
    Policy,
}

impl PayloadType {
    /// As the envelope names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grant => GRANT_TYPE,
            Self::Policy => POLICY_TYPE,
        }
    }

    /// As `signs` of a `[[signer]]` names it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Policy => "policy",
        }
    }
}

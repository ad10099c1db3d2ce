//! The commands about policies.

use jit_proto::v1;

use crate::{
    gate::{
        PolicyDraft, PolicyPush,
        command::{GateHandle, Gone, Read},
        verification::Check,
    },
    rules::{clock::BootNanos, refusal::Refused},
};

impl GateHandle {
    /// The policy in force.
    pub async fn show_policy(&self) -> Result<v1::ShowPolicyResponse, Gone> {
        self.ask(|reply| Read::ShowPolicy { reply }).await
    }

    /// The changes that a policy would make.
    pub async fn diff_policy(
        &self,
        draft: PolicyDraft,
        by: &str,
    ) -> Result<v1::DiffPolicyResponse, Gone> {
        let check = match &draft {
            PolicyDraft::Envelope(envelope) => self.verification.policy(envelope.clone(), by).await,
            PolicyDraft::Message(_) => Ok(Check::none()),
        };
        let check = check.map_err(|_| Gone)?;
        self.ask(|reply| Read::DiffPolicy { draft, check, reply }).await
    }

    /// Puts a policy in force.
    pub async fn push_policy(
        &self,
        push: PolicyPush,
        by: &str,
    ) -> Result<Result<v1::PushPolicyResponse, Refused>, Gone> {
        let check = self.verification.policy(push.envelope.clone(), by).await.map_err(|_| Gone)?;
        let by = by.to_owned();
        self.ask(|reply| Read::PushPolicy { push, check, by, reply }).await
    }

    /// Keeps the policy that waits. `connected`: when the asking connection was accepted.
    pub async fn confirm_policy(
        &self,
        version: u64,
        connected: BootNanos,
        by: &str,
    ) -> Result<Result<v1::ConfirmPolicyResponse, Refused>, Gone> {
        let by = by.to_owned();
        self.ask(|reply| Read::ConfirmPolicy { version, connected, by, reply }).await
    }

    /// Sets the version that the next policy must be higher than.
    pub async fn set_policy_floor(
        &self,
        version: u64,
        by: &str,
    ) -> Result<Result<v1::SetPolicyFloorResponse, Refused>, Gone> {
        let by = by.to_owned();
        self.ask(|reply| Read::SetPolicyFloor { version, by, reply }).await
    }
}

//! The commands that close: they are served before all others.

use jit_proto::v1;

use crate::gate::{
    Revoked, Target,
    command::{GateHandle, Gone, SignedRevoked, Urgent},
};

impl GateHandle {
    /// Revokes grants.
    pub async fn revoke(&self, target: Target, by: &str, why: &str) -> Result<Revoked, Gone> {
        let (by, why) = (by.to_owned(), why.to_owned());
        self.order(|reply| Urgent::Revoke { target, cut: false, by, why, reply }).await
    }

    /// Revokes grants, and ends their sessions on every port.
    pub async fn revoke_and_cut(
        &self,
        target: Target,
        by: &str,
        why: &str,
    ) -> Result<Revoked, Gone> {
        let (by, why) = (by.to_owned(), why.to_owned());
        self.order(|reply| Urgent::Revoke { target, cut: true, by, why, reply }).await
    }

    /// Carries out a signed revocation. It waits for no grant.
    pub async fn revoke_signed(
        &self,
        envelope: v1::Envelope,
        by: &str,
    ) -> Result<SignedRevoked, Gone> {
        let check = self.verification.revocation(envelope.clone(), by).await.map_err(|_| Gone)?;
        let by = by.to_owned();
        self.order(|reply| Urgent::RevokeSigned { envelope, check, by, reply }).await
    }
}

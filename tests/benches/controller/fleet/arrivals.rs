//! What has arrived at a simulated agent, compared with checkpoints by the agent's own rules.

use jit_agent::rules::{
    checkpoint,
    clock::Now,
    freshness::{Freshness, Proof, Standing},
    grant::VerifiedGrant,
    keyring::Keyring,
    ledger::Ledger,
    refusal::Refused,
    revocation::VerifiedRevocation,
};
use jit_proto::{
    PayloadType,
    mailbox::{self, Mailbox},
    merkle::Hash,
    v1,
};

/// What has come, and the checkpoints that were seen.
pub(super) struct Arrivals {
    mailbox: Mailbox,
    freshness: Freshness,
}

impl Arrivals {
    pub(super) fn new(host: &str, now: Now) -> Self {
        Self { mailbox: Mailbox::default(), freshness: Freshness::new(host, None, now) }
    }

    pub(super) fn grant(&mut self, grant: &VerifiedGrant) {
        let item = mailbox::item_of(PayloadType::Grant.name(), &grant.digest());
        self.mailbox.add_grant(item, grant.id(), grant.not_after());
    }

    pub(super) fn revocation(&mut self, revocation: &VerifiedRevocation) {
        let item = mailbox::item_of(PayloadType::Revocation.name(), revocation.digest());
        self.mailbox.add(item, revocation.keep_until());
    }

    /// Compares them with a checkpoint, which is verified.
    pub(super) fn compare(
        &mut self,
        request: v1::CompareMailboxRequest,
        keyring: &Keyring,
        ledger: &Ledger,
        now: Now,
    ) -> Result<v1::CompareMailboxResponse, Refused> {
        let v1::CompareMailboxRequest { checkpoint, index, path, listed, items } = request;
        let verified = checkpoint::verify(&checkpoint.unwrap_or_default(), keyring)?;
        verified.check(keyring, now)?;
        let proof = Proof { index, path: path.as_chunks().0.to_vec() };
        let list: &[Hash] = items.as_chunks().0;
        let ended = |id| ledger.is_refused(id);
        let here = mailbox::digest(self.mailbox.items(verified.stamp().issued_at, ended).iter());
        let mut standing = self
            .freshness
            .take(verified.stamp().clone(), proof, &here, now)
            .expect("the controller contradicts itself");
        if listed && standing != Standing::Complete {
            let ids = ledger.tombstones().map(|(id, _)| mailbox::ended(id));
            let ended: std::collections::BTreeSet<_> = ids.collect();
            let has = |item: &Hash| self.mailbox.has(item) || ended.contains(item);
            standing = self.freshness.take_list(list, has, now);
        }
        let missing = match standing {
            Standing::Missing(missing) => u32::try_from(missing.unwrap_or(0)).unwrap_or(u32::MAX),
            Standing::Complete | Standing::Known | Standing::ListWanted => 0,
        };
        let standing = match standing {
            Standing::Complete => "complete",
            Standing::Known => "known",
            Standing::ListWanted => "list_wanted",
            Standing::Missing(_) => "missing",
        };
        let first_missing = match missing {
            0 => Vec::new(),
            _ => self.freshness.awaited().iter().take(64).flatten().copied().collect(),
        };
        Ok(v1::CompareMailboxResponse {
            standing: standing.into(),
            missing,
            first_missing: first_missing.into(),
        })
    }
}

//! Signed revocations: the same order of steps as without a signature, for grants that were issued
//! until a moment. A clock that is not trusted and a disk that takes nothing do not hold them up.

use jit_proto::{v1, words::counted};

use crate::{
    config::Config,
    disk::audit::{EventCode, Record},
    gate::{Gate, Revoked, Target, revocation::Order},
    kernel::datapath::Datapath,
    rules::{
        clock::Now,
        refusal::Refused,
        revocation::{self, VerifiedRevocation, Whose},
    },
};

/// Result of the verification of a revocation; `None`: it was not done.
pub(in crate::gate) type Verified = Option<Result<Box<VerifiedRevocation>, Refused>>;

impl<D: Datapath> Gate<D> {
    /// Carries out a signed revocation, whoever delivers it.
    ///
    /// # Errors
    /// It is refused. With `not_yet_valid` everything that is held was ended all the same.
    pub fn revoke_signed(
        &mut self,
        envelope: &v1::Envelope,
        by: &str,
        now: Now,
    ) -> Result<Revoked, Refused> {
        self.revoke_verified(envelope, None, by, now)
    }

    /// The same. `verified`: the result of the signatures' verification, if it is known.
    pub(in crate::gate) fn revoke_verified(
        &mut self,
        envelope: &v1::Envelope,
        verified: Verified,
        by: &str,
        now: Now,
    ) -> Result<Revoked, Refused> {
        let judged = self.judge_revocation(envelope, verified, now);
        let result = judged.and_then(|revocation| self.order_signed(&revocation, by, now));
        if let Err(refused) = &result {
            self.report_refused_revocation(refused, by, now);
        }
        self.settle_audit(now);
        result
    }

    /// The steps of docs/grants.md, section "Verification of a revocation", that must not fail before
    /// anything is closed.
    fn judge_revocation(
        &mut self,
        envelope: &v1::Envelope,
        verified: Verified,
        now: Now,
    ) -> Result<Box<VerifiedRevocation>, Refused> {
        let Config { keyring, host, .. } = &self.config;
        let verified = match verified {
            Some(verified) => verified?,
            None => Box::new(revocation::verify(envelope, keyring, host)?),
        };
        self.arrivals.revocation(&verified);
        verified.check_keys(keyring, self.clock.not_before_floor(now))?;
        Ok(verified)
    }

    fn order_signed(
        &mut self,
        revocation: &VerifiedRevocation,
        by: &str,
        now: Now,
    ) -> Result<Revoked, Refused> {
        // The floor of a clock that is earlier than before is that of the time before.
        let late = self.clock.not_before_floor(now);
        let (at, floor) = (revocation.issued_before(), revocation.floor(late));
        let target = match revocation.whose() {
            Whose::All => Target::Issued { requester: None, at, floor },
            Whose::Ids(ids) => Target::Ids(ids.clone()),
            Whose::Requester(name) => Target::Issued { requester: Some(name.clone()), at, floor },
        };
        let why = format!("{} (signed by {})", revocation.reason(), revocation.author());
        let (target, why, cut) = (&target, why.as_str(), revocation.cut());
        let revoked = self.revoke_with(&Order { target, cut, by, why, signed: true }, now);
        self.report_signed(revocation, &revoked, by, now);
        let done = format!("{} ended", counted(revoked.ended, "grant"));
        revocation.check_floor(late, &done)?;
        Ok(revoked)
    }

    /// A peer can deliver the same one again and again: what changes nothing is summed beyond a
    /// number.
    fn report_signed(
        &mut self,
        revocation: &VerifiedRevocation,
        revoked: &Revoked,
        by: &str,
        now: Now,
    ) {
        let record = Record::new(EventCode::RevocationSigned).by(by);
        let record = match revocation.whose() {
            Whose::All => record.with("all", true),
            Whose::Ids(ids) => record.with("ids", ids.len()),
            Whose::Requester(name) => record.text("requester", name),
        };
        let record = record
            .with("floor", revocation.issued_before().to_string())
            .with("ended", revoked.ended)
            .text("author", revocation.author())
            .text("why", revocation.reason())
            .with("signers", revocation.signers().to_vec())
            .with("digest", hex::encode(revocation.digest()))
            .detail(&revoked.warning);
        self.recorder.revoked(record, revoked.changed, by, now);
        if revoked.changed {
            let (author, signers) = (revocation.author(), revocation.signers().join(", "));
            tracing::info!(by, author, signers, ended = revoked.ended, "signed revocation");
        }
    }

    /// A peer can cause these again and again: beyond a number they are summed.
    fn report_refused_revocation(&mut self, refused: &Refused, by: &str, now: Now) {
        let Refused { refusal, detail, id: _ } = refused;
        let word = refusal.word();
        let record = Record::new(EventCode::RevocationRefused).by(by).reason(word).detail(detail);
        if self.recorder.bounded(record, by, word, now) {
            tracing::warn!(by, reason = word, "signed revocation refused: {detail:?}");
        }
    }
}

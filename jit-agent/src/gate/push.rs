//! Admissions, in this order: verify, ledger, audit, disk, open in the kernel, answer. A grant that
//! one of these steps does not take is taken back.

use std::collections::BTreeSet;

use jit_proto::{GrantId, Refusal, WallTime, v1};

use crate::{
    config::Config,
    gate::{Gate, Pusher, report::grant_event},
    kernel::datapath::{Datapath, DatapathError},
    rules::{
        clock::Now,
        grant::{self, VerifiedGrant},
        ledger::Admission,
        reconcile::EntryKey,
        refusal::Refused,
    },
};

/// Result of an accepted envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Whether it is active, scheduled or known.
    pub admission: Admission,
    /// Its id.
    pub id: GrantId,
    /// Its end.
    pub not_after: WallTime,
    /// What may not be as meant; empty: nothing.
    pub warning: String,
}

/// The outcome of each envelope of a push.
type Outcomes = [Result<Accepted, Refused>];

impl<D: Datapath> Gate<D> {
    /// Admits envelopes, each by itself; the outcomes are in their order.
    pub fn push(
        &mut self,
        envelopes: Vec<v1::Envelope>,
        by: impl Into<Pusher>,
        now: Now,
    ) -> Vec<Result<Accepted, Refused>> {
        let pusher = by.into();
        let by = pusher.name.as_str();
        self.restore_held_back(now);
        let mut fresh: Vec<(GrantId, v1::Envelope)> = Vec::new();
        let mut outcomes: Vec<_> = envelopes
            .into_iter()
            .map(|envelope| {
                let accepted = self.admit(&envelope, &pusher, now)?;
                if accepted.admission != Admission::Known {
                    fresh.push((accepted.id, envelope));
                }
                Ok(accepted)
            })
            .collect();
        fresh.retain(|(id, _)| self.start_slot(*id, &mut outcomes));
        let mut changed = BTreeSet::new();
        if !fresh.is_empty() {
            match self.persist(&fresh, by, now) {
                Ok(()) => {
                    changed = self.ledger.take_changed();
                    changed.extend(self.open(&fresh, &mut outcomes, now));
                }
                Err(error) => {
                    tracing::error!("{error}: new grants are refused");
                    let refused = Refused::new(Refusal::Storage, error);
                    for (id, _) in &fresh {
                        self.ledger.forget(*id);
                        refuse(&mut outcomes, *id, &refused);
                    }
                }
            }
        }
        // A grant that was taken back leaves no entry in the kernel.
        changed.extend(self.ledger.take_changed());
        self.write(changed);
        if outcomes.iter().any(Result::is_ok) {
            self.about.pushed(by, now);
        }
        self.report_outcomes(&outcomes, by, now);
        self.settle_audit(now);
        outcomes
    }

    /// All steps of docs/grants.md from `size` to `room`.
    fn admit(
        &mut self,
        envelope: &v1::Envelope,
        by: &Pusher,
        now: Now,
    ) -> Result<Accepted, Refused> {
        self.clock.check(now)?;
        let grant = self.verify(envelope, now)?;
        let (id, not_after) = (grant.id(), grant.not_after());
        self.clock.check_issued(grant.issued_at()).map_err(|refused| refused.of(id))?;
        let warning = self.check_replaced(&grant, by, now)?;
        let admitted = self.ledger.admit(grant, now);
        if admitted.as_ref().is_err_and(|refused| refused.refusal == Refusal::Revoked)
            && let Some(longer) = self.ledger.refuse_longer(id, not_after, now)
        {
            self.outbox.refuse([(id, longer)]);
            self.outbox.write_soon(now);
        }
        let admission = admitted?;
        if admission == Admission::Known {
            return Ok(Accepted { admission, id, not_after, warning: String::new() });
        }
        self.check_replaced_later(id, by);
        Ok(Accepted { admission, id, not_after, warning })
    }

    fn verify(&self, envelope: &v1::Envelope, now: Now) -> Result<VerifiedGrant, Refused> {
        let Config { policy, keyring, host, .. } = &self.config;
        let grant = grant::verify(envelope, keyring, host)?;
        policy.check(&grant, keyring, now)?;
        Ok(grant)
    }

    /// Whether the kernel can count this grant; else it is refused.
    fn start_slot(&mut self, id: GrantId, outcomes: &mut Outcomes) -> bool {
        let Err(error) = self.count_anew(id) else { return true };
        tracing::error!(grant = %id, "{error}: the grant is refused");
        self.ledger.forget(id);
        refuse(outcomes, id, &Refused::new(refusal_of(&error), error.to_string()));
        false
    }

    /// Writes to the audit first: a grant in the database opens again after a crash.
    fn persist(
        &mut self,
        fresh: &[(GrantId, v1::Envelope)],
        by: &str,
        now: Now,
    ) -> Result<(), String> {
        let grants = fresh.iter().filter_map(|(id, _)| self.ledger.grant(*id));
        let recorded = self.recorder.accepted(grants, by, now);
        recorded.map_err(|error| error.to_string())?;
        for (id, _) in fresh {
            self.outbox.progress(*id);
        }
        self.settle(fresh, now).map_err(|error| error.to_string())
    }

    /// Opens the persisted grants, and closes those that they replace. Each grant that the kernel
    /// does not take is taken back. Returns the keys to write for that.
    fn open(
        &mut self,
        fresh: &[(GrantId, v1::Envelope)],
        outcomes: &mut Outcomes,
        now: Now,
    ) -> BTreeSet<EntryKey> {
        let mut unwritten = BTreeSet::new();
        for (id, _) in fresh {
            let Err((error, keys)) = self.open_one(*id, now) else { continue };
            unwritten.extend(keys);
            tracing::error!(grant = %id, "{error}: the grant is taken back");
            self.outbox.remove(*id);
            if let Err(error) = self.settle(&[], now) {
                tracing::error!(grant = %id, "{error}: it would come back at a restart");
            }
            refuse(outcomes, *id, &Refused::new(refusal_of(&error), error.to_string()));
        }
        if self.outbox.removes()
            && let Err(error) = self.settle(&[], now)
        {
            tracing::error!("{error}: what was replaced is tried to be forgotten again");
        }
        unwritten
    }

    /// Opens one grant. On an error it is taken back in the ledger, and the error has the keys to
    /// write.
    fn open_one(
        &mut self,
        id: GrantId,
        now: Now,
    ) -> Result<(), (DatapathError, BTreeSet<EntryKey>)> {
        let Some(held) = self.ledger.grant(id) else { return Ok(()) };
        let mut keys: BTreeSet<_> = held.keys().collect();
        let before = held.grant.replaces().and_then(|old| self.ledger.grant(old)).cloned();
        let replacement = self.replace_by(id, now);
        keys.extend(self.ledger.take_changed());
        let Err(error) = self.try_write(&keys) else {
            self.report_replacement(replacement, now);
            return Ok(());
        };
        self.ledger.forget(id);
        if let Some(replacement) = replacement {
            self.ledger.take_back(replacement, before);
        }
        keys.extend(self.ledger.take_changed());
        Err((error, keys))
    }

    fn report_outcomes(&mut self, outcomes: &Outcomes, by: &str, now: Now) {
        for outcome in outcomes {
            match outcome {
                Ok(Accepted { admission: Admission::Known, .. }) => {}
                Ok(Accepted { admission, id, not_after, warning }) => {
                    let kind = match admission {
                        Admission::Active | Admission::Known => "activated",
                        Admission::Scheduled => "scheduled",
                    };
                    tracing::info!(grant = %id, by, until = %not_after, warning, "grant {kind}");
                    let event = grant_event(kind, *id, by);
                    let detail = warning.clone();
                    self.report_grant(v1::GrantEvent { detail, ..event }, now);
                }
                Err(refused) => {
                    self.recorder.refused(refused, by, now);
                    let Refused { refusal, detail, id } = refused;
                    let word = refusal.word();
                    tracing::warn!(by, reason = word, "grant refused: {detail:?}");
                    let event = grant_event("refused", id.unwrap_or(GrantId([0; 16])), by);
                    let (reason, detail) = (word.into(), detail.clone());
                    self.report_grant(v1::GrantEvent { reason, detail, ..event }, now);
                }
            }
        }
    }
}

/// The word for a grant that the kernel did not take.
const fn refusal_of(error: &DatapathError) -> Refusal {
    match error {
        DatapathError::Map { full: true, .. } => Refusal::Capacity,
        _ => Refusal::Storage,
    }
}

/// Turns the accepted outcome of a grant into a refusal.
fn refuse(outcomes: &mut Outcomes, id: GrantId, refused: &Refused) {
    for outcome in outcomes {
        if outcome.as_ref().is_ok_and(|accepted| accepted.id == id) {
            *outcome = Err(refused.clone().of(id));
        }
    }
}

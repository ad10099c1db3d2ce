//! Admissions, in this order: verify, ledger, audit, disk, open in the kernel, answer. A grant that
//! one of these steps does not take is taken back.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use jit_proto::{
    GrantId, Refusal, WallTime, v1,
    words::{range_text, source_text},
};
use prometheus_client::metrics::counter::Counter;
use prost::bytes::Bytes;

use crate::{
    config::Config,
    disk::{audit::EventCode, store::Permit},
    gate::{Gate, Pusher, patience::LONGEST, report::grant_event, verification::Candidate},
    kernel::datapath::{Datapath, DatapathError, Failures},
    rules::{
        clock::Now,
        grant::{self, MAX_ENTRIES, VerifiedGrant},
        ledger::{Admission, HeldGrant},
        reconcile::EntryKey,
        refusal::Refused,
        refused_pushes::Asked,
    },
    system::meters::meters,
};

/// Most new grants of one slice that the log names one by one.
const LINES: usize = 16;

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

/// A new grant, not written yet.
type Fresh = (GrantId, v1::Envelope);
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
        let by = by.into();
        let mut candidates: VecDeque<_> = envelopes.into_iter().map(Candidate::new).collect();
        let mut outcomes = Vec::with_capacity(candidates.len());
        while !candidates.is_empty() {
            let some = self.push_slice(&mut candidates, 0, &by, now, || true);
            self.report_accepted(&some, &by.name, now);
            outcomes.extend(some);
        }
        outcomes
    }

    /// Admits the first of these candidates, as long as there is time and they do not open very
    /// many entries; at least one. `generation`: of the keys. Their peer may have its answer before
    /// [`Gate::report_accepted`].
    pub(super) fn push_slice(
        &mut self,
        candidates: &mut VecDeque<Candidate>,
        generation: u64,
        pusher: &Pusher,
        now: Now,
        in_time: impl Fn() -> bool,
    ) -> Vec<Result<Accepted, Refused>> {
        let by = pusher.name.as_str();
        self.restore_held_back(now);
        let (mut fresh, mut outcomes, payloads) =
            self.admit_some(candidates, generation, pusher, now, in_time);
        self.start_slots(&mut fresh, &mut outcomes);
        let mut changed = BTreeSet::new();
        if !fresh.is_empty() {
            let ids: Vec<_> = fresh.iter().map(|(id, _)| *id).collect();
            match self.persist(fresh, &ids, by, now) {
                Ok(()) => {
                    changed = self.ledger.take_changed();
                    let began = Instant::now();
                    self.open(&ids, &mut changed, &mut outcomes, now);
                    meters().opening.since(began);
                }
                Err(error) => {
                    tracing::error!("{error}: new grants are refused");
                    let refused = Refused::new(Refusal::Storage, error);
                    for id in ids {
                        self.ledger.forget(id);
                        refuse(&mut outcomes, id, &refused);
                    }
                }
            }
        }
        // A grant that was taken back leaves no entry in the kernel.
        changed.extend(self.ledger.take_changed());
        self.write(changed);
        count(&outcomes);
        if outcomes.iter().any(Result::is_ok) {
            self.about.pushed(by, now);
        }
        self.report_refused(&outcomes, &payloads, by, now);
        self.settle_audit(now);
        outcomes
    }

    /// The part of a slice before anything is written. Returns the new grants, and the outcomes with
    /// the payloads that they are of.
    fn admit_some(
        &mut self,
        candidates: &mut VecDeque<Candidate>,
        generation: u64,
        pusher: &Pusher,
        now: Now,
        in_time: impl Fn() -> bool,
    ) -> (Vec<Fresh>, Vec<Result<Accepted, Refused>>, Vec<Bytes>) {
        let (mut fresh, mut outcomes, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
        let mut entries = 0;
        while (outcomes.is_empty() || (in_time() && entries < MAX_ENTRIES))
            && let Some(Candidate { envelope, check }) = candidates.pop_front()
        {
            payloads.push(envelope.payload.clone());
            let accepted = self.admit(&envelope, check.settled(generation), pusher, now);
            if let Ok(Accepted { id, admission, .. }) = &accepted
                && *admission != Admission::Known
            {
                let held = self.ledger.grant(*id);
                entries += held.map_or(0, |held| held.grant.entries().count());
                fresh.push((*id, envelope));
            }
            outcomes.push(accepted);
        }
        (fresh, outcomes, payloads)
    }

    /// All steps of docs/grants.md from `size` to `room`. `verified`: the result of those to
    /// `host`, if it is known.
    fn admit(
        &mut self,
        envelope: &v1::Envelope,
        verified: Option<Result<Box<VerifiedGrant>, Refused>>,
        by: &Pusher,
        now: Now,
    ) -> Result<Accepted, Refused> {
        self.clock.check(now)?;
        let Config { policy, keyring, host, .. } = &self.config;
        let grant = match verified {
            Some(verified) => *verified?,
            None => grant::verify(envelope, keyring, host)?,
        };
        self.arrivals.grant(&grant);
        policy.check(&grant, keyring, now)?;
        let (id, not_after) = (grant.id(), grant.not_after());
        self.clock.check_issued(grant.issued_at()).map_err(|refused| refused.of(id))?;
        let warning = self.check_replaced(&grant, by, now)?;
        if self.ledger.grant(id).is_none() {
            self.arrivals.check(&grant, now)?;
        }
        let replaces = grant.replaces().is_some();
        let admitted = self.ledger.admit(grant, now);
        let revoked = admitted.as_ref().is_err_and(|refused| refused.refusal == Refusal::Revoked);
        if revoked {
            self.arrivals.bar(id);
        }
        if revoked && let Some(longer) = self.ledger.refuse_longer(id, not_after, now) {
            self.outbox.refuse([(id, longer)]);
            self.outbox.write_soon(now);
        }
        let admission = admitted?;
        if admission == Admission::Known {
            return Ok(Accepted { admission, id, not_after, warning: String::new() });
        }
        if replaces {
            self.check_replaced_later(id, by);
        }
        Ok(Accepted { admission, id, not_after, warning })
    }

    /// Starts the slots of new grants. Those that the kernel cannot count are refused.
    fn start_slots(&mut self, fresh: &mut Vec<Fresh>, outcomes: &mut Outcomes) {
        let held = fresh.iter().filter_map(|(id, _)| self.ledger.grant(*id));
        let (ids, slots): (Vec<_>, Vec<_>) = held
            .filter_map(|held| Some((held.grant.id(), (held.stage.slot()?, held.limit()))))
            .unzip();
        let Err(Failures { at, why }) = self.datapath.open_slots(&slots) else { return };
        let failed: BTreeSet<_> = at.into_iter().filter_map(|place| ids.get(place)).collect();
        tracing::error!(grants = failed.len(), "{why}: the grants are refused");
        let refused = Refused::new(refusal_of(&why), why.to_string());
        for id in &failed {
            self.ledger.forget(**id);
            refuse(outcomes, **id, &refused);
        }
        fresh.retain(|(id, _)| !failed.contains(id));
    }

    /// Writes to the audit's file first: a grant in the database opens again after a crash. The
    /// database waits for that only before its last step, and both files are synced at the same
    /// time. If a power failure takes the record alone, the next start records the grant again
    /// (`Recorder::reopened`).
    pub(super) fn persist(
        &mut self,
        fresh: Vec<Fresh>,
        ids: &[GrantId],
        by: &str,
        now: Now,
    ) -> Result<(), String> {
        for id in ids {
            self.outbox.progress(*id);
        }
        let permit = Permit::default();
        let refused_at_last = permit.refused_at_last();
        let written = permit.clone();
        let grants = ids.iter().filter_map(|id| self.ledger.grant(*id));
        let recording = self.recorder.begin_accepted(grants, by, now, move || written.grant());
        let (progress, floor) = self.unsettled(now);
        let storing = self.outbox.begin(fresh, progress, floor, LONGEST, permit);
        let recorded = self.recorder.finish(recording);
        // From here on the database waits for nobody.
        drop(refused_at_last);
        let stored = self.outbox.finish(storing, LONGEST, now);
        match (recorded, stored) {
            (Ok(()), stored) => stored.map_err(|error| error.to_string()),
            (Err(error), stored) => {
                if stored.is_ok() {
                    self.take_back_stored(ids, now);
                }
                Err(error.to_string())
            }
        }
    }

    /// Removes stored grants again that the audit does not have.
    pub(super) fn take_back_stored(&mut self, ids: &[GrantId], now: Now) {
        for id in ids {
            self.outbox.remove(*id);
        }
        if let Err(error) = self.settle(&[], now) {
            tracing::error!("{error}: refused grants would come back at a restart");
        }
    }

    /// Opens the persisted grants, and closes those that they replace. Each grant that the kernel
    /// does not take is taken back. What is left in `changed` must still be written.
    fn open(
        &mut self,
        ids: &[GrantId],
        changed: &mut BTreeSet<EntryKey>,
        outcomes: &mut Outcomes,
        now: Now,
    ) {
        if self.open_together(ids, changed) {
            changed.clear();
            return;
        }
        for id in ids {
            let Err((error, keys)) = self.open_one(*id, now) else { continue };
            changed.extend(keys);
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
    }

    /// Opens grants together, if they replace nothing. `false`: some of them may not be open.
    fn open_together(&mut self, ids: &[GrantId], changed: &mut BTreeSet<EntryKey>) -> bool {
        let held: Vec<_> = ids.iter().filter_map(|id| self.ledger.grant(*id)).collect();
        if held.iter().any(|held| held.grant.replaces().is_some()) {
            return false;
        }
        changed.extend(held.into_iter().flat_map(HeldGrant::keys));
        self.try_write(changed).is_ok()
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

    /// Writes accepted grants to the log, and to the watchers. Of many new grants at once, the log
    /// has one line: the audit has each.
    pub(super) fn report_accepted(&self, outcomes: &Outcomes, by: &str, now: Now) {
        let new = outcomes.iter().flatten().filter(|one| one.admission != Admission::Known);
        let count = new.clone().count();
        if count > LINES {
            tracing::info!(by, count, "grants accepted; the audit has each of them");
        }
        for Accepted { admission, id, not_after, warning } in new {
            let kind = match admission {
                Admission::Scheduled => "scheduled",
                Admission::Active | Admission::Known => "activated",
            };
            if count <= LINES || !warning.is_empty() {
                let code = match admission {
                    Admission::Scheduled => EventCode::GrantScheduled,
                    Admission::Active | Admission::Known => EventCode::GrantAdmitted,
                };
                let held = self.ledger.grant(*id);
                let requester = held.map(|held| held.grant.requester());
                tracing::info!(
                    grant = %id, by, requester, until = %not_after, warning, code = code.code(),
                    "grant {kind}"
                );
            }
            let event = grant_event(kind, *id, by);
            self.report_grant(v1::GrantEvent { detail: warning.clone(), ..event }, now);
        }
    }

    fn report_refused(&mut self, outcomes: &Outcomes, payloads: &[Bytes], by: &str, now: Now) {
        for (outcome, payload) in outcomes.iter().zip(payloads) {
            let Err(refused) = outcome else { continue };
            let asked = self.keep_refused(refused, payload, by, now);
            let Refused { refusal, detail, id } = refused;
            let word = refusal.word();
            // A peer can cause these again and again: beyond a number they are summed.
            if self.denials.writes(by, refused, now) {
                log_refused(refused, &asked, by);
            }
            if self.recorder.refused(refused, &asked, by, now) {
                let event = grant_event("refused", id.unwrap_or(GrantId([0; 16])), by);
                let (reason, detail) = (word.into(), detail.clone());
                self.report_grant(v1::GrantEvent { reason, detail, ..event }, now);
            }
        }
    }
}

/// What it asked for is as the envelope says: `verified` says whether a key vouches for it.
fn log_refused(refused: &Refused, asked: &Asked, by: &str) {
    let Refused { refusal, detail, id } = refused;
    let Asked { requester, sources, ports, .. } = asked;
    let sources: Vec<_> = sources.iter().map(source_text).collect();
    let ports: Vec<_> = ports.iter().map(|range| range_text(Some(range))).collect();
    tracing::warn!(
        grant = id.map(tracing::field::display),
        by,
        reason = refusal.word(),
        requester,
        source = sources.join(" "),
        port = ports.join(" "),
        verified = !asked.is_hearsay(),
        code = EventCode::GrantRefused.code(),
        "grant refused: {detail:?}"
    );
}

/// Counts outcomes for the metrics.
fn count(outcomes: &Outcomes) {
    let meters = meters();
    for outcome in outcomes {
        let counter = match outcome {
            Ok(Accepted { admission: Admission::Active, .. }) => Some(&meters.admitted),
            Ok(Accepted { admission: Admission::Known, .. }) => Some(&meters.known),
            Ok(Accepted { admission: Admission::Scheduled, .. }) => Some(&meters.scheduled),
            Err(refused) => meters.refused(refused.refusal),
        };
        counter.map(Counter::inc);
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

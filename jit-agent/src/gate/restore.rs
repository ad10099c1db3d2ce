//! Grants after restarts and reboots: stored grants are put back. Grants that another one replaced
//! meanwhile end.

mod ahead;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZeroU32,
};

use jit_proto::{GrantId, Refusal, SourcePrefix, WallTime, v1};
use prost::Message as _;

use crate::{
    config::Config,
    disk::{
        audit::{EventCode, Record},
        store::{Stored, StoredGrant, StoredProgress},
    },
    gate::{Gate, outbox::Storing, report::grant_event, takeover::Carried},
    kernel::datapath::{Datapath, Elsewhere},
    rules::{
        clock::{BootNanos, Now},
        grant::{VerifiedGrant, break_glass},
        ledger::{Admission, Progress, Replacement, Tombstone},
        refusal::Refused,
    },
};

/// A stored grant.
#[derive(Clone, Debug)]
struct Kept {
    id: GrantId,
    grant: StoredGrant,
    progress: StoredProgress,
    /// The kernel still has its count, as read when it was last tried to put it back.
    counts: bool,
}

impl Kept {
    /// The record of its end.
    fn expired(&self) -> EventCode {
        match &self.grant.envelope {
            Some(envelope) if break_glass::is_of(envelope) => EventCode::BreakGlassEnded,
            _ => EventCode::GrantExpired,
        }
    }

    /// What was signed.
    fn message(&self) -> Option<v1::Grant> {
        v1::Grant::decode(&*self.grant.envelope.as_ref()?.payload).ok()
    }
}

/// Stored grants that wait, closed.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// Grants of an earlier boot: for a clock that is trusted.
    clock: Vec<Kept>,
    /// Grants that need a signer whose key cannot be read at the moment, or the host's id, which is not
    /// known yet.
    key: Vec<Kept>,
}

impl HeldBack {
    pub(super) fn ids(&self) -> impl Iterator<Item = GrantId> + '_ {
        self.all().map(|kept| kept.id)
    }

    fn all(&self) -> impl Iterator<Item = &Kept> {
        self.clock.iter().chain(&self.key)
    }

    /// The grants of a requester. The controller names the requester; nobody verifies the name.
    pub(super) fn ids_of(&self, requester: &str) -> impl Iterator<Item = GrantId> {
        let of_it =
            move |kept: &&Kept| kept.message().is_some_and(|one| one.requester == requester);
        self.all().filter(of_it).map(|kept| kept.id)
    }

    /// The grants of a requester, or of everybody, that were issued until a moment. One that cannot
    /// be read is among them.
    pub(super) fn ids_issued_until(
        &self,
        at: WallTime,
        requester: Option<&str>,
    ) -> impl Iterator<Item = GrantId> {
        let is_meant = move |kept: &&Kept| {
            kept.message().is_none_or(|one| {
                one.issued_at_ms <= at.0 && requester.is_none_or(|name| one.requester == name)
            })
        };
        self.all().filter(is_meant).map(|kept| kept.id)
    }

    /// The grants that open something to one of these addresses.
    pub(super) fn ids_open_to(&self, source: &SourcePrefix) -> impl Iterator<Item = GrantId> {
        let opens = move |kept: &&Kept| {
            let sources = kept.message().map(|one| one.sources).unwrap_or_default();
            let mut sources = sources.iter().filter_map(|one| SourcePrefix::try_from(one).ok());
            sources.any(|own| own.overlaps(source))
        };
        self.all().filter(opens).map(|kept| kept.id)
    }

    /// When the last of a requester's grants was issued; `None`: of everybody's.
    pub(super) fn latest_issue(&self, requester: Option<&str>) -> Option<WallTime> {
        let messages = self.all().filter_map(Kept::message);
        let of_it = messages.filter(|one| requester.is_none_or(|name| one.requester == name));
        of_it.map(|one| WallTime(one.issued_at_ms)).max()
    }

    /// These were revoked.
    pub(super) fn remove(&mut self, ids: &HashSet<GrantId>) {
        self.clock.retain(|kept| !ids.contains(&kept.id));
        self.key.retain(|kept| !ids.contains(&kept.id));
    }
}

/// The kernel's state of a stored grant.
#[derive(Debug)]
struct Still {
    /// Its end, if it got one in this boot.
    deadline: Option<BootNanos>,
    /// The slot that still counts it.
    slot: Option<u32>,
    /// Its count in the tables of another version.
    elsewhere: Elsewhere,
}

/// A stored grant that the ledger has taken.
struct Taken {
    id: GrantId,
    slot: u32,
    /// It is counted anew, with at most this number of connections; `None`: the kernel goes on.
    anew: Option<u32>,
    /// What the audit has to know.
    news: Option<Admission>,
}

/// What to do with a stored grant.
enum Verdict {
    /// Its end has come.
    Ended(VerifiedGrant),
    /// Keys or policy do not admit it any more.
    Refused(Refused),
    /// It is put back. This time is used for that.
    Restore(VerifiedGrant, Now),
}

impl<D: Datapath> Gate<D> {
    /// Puts the stored grants back, and begins to write their progress to the disk.
    pub(super) fn restore(
        &mut self,
        grants: Vec<(GrantId, StoredGrant)>,
        mut progress: HashMap<GrantId, StoredProgress>,
        tombstones: Vec<(GrantId, Tombstone)>,
        stored_boot: Option<&str>,
        now: Now,
    ) -> Storing {
        self.restore_tombstones(tombstones, stored_boot, now);
        if let Err(untrusted) = self.clock.check(now) {
            tracing::error!(
                "this host's {untrusted}: grants of an earlier boot stay closed until it is right"
            );
        }
        self.restore_grants(kept(grants, &mut progress), now)
    }

    /// Keeps what is stored closed, until it is known what of it was revoked.
    pub(super) fn hold_back(&mut self, stored: Stored, now: Now) {
        let Stored { grants, mut progress, tombstones, boot_id, .. } = stored;
        self.restore_tombstones(tombstones, boot_id.as_deref(), now);
        self.held_back.clock.extend(kept(grants, &mut progress));
    }

    fn restore_tombstones(
        &mut self,
        tombstones: Vec<(GrantId, Tombstone)>,
        stored_boot: Option<&str>,
        now: Now,
    ) {
        let same_boot = stored_boot == Some(self.boot_id.as_str());
        for (id, tombstone) in tombstones {
            let fresh = Tombstone::new(tombstone.until, now);
            self.ledger.restore_tombstone(id, if same_boot { tombstone } else { fresh });
        }
        if !same_boot {
            // Stored times of the boot clock are of an earlier boot.
            self.outbox.boot(self.boot_id.clone(), self.ledger.tombstones());
        }
    }

    /// The clock is trusted again: puts the grants back that waited for it.
    pub(super) fn restore_held_back(&mut self, now: Now) {
        if self.held_back.clock.is_empty() || !self.clock.is_trusted(now) {
            return;
        }
        let held = std::mem::take(&mut self.held_back.clock);
        tracing::info!(
            grants = held.len(),
            "the clock is right: grants of an earlier boot are back"
        );
        let storing = self.restore_grants(held, now);
        self.settled_or_log(storing, now);
        self.write_all();
    }

    /// The configuration has other keys, or the host's id is known: puts the grants back that waited
    /// for that.
    pub(super) fn restore_unsigned(&mut self, now: Now) {
        if self.held_back.key.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held_back.key);
        let storing = self.restore_grants(held, now);
        self.settled_or_log(storing, now);
        self.write_all();
    }

    fn restore_grants(&mut self, mut grants: Vec<Kept>, now: Now) -> Storing {
        let trusted = self.clock.is_trusted(now);
        // The clock may be a little earlier than the floor. The later of the two says what has
        // ended.
        let late = self.clock.not_before_floor(now);
        self.find_counts(&mut grants);
        // Grants with a slot come first: the others take the free slots.
        grants.sort_by_key(|kept| (!kept.counts, kept.id));
        let waits = |kept: &mut Kept| !trusted && self.deadline_kept(&kept.progress).is_none();
        let held: Vec<_> = grants.extract_if(.., waits).collect();
        self.held_back.clock.extend(held);
        let mut replaced = BTreeSet::new();
        let (keyring, host) = (self.config.keyring.clone(), self.config.host.clone());
        ahead::verify_all(&grants, &keyring, &host, |some, verified| {
            replaced.extend(self.restore_some(some, verified, [now, late]));
        });
        for (old, by) in replaced {
            let hits = self.hits(old);
            let replacement = self.ledger.replace_id(old, by, late, hits);
            self.report_replacement(replacement, now);
        }
        // Meanwhile the disk writes.
        let storing = self.begin_to_settle(now);
        drop(grants);
        self.note_outside();
        self.note_held();
        storing
    }

    /// Finds out which grants the kernel still counts. New tables count none.
    fn find_counts(&self, grants: &mut [Kept]) {
        if self.datapath.is_new() {
            return;
        }
        let here =
            |kept: &Kept| kept.progress.boot_id == self.boot_id && kept.progress.generation != 0;
        let slots: Vec<_> =
            grants.iter().filter(|kept| here(kept)).map(|kept| kept.progress.slot).collect();
        let mut counted = self.datapath.slots(&slots).into_iter();
        for kept in grants {
            let slot = if here(kept) { counted.next() } else { None };
            kept.counts = slot.is_some_and(|slot| slot.generation == kept.progress.generation);
        }
    }

    /// Puts some grants back; returns which other ones ended when they began, and by which.
    fn restore_some(
        &mut self,
        some: &[Kept],
        verified: ahead::Verified,
        times: [Now; 2],
    ) -> Vec<(GrantId, GrantId)> {
        let [now, late] = times;
        let (mut replaced, mut taken) = (Vec::new(), Vec::new());
        for (kept, verified) in some.iter().zip(verified) {
            let Some(verified) = verified else { continue };
            if self.lacks_its_name(&verified) || self.lacks_a_key(kept, &verified, late) {
                self.held_back.key.push(kept.clone());
                continue;
            }
            let (old, back) = self.restore_one(kept, verified, times);
            replaced.extend(old.map(|old| (old, kept.id)));
            taken.extend(back);
        }
        self.resume(taken, now);
        replaced
    }

    /// Whether a grant is refused because this host's id is not known yet.
    fn lacks_its_name(&self, verified: &Result<VerifiedGrant, Refused>) -> bool {
        let wrong = |refused: &Refused| refused.refusal == Refusal::WrongHost;
        self.config.host.is_empty() && verified.as_ref().is_err_and(wrong)
    }

    /// Whether a grant is refused because a signer's key cannot be read at the moment.
    fn lacks_a_key(
        &self,
        kept: &Kept,
        verified: &Result<VerifiedGrant, Refused>,
        late: Now,
    ) -> bool {
        let Config { absent_signers, keyring, policy, .. } = &self.config;
        if absent_signers.is_empty() {
            return false;
        }
        let refusal = match verified {
            Err(refused) => Some(refused.refusal),
            Ok(_) if kept.progress.began => None,
            Ok(grant) => policy.check(grant, keyring, late).err().map(|refused| refused.refusal),
        };
        let unsigned = [Refusal::ApprovalsMissing, Refusal::BadSignature, Refusal::UnknownKey];
        refusal.is_some_and(|refusal| unsigned.contains(&refusal))
    }

    /// Puts one grant back; returns which other one ended when it began, and what is left to do.
    fn restore_one(
        &mut self,
        kept: &Kept,
        verified: Result<VerifiedGrant, Refused>,
        times: [Now; 2],
    ) -> (Option<GrantId>, Option<Taken>) {
        let Kept { id, progress, .. } = kept;
        let (id, [now, _]) = (*id, times);
        let still = self.still(kept);
        let (replaces, verdict) = judge(verified, progress.began, &self.config, times);
        let carried = carried(progress, &still);
        let result = match verdict {
            Verdict::Refused(refused) => Err(refused),
            Verdict::Ended(grant) => {
                if let Some(end) = still.deadline {
                    self.ledger.ended_unseen(grant, end, now);
                }
                Ok(None)
            }
            Verdict::Restore(grant, at) => {
                let progress = known(progress, &still, carried.as_ref(), grant.limit());
                let ended = progress.deadline.is_some_and(|deadline| deadline <= at.boot);
                match self.check_witness(&grant, still.deadline) {
                    Err(refused) if !ended => Err(refused),
                    _ => self.ledger.restore(grant, progress, at),
                }
            }
        };
        let taken = match result {
            Ok(Some(admission)) => {
                let here = progress.boot_id == self.boot_id;
                let news = is_news(admission, &still, here).then_some(admission);
                self.taken(id, still.slot, carried, news)
            }
            Ok(None) | Err(Refused { refusal: Refusal::Expired, .. }) => {
                self.outbox.remove(id);
                let record = Record::new(kept.expired()).by("agent").grant(id);
                self.record(record.detail("its end came while no agent was running"), now);
                None
            }
            Err(refused) => {
                // A grant that the audit calls refused must not come back at a later start.
                self.outbox.remove(id);
                tracing::warn!(grant = %id, "stored grant not restored: {refused}");
                self.record_not_restored(id, refused.refusal, &refused.detail, now);
                if kept.expired() == EventCode::BreakGlassEnded {
                    let record = Record::new(EventCode::BreakGlassEnded).by("agent").grant(id);
                    self.record(record.detail("not restored at the agent's start"), now);
                }
                None
            }
        };
        (replaces, taken)
    }

    /// A grant that the ledger has taken goes on with the kernel's count, or begins a new count with
    /// the connections that are left. While another gate also counts, it begins with none.
    fn taken(
        &mut self,
        id: GrantId,
        kept: Option<u32>,
        carried: Option<Carried>,
        news: Option<Admission>,
    ) -> Option<Taken> {
        let held = self.ledger.grant(id)?;
        let slot = held.stage.slot()?;
        let limit = if carried.is_some() { 0 } else { held.limit() };
        let anew = (kept != Some(slot)).then_some(limit);
        if let Some(carried) = carried {
            self.takeover.add(id, carried);
        }
        Some(Taken { id, slot, anew, news })
    }

    /// Opens the slots of grants that are counted anew, and notes what all of them have counted.
    fn resume(&mut self, taken: Vec<Taken>, now: Now) {
        let anew: Vec<_> = taken.iter().filter_map(|one| Some((one.slot, one.anew?))).collect();
        let failures = self.datapath.open_slots(&anew).err();
        let why = failures.as_ref().map(|failures| failures.why.to_string()).unwrap_or_default();
        let failed = failures.iter().flat_map(|failures| &failures.at);
        let failed: HashSet<_> =
            failed.filter_map(|place| anew.get(*place)).map(|(slot, _)| *slot).collect();
        for Taken { id, slot, anew, news } in taken {
            if failed.contains(&slot) {
                tracing::error!(grant = %id, "{why}: stored grant not restored");
                self.record_not_restored(id, Refusal::Storage, &why, now);
                self.ledger.forget(id);
                continue;
            }
            self.outbox.progress(id);
            let Some(held) = self.ledger.grant(id) else { continue };
            if let Some(admission) = news {
                self.recorder.reopened(held, admission, now);
            }
            if held.grant.limit().is_some() {
                let hits = if anew.is_some() { 0 } else { self.datapath.slot(slot).hits };
                self.ledger.count(slot, hits, now);
            }
        }
    }

    fn record_not_restored(&mut self, id: GrantId, refusal: Refusal, detail: &str, now: Now) {
        let record = Record::new(EventCode::GrantRefused).by("agent").grant(id);
        let detail = format!("not restored at start: {detail}");
        self.record(record.reason(refusal.word()).detail(&detail), now);
    }

    fn still(&self, kept: &Kept) -> Still {
        let progress = &kept.progress;
        // Another grant may have got it, if this one was held back.
        let slot =
            Some(progress.slot).filter(|slot| kept.counts && self.ledger.owner(*slot).is_none());
        let elsewhere = self.elsewhere(progress, slot);
        Still { deadline: self.deadline_kept(progress), slot, elsewhere }
    }

    /// The end that a grant got in this boot.
    fn deadline_kept(&self, progress: &StoredProgress) -> Option<BootNanos> {
        let same_boot = progress.boot_id == self.boot_id;
        (same_boot && progress.deadline != 0).then_some(BootNanos(progress.deadline))
    }

    /// The count in another version's tables of a grant that had a slot in this boot.
    fn elsewhere(&self, progress: &StoredProgress, kept: Option<u32>) -> Elsewhere {
        let StoredProgress { boot_id, slot, generation, .. } = progress;
        if kept.is_some() || *boot_id != self.boot_id || *generation == 0 {
            return Elsewhere::Nowhere;
        }
        self.datapath.elsewhere(*slot, *generation)
    }

    /// Sessions of grants that ended before this run and cut their sessions stay cut.
    pub(super) fn adopt_lingering(&mut self, now: Now) {
        for (key, entry) in self.tables.installed() {
            self.ledger.adopt(*key, *entry, now);
        }
    }

    /// Ends the grant that is replaced by a grant that has begun.
    pub(super) fn replace_by(&mut self, by: GrantId, now: Now) -> Option<Replacement> {
        let hits = self.ledger.replaced_by(by).map_or(0, |old| self.hits(old));
        self.ledger.replace(by, now, hits)
    }

    /// The replaced grant is removed from the disk, and its id is refused from now on.
    pub(super) fn report_replacement(&mut self, replacement: Option<Replacement>, now: Now) {
        let Some(replacement) = replacement else { return };
        let Replacement { by, ended, id, until } = replacement;
        self.outbox.refuse([(id, until)]);
        self.outbox.remove(id);
        self.outbox.write_soon(now);
        self.recorder.replaced(&replacement, &self.ledger, now);
        if ended {
            tracing::info!(grant = %id, %by, "grant replaced");
            let event = grant_event("replaced", id, "agent");
            self.report_grant(v1::GrantEvent { detail: format!("by {by}"), ..event }, now);
        }
    }
}

fn kept(
    grants: Vec<(GrantId, StoredGrant)>,
    progress: &mut HashMap<GrantId, StoredProgress>,
) -> Vec<Kept> {
    let kept = grants.into_iter().map(|(id, grant)| {
        let progress = progress.remove(&id).unwrap_or_default();
        Kept { id, grant, progress, counts: false }
    });
    kept.collect()
}

/// Whether the audit may not have this grant's record, or says that the grant is not open. `here`:
/// it was stored in this boot. A power failure may take a record that was not synced.
const fn is_news(admission: Admission, still: &Still, here: bool) -> bool {
    match admission {
        Admission::Active => still.deadline.is_none(),
        Admission::Scheduled => !here,
        Admission::Known => false,
    }
}

/// What to do with a stored grant, and which one it replaces if it has begun. The second time is
/// not before the floor. A grant that has not begun begins by the first time; one that has begun
/// ends by the second.
fn judge(
    verified: Result<VerifiedGrant, Refused>,
    began: bool,
    config: &Config,
    [now, late]: [Now; 2],
) -> (Option<GrantId>, Verdict) {
    let grant = match verified {
        Ok(grant) => grant,
        Err(refused) => return (None, Verdict::Refused(refused)),
    };
    let begins = began || grant.not_before() <= now.wall;
    let replaces = grant.replaces().filter(|_| begins);
    if grant.not_after() <= late.wall {
        return (replaces, Verdict::Ended(grant));
    }
    let at = if begins { late } else { now };
    // A later policy does not judge a grant that has opened: the grant stays until its end, as
    // without the restart.
    if !began && let Err(refused) = config.policy.check(&grant, &config.keyring, at) {
        return (replaces, Verdict::Refused(refused));
    }
    (replaces, Verdict::Restore(grant, at))
}

fn carried(progress: &StoredProgress, still: &Still) -> Option<Carried> {
    let StoredProgress { slot, generation, before, .. } = *progress;
    match still.elsewhere {
        Elsewhere::Counted(hits) => Some(Carried::new(slot, generation, before, hits)),
        Elsewhere::Nowhere | Elsewhere::Unknown => None,
    }
}

/// The progress of a stored grant, for the ledger.
fn known(
    progress: &StoredProgress,
    still: &Still,
    carried: Option<&Carried>,
    limit: Option<NonZeroU32>,
) -> Progress {
    let StoredProgress { before, hits, .. } = *progress;
    let hits = match (still.slot, still.elsewhere) {
        (Some(_), _) => before,
        // Nobody knows how many it let in, and it may not let in one too many.
        (None, Elsewhere::Unknown) => hits.max(limit.map_or(0, |limit| limit.get().into())),
        (None, _) => hits.max(carried.map_or(0, Carried::counted)),
    };
    Progress { deadline: still.deadline, slot: still.slot, hits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> StoredProgress {
        StoredProgress { slot: 7, generation: 3, before: 2, hits: 5, ..Default::default() }
    }

    fn hits(slot: Option<u32>, elsewhere: Elsewhere) -> u64 {
        let still = Still { deadline: None, slot, elsewhere };
        let carried = carried(&progress(), &still);
        known(&progress(), &still, carried.as_ref(), NonZeroU32::new(9)).hits
    }

    #[test]
    fn connections_are_counted_once_wherever_they_were_counted() {
        assert_eq!(hits(Some(7), Elsewhere::Nowhere), 2, "the slot counts the rest");
        assert_eq!(hits(None, Elsewhere::Nowhere), 5, "what the disk knew last");
        assert_eq!(hits(None, Elsewhere::Counted(4)), 6, "what the other tables count");
        assert_eq!(hits(None, Elsewhere::Counted(1)), 5, "never less than the disk knew");
    }

    #[test]
    fn a_grant_whose_count_is_unknown_is_used_up() {
        assert_eq!(hits(None, Elsewhere::Unknown), 9);
    }
}

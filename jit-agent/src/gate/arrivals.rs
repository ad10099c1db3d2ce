//! What has arrived here, beside what checkpoints say that was signed for this host (docs/uplink.md,
//! section "What a hub withholds").
//!
//! With a `[freshness]` every verified grant and revocation is noted here, also one that is refused for
//! another reason than its signature. Nothing opens or closes by it, but `on_stale = "refuse_new"` lets no
//! grant open that may have been withheld.

use std::{cell::LazyCell, collections::BTreeSet, time::Duration};

use jit_proto::{
    GrantId, PayloadType, Refusal, WallTime,
    mailbox::{self, Mailbox},
    merkle::Hash,
    v1,
};

use crate::{
    config::OnStale,
    disk::audit::{EventCode, Record},
    gate::Gate,
    kernel::datapath::Datapath,
    rules::{
        checkpoint::{self, VerifiedCheckpoint},
        clock::{BootNanos, Now},
        freshness::{Deceit, Doubt, Freshness, Proof, Stamp, Standing},
        grant::VerifiedGrant,
        ledger::Ledger,
        problem::{ProblemKind, ProblemName},
        refusal::Refused,
        revocation::VerifiedRevocation,
    },
};

/// Most pieces that are noted. Beyond them nothing is, so that it counts as withheld.
const MOST: usize = 65_536;
/// How long a piece is kept that no longer counts: the list of a checkpoint that comes late may have it.
const KEPT: Duration = Duration::from_secs(600);
/// How often such pieces are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// For how long a contradiction is a problem of `status`.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// Most hashes in an answer.
const NAMED: usize = 64;

/// A checkpoint that is to be compared.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The checkpoint as it was signed.
    pub envelope: v1::Envelope,
    /// The way from this host's leaf to its root.
    pub proof: Proof,
    /// What is in this host's mailbox at that moment, if it is said.
    pub list: Option<Vec<Hash>>,
}

/// What has arrived; nothing without a `[freshness]`.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Option<Noted>);

#[derive(Debug)]
struct Noted {
    freshness: Freshness,
    on_stale: OnStale,
    mailbox: Mailbox,
    /// Grants that a floor refused: they count as revoked, and no tombstone says so.
    barred: BTreeSet<GrantId>,
    /// Number of contradictions, and the last one.
    contradictions: u64,
    last: Option<(Deceit, Now)>,
    next_sweep: BootNanos,
}

impl Arrivals {
    /// Notes a grant, whether it is accepted or not.
    pub(super) fn grant(&mut self, grant: &VerifiedGrant) {
        let Self(Some(noted)) = self else { return };
        if noted.mailbox.len() < MOST && !grant.is_break_glass() {
            noted.mailbox.add_grant(item(grant), grant.id(), grant.not_after());
        }
    }

    /// Notes that a floor refused a grant.
    pub(super) fn bar(&mut self, id: GrantId) {
        let Self(Some(noted)) = self else { return };
        if noted.barred.len() < MOST {
            noted.barred.insert(id);
        }
    }

    /// Notes a signed revocation.
    pub(super) fn revocation(&mut self, revocation: &VerifiedRevocation) {
        let Self(Some(noted)) = self else { return };
        if noted.mailbox.len() < MOST {
            let item = mailbox::item_of(PayloadType::Revocation.name(), revocation.digest());
            noted.mailbox.add(item, revocation.keep_until());
        }
    }

    /// Whether a grant that has not been here before may open.
    ///
    /// # Errors
    /// `stale`: it may have been withheld.
    pub(super) fn check(&self, grant: &VerifiedGrant, now: Now) -> Result<(), Refused> {
        let Self(Some(Noted { freshness, on_stale: OnStale::RefuseNew, .. })) = self else {
            return Ok(());
        };
        freshness.lets_in(&item(grant), grant.issued_at(), now).map_err(|why| {
            let detail = format!(
                "{why}: it may have been withheld until it was revoked ([freshness] on_stale); it is \
                 tried again, or a new grant is pushed"
            );
            Refused::new(Refusal::Stale, detail).of(grant.id())
        })
    }

    /// What is wrong, by name.
    pub(super) fn problems(&self, now: Now) -> Vec<(ProblemName, String)> {
        let Self(Some(noted)) = self else { return Vec::new() };
        let mut problems = Vec::new();
        match noted.freshness.doubt(now) {
            Some(Doubt::Frozen { .. }) => {
                let last = noted.freshness.last().map_or_else(
                    || "none has come yet".to_owned(),
                    |stamp| format!("the last one is of {}", stamp.issued_at),
                );
                let text = format!(
                    "no fresh checkpoint has come, {last}: what was signed since then, a revocation \
                     too, may be missing here"
                );
                problems.push((ProblemKind::Frozen.into(), text));
            }
            Some(Doubt::Withheld { missing, .. }) => {
                let what = missing.map_or_else(
                    || {
                        "not all that was signed for this host has arrived, and no list of it"
                            .into()
                    },
                    |number| format!("{number} of what was signed for this host have not arrived"),
                );
                let text = format!("{what}: a revocation may be among it");
                problems.push((ProblemKind::Withheld.into(), text));
            }
            None => {}
        }
        if let Some((deceit, at)) = &noted.last
            && passed(*at, now) < REMEMBERED
        {
            let (kind, what) = match deceit {
                Deceit::Forked => (ProblemKind::Forked, "two checkpoints have the same number"),
                Deceit::RolledBack => (ProblemKind::RolledBack, "an earlier checkpoint came again"),
            };
            let text = format!(
                "{what}, at {}: a hub has old ones, or somebody else has the key that signs them",
                at.wall
            );
            problems.push((kind.into(), text));
        }
        problems
    }

    /// For `status`.
    pub(super) fn message(&self, now: Now) -> Option<v1::Freshness> {
        let Self(noted) = self;
        let noted = noted.as_ref()?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let doubt = noted.freshness.doubt(now);
        let (for_ms, missing) = match doubt {
            Some(Doubt::Frozen { since }) => (millis(since), None),
            Some(Doubt::Withheld { since, missing }) => (millis(since), missing),
            None => (0, None),
        };
        let last = noted.freshness.last();
        let (contradiction, at) =
            noted.last.map_or(("", 0), |(deceit, at)| (deceit.word(), at.wall.0));
        Some(v1::Freshness {
            epoch: last.map_or(0, |stamp| stamp.epoch),
            number: last.map_or(0, |stamp| stamp.number),
            issued_at_ms: last.map_or(0, |stamp| stamp.issued_at.0),
            state: doubt.map_or("fresh", Doubt::word).into(),
            for_ms,
            missing: missing.map_or(0, count),
            contradictions: noted.contradictions,
            contradiction: contradiction.into(),
            contradiction_ms: at,
        })
    }
}

impl Noted {
    fn new(host: &str, on_stale: OnStale, last: Option<Stamp>, now: Now) -> Self {
        Self {
            freshness: Freshness::new(host, last, now),
            on_stale,
            mailbox: Mailbox::default(),
            barred: BTreeSet::new(),
            contradictions: 0,
            last: None,
            next_sweep: now.boot,
        }
    }

    /// Forgets what no list names any more.
    fn sweep(&mut self, now: Now) {
        if now.boot < self.next_sweep {
            return;
        }
        self.next_sweep = now.boot + SWEEP;
        let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        self.mailbox.forget(WallTime(now.wall.0.saturating_sub(kept)));
        let ids: BTreeSet<_> = self.mailbox.ids().collect();
        self.barred.retain(|id| ids.contains(id));
    }

    /// Compares; the answer says what is missing.
    fn compare(
        &mut self,
        stamp: Stamp,
        proof: Proof,
        list: Option<&[Hash]>,
        ledger: &Ledger,
        now: Now,
    ) -> Result<Standing, Deceit> {
        let Self { freshness, mailbox, barred, .. } = self;
        let is_ended = |id: GrantId| ledger.is_refused(id) || barred.contains(&id);
        // Whoever brings one again and again causes little work by it.
        let standing = if freshness.knows(&stamp)? {
            Standing::Known
        } else {
            let items = mailbox.items(stamp.issued_at, is_ended);
            freshness.take(stamp, proof, &mailbox::digest(items.iter()), now)?
        };
        let Some(list) = list.filter(|_| standing != Standing::Complete) else {
            return Ok(standing);
        };
        let ids = ledger.tombstones().map(|(id, _)| id).chain(barred.iter().copied());
        let ended = LazyCell::new(|| ids.map(mailbox::ended).collect::<BTreeSet<Hash>>());
        Ok(freshness.take_list(list, |one| mailbox.has(one) || ended.contains(one), now))
    }
}

impl<D: Datapath> Gate<D> {
    /// Begins to expect checkpoints, or no longer does, as the configuration says. `last`: the one that
    /// was seen last.
    pub(super) fn expect_checkpoints(&mut self, last: Option<&v1::Checkpoint>, now: Now) {
        let Some(on_stale) = self.config.freshness else {
            self.arrivals = Arrivals::default();
            return;
        };
        let last = last.and_then(|message| checkpoint::stamp(message).ok());
        match &mut self.arrivals {
            Arrivals(Some(noted)) => {
                noted.on_stale = on_stale;
                if let Some(last) = last {
                    noted.freshness.resume(last);
                }
            }
            Arrivals(none) => *none = Some(Noted::new(&self.config.host, on_stale, last, now)),
        }
        self.note_held();
    }

    /// Notes all grants that are held: they have arrived, in this run or before.
    pub(super) fn note_held(&mut self) {
        let Self { arrivals, ledger, .. } = self;
        ledger.grants().for_each(|held| arrivals.grant(&held.grant));
    }

    /// Compares what has arrived with a checkpoint, whoever brings it.
    ///
    /// # Errors
    /// It is refused, or this host expects none.
    pub fn compare(
        &mut self,
        asked: Asked,
        by: &str,
        now: Now,
    ) -> Result<v1::CompareMailboxResponse, Refused> {
        self.compare_verified(asked, None, by, now)
    }

    /// The same. `verified`: the result of the signatures' verification, if it is known.
    pub(in crate::gate) fn compare_verified(
        &mut self,
        asked: Asked,
        verified: Option<Result<VerifiedCheckpoint, Refused>>,
        by: &str,
        now: Now,
    ) -> Result<v1::CompareMailboxResponse, Refused> {
        let Asked { envelope, proof, list } = asked;
        let keyring = &self.config.keyring;
        let Arrivals(Some(noted)) = &mut self.arrivals else {
            let detail = "this host expects no checkpoints: its configuration has no [freshness]";
            return Err(Refused::new(Refusal::NotPermitted, detail));
        };
        let verified = match verified {
            Some(verified) => verified?,
            None => checkpoint::verify(&envelope, keyring)?,
        };
        verified.check(keyring, self.clock.not_before_floor(now))?;
        noted.sweep(now);
        let stamp = verified.stamp().clone();
        noted.freshness.set_host(&self.config.host);
        let before = noted.freshness.last().map(|last| (last.epoch, last.number));
        let compared = noted.compare(stamp.clone(), proof, list.as_deref(), &self.ledger, now);
        if compared.is_err() {
            noted.contradictions = noted.contradictions.saturating_add(1);
        }
        let awaited = noted.freshness.awaited().iter().take(NAMED).flatten().copied().collect();
        let (standing, missing) = match compared {
            Ok(Standing::Complete) => ("complete", None),
            Ok(Standing::Known) => ("known", None),
            Ok(Standing::ListWanted) => ("list_wanted", None),
            Ok(Standing::Missing(missing)) => ("missing", Some(missing.map_or(0, count))),
            Err(deceit) => {
                noted.last = Some((deceit, now));
                self.report_contradiction(deceit, &stamp, by, now);
                return Ok(v1::CompareMailboxResponse {
                    standing: deceit.word().into(),
                    ..v1::CompareMailboxResponse::default()
                });
            }
        };
        if before != Some((stamp.epoch, stamp.number)) {
            self.outbox.checkpoint(checkpoint::message(&stamp));
        }
        Ok(v1::CompareMailboxResponse {
            standing: standing.into(),
            missing: missing.unwrap_or(0),
            first_missing: missing.map(|_| awaited).unwrap_or_default(),
        })
    }

    /// A peer can cause these again and again: beyond a number they are summed.
    fn report_contradiction(&mut self, deceit: Deceit, stamp: &Stamp, by: &str, now: Now) {
        let Stamp { epoch, number, issued_at, root, .. } = stamp;
        let record = Record::new(EventCode::CheckpointContradicts)
            .by(by)
            .reason(deceit.word())
            .with("epoch", *epoch)
            .with("number", *number)
            .with("issued_at", issued_at.to_string())
            .with("root", hex::encode(root));
        if self.recorder.bounded(record, by, deceit.word(), now) {
            let reason = deceit.word();
            tracing::error!(by, reason, number, "a checkpoint contradicts an earlier one");
        }
        self.record_alarms(now);
    }
}

fn item(grant: &VerifiedGrant) -> Hash {
    mailbox::item_of(PayloadType::Grant.name(), &grant.digest())
}

fn passed(since: Now, now: Now) -> Duration {
    Duration::from_nanos(now.boot.0.saturating_sub(since.boot.0))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use jit_proto::mailbox::{CHECKPOINT_EVERY, CHECKPOINT_VALID_FOR};

    use super::*;
    use crate::{
        gate::TICK,
        rules::freshness::{FIRST, LATE, ON_ITS_WAY},
    };

    /// With what the controller does by itself. The gate looks at each tick.
    #[test]
    fn everything_is_seen_within_35_seconds_with_the_default_numbers() {
        // As late as a hub can bring what shows it, the last checkpoint that hides it is no longer fresh.
        let (end, first) = (CHECKPOINT_VALID_FOR + LATE, CHECKPOINT_EVERY + ON_ITS_WAY);
        for (what, seen) in [
            ("frozen", end + TICK),
            ("withheld", end.max(first) + TICK),
            ("nothing at all since the start", FIRST + TICK),
        ] {
            assert!(seen <= Duration::from_secs(35), "{what}: {seen:?}");
        }
        assert!(CHECKPOINT_VALID_FOR >= 2 * CHECKPOINT_EVERY + ON_ITS_WAY, "one may be lost");
    }
}

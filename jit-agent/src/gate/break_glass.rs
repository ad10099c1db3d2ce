//! An opening by root on the host, in the order of an admission: ledger, audit, disk, open in the
//! kernel, answer. From then on it is a grant like others: it ends in the kernel, it is revoked like
//! others, and `status` shows it, loudly.
//!
//! It needs neither a controller nor a clock that is right: its end is on the boot clock.

use std::time::Duration;

use jit_proto::{
    GrantId, Refusal, WallTime,
    printable::clean,
    v1,
    words::{id_text, ranges_text, source_text},
};
use prost::Message as _;

use crate::{
    disk::audit::EventCode,
    gate::{Gate, report::grant_event},
    kernel::datapath::Datapath,
    rules::{
        clock::{BootNanos, Now},
        grant::{
            VerifiedGrant,
            break_glass::{self, BreakGlass},
        },
        ledger::HeldGrant,
        reconcile::EntryKey,
        refusal::Refused,
        refused_pushes::Asked,
    },
};

/// Most openings that `status` names.
const NAMED: usize = 3;

/// What root asked for, as the audit has it.
fn what(asked: &BreakGlass) -> Asked {
    Asked {
        id: None,
        requester: break_glass::REQUESTER.into(),
        sources: vec![(&asked.source).into()],
        ports: vec![asked.ports.into()],
        vouched: true,
    }
}

/// What root opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its id, to close it.
    pub id: GrantId,
    /// Its end by the wall clock.
    pub not_after: WallTime,
}

impl<D: Datapath> Gate<D> {
    /// Opens protected ports to a source.
    ///
    /// # Errors
    /// The configuration does not allow it, or it could not be kept or opened. Nothing is open then.
    pub fn break_glass(
        &mut self,
        asked: &BreakGlass,
        by: &str,
        now: Now,
    ) -> Result<Opened, Refused> {
        let opened = self.try_break_glass(asked, by, now);
        match &opened {
            Ok(Opened { id, not_after }) => {
                let BreakGlass { source, ports, reason, lasts: _ } = asked;
                let reason = clean(reason, 1000);
                tracing::warn!(
                    grant = %id, by, %source, %ports, until = %not_after, reason,
                    code = EventCode::BreakGlass.code(),
                    "BREAK GLASS: root opened a port without a grant"
                );
                let event = grant_event("activated", *id, by);
                self.report_grant(v1::GrantEvent { detail: "break-glass".into(), ..event }, now);
            }
            Err(refused) => {
                tracing::warn!(
                    by,
                    reason = refused.refusal.word(),
                    "break-glass refused: {refused}"
                );
                self.recorder.refused(refused, &what(asked), by, now);
            }
        }
        self.settle_audit(now);
        opened
    }

    fn try_break_glass(
        &mut self,
        asked: &BreakGlass,
        by: &str,
        now: Now,
    ) -> Result<Opened, Refused> {
        let at = self.break_glass_time(now);
        let id = new_id(at.wall)?;
        let host = &self.config.host;
        let (grant, envelope) = asked.grant(id, host, self.config.break_glass, at.wall)?;
        self.config.policy.check_break_glass(&grant)?;
        let opened = Opened { id, not_after: grant.not_after() };
        self.ledger.admit(grant, at)?;
        let kept = self.keep_and_open(id, envelope, by, now);
        if kept.is_err() {
            self.ledger.forget(id);
        }
        // One that was taken back leaves no entry in the kernel.
        self.write_changed();
        kept.map(|()| opened)
    }

    /// The time of an opening. It is new, whatever the clock says: no revocation of before is about it.
    pub(super) fn break_glass_time(&self, now: Now) -> Now {
        let late = self.clock.not_before_floor(now);
        let after = |floor: WallTime| floor + Duration::from_millis(1);
        let wall = self.ledger.floors().all().map_or(late.wall, |all| late.wall.max(after(all)));
        Now { wall, ..late }
    }

    fn keep_and_open(
        &mut self,
        id: GrantId,
        envelope: v1::Envelope,
        by: &str,
        now: Now,
    ) -> Result<(), Refused> {
        let storage = |why: String| Refused::new(Refusal::Storage, why).of(id);
        let held = self.ledger.grant(id);
        if let Some(slot) = held.and_then(|held| held.stage.slot()) {
            self.datapath.open_slot(slot, 0).map_err(|error| storage(error.to_string()))?;
        }
        self.persist(vec![(id, envelope)], &[id], by, now).map_err(storage)?;
        let mut keys = self.ledger.take_changed();
        keys.extend(self.ledger.grant(id).into_iter().flat_map(HeldGrant::keys));
        self.try_write(&keys).map_err(|error| {
            self.take_back_stored(&[id], now);
            storage(error.to_string())
        })
    }

    /// Whether an opening by root may be put back: it has no signature, so the kernel's tables must
    /// still hold it. Whoever can write to the database alone opens nothing. A reboot ends it.
    pub(super) fn check_witness(
        &self,
        grant: &VerifiedGrant,
        deadline: Option<BootNanos>,
    ) -> Result<(), Refused> {
        if !grant.is_break_glass() {
            return Ok(());
        }
        let held = |(port, source)| {
            let entry = self.tables.installed().get(&EntryKey { port, source });
            let ends = entry.map(|entry| entry.unlimited.deadline);
            deadline.is_some_and(|deadline| ends.is_some_and(|ends| ends >= deadline))
        };
        if grant.entries().all(held) { Ok(()) } else { Err(unwitnessed(grant)) }
    }

    /// What root has opened, for `status`.
    pub(super) fn break_glass_open(&self, now: Now) -> Vec<String> {
        let open = self.ledger.grants().filter(|held| held.grant.is_break_glass());
        open_lines(open.filter_map(|held| {
            let left = now.until(held.stage.deadline()?);
            Some((left, held.grant.message()))
        }))
    }
}

/// What root has opened among these grants, for `status` without an agent.
pub(crate) fn open(grants: &[v1::GrantState]) -> Vec<String> {
    let by_root = grants.iter().filter_map(|state| {
        let left = Duration::from_millis(u64::try_from(state.left_ms).ok()?);
        let grant = v1::Grant::decode(&*state.grant).ok()?;
        (grant.requester == break_glass::REQUESTER).then_some((left, grant))
    });
    open_lines(by_root)
}

/// The lines about these, each with its time left.
fn open_lines(open: impl Iterator<Item = (Duration, v1::Grant)>) -> Vec<String> {
    let mut open: Vec<_> = open.collect();
    open.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
    let more = open.len().saturating_sub(NAMED);
    let line = |(left, grant): &(Duration, v1::Grant)| {
        let sources: Vec<_> = grant.sources.iter().map(source_text).collect();
        format!(
            "BREAK GLASS: root opened {} to {}, {} min left: {}; `jit-agent close --grant {}` ends it",
            ranges_text(&grant.ports),
            sources.join(" "),
            left.as_secs().div_ceil(60),
            clean(&grant.justification, 100),
            id_text(&grant.id)
        )
    };
    let mut lines: Vec<_> = open.iter().take(NAMED).map(line).collect();
    if more > 0 {
        lines.push(format!("BREAK GLASS: {more} more openings by root (`jit-agent grants`)"));
    }
    lines
}

fn unwitnessed(grant: &VerifiedGrant) -> Refused {
    let detail = format!(
        "an opening by {} has no signature, and the kernel's tables do not hold it any more",
        break_glass::REQUESTER
    );
    Refused::new(Refusal::UnknownKey, detail).of(grant.id())
}

/// A new id: a ULID of this time.
pub(crate) fn new_id(at: WallTime) -> Result<GrantId, Refused> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |error| {
            Refused::new(Refusal::Storage, format!("cannot read random bytes for its id: {error}"))
        },
    )?;
    let random = u128::from_be_bytes(bytes) >> 48;
    let time = u128::from(u64::try_from(at.0).unwrap_or(0)) << 80;
    Ok(GrantId((time | random).to_be_bytes()))
}

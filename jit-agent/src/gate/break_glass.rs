//! An opening by root on the host, in the order of an admission: ledger, audit, disk, open in the
//! kernel, answer. From then on it is a grant like others: it ends in the kernel, it is revoked like
//! others, and `status` shows it, loudly.
//!
//! It needs neither a controller nor a clock that is right: its end is on the boot clock.

use std::time::Duration;

use jit_proto::{GrantId, Refusal, WallTime, printable::clean, v1};

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
        // It is new, whatever the clock says: no revocation of before is about it.
        let late = self.clock.not_before_floor(now);
        let after = |floor: WallTime| floor + Duration::from_millis(1);
        let wall = self.ledger.floors().all().map_or(late.wall, |all| late.wall.max(after(all)));
        let at = Now { wall, ..late };
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

    fn keep_and_open(
        &mut self,
        id: GrantId,
        envelope: v1::Envelope,
        by: &str,
        now: Now,
    ) -> Result<(), Refused> {
        let storage = |why: String| Refused::new(Refusal::Storage, why).of(id);
        let held = self.ledger.grant(id);
        let slot = held.and_then(|held| held.stage.slot()).map(|slot| (slot, 0));
        let slots: Vec<_> = slot.into_iter().collect();
        self.datapath.open_slots(&slots).map_err(|failures| storage(failures.why.to_string()))?;
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
        let mut open: Vec<_> = self
            .ledger
            .grants()
            .filter(|held| held.grant.is_break_glass())
            .filter_map(|held| Some((held.stage.deadline()?, held)))
            .collect();
        open.sort_unstable_by_key(|(deadline, held)| (*deadline, held.grant.id()));
        let more = open.len().saturating_sub(NAMED);
        let line = |(deadline, held): &(BootNanos, &HeldGrant)| {
            let Texts { ports, sources, why } = Texts::of(&held.grant);
            let minutes = now.until(*deadline).as_secs().div_ceil(60);
            let id = held.grant.id();
            format!(
                "BREAK GLASS: root opened {ports} to {sources}, {minutes} min left: {why}; \
                 `jit-agent close --grant {id}` ends it"
            )
        };
        let mut lines: Vec<_> = open.iter().take(NAMED).map(line).collect();
        if more > 0 {
            lines.push(format!("BREAK GLASS: {more} more openings by root (`jit-agent grants`)"));
        }
        lines
    }
}

/// A grant's texts for one line.
struct Texts {
    ports: String,
    sources: String,
    why: String,
}

impl Texts {
    fn of(grant: &VerifiedGrant) -> Self {
        let texts = |texts: Vec<String>| texts.join(" ");
        Self {
            ports: texts(grant.ports().iter().map(ToString::to_string).collect()),
            sources: texts(grant.sources().iter().map(ToString::to_string).collect()),
            why: clean(&grant.message().justification, 100),
        }
    }
}

fn unwitnessed(grant: &VerifiedGrant) -> Refused {
    let detail = format!(
        "an opening by {} has no signature, and the kernel's tables do not hold it any more",
        break_glass::REQUESTER
    );
    Refused::new(Refusal::UnknownKey, detail).of(grant.id())
}

/// A new id: a ULID of this time.
fn new_id(at: WallTime) -> Result<GrantId, Refused> {
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

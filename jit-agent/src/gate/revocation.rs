//! Revocations, in this order: close in the kernel, write to the disk (database or reserve), write
//! to the audit, answer. The kernel is first: to close is always safe, and must not wait for the
//! disk.
//!
//! A revocation of everything or of a requester also sets a floor: what was signed until then is
//! refused, whether this host has seen it or not.

use std::{collections::HashSet, sync::Arc};

use jit_proto::{GrantId, v1};

use crate::{
    disk::audit::{EventCode, Record},
    gate::{Gate, LOGGED, report::grant_event},
    kernel::datapath::Datapath,
    rules::{
        clock::Now,
        grant::VerifiedGrant,
        ledger::{Floor, Tombstone},
        refusal::Refused,
    },
};

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything.
    All,
    /// The grants with these ids. They may be unknown.
    Ids(Vec<GrantId>),
    /// All grants of a requester.
    Requester(String),
}

/// Result of a revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Grants that it ended.
    pub ended: u32,
    /// Problems, although the grants are closed.
    pub warning: String,
}

/// An id that is refused from now on.
#[derive(Debug)]
pub(super) struct Closed {
    id: GrantId,
    /// The grant with this id, unless it waits for a trusted clock.
    grant: Option<Arc<VerifiedGrant>>,
    ended: bool,
    connections: u64,
    until: Tombstone,
}

impl<D: Datapath> Gate<D> {
    /// Closes in the kernel, whether the disk takes the revocation or not.
    pub fn revoke(&mut self, target: &Target, by: &str, why: &str, now: Now) -> Revoked {
        let ids = self.targets(target);
        let floor = self.floor(target, &ids, now);
        let (closed, refused) = self.close(ids, now);
        self.raise_floor(floor.as_ref());
        self.write_changed();
        let ended = closed.iter().filter(|closed| closed.ended).count();
        let ended = u32::try_from(ended).unwrap_or(u32::MAX);
        let mut warning = refused.map(|refused| refused.to_string()).unwrap_or_default();
        if let Err(why) = self.make_durable(&closed, *target == Target::All, now) {
            warning = format!("closed, but not durable: {why}");
        }
        if !self.tables.dirty().is_empty() {
            warning = self.tables.problem().unwrap_or_default().to_owned();
        }
        self.report_floor(floor, ended, by, why, now);
        self.report_revoked(&closed, by, why, now);
        self.settle_audit(now);
        self.closed = closed;
        Revoked { ended, warning }
    }

    fn targets(&self, target: &Target) -> Vec<GrantId> {
        let grants = self.ledger.grants();
        match target {
            Target::All => grants.map(|held| held.grant.id()).chain(self.held_back.ids()).collect(),
            Target::Ids(ids) => ids.clone(),
            Target::Requester(name) => grants
                .filter(|held| held.grant.message().requester == *name)
                .map(|held| held.grant.id())
                .chain(self.held_back.ids_of(name))
                .collect(),
        }
    }

    /// The floor that a revocation sets; `None`: it names ids. It is not before what this host has
    /// seen: neither by its clock nor by a controller whose clock is ahead.
    fn floor(&self, target: &Target, ids: &[GrantId], now: Now) -> Option<Floor> {
        let requester = match target {
            Target::All => None,
            Target::Ids(_) => return None,
            Target::Requester(name) => Some(name.clone()),
        };
        let late = self.clock.not_before_floor(now).wall;
        let held = ids.iter().filter_map(|id| self.ledger.grant(*id));
        let issued = held.map(|held| held.grant.issued_at()).max();
        let held_back = self.held_back.latest_issue(requester.as_deref());
        let at = issued.max(held_back).map_or(late, |issued| issued.max(late));
        Some(Floor { requester, at })
    }

    fn raise_floor(&mut self, floor: Option<&Floor>) {
        if let Some(floor) = floor {
            self.ledger.raise_floor(floor.clone());
            self.outbox.raise_floor(floor);
        }
    }

    fn report_floor(&mut self, floor: Option<Floor>, ended: u32, by: &str, why: &str, now: Now) {
        let Some(Floor { requester, at }) = floor else { return };
        tracing::info!(floor = %at, requester, by, why, "what was signed until then is refused");
        let record = Record::new(EventCode::RevocationFloor).by(by);
        let record = match &requester {
            Some(name) => record.text("requester", name),
            None => record.with("all", true),
        };
        let record = record.with("floor", at.to_string()).with("ended", ended).text("why", why);
        self.recorder.revoked(record, ended > 0, by, now);
    }

    /// Revokes in the ledger. An id that finds no room comes last.
    fn close(&mut self, ids: Vec<GrantId>, now: Now) -> (Vec<Closed>, Option<Refused>) {
        // With a clock that is earlier than before, an id would not stay refused for long enough.
        let late = self.clock.not_before_floor(now);
        let held_back: HashSet<GrantId> = self.held_back.ids().collect();
        let mut closed = Vec::with_capacity(ids.len());
        let mut no_room = None;
        for id in ids {
            let grant = self.ledger.grant(id).map(|held| Arc::clone(&held.grant));
            let connections = self.hits(id);
            match self.ledger.revoke(id, late, connections) {
                Ok((ended, until)) => {
                    let ended = ended || held_back.contains(&id);
                    closed.push(Closed { id, grant, ended, connections, until });
                }
                Err(refused) => no_room = Some(refused),
            }
        }
        if !held_back.is_empty() {
            self.held_back.remove(&closed.iter().map(|closed| closed.id).collect());
        }
        (closed, no_room)
    }

    /// Writes it to the database or, if that fails, to the reserve. `Err`: both failed.
    fn make_durable(&mut self, closed: &[Closed], all: bool, now: Now) -> Result<(), String> {
        let tombstones: Vec<_> = closed.iter().map(|closed| (closed.id, closed.until)).collect();
        self.outbox.revoke(&tombstones);
        let Err(error) = self.settle(&[], now) else { return Ok(()) };
        match self.outbox.use_reserve(all) {
            Ok(()) => {
                tracing::warn!("{error}: the revocation is kept in the reserve");
                Ok(())
            }
            Err(kept) => {
                tracing::error!("{error}; {kept}: the revocation would not survive a restart");
                Err(format!("{error}; {kept}"))
            }
        }
    }

    fn report_revoked(&mut self, closed: &[Closed], by: &str, why: &str, now: Now) {
        let each = closed.len() <= LOGGED;
        for Closed { id, grant, ended, connections, until: _ } in closed {
            let requester = grant.as_ref().map_or("", |grant| grant.message().requester.as_str());
            let record = Record::new(EventCode::GrantRevoked)
                .by(by)
                .grant(*id)
                .text("requester", requester)
                .text("why", why)
                .with("ended", *ended)
                .with("connections", *connections);
            self.recorder.revoked(record, *ended, by, now);
            if each && *ended {
                tracing::info!(grant = %id, by, why, "grant revoked");
            }
            let event = grant_event("revoked", *id, by);
            self.report_grant(v1::GrantEvent { detail: why.into(), ..event }, now);
        }
        if !each {
            let grants = closed.iter().filter(|closed| closed.ended).count();
            tracing::info!(grants, by, why, "grants revoked; the audit names each");
        }
    }
}

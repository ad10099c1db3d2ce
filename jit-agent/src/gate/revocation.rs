//! Revocations: first closed in the kernel, which is safe whatever becomes of the disk and must not
//! wait for it; then on the disk, in the database or else in the reserve; then in the audit; then
//! answered.

use std::{collections::HashSet, sync::Arc};

use crate::{
    disk::{
        audit::{EventCode, Record},
        store::Transaction,
    },
    gate::{Gate, LOGGED},
    kernel::datapath::Datapath,
    rules::{
        clock::Now,
        grant::{GrantId, VerifiedGrant},
        ledger::Tombstone,
        refusal::Refused,
    },
};

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything.
    All,
    /// These grants, known or not.
    Ids(Vec<GrantId>),
    /// All grants of a requester.
    Requester(String),
}

/// What a revocation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Grants that it ended.
    pub ended: u32,
    /// What is wrong all the same.
    pub warning: String,
}

/// One id that is refused from now on.
#[derive(Debug)]
pub(super) struct Closed {
    id: GrantId,
    /// What was held under it, unless that waits for a clock that is right.
    grant: Option<Arc<VerifiedGrant>>,
    ended: bool,
    connections: u64,
    until: Tombstone,
}

impl<D: Datapath> Gate<D> {
    /// Closes. Takes effect in the kernel whatever the disk says.
    pub fn revoke(&mut self, target: &Target, by: &str, why: &str, now: Now) -> Revoked {
        let (closed, refused) = self.close(self.targets(target), now);
        self.write_changed();
        let ended = closed.iter().filter(|closed| closed.ended).count();
        let ended = u32::try_from(ended).unwrap_or(u32::MAX);
        let mut warning = refused.map(|refused| refused.to_string()).unwrap_or_default();
        if let Err(why) = self.make_durable(&closed, *target == Target::All, now) {
            warning = format!("closed, but not durable: {why}");
        }
        if !self.dirty.is_empty() {
            warning = self.alarms.kernel.clone().unwrap_or_default();
        }
        self.tell_revoked(&closed, by, why, now);
        self.settle_audit(now);
        self.over = closed;
        Revoked { ended, warning }
    }

    fn targets(&self, target: &Target) -> Vec<GrantId> {
        let (grants, held) = (self.ledger.grants(), self.held_back.iter());
        match target {
            Target::All => {
                grants.map(|record| record.grant.id()).chain(held.map(|kept| kept.id)).collect()
            }
            Target::Ids(ids) => ids.clone(),
            Target::Requester(name) => grants
                .filter(|record| record.grant.message().requester == *name)
                .map(|record| record.grant.id())
                .chain(
                    held.filter(|kept| kept.requester().as_ref() == Some(name)).map(|kept| kept.id),
                )
                .collect(),
        }
    }

    /// In the ledger. An id that finds no room any more is told last.
    fn close(&mut self, ids: Vec<GrantId>, now: Now) -> (Vec<Closed>, Option<Refused>) {
        // By a clock that is behind, an id would not stay refused for long enough.
        let seen = Now { wall: now.wall.max(self.floor), ..now };
        let held: HashSet<GrantId> = self.held_back.iter().map(|kept| kept.id).collect();
        let mut closed = Vec::with_capacity(ids.len());
        let mut no_room = None;
        for id in ids {
            let grant = self.ledger.grant(id).map(|record| Arc::clone(&record.grant));
            let connections = self.hits(id);
            match self.ledger.revoke(id, seen, connections) {
                Ok((ended, until)) => {
                    let ended = ended || held.contains(&id);
                    closed.push(Closed { id, grant, ended, connections, until });
                }
                Err(refused) => no_room = Some(refused),
            }
        }
        if !held.is_empty() {
            let over: HashSet<GrantId> = closed.iter().map(|closed| closed.id).collect();
            self.held_back.retain(|kept| !over.contains(&kept.id));
        }
        (closed, no_room)
    }

    /// Writes it to the database, or, if that takes nothing, to the reserve. `Err`: to neither.
    fn make_durable(&mut self, closed: &[Closed], all: bool, now: Now) -> Result<(), String> {
        let tombstones = closed.iter().map(|closed| (closed.id, closed.until));
        self.unkept.extend(tombstones.clone());
        let revocation = Transaction {
            tombstones: tombstones.collect(),
            remove: closed.iter().map(|closed| closed.id).collect(),
            ..Transaction::default()
        };
        let Err(error) = self.settle(revocation, now) else { return Ok(()) };
        match self.store.keep(&self.unkept, all) {
            Ok(()) => {
                self.unkept.clear();
                tracing::warn!("{error}: the revocation is kept in the reserve");
                Ok(())
            }
            Err(kept) => {
                tracing::error!("{error}; {kept}: the revocation would not survive a restart");
                Err(format!("{error}; {kept}"))
            }
        }
    }

    fn tell_revoked(&mut self, closed: &[Closed], by: &str, why: &str, now: Now) {
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
            self.record_revoked(record, *ended, by, now);
            if each && *ended {
                tracing::info!(grant = %id, by, why, "grant revoked");
            }
            self.tell_grant("revoked", *id, "", by, why, now);
        }
        if !each {
            let grants = closed.iter().filter(|closed| closed.ended).count();
            tracing::info!(grants, by, why, "grants revoked; the audit names each");
        }
    }
}

//! Revocations, in this order: close in the kernel, write to the disk (database or reserve), write
//! to the audit, answer. The kernel is first: to close is always safe, and must not wait for the
//! disk.
//!
//! A revocation of everything or of a requester also sets a floor: what was signed until then is
//! refused, whether this host has seen it or not. `signed` carries out what a key orders.

mod signed;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use jit_common::{PortKey, Protocol};
use jit_proto::{GrantId, SourcePrefix, WallTime, v1};

use crate::{
    disk::audit::{EventCode, Record},
    gate::{
        Gate, LOGGED,
        cut::{self, Sessions},
        patience::REVOCATION,
        report::grant_event,
    },
    kernel::datapath::{Datapath, cut::Covers},
    rules::{
        clock::Now,
        grant::VerifiedGrant,
        ledger::{Floor, Tombstone},
        reconcile::EntryKey,
        refusal::Refused,
    },
    system::meters::meters,
};

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything.
    All,
    /// The grants with these ids. They may be unknown.
    Ids(Vec<GrantId>),
    /// Grants that were issued at a moment or before it, as a signed revocation says.
    Issued {
        /// Whose; `None`: everybody's.
        requester: Option<String>,
        /// Those that are held and were issued until then end.
        at: WallTime,
        /// Those that come later and were issued until then are refused.
        floor: WallTime,
    },
    /// All grants of a requester.
    Requester(String),
    /// All grants that open something to one of these addresses.
    Source(SourcePrefix),
}

/// A revocation to carry out.
#[derive(Clone, Copy, Debug)]
struct Order<'a> {
    target: &'a Target,
    /// Ends sessions, too.
    cut: bool,
    by: &'a str,
    why: &'a str,
    /// A key ordered it: it may come again and again.
    signed: bool,
}

/// Result of a revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Grants that it ended.
    pub ended: u32,
    /// Problems, although the grants are closed.
    pub warning: String,
    /// Sessions that go on although no grant covers them.
    pub sessions_open: u32,
    /// Sessions that it ended.
    pub sessions_ended: u32,
    /// Ids that this host has never seen, and refuses from now on.
    pub unseen: u32,
    /// Whether it changed anything: a grant ended, or an id or a floor is new.
    pub changed: bool,
}

/// An id that is refused from now on.
#[derive(Debug)]
pub(super) struct Closed {
    id: GrantId,
    /// The grant with this id, unless it waits for a trusted clock.
    grant: Option<Arc<VerifiedGrant>>,
    ended: bool,
    /// No grant with this id was ever here, and the id was not refused.
    unseen: bool,
    /// The id was not refused before.
    fresh: bool,
    connections: u64,
    until: Tombstone,
}

impl<D: Datapath> Gate<D> {
    /// Closes in the kernel, whether the disk takes the revocation or not.
    pub fn revoke(&mut self, target: &Target, by: &str, why: &str, now: Now) -> Revoked {
        self.revoke_with(&Order { target, cut: false, by, why, signed: false }, now)
    }

    /// The same, and ends the sessions of what is revoked, on every port.
    pub fn revoke_and_cut(&mut self, target: &Target, by: &str, why: &str, now: Now) -> Revoked {
        self.revoke_with(&Order { target, cut: true, by, why, signed: false }, now)
    }

    fn revoke_with(&mut self, order: &Order<'_>, now: Now) -> Revoked {
        let Order { target, cut, by, why, signed } = *order;
        let ids = self.targets(target);
        let floor = self.floor(target, &ids, now);
        let (closed, refused) = self.close(ids, now);
        let raised = self.raise_floor(floor.as_ref());
        let changed = raised || closed.iter().any(|closed| closed.fresh);
        // Closed before anything about sessions is computed; what ends them is written after it.
        self.write_changed();
        let meant = self.meant(&closed, target, now);
        // A replay of a signed one ends no sessions of grants that were signed after it.
        let everybody = *target == Target::All || (changed && target.is_everybody());
        let revoked = self.keep_cut(&meant, everybody, cut, now);
        self.write_changed();
        if everybody {
            // Also what the ledger does not know.
            self.review_all(now);
        }
        self.remember_revocation(target, by, why);
        // Also before the disk, which may hang.
        let mut sessions = self.look_at_revoked(&revoked, now);
        let ended = number(closed.iter().filter(|closed| closed.ended));
        let unseen = number(closed.iter().filter(|closed| closed.unseen));
        let mut warning = refused.map(|refused| refused.to_string()).unwrap_or_default();
        if let Err(why) = self.make_durable(&closed, order, changed, now) {
            warning = format!("closed, but not durable: {why}");
        }
        if !self.tables.dirty().is_empty() {
            warning = self.tables.problem().unwrap_or_default().to_owned();
        }
        meters().revoked.inc_by(ended.into());
        // What a signed one repeats is not news, and every controller can repeat it.
        let floor = floor.filter(|_| raised || !signed);
        self.report_floor(floor, ended, by, why, now);
        self.report_revoked(closed.iter().filter(|closed| closed.fresh || !signed), by, why, now);
        if cut && (changed || sessions.ended > 0 || !signed) {
            self.report_sessions_cut(target, &sessions, (by, why), now);
        }
        self.settle_audit(now);
        let forwarded =
            self.forwarded(&meant, cut).into_iter().chain(self.exempt_still(target, now));
        self.closed = closed;
        let Sessions { open: sessions_open, ended: sessions_ended, .. } = sessions;
        for more in sessions.warning.take().into_iter().chain(forwarded) {
            let separator = if warning.is_empty() { "" } else { "; " };
            warning = format!("{warning}{separator}{more}");
        }
        Revoked { ended, warning, sessions_open, sessions_ended, unseen, changed }
    }

    /// The grants whose sessions a revocation is about: those that it ended, and those that had
    /// ended before and whose sessions may go on.
    fn meant(&self, closed: &[Closed], target: &Target, now: Now) -> Vec<Arc<VerifiedGrant>> {
        let before: Vec<_> = match target {
            Target::All => self.ledger.ended().collect(),
            Target::Ids(ids) => ids.iter().filter_map(|id| self.ledger.ended_grant(*id)).collect(),
            Target::Issued { .. } => {
                self.ledger.ended().filter(|ended| target.is_about(&ended.grant)).collect()
            }
            Target::Requester(name) => {
                let all = self.ledger.ended();
                all.filter(|ended| ended.grant.requester() == name).collect()
            }
            Target::Source(source) => {
                self.ledger.ended().filter(|ended| ended.grant.opens_to(source)).collect()
            }
        };
        let before = before.into_iter().map(|ended| &ended.grant);
        let grants = closed.iter().filter_map(|closed| closed.grant.as_ref()).chain(before);
        grants.filter(|grant| grant.not_before() <= now.wall).cloned().collect()
    }

    /// Whose sessions the answer counts. If they are to end, the kernel lets nothing of them in any
    /// more, also where the agent finds no socket to destroy.
    fn keep_cut(
        &mut self,
        meant: &[Arc<VerifiedGrant>],
        everybody: bool,
        cut: bool,
        now: Now,
    ) -> cut::Revoked {
        let everybody = everybody && self.may_look_anywhere();
        if everybody && !cut {
            return cut::Revoked { everybody, ..cut::Revoked::default() };
        }
        let entries = meant.iter().flat_map(|grant| grant.entries());
        let keys: BTreeSet<EntryKey> =
            entries.map(|(port, source)| EntryKey { port, source }).collect();
        let mut of = Covers::default();
        keys.iter().for_each(|key| of.insert(*key));
        if cut {
            let (ports, _) = self.ports_to_look_at();
            let at = |EntryKey { port: PortKey { protocol, port }, .. }: &EntryKey| {
                *protocol == Protocol::Tcp && ports.contains_key(port)
            };
            self.ledger.cut_sessions(keys.into_iter().filter(at), now);
        }
        cut::Revoked { of, everybody, cut }
    }

    /// What becomes of sessions that have no socket on this host: the answer must say it.
    fn forwarded(&self, meant: &[Arc<VerifiedGrant>], cut: bool) -> Option<String> {
        let (rules, _) = self.ports_to_look_at();
        let drains = |port: &PortKey| {
            let rule = rules.get(&port.port).filter(|_| port.protocol == Protocol::Tcp);
            rule.is_some_and(|rule| rule.forwarded != 0 && rule.drain != 0)
        };
        let entries = meant.iter().flat_map(|grant| grant.entries());
        let ports: BTreeSet<u16> =
            entries.map(|(port, _)| port).filter(drains).map(|port| port.port).collect();
        let first = ports.first()?;
        let rest = match ports.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "port {first}{rest} is forwarded, so its sessions are not counted: {}",
            if cut {
                "the gate drops their packets from now on, but neither end is reset"
            } else {
                "they may go on (--cut stops them)"
            }
        ))
    }

    /// A source that needs no grant still gets in: the answer must say it.
    fn exempt_still(&self, target: &Target, now: Now) -> Option<String> {
        let Target::Source(source) = target else { return None };
        let (port, exempt, _) = self.config.policy.exemptions().find(|(_, exempt, until)| {
            exempt.overlaps(source) && until.is_none_or(|until| until > now.wall)
        })?;
        let PortKey { protocol, port } = port;
        Some(format!(
            "an exemption of {port}/{} lets {exempt} in without a grant; only the configuration \
             ends it",
            protocol.word()
        ))
    }

    fn report_sessions_cut(
        &mut self,
        target: &Target,
        sessions: &Sessions,
        (by, why): (&str, &str),
        now: Now,
    ) {
        let Sessions { open, ended, warning } = sessions;
        let what = match target {
            Target::All | Target::Issued { requester: None, .. } => "all".to_owned(),
            Target::Ids(ids) => format!("{} grant ids", ids.len()),
            Target::Issued { requester: Some(_), .. } | Target::Requester(_) => {
                "requester".to_owned()
            }
            Target::Source(source) => source.to_string(),
        };
        tracing::info!(by, why, what, ended, open, "sessions cut by order");
        let record = Record::new(EventCode::SessionsCut)
            .by(by)
            .with("what", what)
            .text("why", why)
            .with("sessions", *ended)
            .with("open", *open)
            .detail(warning.as_deref().unwrap_or_default());
        let record = match target {
            Target::Issued { requester: Some(name), .. } | Target::Requester(name) => {
                record.text("requester", name)
            }
            Target::All
            | Target::Ids(_)
            | Target::Issued { requester: None, .. }
            | Target::Source(_) => record,
        };
        self.record(record, now);
    }

    fn targets(&self, target: &Target) -> Vec<GrantId> {
        let grants = self.ledger.grants();
        match target {
            Target::All => grants.map(|held| held.grant.id()).chain(self.held_back.ids()).collect(),
            Target::Ids(ids) => ids.clone(),
            Target::Issued { requester, at, floor: _ } => grants
                .filter(|held| target.is_about(&held.grant))
                .map(|held| held.grant.id())
                .chain(self.held_back.ids_issued_until(*at, requester.as_deref()))
                .collect(),
            Target::Requester(name) => grants
                .filter(|held| held.grant.requester() == name)
                .map(|held| held.grant.id())
                .chain(self.held_back.ids_of(name))
                .collect(),
            Target::Source(source) => grants
                .filter(|held| held.grant.opens_to(source))
                .map(|held| held.grant.id())
                .chain(self.held_back.ids_open_to(source))
                .collect(),
        }
    }

    /// The floor that a revocation sets; `None`: it names ids. It is not before what this host has
    /// seen: neither by its clock nor by a controller whose clock is ahead.
    fn floor(&self, target: &Target, ids: &[GrantId], now: Now) -> Option<Floor> {
        let requester = match target {
            Target::All => None,
            Target::Ids(_) | Target::Source(_) => return None,
            Target::Issued { requester, at: _, floor } => {
                return Some(Floor { requester: requester.clone(), at: *floor });
            }
            Target::Requester(name) => Some(name.clone()),
        };
        let late = self.clock.not_before_floor(now).wall;
        let held = ids.iter().filter_map(|id| self.ledger.grant(*id));
        let issued = held.map(|held| held.grant.issued_at()).max();
        let held_back = self.held_back.latest_issue(requester.as_deref());
        let at = issued.max(held_back).map_or(late, |issued| issued.max(late));
        Some(Floor { requester, at })
    }

    /// Returns whether a floor is higher than before.
    fn raise_floor(&mut self, floor: Option<&Floor>) -> bool {
        let Some(floor) = floor else { return false };
        let before = self.ledger.floors().clone();
        self.ledger.raise_floor(floor.clone());
        let raised = *self.ledger.floors() != before;
        if raised {
            self.outbox.raise_floor(floor);
        }
        raised
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
            let unseen = grant.is_none() && !held_back.contains(&id) && !self.ledger.has_ended(id);
            let fresh = !self.ledger.is_refused(id) || held_back.contains(&id);
            match self.ledger.revoke(id, late, connections) {
                Ok((ended, until)) => {
                    let ended = ended || held_back.contains(&id);
                    closed.push(Closed { id, grant, ended, unseen, fresh, connections, until });
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
    fn make_durable(
        &mut self,
        closed: &[Closed],
        order: &Order<'_>,
        changed: bool,
        now: Now,
    ) -> Result<(), String> {
        let tombstones: Vec<_> = closed.iter().map(|closed| (closed.id, closed.until)).collect();
        if order.signed && !changed && !self.outbox.owes_revocations() {
            // A replay, which every controller can make again and again: no wait for the disk.
            self.outbox.refuse(tombstones);
            return Ok(());
        }
        self.outbox.revoke(&tombstones);
        let all = *order.target == Target::All;
        let Err(error) = self.settle_within(REVOCATION, &[], now) else { return Ok(()) };
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

    fn report_revoked<'c>(
        &mut self,
        closed: impl Iterator<Item = &'c Closed> + Clone,
        by: &str,
        why: &str,
        now: Now,
    ) {
        let each = closed.clone().count() <= LOGGED;
        for Closed { id, grant, ended, unseen: _, fresh: _, connections, until: _ } in
            closed.clone()
        {
            let requester = grant.as_ref().map_or("", |grant| grant.requester());
            let by_root = grant.as_ref().is_some_and(|grant| grant.is_break_glass());
            let code = if by_root { EventCode::BreakGlassEnded } else { EventCode::GrantRevoked };
            let record = Record::new(code)
                .by(by)
                .grant(*id)
                .text("requester", requester)
                .text("why", why)
                .with("ended", *ended)
                .with("connections", *connections);
            self.recorder.revoked(record, *ended, by, now);
            if each && *ended {
                tracing::info!(
                    grant = %id, by, requester, why, code = code.code(),
                    "grant revoked"
                );
            }
            let event = grant_event("revoked", *id, by);
            self.report_grant(v1::GrantEvent { detail: why.into(), ..event }, now);
        }
        if !each {
            let grants = closed.filter(|closed| closed.ended).count();
            tracing::info!(grants, by, why, "grants revoked; the audit names each");
        }
    }
}

impl Target {
    /// Whether grants of every requester are meant.
    const fn is_everybody(&self) -> bool {
        matches!(self, Self::All | Self::Issued { requester: None, .. })
    }

    /// Whether it is one with another, which may come from a key, again and again. What was issued
    /// until the later of two moments is issued until one of them.
    pub(super) fn takes_in(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ids(ids), Self::Ids(others)) => ids == others,
            (
                Self::Issued { requester, at, floor },
                Self::Issued { requester: whose, at: until, floor: higher },
            ) if requester == whose => {
                (*at, *floor) = ((*at).max(*until), (*floor).max(*higher));
                true
            }
            _ => false,
        }
    }

    /// Whether this grant was issued in time to be one of those of [`Target::Issued`].
    fn is_about(&self, grant: &VerifiedGrant) -> bool {
        let Self::Issued { requester, at, floor: _ } = self else { return false };
        let whose = requester.as_deref();
        grant.issued_at() <= *at && whose.is_none_or(|name| name == grant.requester())
    }
}

fn number<T>(some: impl Iterator<Item = T>) -> u32 {
    u32::try_from(some.count()).unwrap_or(u32::MAX)
}

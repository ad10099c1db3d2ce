//! Answers `why`: what the loaded programs do with a connection, and what is known about it.

use jit_common::{Address, PortKey, Reason, Slot};
use jit_proto::{
    SourcePrefix,
    port_section::PortSection,
    prefix::{bits, ip},
    v1,
};

use crate::{
    gate::{
        Gate,
        report::{self, hook_word},
    },
    kernel::datapath::{
        Datapath,
        guard::GuardState,
        verdict::{Question, Verdict, Way},
    },
    rules::{
        claims::EXEMPT_SLOT,
        clock::{BootNanos, Now},
        ledger::HeldGrant,
        reconcile::{Access, Entry, EntryKey},
    },
    system::addresses::addresses,
};

/// Most grants in an answer.
const MOST: usize = 64;

impl<D: Datapath> Gate<D> {
    pub(super) fn why(
        &mut self,
        question: Question,
        requester: &str,
        now: Now,
    ) -> Result<v1::WhyResponse, String> {
        let Question { source, port } = question;
        // As they are now.
        self.check_in_kernel(now);
        let (interfaces, guard) = (self.links.interfaces(), self.links.guard());
        let answers = self.datapath.ask(question, interfaces, guard.attached, now.boot);
        let answers = answers.map_err(|error| format!("the programs cannot be asked: {error}"))?;
        let section = self.config.policy.port(port);
        let entries = covering(source, port, |key| self.tables.installed().get(key).copied());
        let entry = |(key, access): (EntryKey, Access)| {
            let owner = self.ledger.owner(access.slot).filter(|_| access.slot != EXEMPT_SLOT);
            let grant_id = owner.map(|id| id.0.to_vec().into()).unwrap_or_default();
            v1::WhyEntry { grant_id, ..entry(&key, access, &answers.slots, now) }
        };
        let not_grantable = section.filter(|section| {
            let host = SourcePrefix::new(source, bits(source.family));
            !host.is_ok_and(|host| section.sources.iter().any(|allowed| allowed.contains(&host)))
        });
        let forwarded = section.is_some_and(|section| section.forwarded);
        Ok(v1::WhyResponse {
            host: self.config.host.clone(),
            interfaces: ways(&answers.ways, guard, forwarded),
            guard: answers.guard.map(verdict),
            port: section.map(|section| report::port(section, now)),
            own: is_own(source),
            not_grantable: not_grantable.map(outside).unwrap_or_default(),
            entries: entries.into_iter().map(entry).collect(),
            grants: self.concerned(question, requester, now),
            from_tables: false,
        })
    }

    /// The grants that have to do with the question, those that cover source and port first.
    fn concerned(&self, question: Question, requester: &str, now: Now) -> Vec<v1::GrantState> {
        let rank = |held: &HeldGrant| Nearness::of(held, question, requester);
        let held = self.ledger.grants().chain(self.ledger.ended());
        let mut near: Vec<_> = held.filter_map(|held| Some((rank(held)?, held))).collect();
        let age = |held: &HeldGrant| std::cmp::Reverse(held.grant.issued_at());
        near.sort_by_key(|(rank, held)| (*rank, age(held)));
        near.truncate(MOST);
        near.into_iter().map(|(_, held)| self.state_of(held, now)).collect()
    }
}

/// How near a grant is to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Covers,
    Requester,
    Source,
    Port,
}

impl Nearness {
    /// `None`: it has nothing to do with it.
    fn of(held: &HeldGrant, Question { source, port }: Question, requester: &str) -> Option<Self> {
        let grant = &held.grant;
        let host = SourcePrefix::new(source, bits(source.family)).ok()?;
        let covers = grant.sources().iter().any(|prefix| prefix.contains(&host));
        let opens = grant.ports().iter().any(|range| range.has(port));
        match (covers, opens) {
            (true, true) => Some(Self::Covers),
            _ if !requester.is_empty() && grant.requester() == requester => Some(Self::Requester),
            (true, false) => Some(Self::Source),
            (false, true) => Some(Self::Port),
            (false, false) => None,
        }
    }
}

/// The claims in the tables for a source at a port: at its address, and at its longest prefix.
pub(crate) fn covering(
    source: Address,
    port: PortKey,
    find: impl Fn(&EntryKey) -> Option<Entry>,
) -> Vec<(EntryKey, Access)> {
    let bits = bits(source.family);
    let Ok(host) = SourcePrefix::new(source, bits) else { return Vec::new() };
    let at = |length| {
        let key = EntryKey { port, source: host.widened(length) };
        find(&key).map(|entry| (key, entry))
    };
    let found = at(bits).into_iter().chain((0..bits).rev().find_map(at));
    let claims = found.flat_map(|(key, entry)| entry.accesses().map(move |access| (key, access)));
    claims.filter(|(_, access)| access.is_some()).collect()
}

/// A claim as a message, without its grant.
pub(crate) fn entry(
    key: &EntryKey,
    access: Access,
    slots: &[(u32, Slot)],
    now: Now,
) -> v1::WhyEntry {
    let counted = slots.iter().find(|(slot, _)| *slot == access.slot);
    let exempt = access.slot == EXEMPT_SLOT;
    let counted = counted.filter(|_| !exempt).map(|(_, counted)| *counted).unwrap_or_default();
    let left = now.until(access.deadline).as_millis();
    v1::WhyEntry {
        source: Some((&key.source).into()),
        left_ms: i64::try_from(left).unwrap_or(i64::MAX),
        forever: access.deadline == BootNanos(u64::MAX),
        exempt,
        grant_id: Vec::new().into(),
        max_connections: counted.limit,
        hits: counted.hits,
    }
}

/// The verdicts as messages. Forwarded connections never come to the guard.
pub(crate) fn ways(ways: &[Way], guard: &GuardState, forwarded: bool) -> Vec<v1::WhyInterface> {
    ways.iter()
        .map(|way| {
            let Way { interface, hook, left_out, gate, guard: asked, note } = way;
            let asked = asked.filter(|_| !forwarded);
            v1::WhyInterface {
                name: interface.clone(),
                hook: hook_word(*hook, left_out.is_some(), guard).into(),
                open: gate.is_none_or(|gate| gate.open) && asked.is_none_or(|guard| guard.open),
                gate: gate.map(verdict),
                guard: asked.map(verdict),
                note: note.clone(),
            }
        })
        .collect()
}

pub(crate) fn verdict(Verdict { open, reason }: Verdict) -> v1::WhyVerdict {
    v1::WhyVerdict { open, reason: reason.map(Reason::word).unwrap_or_default().into() }
}

/// Why no grant can open a port to a source that its section does not allow.
fn outside(section: &PortSection) -> String {
    const SHOWN: usize = 4;
    let allowed: Vec<_> = section.sources.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = match section.sources.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("grants for {} may only name sources in {}{more}", section.range, allowed.join(", "))
}

/// Whether the host speaks to itself.
pub(crate) fn is_own(source: Address) -> bool {
    source.is_loopback() || addresses().is_ok_and(|all| all.iter().any(|one| one.ip == ip(source)))
}

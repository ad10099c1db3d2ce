//! The difference between two policies: who would be shut out, and what would be open.
//!
//! Pure; the gate adds the grants that it holds.

use std::collections::BTreeSet;

use jit_common::PortKey;
use jit_proto::{Exemption, PortRange, PortSection, Sessions, WallTime, v1};

use crate::rules::{
    ledger::{HeldGrant, Stage},
    policy::Policy,
    refusal::Refused,
};

/// The difference between two policies. Neighbouring ports with the same change are one range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impact {
    /// Open to all before, closed without a grant after.
    pub closed: Vec<PortRange>,
    /// Closed before, open to all after.
    pub opened: Vec<PortRange>,
    /// Protected before and after, by different rules: each difference as text.
    pub changed: Vec<(PortRange, Vec<String>)>,
    /// Sources that were exempt before and are not exempt after.
    pub lost: Vec<(PortRange, Exemption)>,
    /// Sources that are exempt after and were not exempt before.
    pub added: Vec<(PortRange, Exemption)>,
}

impl Impact {
    /// What `new` changes in `old`. Exemptions that have ended at `now` do not count.
    pub fn between(old: &Policy, new: &Policy, now: WallTime) -> Self {
        let mut impact = Self::default();
        for (range, old, new) in segments(old, new) {
            impact.add(range, old, new, now);
        }
        impact
    }

    /// Whether somebody who needs no grant now would need one. Such a policy waits for a
    /// confirmation.
    pub fn shuts_out(&self) -> bool {
        !self.closed.is_empty() || !self.lost.is_empty()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(
        &mut self,
        range: PortRange,
        old: Option<&PortSection>,
        new: Option<&PortSection>,
        now: WallTime,
    ) {
        let enforced = |section: Option<&PortSection>| section.is_some_and(|part| !part.observe);
        match (enforced(old), enforced(new)) {
            (false, true) => self.closed.push(range),
            (true, false) => self.opened.push(range),
            (true, true) | (false, false) => {}
        }
        if let (Some(old), Some(new)) = (old, new) {
            let what = differences(old, new);
            if !what.is_empty() {
                self.changed.push((range, what));
            }
        }
        let live = |section: Option<&PortSection>| -> Vec<Exemption> {
            let all = section.map(|section| section.exemptions.clone()).unwrap_or_default();
            all.into_iter().filter(|one| one.until.is_none_or(|until| until > now)).collect()
        };
        let (before, after) = (live(old), live(new));
        let missing = |from: &[Exemption], of: &Exemption| !from.iter().any(|one| one.covers(of));
        if enforced(old) && enforced(new) {
            let lost = before.iter().filter(|exemption| missing(&after, exemption));
            self.lost.extend(lost.map(|exemption| (range, exemption.clone())));
        }
        let added = after.iter().filter(|exemption| missing(&before, exemption));
        self.added.extend(added.map(|exemption| (range, exemption.clone())));
    }
}

impl From<&Impact> for v1::PolicyChanges {
    fn from(impact: &Impact) -> Self {
        let Impact { closed, opened, changed, lost, added } = impact;
        let ranges = |ranges: &[PortRange]| ranges.iter().map(|range| (*range).into()).collect();
        let exemptions = |exemptions: &[(PortRange, Exemption)]| {
            exemptions
                .iter()
                .map(|(range, exemption)| v1::ExemptionChange {
                    range: Some((*range).into()),
                    exemption: Some(exemption.into()),
                })
                .collect()
        };
        Self {
            closed: ranges(closed),
            opened: ranges(opened),
            changed: changed
                .iter()
                .map(|(range, what)| v1::PortChange {
                    range: Some((*range).into()),
                    what: what.clone(),
                })
                .collect(),
            exemptions_lost: exemptions(lost),
            exemptions_added: exemptions(added),
            grants: Vec::new(),
            confirm: impact.shuts_out(),
        }
    }
}

/// The message for a grant that would be refused.
pub fn refused_grant(record: &HeldGrant, refused: &Refused) -> v1::RefusedGrant {
    v1::RefusedGrant {
        grant_id: record.grant.id().0.to_vec().into(),
        requester: record.grant.requester().to_owned(),
        state: match record.stage {
            Stage::Exhausted { .. } => v1::State::Exhausted,
            Stage::Scheduled { .. } => v1::State::Scheduled,
            _ => v1::State::Active,
        }
        .into(),
        reason: refused.refusal.word().into(),
        detail: refused.detail.clone(),
        not_after_ms: record.grant.not_after().0,
    }
}

/// Ranges of ports with one section in the old policy and one in the new policy.
fn segments<'p>(
    old: &'p Policy,
    new: &'p Policy,
) -> Vec<(PortRange, Option<&'p PortSection>, Option<&'p PortSection>)> {
    let same = |a: Option<&PortSection>, b: Option<&PortSection>| match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => std::ptr::eq(a, b),
        _ => false,
    };
    let ports: BTreeSet<PortKey> = old.rules().chain(new.rules()).map(|(port, _)| port).collect();
    let mut segments: Vec<(PortRange, _, _)> = Vec::new();
    for key in ports {
        let (before, after) = (old.port(key), new.port(key));
        let PortKey { protocol, port } = key;
        match segments.last_mut() {
            Some((range, old, new))
                if range.protocol == protocol
                    && range.last.checked_add(1) == Some(port)
                    && same(*old, before)
                    && same(*new, after) =>
            {
                range.last = port;
            }
            _ => segments.push((PortRange { protocol, first: port, last: port }, before, after)),
        }
    }
    segments
}

/// The differences between two sections for the same port, without the exemptions.
fn differences(old: &PortSection, new: &PortSection) -> Vec<String> {
    let PortSection {
        range: _,
        observe,
        sources,
        widest_v4,
        widest_v6,
        max_duration,
        approvals,
        sessions,
        forwarded,
        exemptions: _,
    } = old;
    let mode = |observe: bool| if observe { "observe" } else { "enforce" }.to_owned();
    let place = |forwarded: bool| if forwarded { "forwarded" } else { "host" }.to_owned();
    let mut what = Vec::new();
    let mut compare = |key: &str, old: String, new: String| {
        if old != new {
            what.push(format!("{key} {old} -> {new}"));
        }
    };
    compare("mode", mode(*observe), mode(new.observe));
    compare("sources", listed(sources), listed(&new.sources));
    compare("widest_v4", format!("/{widest_v4}"), format!("/{}", new.widest_v4));
    compare("widest_v6", format!("/{widest_v6}"), format!("/{}", new.widest_v6));
    let time = |time: &std::time::Duration| jit_proto::words::duration_text(*time);
    compare("max_duration", time(max_duration), time(&new.max_duration));
    compare("approvals", approvals.to_string(), new.approvals.to_string());
    compare("sessions", sessions.word().into(), new.sessions.word().into());
    compare("terminates", place(*forwarded), place(new.forwarded));
    what
}

/// What a port that stays enforced lets in under `new` and did not under `old`, without the
/// exemptions: each as text.
pub fn laxer(old: &Policy, new: &Policy) -> Vec<(PortRange, Vec<String>)> {
    let both = segments(old, new).into_iter().filter_map(|(range, old, new)| {
        let what = laxer_section(old?, new?);
        (!what.is_empty()).then_some((range, what))
    });
    both.collect()
}

/// What ends or stops sessions on a port that stays enforced under `new` and did not under `old`:
/// each as text.
pub fn sterner(old: &Policy, new: &Policy) -> Vec<(PortRange, Vec<String>)> {
    let both = segments(old, new).into_iter().filter_map(|(range, old, new)| {
        let (old, new) = (old?, new?);
        let mut what = Vec::new();
        if (old.sessions, new.sessions) == (Sessions::Drain, Sessions::Cut) {
            what.push("sessions drain -> cut".into());
        }
        if old.forwarded && !new.forwarded {
            what.push("terminates forwarded -> host".into());
        }
        (!what.is_empty() && !old.observe && !new.observe).then_some((range, what))
    });
    both.collect()
}

fn laxer_section(old: &PortSection, new: &PortSection) -> Vec<String> {
    let mut what = Vec::new();
    let new_sources = new.sources.iter();
    let wider: Vec<_> = new_sources
        .filter(|source| !old.sources.iter().any(|before| before.contains(source)))
        .map(ToString::to_string)
        .collect();
    if !wider.is_empty() {
        what.push(format!("grants may also name {}", wider.join(", ")));
    }
    let widths =
        [("widest_v4", old.widest_v4, new.widest_v4), ("widest_v6", old.widest_v6, new.widest_v6)];
    for (key, before, after) in widths {
        if after < before {
            what.push(format!("{key} /{before} -> /{after}"));
        }
    }
    if new.max_duration > old.max_duration {
        let text = jit_proto::words::duration_text;
        let (before, after) = (text(old.max_duration), text(new.max_duration));
        what.push(format!("max_duration {before} -> {after}"));
    }
    if new.approvals < old.approvals {
        what.push(format!("approvals {} -> {}", old.approvals, new.approvals));
    }
    if (old.sessions, new.sessions) == (Sessions::Cut, Sessions::Drain) {
        what.push("sessions cut -> drain".into());
    }
    if !old.forwarded && new.forwarded {
        what.push("terminates host -> forwarded".into());
    }
    what
}

fn listed(sources: &[jit_proto::SourcePrefix]) -> String {
    let mut texts: Vec<_> = sources.iter().map(ToString::to_string).collect();
    texts.sort_unstable();
    texts.join(",")
}

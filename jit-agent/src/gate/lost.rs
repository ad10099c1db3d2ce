//! Finds what a start closes without a stored reason: open entries that an earlier run left in the
//! kernel, and that no stored grant explains. The database has lost grants, or somebody wrote past
//! the agent.

use std::collections::BTreeSet;

use jit_proto::{GrantId, PortRange, SourcePrefix, v1};
use prost::Message as _;

use crate::{
    disk::{
        audit::{EventCode, Record},
        store::{Damage, StoredGrant},
    },
    gate::Gate,
    kernel::datapath::Datapath,
    rules::{
        claims::EXEMPT_SLOT,
        clock::{BootNanos, Now, SKEW},
        problem::ProblemKind,
        reconcile::{Entries, Entry, EntryKey},
    },
};

/// Entries that are named one by one.
const NAMED: usize = 8;
/// The name of the problem, for the board and the audit.
const FAULT: ProblemKind = ProblemKind::GrantsLost;

/// Open entries that no stored grant explains.
pub(super) fn unexplained(
    installed: &Entries,
    stored: &[(GrantId, StoredGrant)],
    now: BootNanos,
) -> BTreeSet<EntryKey> {
    let open = installed.iter().filter(|(_, entry)| is_open(entry, now));
    let mut keys: BTreeSet<EntryKey> = open.map(|(key, _)| *key).collect();
    for (_, grant) in stored {
        if keys.is_empty() {
            break;
        }
        places(grant).into_iter().flatten().for_each(|key| {
            keys.remove(&key);
        });
    }
    keys
}

fn is_open(entry: &Entry, now: BootNanos) -> bool {
    let accesses = entry.accesses().into_iter();
    accesses.filter(|access| access.slot != EXEMPT_SLOT).any(|access| access.deadline > now)
}

/// The places of a stored grant, whoever signed it: it is a reason for an entry also when it is not
/// put back.
fn places(grant: &StoredGrant) -> Option<Vec<EntryKey>> {
    let message = v1::Grant::decode(&*grant.envelope.as_ref()?.payload).ok()?;
    let sources = message.sources.iter().filter_map(|one| SourcePrefix::try_from(one).ok());
    let sources: Vec<_> = sources.collect();
    let ranges = message.ports.iter().filter_map(|one| PortRange::try_from(one).ok());
    let key = |port| sources.iter().map(move |source| EntryKey { port, source: *source });
    Some(ranges.flat_map(|range| range.ports()).flat_map(key).collect())
}

impl<D: Datapath> Gate<D> {
    pub(super) fn report_damage(&mut self, Damage { kept, why }: Damage, now: Now) {
        let kept = kept.map(|file| format!(", and kept as {}", file.display()));
        let text = format!(
            "the database was damaged ({why}){}: grants issued before {} are refused",
            kept.unwrap_or_default(),
            self.clock.lost_before()
        );
        tracing::error!("{text}; the gate starts without stored grants");
        self.record(Record::new(EventCode::DatabaseDamaged).by("agent").detail(&text), now);
        self.alarms.damaged = Some(text);
    }

    /// Reports entries that this start closes for want of a stored grant. If `forgotten`, the
    /// database knows of no earlier run: what was revoked is lost as well, and what was issued before
    /// is refused.
    pub(super) fn report_lost(&mut self, lost: &BTreeSet<EntryKey>, forgotten: bool, now: Now) {
        if lost.is_empty() {
            return;
        }
        let mut text = format!("{} that no stored grant explains at this start", closed(lost));
        if forgotten {
            let floor = self.clock.not_before_floor(now).wall + SKEW;
            self.clock.lose_before(floor);
            self.outbox.lose_before(floor);
            self.outbox.write_soon(now);
            text.push_str(&format!(
                ", and the database knows nothing of earlier revocations: grants issued before \
                 {floor} are refused"
            ));
        }
        text.push_str("; have the grants that are needed signed and pushed again");
        tracing::error!("{text}");
        let record = Record::new(EventCode::GrantsLost).by("agent").with("entries", lost.len());
        self.record(record.detail(&text), now);
        // It ends with the next start.
        self.faults.set(FAULT, Some(text));
    }
}

fn closed(lost: &BTreeSet<EntryKey>) -> String {
    let names: Vec<_> = lost
        .iter()
        .take(NAMED)
        .map(|EntryKey { port, source }| format!("{}/{} {source}", port.port, port.protocol.word()))
        .collect();
    let more = lost.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let entries = if lost.len() == 1 { "1 open entry was" } else { "open entries were" };
    let count = if lost.len() == 1 { String::new() } else { format!("{} ", lost.len()) };
    format!("{count}{entries} closed ({}{more})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;
    use crate::rules::reconcile::Access;

    fn key(source: &str) -> EntryKey {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        EntryKey { port, source: source.parse().unwrap() }
    }

    fn entry(deadline: u64, slot: u32) -> Entry {
        let unlimited = Access { deadline: BootNanos(deadline), cut: false, slot };
        Entry { unlimited, ..Entry::CLOSED }
    }

    #[test]
    fn only_open_entries_of_grants_count_and_a_stored_grant_explains_its_own() {
        let installed: Entries = [
            (key("192.0.2.1"), entry(9, 1)),
            (key("192.0.2.2"), entry(9, 2)),
            (key("192.0.2.3"), entry(5, 3)),
            (key("192.0.2.4"), entry(u64::MAX, EXEMPT_SLOT)),
        ]
        .into_iter()
        .collect();
        let grant = v1::Grant {
            sources: vec![(&key("192.0.2.1").source).into()],
            ports: vec![v1::PortRange { protocol: 1, first: 22, last: 22 }],
            ..v1::Grant::default()
        };
        let payload = grant.encode_to_vec().into();
        let envelope = v1::Envelope { payload, ..v1::Envelope::default() };
        let stored = [(GrantId([1; 16]), StoredGrant::from(envelope))];
        let lost = unexplained(&installed, &stored, BootNanos(5));
        assert_eq!(lost, [key("192.0.2.2")].into());
        assert_eq!(closed(&lost), "1 open entry was closed (22/tcp 192.0.2.2)");
        let many: BTreeSet<_> = (1..=10).map(|n| key(&format!("192.0.2.{n}"))).collect();
        let text = closed(&many);
        assert!(text.starts_with("10 open entries were") && text.contains("and 2 more"), "{text}");
    }
}

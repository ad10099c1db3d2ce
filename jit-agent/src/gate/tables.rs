//! The entries in the kernel's grant tables, and the keys whose write must be tried again.

use std::collections::{BTreeSet, HashSet};

use crate::{
    kernel::datapath::{Datapath, DatapathError, Failures},
    rules::{
        reconcile::{Entries, Entry, EntryKey, Write, plan},
        room,
    },
};

/// The kernel's grant tables as they were last written or read.
#[derive(Debug, Default)]
pub(super) struct Tables {
    installed: Entries,
    /// Number of entries that cut sessions: whether there is one is asked in each revocation.
    cutting: usize,
    /// Keys whose write failed.
    dirty: BTreeSet<EntryKey>,
    /// Why.
    problem: Option<String>,
    /// Number of writes.
    writes: u64,
    /// An entry was removed, or lets in less, since this was last asked.
    closed: bool,
}

/// A place where the kernel has something else than what was written there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: EntryKey,
    /// The entry that was written; `None`: none was.
    pub(super) was: Option<Entry>,
    /// The entry that was found; `None`: there is none.
    pub(super) found: Option<Entry>,
}

impl Difference {
    /// What it is, for people.
    pub(super) const fn what(&self) -> &'static str {
        match (self.was, self.found) {
            (Some(_), Some(_)) => "it was changed: written again",
            (Some(_), None) => "it was gone: written again",
            (None, _) => "no grant or exemption explains it: removed",
        }
    }
}

/// Results of some writes.
#[derive(Debug)]
pub(super) struct Written {
    /// Where sessions may have ended.
    pub(super) closed: Vec<EntryKey>,
    /// The first error.
    pub(super) result: Result<(), DatapathError>,
}

impl Tables {
    /// Takes over the entries that an earlier run left in the kernel.
    pub(super) fn adopt(&mut self, installed: Entries) {
        self.cutting = installed.values().filter(|entry| entry.cuts()).count();
        self.installed = installed;
    }

    /// Whether any entry cuts its sessions, whatever the rule of its port.
    pub(super) const fn cuts(&self) -> bool {
        self.cutting > 0
    }

    fn insert(&mut self, key: EntryKey, entry: Entry) -> Option<Entry> {
        self.cutting += usize::from(entry.cuts());
        let before = self.installed.insert(key, entry);
        self.forgot(before.as_ref());
        before
    }

    fn forgot(&mut self, before: Option<&Entry>) {
        self.cutting -= before.map_or(0, |before| usize::from(before.cuts()));
    }

    /// Gives back the room of entries that have gone.
    pub(super) fn give_room_back(&mut self) {
        room::give_back(&mut self.installed);
    }

    pub(super) const fn installed(&self) -> &Entries {
        &self.installed
    }

    /// The number of writes until now.
    pub(super) const fn writes(&self) -> u64 {
        self.writes
    }

    /// Whether an entry was closed since this was last asked.
    pub(super) const fn take_closed(&mut self) -> bool {
        std::mem::replace(&mut self.closed, false)
    }

    /// Takes over what was read back, and returns where it is not what was written. A write then
    /// puts it right.
    pub(super) fn correct(&mut self, read: &[(EntryKey, Entry)]) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (key, found) in read {
            let was = self.installed.get(key).copied();
            if was != Some(*found) {
                self.insert(*key, *found);
                differences.push(Difference { key: *key, was, found: Some(*found) });
            }
        }
        differences
    }

    /// Likewise where nothing was found, though something was written.
    pub(super) fn missing(&mut self, there: &HashSet<EntryKey>) -> Vec<Difference> {
        let gone: Vec<_> = self.installed.extract_if(|key, _| !there.contains(key)).collect();
        gone.iter().for_each(|(_, was)| self.forgot(Some(was)));
        let differences = gone.into_iter();
        differences.map(|(key, was)| Difference { key, was: Some(was), found: None }).collect()
    }

    pub(super) const fn dirty(&self) -> &BTreeSet<EntryKey> {
        &self.dirty
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Writes the differences from these entries. All writes are tried: a failed write must not
    /// keep another one from closing.
    pub(super) fn write(
        &mut self,
        desired: impl IntoIterator<Item = (EntryKey, Option<Entry>)>,
        datapath: &mut impl Datapath,
    ) -> Written {
        let writes = plan(desired, &self.installed);
        let (failed, result) = match datapath.write_all(&writes) {
            Ok(()) => (BTreeSet::new(), Ok(())),
            Err(Failures { at, why }) => (at.into_iter().collect(), Err(why)),
        };
        let mut written = Written { closed: Vec::new(), result };
        let done = writes.into_iter().enumerate().filter(|(place, _)| !failed.contains(place));
        for (_, write) in done {
            self.writes = self.writes.wrapping_add(1);
            let (key, may_end) = match write {
                Write::Remove(key) => {
                    let before = self.installed.remove(&key);
                    self.forgot(before.as_ref());
                    (key, true)
                }
                Write::Set(key, entry) => {
                    let before = self.insert(key, entry);
                    (key, before.is_some_and(|before| entry.may_end(&before)))
                }
            };
            if may_end {
                self.closed = true;
                written.closed.push(key);
            }
        }
        written
    }

    /// Remembers which of these keys must be tried again after a write.
    pub(super) fn note(&mut self, keys: BTreeSet<EntryKey>, result: &Result<(), DatapathError>) {
        match result {
            Ok(()) => self.dirty.retain(|key| !keys.contains(key)),
            Err(error) => {
                self.problem = Some(error.to_string());
                self.dirty.extend(keys);
            }
        }
        if self.dirty.is_empty() {
            self.problem = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;
    use crate::{
        kernel::datapath::memory::MemoryDatapath,
        rules::{clock::BootNanos, reconcile::Access},
    };

    fn key(source: &str) -> EntryKey {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        EntryKey { port, source: source.parse().unwrap() }
    }

    fn entry(deadline: u64) -> Entry {
        let unlimited = Access { deadline: BootNanos(deadline), cut: false, slot: 1 };
        Entry { unlimited, ..Entry::CLOSED }
    }

    #[test]
    fn only_what_closes_or_shortens_may_have_ended_sessions() {
        let (mut tables, mut kernel) = (Tables::default(), MemoryDatapath::default());
        let (first, second) = (key("192.0.2.1"), key("192.0.2.2"));
        let write = |tables: &mut Tables, kernel: &mut MemoryDatapath, to: [Option<Entry>; 2]| {
            let written = tables.write([(first, to[0]), (second, to[1])], kernel);
            written.result.unwrap();
            written.closed
        };
        assert_eq!(write(&mut tables, &mut kernel, [Some(entry(5)), Some(entry(5))]), []);
        assert_eq!(write(&mut tables, &mut kernel, [Some(entry(9)), Some(entry(4))]), [second]);
        assert_eq!(write(&mut tables, &mut kernel, [None, Some(entry(4))]), [first]);
        assert_eq!(tables.installed().len(), 1);
    }

    /// A revocation asks this without a look at every entry.
    #[test]
    fn whether_any_entry_cuts_its_sessions_is_known_whatever_happened_to_the_entries() {
        let (mut tables, mut kernel) = (Tables::default(), MemoryDatapath::default());
        let [first, second, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(key);
        let cutting = |deadline| {
            let entry = entry(deadline);
            Entry { unlimited: Access { cut: true, ..entry.unlimited }, ..entry }
        };
        let mut write = |tables: &mut Tables, key, entry| {
            tables.write([(key, entry)], &mut kernel).result.unwrap();
            tables.cuts()
        };
        assert!(!write(&mut tables, first, Some(entry(5))));
        assert!(write(&mut tables, second, Some(cutting(5))));
        assert!(write(&mut tables, second, Some(cutting(9))), "it counts once");
        assert!(!write(&mut tables, second, None));
        assert!(write(&mut tables, second, Some(cutting(5))));
        assert!(!write(&mut tables, second, Some(entry(5))));
        tables.correct(&[(first, cutting(5)), (third, cutting(5))]);
        assert!(tables.cuts());
        tables.missing(&[second, third].into());
        assert!(tables.cuts());
        tables.missing(&[second].into());
        assert!(!tables.cuts());
        tables.adopt([(third, cutting(5))].into());
        assert!(tables.cuts());
    }

    #[test]
    fn what_the_kernel_has_otherwise_is_written_again_or_removed() {
        let (mut tables, mut kernel) = (Tables::default(), MemoryDatapath::default());
        let [same, longer, gone, foreign] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.18.0.0/24"].map(key);
        let wanted = [same, longer, gone].map(|key| (key, Some(entry(5))));
        tables.write(wanted, &mut kernel).result.unwrap();
        let read = [(same, entry(5)), (longer, entry(9)), (foreign, entry(u64::MAX))];
        let found = tables.correct(&read);
        let what: Vec<_> = found.iter().map(|one| (one.key, one.what())).collect();
        assert_eq!(what.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [longer, foreign]);
        assert!(what[0].1.contains("changed") && what[1].1.contains("removed"));
        let there = [same, longer, foreign].into();
        let missing: Vec<_> = tables.missing(&there).iter().map(|one| one.key).collect();
        assert_eq!(missing, [gone]);
        kernel.take_writes();
        let desired = wanted.into_iter().chain([(foreign, None)]);
        tables.write(desired, &mut kernel).result.unwrap();
        assert_eq!(kernel.take_writes().len(), 3, "all but the one that is right");
        assert!(tables.take_closed() && !tables.take_closed());
    }

    #[test]
    fn what_failed_stays_dirty_until_it_is_written() {
        let (mut tables, mut kernel) = (Tables::default(), MemoryDatapath::default());
        let (first, second) = (key("192.0.2.1"), key("192.0.2.2"));
        kernel.refuse(Some(false));
        let written = tables.write([(first, Some(entry(5)))], &mut kernel);
        tables.note([first].into(), &written.result);
        assert!(tables.problem().is_some() && tables.installed().is_empty());
        kernel.refuse(None);
        let written = tables.write([(second, Some(entry(5)))], &mut kernel);
        tables.note([second].into(), &written.result);
        assert!(tables.problem().is_some(), "the first is not written yet");
        assert_eq!(*tables.dirty(), [first].into());
        let written = tables.write([(first, Some(entry(5)))], &mut kernel);
        tables.note([first].into(), &written.result);
        assert!(tables.problem().is_none() && tables.dirty().is_empty());
    }
}

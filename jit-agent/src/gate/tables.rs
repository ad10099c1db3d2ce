//! The entries in the kernel's grant tables, and the keys whose write must be tried again.

use std::collections::BTreeSet;

use crate::{
    kernel::datapath::{Datapath, DatapathError},
    rules::reconcile::{Entries, Entry, EntryKey, Write, plan},
};

/// The kernel's grant tables as they were last written or read.
#[derive(Debug, Default)]
pub(super) struct Tables {
    installed: Entries,
    /// Keys whose write failed.
    dirty: BTreeSet<EntryKey>,
    /// Why.
    problem: Option<String>,
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
        self.installed = installed;
    }

    pub(super) const fn installed(&self) -> &Entries {
        &self.installed
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
        let mut written = Written { closed: Vec::new(), result: Ok(()) };
        for write in plan(desired, &self.installed) {
            if let Err(error) = datapath.write(&write) {
                written.result = written.result.and(Err(error));
                continue;
            }
            let (key, may_end) = match write {
                Write::Remove(key) => {
                    self.installed.remove(&key);
                    (key, true)
                }
                Write::Set(key, entry) => {
                    let before = self.installed.insert(key, entry);
                    (key, before.is_some_and(|before| entry.may_end(&before)))
                }
            };
            if may_end {
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

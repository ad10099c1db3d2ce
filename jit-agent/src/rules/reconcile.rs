//! Compares the desired entries of the kernel's tables with the actual ones, and gives the writes.
//! Closings come first.

use std::collections::HashMap;

use jit_common::PortKey;
use jit_proto::SourcePrefix;

use crate::rules::clock::BootNanos;

/// A place in the grant tables: the host table for single addresses, else a prefix trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Port and protocol.
    pub port: PortKey,
    /// Source.
    pub source: SourcePrefix,
}

/// How long one grant lets connections in. In the kernel's tables it is a `jit_common::Claim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The grant has ended at this time. Zero: there is no grant.
    pub deadline: BootNanos,
    /// Its sessions end with it, also if the port's rule is `drain`.
    pub cut: bool,
    /// Where its connections are counted.
    pub slot: u32,
}

impl Access {
    /// No grant.
    pub const NONE: Self = Self { deadline: BootNanos(0), cut: false, slot: 0 };

    /// Whether there is a grant, live or ended.
    pub fn is_some(&self) -> bool {
        self.deadline != Self::NONE.deadline
    }
}

/// The entry at a place. Of the grants that cover the place it has the one without a limit that
/// lasts longest, and one with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The grant for any number of connections.
    pub unlimited: Access,
    /// The grant with a limit, which is in its slot.
    pub limited: Access,
}

impl Entry {
    /// The entry of a place that is taken and lets nobody in.
    pub const CLOSED: Self = Self { unlimited: Access::NONE, limited: Access::NONE };

    /// Both of them.
    pub const fn accesses(&self) -> [Access; 2] {
        [self.unlimited, self.limited]
    }

    /// Whether sessions end with a grant of it, whatever the rule of the port.
    pub fn cuts(&self) -> bool {
        self.accesses().iter().any(|access| access.cut && access.is_some())
    }

    /// Whether sessions that `old` covered may have ended under this entry. They have not if each
    /// claim is the same or only lasts longer.
    pub fn may_end(&self, old: &Self) -> bool {
        let [unlimited, limited] = self.accesses();
        [(unlimited, old.unlimited), (limited, old.limited)].into_iter().any(|(new, old)| {
            let longer = new.deadline > old.deadline && (old.cut || !new.cut || !old.is_some());
            new != old && !longer
        })
    }

    /// Whether one of its two claims lets in less than that of `old`.
    fn closes(&self, old: &Self) -> bool {
        self.unlimited.deadline < old.unlimited.deadline
            || self.limited.deadline < old.limited.deadline
    }
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Remove the entry.
    Remove(EntryKey),
    /// Put this entry in the place.
    Set(EntryKey, Entry),
}

/// The entries that the gate last wrote to the kernel or read from it.
pub type Entries = HashMap<EntryKey, Entry>;

/// The writes that turn `actual` into the desired state at these keys. Closings (removals and
/// earlier deadlines) come before openings.
pub fn plan(
    desired: impl IntoIterator<Item = (EntryKey, Option<Entry>)>,
    actual: &Entries,
) -> Vec<Write> {
    let mut closings = Vec::new();
    let mut openings = Vec::new();
    for (key, entry) in desired {
        match (actual.get(&key), entry) {
            (None, None) => {}
            (Some(_), None) => closings.push(Write::Remove(key)),
            (None, Some(entry)) => openings.push(Write::Set(key, entry)),
            (Some(old), Some(entry)) if *old == entry => {}
            (Some(old), Some(entry)) if entry.closes(old) => {
                closings.push(Write::Set(key, entry));
            }
            (Some(_), Some(entry)) => openings.push(Write::Set(key, entry)),
        }
    }
    closings.extend(openings);
    closings
}

#[cfg(test)]
mod tests {
    use jit_common::Protocol;

    use super::*;

    fn key(source: &str) -> EntryKey {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        EntryKey { port, source: source.parse().unwrap() }
    }

    fn entry(deadline: u64) -> Entry {
        let unlimited = Access { deadline: BootNanos(deadline), cut: false, slot: 1 };
        Entry { unlimited, ..Entry::CLOSED }
    }

    #[test]
    fn closings_come_before_openings_and_nothing_is_written_twice() {
        let actual = Entries::from([
            (key("192.0.2.1"), entry(5)),
            (key("192.0.2.2"), entry(5)),
            (key("192.0.2.3"), entry(5)),
            (key("192.0.2.4"), entry(5)),
        ]);
        let writes = plan(
            [
                (key("192.0.2.9"), Some(entry(9))),
                (key("192.0.2.1"), Some(entry(6))),
                (key("192.0.2.2"), None),
                (key("192.0.2.3"), Some(entry(5))),
                (key("192.0.2.4"), Some(entry(4))),
                (key("192.0.2.8"), None),
            ],
            &actual,
        );
        assert_eq!(
            writes,
            [
                Write::Remove(key("192.0.2.2")),
                Write::Set(key("192.0.2.4"), entry(4)),
                Write::Set(key("192.0.2.9"), entry(9)),
                Write::Set(key("192.0.2.1"), entry(6)),
            ]
        );
    }
}

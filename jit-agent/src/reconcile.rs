//! From what should be in the kernel's tables and what is, to the writes: closings first.

use std::collections::HashMap;

use jit_common::PortKey;

use crate::{clock::BootNanos, prefix::SourcePrefix};

/// A place in the grant tables: the host table for single addresses, else a prefix trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Port and protocol.
    pub port: PortKey,
    /// Source.
    pub source: SourcePrefix,
}

/// What stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The grant is dead at this time.
    pub deadline: BootNanos,
    /// Where its connections are counted.
    pub slot: u32,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Take the entry away.
    Remove(EntryKey),
    /// Put this in its place.
    Set(EntryKey, Entry),
}

/// The entries that the gate last wrote, or read from the kernel.
pub type Entries = HashMap<EntryKey, Entry>;

/// The writes that turn `actual` into the desired state at the touched keys, closings (removals and
/// earlier deadlines) before openings.
pub fn plan(
    touched: impl IntoIterator<Item = (EntryKey, Option<Entry>)>,
    actual: &Entries,
) -> Vec<Write> {
    let mut closings = Vec::new();
    let mut openings = Vec::new();
    for (key, desired) in touched {
        match (actual.get(&key), desired) {
            (None, None) => {}
            (Some(_), None) => closings.push(Write::Remove(key)),
            (None, Some(entry)) => openings.push(Write::Set(key, entry)),
            (Some(old), Some(entry)) if *old == entry => {}
            (Some(old), Some(entry)) if entry.deadline < old.deadline => {
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
        Entry { deadline: BootNanos(deadline), slot: 1 }
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

//! The layout that each pinned table must have, and the comparison with an existing table.

use aya::maps::{MapInfo, MapType, lpm_trie::Key};
use jit_common::{
    Budget, COUNTERS, ConnectionKey, EventKind, FIRST_PORTS, Flow, GrantEntry, Handshake, HostKey,
    InUse, LAST_COUNTED, LastCounted, MAX_PLACES, NO_PREALLOC, OPENED_HERE, PROTECTED_WORDS,
    PlaceKey, PortCounters, PortRule, PrefixV4, PrefixV6, RING_BYTES, RULE_SLOTS, Settings, Slot,
    TRANSLATED, map,
};

use crate::config::Limits;

/// Layout of one pinned table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    /// Name of map and pin.
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// Entries; for the ring buffer bytes.
    pub(super) entries: u32,
    flags: u32,
}

/// All pinned tables, sized by the configuration.
pub(super) fn layouts(limits: Limits) -> [Layout; 19] {
    use MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray, PerCpuHash, RingBuf};
    let Limits { hosts, prefixes } = limits;
    let (none, slots) = (0, limits.slots());
    [
        layout::<u32, u64>(map::COUNTERS, PerCpuArray, COUNTERS, none),
        layout::<(), ()>(map::EVENTS, RingBuf, RING_BYTES, none),
        layout::<u32, Budget>(map::EVENT_BUDGET, PerCpuArray, EventKind::COUNT, none),
        layout::<ConnectionKey, Handshake>(map::CONNECTIONS, Hash, MAX_PLACES, NO_PREALLOC),
        layout::<u32, PortCounters>(map::FIRST_PORTS, PerCpuArray, FIRST_PORTS, none),
        layout::<HostKey, GrantEntry>(map::HOST_GRANTS, Hash, hosts, NO_PREALLOC),
        layout::<u32, u32>(map::IN_USE, Array, InUse::COUNT, none),
        layout::<ConnectionKey, LastCounted>(map::LAST_COUNTED, LruHash, LAST_COUNTED, none),
        layout::<Flow, u64>(map::OPENED_HERE, LruHash, OPENED_HERE, none),
        layout::<PlaceKey, Flow>(map::PLACES, Hash, MAX_PLACES, NO_PREALLOC),
        layout::<u32, PortCounters>(map::PORT_COUNTERS, PerCpuHash, RULE_SLOTS, NO_PREALLOC),
        layout::<u32, PortRule>(map::PORT_RULES, Array, RULE_SLOTS, none),
        layout::<Key<PrefixV4>, GrantEntry>(map::PREFIX_GRANTS_V4, LpmTrie, prefixes, NO_PREALLOC),
        layout::<Key<PrefixV6>, GrantEntry>(map::PREFIX_GRANTS_V6, LpmTrie, prefixes, NO_PREALLOC),
        layout::<u32, u64>(map::PROTECTED, Array, PROTECTED_WORDS, none),
        layout::<u32, Settings>(map::SETTINGS, Array, 1, none),
        layout::<u32, Slot>(map::SLOTS, Array, slots, none),
        layout::<u32, u64>(map::SUMMARY, Array, limits.summary().words(), none),
        layout::<Flow, Flow>(map::TRANSLATED, Hash, TRANSLATED, NO_PREALLOC),
    ]
}

/// The layout of a table of keys `K` and values `V`.
const fn layout<K, V>(name: &'static str, kind: MapType, entries: u32, flags: u32) -> Layout {
    Layout { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries, flags }
}

/// What the kernel adds to each element of a hash, a trie or a list, bytes: about.
const ELEMENT: u64 = 64;
/// A bucket of a hash, bytes.
const BUCKET: u64 = 16;

impl Layout {
    /// Memory when the table is made, and when it is full, bytes: about. `cpus`: possible ones.
    pub(super) fn memory(&self, cpus: u64) -> (u64, u64) {
        let size = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX).next_multiple_of(8);
        let (entries, key, value) = (u64::from(self.entries), size(self.key), size(self.value));
        let each = |bytes: u64| entries.saturating_mul(bytes);
        let per_cpu = matches!(self.kind, MapType::PerCpuArray | MapType::PerCpuHash);
        let value = if per_cpu { value.saturating_mul(cpus) } else { value };
        let elements = each(ELEMENT.saturating_add(key).saturating_add(value));
        let buckets = entries.next_power_of_two().saturating_mul(BUCKET);
        match self.kind {
            MapType::RingBuf => (entries, entries),
            MapType::Array | MapType::PerCpuArray => (each(value), each(value)),
            MapType::LruHash => (buckets + elements, buckets + elements),
            MapType::LpmTrie => (0, elements),
            _ => (buckets, buckets.saturating_add(elements)),
        }
    }

    /// The difference between a table and this layout; `None`: there is none.
    pub(super) fn difference(&self, info: &MapInfo) -> Option<String> {
        let kind = info.map_type().ok();
        if kind != Some(self.kind) {
            return Some(format!("it is a {kind:?}, not a {:?}", self.kind));
        }
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        [
            ("key size", info.key_size(), size(self.key)),
            ("value size", info.value_size(), size(self.value)),
            ("number of entries", info.max_entries(), self.entries),
            ("flags", info.map_flags(), self.flags),
        ]
        .into_iter()
        .find(|(_, is, want)| is != want)
        .map(|(what, is, want)| format!("its {what} is {is}, this configuration needs {want}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `aya::maps::lpm_trie::Key` has the prefix's length in front, without padding.
    #[test]
    fn a_tries_key_is_four_bytes_and_its_data() {
        assert_eq!((size_of::<Key<PrefixV4>>(), size_of::<Key<PrefixV6>>()), (4 + 8, 4 + 24));
    }
}

//! What each pinned table must look like, and whether one that is there does.

use aya::maps::{MapInfo, MapType};
use jit_common::{
    Budget, COUNTERS, ConnectionKey, EventKind, Flow, GrantEntry, HostKey, LAST_COUNTED,
    LastCounted, MAX_PLACES, NO_PREALLOC, PROTECTED_WORDS, PlaceKey, PortCounters, PortRule,
    PrefixV4, PrefixV6, RING_BYTES, RULE_SLOTS, Settings, Slot, map,
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
pub(super) fn layouts(limits: Limits) -> [Layout; 14] {
    let layout =
        |name, kind, key, value, entries, flags| Layout { name, kind, key, value, entries, flags };
    let (grant, index) = (size_of::<GrantEntry>(), 4);
    let Limits { hosts, prefixes } = limits;
    [
        layout(map::COUNTERS, MapType::PerCpuArray, index, 8, COUNTERS, 0),
        layout(map::EVENTS, MapType::RingBuf, 0, 0, RING_BYTES, 0),
        layout(
            map::EVENT_BUDGET,
            MapType::PerCpuArray,
            index,
            size_of::<Budget>(),
            EventKind::COUNT,
            0,
        ),
        layout(
            map::CONNECTIONS,
            MapType::Hash,
            size_of::<ConnectionKey>(),
            4,
            MAX_PLACES,
            NO_PREALLOC,
        ),
        layout(map::HOST_GRANTS, MapType::Hash, size_of::<HostKey>(), grant, hosts, NO_PREALLOC),
        layout(
            map::LAST_COUNTED,
            MapType::LruHash,
            size_of::<ConnectionKey>(),
            size_of::<LastCounted>(),
            LAST_COUNTED,
            0,
        ),
        layout(
            map::PLACES,
            MapType::Hash,
            size_of::<PlaceKey>(),
            size_of::<Flow>(),
            MAX_PLACES,
            NO_PREALLOC,
        ),
        layout(
            map::PORT_COUNTERS,
            MapType::PerCpuHash,
            index,
            size_of::<PortCounters>(),
            RULE_SLOTS,
            NO_PREALLOC,
        ),
        layout(map::PORT_RULES, MapType::Array, index, size_of::<PortRule>(), RULE_SLOTS, 0),
        layout(
            map::PREFIX_GRANTS_V4,
            MapType::LpmTrie,
            4 + size_of::<PrefixV4>(),
            grant,
            prefixes,
            NO_PREALLOC,
        ),
        layout(
            map::PREFIX_GRANTS_V6,
            MapType::LpmTrie,
            4 + size_of::<PrefixV6>(),
            grant,
            prefixes,
            NO_PREALLOC,
        ),
        layout(map::PROTECTED, MapType::Array, index, 8, PROTECTED_WORDS, 0),
        layout(map::SETTINGS, MapType::Array, index, size_of::<Settings>(), 1, 0),
        layout(map::SLOTS, MapType::Array, index, size_of::<Slot>(), limits.slots(), 0),
    ]
}

impl Layout {
    /// What does not fit about a table; `None`: it has this layout.
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

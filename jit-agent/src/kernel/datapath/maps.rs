//! The tables as typed maps. The agent opens them from the loaded object. If the agent is dead,
//! `status` opens them from their pins.

mod many;
mod read_back;
mod summarized;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
    lpm_trie::Key,
};
use jit_common::{
    Address, COUNTERS, ConnectionKey, Counter, FIRST_PORTS, Family, Flow, GrantEntry, HostKey,
    InUse, MAX_CONNECTIONS, PROTECTED_WORDS, PlaceKey, PortCounters, PortKey, PortRule, PrefixV4,
    PrefixV6, Settings, Slot, SummarySize, map,
};
use jit_proto::prefix::bits;

use summarized::Summarized;

use crate::{
    kernel::datapath::{
        error::{DatapathError, chain},
        pins::Pins,
        state::{Counters, Elsewhere},
    },
    rules::{
        clock::BootNanos,
        reconcile::{Access, Entry, EntryKey, Write},
    },
};

const BPF_NOEXIST: u64 = 1;
/// Errors without room: `E2BIG` for full hashes, `ENOSPC` for full tries, `ENOMEM` if there is no
/// memory for an entry.
const FULL: [i32; 3] = [libc::E2BIG, libc::ENOSPC, libc::ENOMEM];

/// The tables.
pub struct Maps {
    /// Descriptors of the tables that are read back, by name.
    descriptors: BTreeMap<&'static str, OwnedFd>,
    connections: HashMap<MapData, ConnectionKey, u32>,
    counters: PerCpuArray<MapData, u64>,
    first_ports: PerCpuArray<MapData, PortCounters>,
    hosts: HashMap<MapData, HostKey, GrantEntry>,
    in_use: Array<MapData, u32>,
    opened_here: HashMap<MapData, Flow, u64>,
    places: HashMap<MapData, PlaceKey, Flow>,
    port_counters: PerCpuHashMap<MapData, u32, PortCounters>,
    port_rules: Array<MapData, PortRule>,
    prefixes_v4: LpmTrie<MapData, PrefixV4, GrantEntry>,
    prefixes_v6: LpmTrie<MapData, PrefixV6, GrantEntry>,
    protected: Array<MapData, u64>,
    settings: Array<MapData, Settings>,
    slots: Array<MapData, Slot>,
    summary: Array<MapData, u64>,
    summary_size: SummarySize,
    summarized: Summarized,
    translated: HashMap<MapData, Flow, Flow>,
    /// What is in it; `None`: it has to be read.
    translations: Option<BTreeMap<Flow, Flow>>,
}

impl Maps {
    /// Opens the maps that `take` finds by name.
    pub fn open(
        mut take: impl FnMut(&'static str) -> Result<Map, DatapathError>,
    ) -> Result<Self, DatapathError> {
        fn typed<T: TryFrom<Map, Error = MapError>>(
            table: &'static str,
            map: Map,
        ) -> Result<T, DatapathError> {
            T::try_from(map).map_err(failed("open", table))
        }
        let mut descriptors = BTreeMap::new();
        let mut map = |name| -> Result<_, DatapathError> {
            let map = take(name)?;
            if let Some(descriptor) = descriptor(&map) {
                descriptors.insert(name, descriptor);
            }
            Ok((name, map))
        };
        macro_rules! open {
            ($name:expr) => {{
                let (name, map) = map($name)?;
                typed(name, map)?
            }};
        }
        let (hosts, prefixes) = (map(map::HOST_GRANTS)?, map(map::PREFIX_GRANTS_V4)?);
        let maps = Self {
            descriptors: BTreeMap::new(),
            summary_size: SummarySize::for_grants(entries(&hosts)?, entries(&prefixes)?),
            connections: open!(map::CONNECTIONS),
            counters: open!(map::COUNTERS),
            first_ports: open!(map::FIRST_PORTS),
            hosts: typed(hosts.0, hosts.1)?,
            in_use: open!(map::IN_USE),
            opened_here: open!(map::OPENED_HERE),
            places: open!(map::PLACES),
            port_counters: open!(map::PORT_COUNTERS),
            port_rules: open!(map::PORT_RULES),
            prefixes_v4: typed(prefixes.0, prefixes.1)?,
            prefixes_v6: open!(map::PREFIX_GRANTS_V6),
            protected: open!(map::PROTECTED),
            settings: open!(map::SETTINGS),
            slots: open!(map::SLOTS),
            summary: open!(map::SUMMARY),
            summarized: Summarized::default(),
            translated: open!(map::TRANSLATED),
            translations: None,
        };
        Ok(Self { descriptors, ..maps })
    }

    /// From the pins.
    pub fn from_pins(pins: &Pins) -> Result<Self, DatapathError> {
        let open_pin = |name, path: &Path| {
            MapData::from_pin(path).and_then(Map::from_map_data).map_err(failed("open", name))
        };
        Self::open(|name| open_pin(name, &pins.map(name)))
    }

    /// The entries for one source at a port, by its address and by its longest prefix: what the
    /// programs find.
    pub fn covering(
        &self,
        source: Address,
        port: PortKey,
    ) -> Result<[Option<GrantEntry>; 2], DatapathError> {
        let host = self.hosts.get(&HostKey::new(source, port), 0);
        let (table, prefix) = match source.family {
            Family::V4 => {
                let data = PrefixV4::new(source, port);
                let key = Key::new(PrefixV4::HEAD_BITS + u32::from(bits(Family::V4)), data);
                (map::PREFIX_GRANTS_V4, self.prefixes_v4.get(&key, 0))
            }
            Family::V6 => {
                let data = PrefixV6::new(source, port);
                let key = Key::new(PrefixV6::HEAD_BITS + u32::from(bits(Family::V6)), data);
                (map::PREFIX_GRANTS_V6, self.prefixes_v6.get(&key, 0))
            }
        };
        Ok([found(host, map::HOST_GRANTS)?, found(prefix, table)?])
    }

    /// Carries out one write. To remove what is not there is no error.
    pub fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        let (key, entry) = match write {
            Write::Remove(key) => (key, None),
            Write::Set(key, entry) => (key, Some(GrantEntry::from(*entry))),
        };
        if entry.is_some() {
            self.cover(key)?;
        }
        let EntryKey { port, source } = *key;
        let (address, length) = (source.address(), u32::from(source.length()));
        let (table, result) = if source.is_host() {
            let key = HostKey::new(address, port);
            let result = match entry {
                Some(entry) => self.hosts.insert(key, entry, 0),
                None => self.hosts.remove(&key),
            };
            (map::HOST_GRANTS, result)
        } else if address.family == Family::V4 {
            let key = Key::new(PrefixV4::HEAD_BITS + length, PrefixV4::new(address, port));
            let result = match entry {
                Some(entry) => self.prefixes_v4.insert(&key, entry, 0),
                None => self.prefixes_v4.remove(&key),
            };
            (map::PREFIX_GRANTS_V4, result)
        } else {
            let key = Key::new(PrefixV6::HEAD_BITS + length, PrefixV6::new(address, port));
            let result = match entry {
                Some(entry) => self.prefixes_v6.insert(&key, entry, 0),
                None => self.prefixes_v6.remove(&key),
            };
            (map::PREFIX_GRANTS_V6, result)
        };
        if entry.is_none() {
            return gone(result, table);
        }
        result.map_err(failed("write to", table))
    }

    /// Makes exactly these ports protected: counters and rules first, then the bits.
    pub fn protect(&mut self, rules: &BTreeMap<PortKey, PortRule>) -> Result<(), DatapathError> {
        let mut words = vec![0_u64; PROTECTED_WORDS as usize];
        let mut held = self.rules()?;
        held.retain(|port, rule| rule.counters != 0 && rules.contains_key(port));
        let taken: BTreeSet<_> = held.values().map(|rule| rule.counters).collect();
        let mut free = (1..FIRST_PORTS).filter(|index| !taken.contains(index));
        for (port, rule) in rules {
            let counters = match held.get(port) {
                Some(held) => held.counters,
                None => self.count_port(*port, free.next())?,
            };
            self.port_rules
                .set(port.index(), PortRule { counters, ..*rule }, 0)
                .map_err(failed("write to", map::PORT_RULES))?;
            let (word, bit) = port.word_and_bit();
            if let Some(word) = usize::try_from(word).ok().and_then(|word| words.get_mut(word)) {
                *word |= bit;
            }
        }
        let before = self.words(map::PROTECTED, &self.protected)?;
        for (index, (word, before)) in (0..).zip(words.into_iter().zip(before)) {
            if before != word {
                self.protected.set(index, word, 0).map_err(failed("write to", map::PROTECTED))?;
            }
        }
        let gone: Vec<u32> = self
            .port_counters
            .keys()
            .filter_map(Result::ok)
            .filter(|index| {
                PortKey::from_index(*index).is_none_or(|port| !rules.contains_key(&port))
            })
            .collect();
        for index in gone {
            self.port_counters.remove(&index).map_err(failed("write to", map::PORT_COUNTERS))?;
        }
        Ok(())
    }

    /// The protected ports and their rules, as the kernel has them.
    pub fn protected(&self) -> Result<BTreeMap<PortKey, PortRule>, DatapathError> {
        let mut rules = self.rules()?;
        rules.values_mut().for_each(|rule| rule.counters = 0);
        Ok(rules)
    }

    /// The same, with the places of their counters.
    fn rules(&self) -> Result<BTreeMap<PortKey, PortRule>, DatapathError> {
        let mut rules = BTreeMap::new();
        for (word, bits) in (0..).zip(self.words(map::PROTECTED, &self.protected)?) {
            for bit in (0..64).filter(|bit| bits & (1 << bit) != 0) {
                let Some(port) = PortKey::from_index(word * 64 + bit) else { continue };
                let rule = self
                    .port_rules
                    .get(&port.index(), 0)
                    .map_err(failed("read", map::PORT_RULES))?;
                rules.insert(port, rule);
            }
        }
        Ok(rules)
    }

    /// Writes the settings.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), DatapathError> {
        self.settings.set(0, settings, 0).map_err(failed("write to", map::SETTINGS))
    }

    /// The settings, as the kernel has them.
    pub fn settings(&self) -> Result<Settings, DatapathError> {
        self.settings.get(&0, 0).map_err(failed("read", map::SETTINGS))
    }

    /// Whether this host opened a TCP connection of its own to the peer of this socket.
    pub fn opened_here(&self, flow: &Flow) -> Result<bool, DatapathError> {
        found(self.opened_here.get(flow, 0), map::OPENED_HERE).map(|found| found.is_some())
    }

    /// Takes over which connections this host opened from another version's tables, if their form
    /// is known here.
    pub fn carry_opened_here(&mut self, other: &Pins) {
        let map = MapData::from_pin(other.map(map::OPENED_HERE)).and_then(Map::from_map_data).ok();
        let theirs: Option<HashMap<MapData, Flow, u64>> = map.and_then(|map| map.try_into().ok());
        for (flow, time) in theirs.iter().flat_map(HashMap::iter).filter_map(Result::ok) {
            // What finds no room counts as the peer's.
            let _unused = self.in_use.set(InUse::OpenedHere as u32, 1, 0);
            let _full = self.opened_here.insert(flow, time, 0);
        }
    }

    /// Makes the table of translated connections contain exactly these. Only what differs from the
    /// last time is written.
    pub fn translate(&mut self, flows: &BTreeMap<Flow, Flow>) -> Result<(), DatapathError> {
        let mut known = match self.translations.take() {
            Some(known) => known,
            None => self
                .translated
                .iter()
                .collect::<Result<_, _>>()
                .map_err(failed("read", map::TRANSLATED))?,
        };
        let gone_flows: Vec<Flow> =
            known.keys().filter(|flow| !flows.contains_key(flow)).copied().collect();
        for flow in gone_flows {
            gone(self.translated.remove(&flow), map::TRANSLATED)?;
            known.remove(&flow);
        }
        if !flows.is_empty() {
            self.use_table(InUse::Translated, true)?;
        }
        for (flow, socket) in flows {
            if known.get(flow) != Some(socket) {
                let written = self.translated.insert(flow, socket, 0);
                written.map_err(failed("write to", map::TRANSLATED))?;
                known.insert(*flow, *socket);
            }
        }
        self.translations = Some(known);
        if flows.is_empty() {
            self.use_table(InUse::Translated, false)?;
        }
        Ok(())
    }

    /// Says whether a table may have entries.
    fn use_table(&mut self, table: InUse, used: bool) -> Result<(), DatapathError> {
        let (index, used) = (table as u32, u32::from(used));
        if self.in_use.get(&index, 0).map_err(failed("read", map::IN_USE))? != used {
            self.in_use.set(index, used, 0).map_err(failed("write to", map::IN_USE))?;
        }
        Ok(())
    }

    /// The counts of a slot; all zero when they cannot be read.
    pub fn slot(&self, slot: u32) -> Slot {
        self.slots.get(&slot, 0).unwrap_or_default()
    }

    /// Counts a slot from zero, for its next grant: with at most `limit` connections, zero for any
    /// number. The connections of the grant before are forgotten.
    pub fn open_slot(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError> {
        let old = self.slots.get(&slot, 0).map_err(failed("read", map::SLOTS))?;
        let fresh = if old.generation == 0 { fresh_generation()? } else { 0 };
        let counted = opened(old, limit, fresh);
        self.slots.set(slot, counted, 0).map_err(failed("write to", map::SLOTS))?;
        self.forget_connections(slot, old)
    }

    /// Forgets the connections of a slot's grant. What is counted stays.
    pub fn close_slot(&mut self, slot: u32) -> Result<(), DatapathError> {
        let counted = self.slots.get(&slot, 0).map_err(failed("read", map::SLOTS))?;
        self.forget_connections(slot, counted)
    }

    /// Forgets the connections in all slots but these, and in these all but the present grant's.
    pub fn close_slots_but(&mut self, held: &dyn Fn(u32) -> bool) -> Result<(), DatapathError> {
        let ended = |slot, generation| !held(slot) || self.slot(slot).generation != generation;
        let keys = self.connections.keys().filter_map(Result::ok);
        let connections: Vec<_> = keys.filter(|key| ended(key.slot, key.generation)).collect();
        let keys = self.places.keys().filter_map(Result::ok);
        let places: Vec<_> = keys.filter(|key| ended(key.slot, key.generation)).collect();
        for key in connections {
            gone(self.connections.remove(&key), map::CONNECTIONS)?;
        }
        for key in places {
            gone(self.places.remove(&key), map::PLACES)?;
        }
        Ok(())
    }

    fn forget_connections(&mut self, slot: u32, counted: Slot) -> Result<(), DatapathError> {
        let Slot { hits, limit, generation } = counted;
        // Places may be above the limit: it may have been lowered after they were taken.
        let most = limit.max(u32::try_from(hits).unwrap_or(u32::MAX)).min(MAX_CONNECTIONS);
        for number in 0..if limit == 0 { 0 } else { most } {
            let place = PlaceKey { slot, generation, number };
            let flow = match self.places.get(&place, 0) {
                Ok(flow) => flow,
                // This place was never taken, or was given back. Later places may be taken.
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(failed("read", map::PLACES)(error)),
            };
            let connection = ConnectionKey { flow, slot, generation };
            gone(self.connections.remove(&connection), map::CONNECTIONS)?;
            gone(self.places.remove(&place), map::PLACES)?;
        }
        Ok(())
    }

    /// Sets the largest number of connections for the grant in a slot. A connection that is counted
    /// at this very moment may be missing in the count; its place is taken all the same.
    pub fn set_limit(&mut self, slot: u32, limit: u32) -> Result<(), DatapathError> {
        let old = self.slots.get(&slot, 0).map_err(failed("read", map::SLOTS))?;
        self.slots.set(slot, Slot { limit, ..old }, 0).map_err(failed("write to", map::SLOTS))
    }

    /// The number of connections that no event reported since this was last asked. What was
    /// returned is noted beside the count, so that each connection is returned once, whoever asks
    /// next.
    pub fn take_unreported(&mut self) -> Result<u64, DatapathError> {
        let sum = |counter: Counter| {
            let values = self.counters.get(&counter.index(), 0);
            values.map(|values| values.iter().sum::<u64>()).map_err(failed("read", map::COUNTERS))
        };
        let (all, recorded) = (sum(Counter::Unreported)?, sum(Counter::UnreportedRecorded)?);
        let more = all.saturating_sub(recorded);
        if more > 0 {
            let mut values = vec![0; cpus()?];
            values.first_mut().into_iter().for_each(|first| *first = all);
            let values = PerCpuValues::try_from(values)
                .map_err(|error| DatapathError::Sys { verb: "count the CPUs", error })?;
            let index = Counter::UnreportedRecorded.index();
            self.counters.set(index, values, 0).map_err(failed("write to", map::COUNTERS))?;
        }
        Ok(more)
    }

    /// All counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let mut counters = Counters::default();
        for (index, total) in (0..COUNTERS).zip(&mut counters.totals) {
            let values = self.counters.get(&index, 0).map_err(failed("read", map::COUNTERS))?;
            *total = values.iter().sum();
        }
        for (port, rule) in self.rules()? {
            let (values, table) = match rule.counters {
                0 => (self.port_counters.get(&port.index(), 0), map::PORT_COUNTERS),
                index => (self.first_ports.get(&index, 0), map::FIRST_PORTS),
            };
            counters.ports.insert(port, values.map(sum).map_err(failed("read", table))?);
        }
        Ok(counters)
    }

    /// Makes room for a new port's counters: in the table of the first ports at this index, if there is
    /// one. Returns [`PortRule::counters`].
    fn count_port(&mut self, port: PortKey, index: Option<u32>) -> Result<u32, DatapathError> {
        let zero = PerCpuValues::try_from(vec![PortCounters::default(); cpus()?])
            .map_err(|error| DatapathError::Sys { verb: "count the CPUs", error })?;
        if let Some(index) = index {
            let written = self.first_ports.set(index, zero, 0);
            return written.map(|()| index).map_err(failed("write to", map::FIRST_PORTS));
        }
        match self.port_counters.insert(port.index(), zero, BPF_NOEXIST) {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(0),
            other => other.map(|()| 0).map_err(failed("write to", map::PORT_COUNTERS)),
        }
    }
}

/// The counters of all CPUs together.
fn sum(values: PerCpuValues<PortCounters>) -> PortCounters {
    values.iter().fold(PortCounters::default(), |mut sum, cpu| {
        sum.packets.iter_mut().zip(cpu.packets).for_each(|(sum, value)| *sum += value);
        sum.observed += cpu.observed;
        sum
    })
}

/// The slots of another version's tables, if their form is known here.
pub struct ForeignSlots {
    pins: Pins,
    slots: Option<Array<MapData, Slot>>,
}

impl ForeignSlots {
    /// From the pin of that version.
    pub fn open(pins: Pins) -> Self {
        let path = pins.map(map::SLOTS);
        let map = MapData::from_pin(path).and_then(Map::from_map_data).ok();
        // This fails for another kind of table, and for other sizes of key or value.
        Self { pins, slots: map.and_then(|map| map.try_into().ok()) }
    }

    /// The count there for a slot's grant.
    pub fn counted(&self, slot: u32, generation: u32) -> Elsewhere {
        if !self.pins.exist() {
            return Elsewhere::Nowhere;
        }
        match self.slots.as_ref().and_then(|slots| slots.get(&slot, 0).ok()) {
            Some(counted) if counted.generation == generation => Elsewhere::Counted(counted.hits),
            _ => Elsewhere::Unknown,
        }
    }
}

impl From<GrantEntry> for Entry {
    fn from(entry: GrantEntry) -> Self {
        let access = |claim: jit_common::Claim| {
            let jit_common::Claim { deadline, slot, cut, reserved: _ } = claim;
            Access { deadline: BootNanos(deadline), cut: cut != 0, slot }
        };
        Self { unlimited: access(entry.unlimited), limited: access(entry.limited) }
    }
}

impl From<Entry> for GrantEntry {
    fn from(entry: Entry) -> Self {
        let claim = |access: Access| {
            let Access { deadline, cut, slot } = access;
            jit_common::Claim { cut: u8::from(cut), ..jit_common::Claim::until(deadline.0, slot) }
        };
        Self { unlimited: claim(entry.unlimited), limited: claim(entry.limited) }
    }
}

/// Values of a per-CPU table.
fn cpus() -> Result<usize, DatapathError> {
    aya::util::nr_cpus().map_err(|(_, error)| DatapathError::Sys { verb: "count the CPUs", error })
}

/// A descriptor of a table that can be read back.
fn descriptor(map: &Map) -> Option<OwnedFd> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) => {
            data.fd().as_fd().try_clone_to_owned().ok()
        }
        _ => None,
    }
}

/// The number of entries that a table has room for.
fn entries((name, map): &(&'static str, Map)) -> Result<u32, DatapathError> {
    let info = match map {
        Map::HashMap(data) | Map::LpmTrie(data) => data.info(),
        // Refused when it is opened as what it should be.
        _ => return Ok(0),
    };
    Ok(info.map_err(failed("read the size of", name))?.max_entries())
}

/// A slot that has counted this, for its next grant. `fresh`: for a slot without a generation.
const fn opened(old: Slot, limit: u32, fresh: u32) -> Slot {
    let generation = match old.generation {
        // The slot has had no grant yet. It gets a random number: the disk may remember slots of
        // other tables, and must not confuse them with this one.
        0 => fresh,
        generation => generation.wrapping_add(1),
    };
    Slot { hits: 0, limit, generation }
}

/// Any number but zero.
fn fresh_generation() -> Result<u32, DatapathError> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| DatapathError::Sys { verb: "read random bytes", error: error.into() })?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}

/// What is not there is no error.
fn found<T>(read: Result<T, MapError>, table: &'static str) -> Result<Option<T>, DatapathError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(failed("read", table)(error)),
    }
}

/// To remove what is not there is no error.
fn gone(removed: Result<(), MapError>, table: &'static str) -> Result<(), DatapathError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(failed("write to", table)),
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

fn failed<E: Into<MapError> + Display>(
    verb: &'static str,
    table: &'static str,
) -> impl Fn(E) -> DatapathError {
    move |error| {
        let error = error.into();
        let full = errno(&error).is_some_and(|errno| FULL.contains(&errno));
        DatapathError::Map { verb, table, cause: chain(&error), full }
    }
}

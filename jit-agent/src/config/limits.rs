//! `[limits]`: sizes of the kernel's tables, and the longest grant.

use std::time::Duration;

use jit_common::SummarySize;
use jit_proto::{toml_value::duration, wrong::Wrongs};

use crate::rules::claims::Capacity;

/// `max_duration` where the file does not set it: the longest grant on any port.
pub(crate) const DEFAULT_MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Sizes of the kernel's tables where the file does not set them, entries.
const DEFAULT_HOSTS: u32 = 131_072;
const DEFAULT_PREFIXES: u32 = 16_384;
/// The most entries of one kernel table.
const MAX_ENTRIES: u32 = 4_194_304;

/// Sizes of the kernel's tables, entries. The length of the table of slots follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries for single addresses.
    pub hosts: u32,
    /// Entries for prefixes, for each address family.
    pub prefixes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { hosts: DEFAULT_HOSTS, prefixes: DEFAULT_PREFIXES }
    }
}

impl Limits {
    /// Checks the sizes in `[limits]`.
    pub(super) fn new(hosts: Option<u32>, prefixes: Option<u32>, wrongs: &mut Wrongs) -> Self {
        let mut limit = |key: &str, value: Option<u32>, default: u32| match value.unwrap_or(default)
        {
            entries @ 1..=MAX_ENTRIES => entries,
            entries => {
                let what = format!("[limits] {key}: {entries} is not from 1 to {MAX_ENTRIES}");
                wrongs.add(format!("limits.{key}"), what);
                default
            }
        };
        Self {
            hosts: limit("hosts", hosts, DEFAULT_HOSTS),
            prefixes: limit("prefixes", prefixes, DEFAULT_PREFIXES),
        }
    }

    /// The number of grants that can be held at once. It is larger than the number of entries: a
    /// grant may be renewed while the tables are full, because the new one shares the entries of
    /// the old.
    pub const fn slots(self) -> u32 {
        2 * (self.hosts + 2 * self.prefixes) + 1
    }

    /// The size of the summary of the grant tables.
    pub const fn summary(self) -> SummarySize {
        SummarySize::for_grants(self.hosts, self.prefixes)
    }
}

impl From<Limits> for Capacity {
    fn from(limits: Limits) -> Self {
        let size = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        Self { hosts: size(limits.hosts), prefixes: size(limits.prefixes) }
    }
}

/// The longest grant on any port: `[limits] max_duration`.
pub(super) fn max_duration(text: Option<String>) -> Result<Duration, String> {
    text.map_or(Ok(DEFAULT_MAX_DURATION), |text| duration("[limits] max_duration", &text))
}

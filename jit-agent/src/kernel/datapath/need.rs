//! How much memory the tables and the agent take. Pure; the numbers are those of the shipped unit
//! (`jit-agent.service`), which were measured.

use crate::{config::Limits, kernel::datapath::layout::layouts};

/// The agent without grants, and for each entry that a grant may have, bytes.
const AGENT: u64 = 24 * 1024 * 1024;
const GRANT: u64 = 1_700;

/// Memory, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// At the agent's start, without grants: the agent, and what tables take when they are made.
    pub start: u64,
    /// With as many grants as there is room for.
    pub full: u64,
    /// The part of `full` that the kernel's tables take.
    pub tables: u64,
}

impl Need {
    /// With these limits, on a machine with this number of possible CPUs.
    pub fn of(limits: Limits, cpus: u64) -> Self {
        let (mut start, mut tables) = (0_u64, 0_u64);
        for layout in layouts(limits) {
            let (made, filled) = layout.memory(cpus);
            start = start.saturating_add(made);
            tables = tables.saturating_add(filled);
        }
        let Limits { hosts, prefixes } = limits;
        let entries = u64::from(hosts).saturating_add(2 * u64::from(prefixes));
        let grants = entries.saturating_mul(GRANT);
        let full = AGENT.saturating_add(tables).saturating_add(grants);
        Self { start: AGENT.saturating_add(start), full, tables }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped unit names some 0.6 GiB for full default tables.
    #[test]
    fn the_defaults_need_what_the_unit_says() {
        const MIB: u64 = 1024 * 1024;
        let Need { start, full, tables } = Need::of(Limits::default(), 4);
        assert!((300..800).contains(&(full / MIB)), "{full}");
        assert!(start < full / 2 && tables < full, "{start} {tables} {full}");
        let small = Need::of(Limits { hosts: 100, prefixes: 10 }, 4);
        assert!(small.full < full && small.full >= small.start, "{small:?}");
        let most = Limits { hosts: 4_194_304, prefixes: 4_194_304 };
        assert!(Need::of(most, 4_096).full > full, "no overflow");
    }
}

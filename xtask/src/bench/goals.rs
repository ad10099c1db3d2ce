//! What a row must reach, beside a peer or by itself (docs/performance.md, section "Goals").

use std::fmt;

use super::report::{GATE, Row, Table};

/// What the rows of a table whose names begin in this way must reach.
#[derive(Debug)]
pub(super) struct Goal {
    table: &'static str,
    /// How the row's name begins.
    row: &'static str,
    of: Of,
    bound: Bound,
}

/// What the bound is about.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// The gate's ratio to this peer.
    Peer(&'static str),
    /// The gate's own figure, in the row's unit.
    Value,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const FILTER: Of = Of::Peer("xdp-filter");
const FEWER: Of = Of::Peer("jit-agent, 1,000 hosts");
const PARSE: Of = Of::Peer("XDP, parse and drop");
const DISK: Of = Of::Peer("the disk itself: 4 KiB and fdatasync");

/// The table of the largest fleet.
const FLEET: &str = "fleet, 10000 agents";
/// The table of the bus.
const BUS: &str = "bus, 1000 agents";

const fn most(table: &'static str, row: &'static str, of: Of, bound: f64) -> Goal {
    Goal { table, row, of, bound: Bound::AtMost(bound) }
}

const fn least(table: &'static str, row: &'static str, of: Of, bound: f64) -> Goal {
    Goal { table, row, of, bound: Bound::AtLeast(bound) }
}

const GOALS: &[Goal] = &[
    most("packets", "ACK to an unprotected port", FILTER, 0.45),
    most("packets", "SYN denied, IP", FILTER, 0.9),
    most("packets", "SYN granted by host, IP", FILTER, 1.5),
    most("packets", "ACK under a grant", FILTER, 1.0),
    most("packets", "ACK without a session", FILTER, 2.0),
    most("sizes", "SYN granted by prefix", FILTER, 1.5),
    most("sizes", "ACK to an unprotected port", FEWER, 1.3),
    most("sizes", "SYN denied, IP", FEWER, 1.3),
    most("sizes", "SYN granted by host", FEWER, 1.3),
    most("sizes", "ACK under a grant, IP", FEWER, 1.3),
    most("sizes", "ACK without a session", FEWER, 1.3),
    least("frames", "SYN flood dropped", PARSE, 0.9),
    least("frames", "SYN flood dropped", Of::Peer("XDP_DROP"), 0.75),
    least("frames", "SYN flood dropped", FILTER, 1.2),
    least("frames", "SYN flood dropped", Of::Peer("nftables ingress"), 4.0),
    most("attack", "granted client connects, p99 against idle", Of::Value, 3.0),
    most("push to open", "one push answered, 10,000 grants", Of::Value, 0.5),
    most("push to open", "one push answered, 10,000 grants", DISK, 2.0),
    least("pushes a second", "batches of 1,000, Ed25519, for a second", Of::Value, 30_000.0),
    least("pushes a second", "batches of 1,000, P-256, for a second", Of::Value, 10_000.0),
    most("start", "until in force, 1,000 grants", Of::Value, 100.0),
    most("start", "until in force, 100,000 grants", Of::Value, 1_500.0),
    most("memory", "resident, no grants", Of::Value, 16.0),
    most("memory", "of a grant, resident", Of::Value, 600.0),
    most("size", "jit-agent", Of::Value, 10.0),
    // 0.0 % when it is rounded.
    most("idle", "processor time", Of::Value, 0.05),
    most("idle", "wake-ups", Of::Value, 1.0),
    most("status", "status, 10,000 grants", Of::Value, 40.0),
    most("status", "why", Of::Value, 50.0),
    most("controller", "request to open, one host", Of::Value, 50.0),
    most("controller", "request to open, 200 hosts", Of::Value, 2_000.0),
    most("controller memory", "one host is followed", Of::Value, 80.0),
    most("mailboxes", "all, from the store to the root", Of::Value, 30.0),
    most("mailboxes", "path and list for each", Of::Value, 30.0),
    most(FLEET, "committed grant to the agent's answer, p99", Of::Value, 10.0),
    most(FLEET, "the call that ends it, to closed on all", Of::Value, 1.0),
    most(FLEET, "the call that revokes everything", Of::Value, 1.0),
    most(FLEET, "memory of the controller, each agent", Of::Value, 64.0),
    most(FLEET, "killed, to all connected again", Of::Value, 15.0),
    most(BUS, "committed grant to the agent's answer, p99", Of::Value, 50.0),
    most("lists", "", Of::Value, 50.0),
    most("pages", "", Of::Value, 100.0),
    most("page loads", "", Of::Value, 60.0),
    most("streams", "a decision, until the last", Of::Value, 2_000.0),
];

/// A goal of a row, and whether the row reaches it.
pub(super) struct Judged {
    pub(super) goal: &'static Goal,
    pub(super) reached: bool,
}

/// The goals of a row that can be judged: its gate, and the peer, were measured.
pub(super) fn judge(table: &str, row: &Row) -> Vec<Judged> {
    let goals = GOALS.iter().filter(|goal| goal.is_for(table, row));
    goals
        .filter_map(|goal| {
            let measured = match goal.of {
                Of::Peer(peer) => *row.ratios.get(peer)?,
                Of::Value => row.of(GATE)?.median,
            };
            let reached = match goal.bound {
                Bound::AtMost(bound) => measured <= bound,
                Bound::AtLeast(bound) => measured >= bound,
            };
            Some(Judged { goal, reached })
        })
        .collect()
}

/// The goals that no row of these tables could be judged by.
pub(super) fn without_rows(tables: &[Table]) -> Vec<String> {
    let judged = |goal: &&Goal| {
        let mut rows =
            tables.iter().flat_map(|table| table.rows.iter().map(move |row| (table, row)));
        rows.any(|(table, row)| {
            judge(&table.name, row).iter().any(|judged| std::ptr::eq(judged.goal, *goal))
        })
    };
    let missing = GOALS.iter().filter(|goal| !judged(goal));
    missing.map(|goal| format!("{}: {}: {goal}", goal.table, goal.row)).collect()
}

impl Goal {
    fn is_for(&self, table: &str, row: &Row) -> bool {
        self.table == table && row.name.starts_with(self.row)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, bound) = match self.bound {
            Bound::AtMost(bound) => ("at most", bound),
            Bound::AtLeast(bound) => ("at least", bound),
        };
        match self.of {
            Of::Peer(peer) => write!(f, "{words} {bound:.2} of {peer}"),
            Of::Value => write!(f, "{words} {bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{line, report},
        *,
    };

    #[test]
    fn a_row_is_judged_by_its_ratio() {
        for (gate, reached) in [(90.0, true), (91.0, false)] {
            let report = report(&[
                line("packets", "SYN denied, IPv6", GATE, &[gate]),
                line("packets", "SYN denied, IPv6", "xdp-filter", &[100.0]),
            ]);
            let judged = judge("packets", &report.tables[0].rows[0]);
            assert!(matches!(&judged[..], [one] if one.reached == reached), "{gate}");
            let missing = without_rows(&report.tables);
            assert_eq!(missing.len(), GOALS.len() - 1);
        }
    }

    #[test]
    fn a_row_without_the_peer_is_not_judged() {
        let report = report(&[line("packets", "SYN denied, IPv6", GATE, &[1.0])]);
        assert!(judge("packets", &report.tables[0].rows[0]).is_empty());
        assert_eq!(without_rows(&report.tables).len(), GOALS.len());
    }
}

//! The review of the kernel's tables: they are read back, and what is not what the agent wrote is
//! written again or removed, recorded, and shown as a problem.
//!
//! Only root and the agent can write there. An entry that root writes past the agent lets somebody
//! in whom no grant explains. A review of the grant tables takes a few ticks; each reads a part, so
//! that revocations never wait for it. A place is read every [`INTERVAL`], and a tick later at most.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use jit_common::{Address, Event, PortKey, PortRule, Protocol, Settings};
use jit_proto::GrantId;

use crate::{
    disk::audit::{EventCode, Record},
    gate::{Gate, LOGGED, alarms::Problem, report::address, tables::Difference},
    kernel::datapath::{Cursor, Datapath, DatapathError},
    rules::{
        clock::{BootNanos, Now},
        problem::ProblemKind,
        reconcile::{Entries, EntryKey},
    },
};

/// The time from the begin of a review to the begin of the next one: three ticks.
const INTERVAL: Duration = Duration::from_millis(5_900);
/// Parts of a review of large tables.
const PARTS: usize = 3;
/// Entries that a tick reads: at least, and at most. At most 100,000 entries are read in a review's
/// interval.
const LEAST: usize = 4_096;
const MOST: usize = 34_000;
/// A connection that nothing explains is a problem of `status` for this time.
const SHOWN: Duration = Duration::from_secs(600);
/// An entry that was closed may have let in a connection whose event comes this much later.
const JUST_CLOSED: Duration = Duration::from_secs(1);
/// Differences that a sentence for people names.
const NAMED: usize = 3;

/// How far the present review is, and what the last ones found.
#[derive(Debug)]
pub(super) struct Review {
    cursor: Cursor,
    /// Entries of the agent's that the present review has met.
    met: usize,
    /// The number of writes when it began.
    writes: u64,
    runs: bool,
    next: BootNanos,
    /// What the present review found.
    found: Vec<String>,
    /// Everything since the start: each was put right.
    mended: u64,
    entries: Problem,
    policy: Problem,
    unreadable: Problem,
    connection: Problem,
    connection_until: BootNanos,
    /// Connections until then may have been let in by entries that are closed by now.
    explained_until: BootNanos,
}

impl Review {
    pub(super) fn new(now: Now) -> Self {
        Self {
            cursor: Cursor::default(),
            met: 0,
            writes: 0,
            runs: false,
            next: now.boot,
            found: Vec::new(),
            mended: 0,
            entries: Problem::default(),
            policy: Problem::default(),
            unreadable: Problem::default(),
            connection: Problem::default(),
            connection_until: BootNanos(0),
            // Events of the time before the start are still in the kernel's buffer.
            explained_until: now.boot + JUST_CLOSED,
        }
    }

    /// Differences since the start of the agent.
    pub(super) const fn mended(&self) -> u64 {
        self.mended
    }

    pub(super) fn problems(&self) -> [(ProblemKind, Option<&str>); 4] {
        [
            (ProblemKind::ForeignEntries, self.entries.text()),
            (ProblemKind::ForeignPolicy, self.policy.text()),
            (ProblemKind::UnreadableTables, self.unreadable.text()),
            (ProblemKind::UnexplainedConnection, self.connection.text()),
        ]
    }

    /// The number of entries to read now; `None`: the next review is not due.
    fn take_turn(&mut self, installed: usize, writes: u64, now: Now) -> Option<usize> {
        if !self.runs {
            if now.boot < self.next {
                return None;
            }
            self.begin(writes, now);
        }
        Some(installed.div_ceil(PARTS).clamp(LEAST, MOST))
    }

    fn begin(&mut self, writes: u64, now: Now) {
        self.cursor = Cursor::default();
        (self.met, self.writes, self.runs) = (0, writes, true);
        self.next = now.boot + INTERVAL;
        self.found.clear();
    }

    fn note(&mut self, found: Vec<String>) {
        self.mended = self.mended.saturating_add(u64::try_from(found.len()).unwrap_or(u64::MAX));
        self.found.extend(found);
        if !self.found.is_empty() {
            self.entries.set("the review of the tables", Some(sentence(&self.found)));
        }
    }

    fn end(&mut self) {
        self.runs = false;
        if self.found.is_empty() {
            self.entries.set("", None);
        }
    }
}

/// A sentence about entries that were put right.
fn sentence(found: &[String]) -> String {
    let named: Vec<_> = found.iter().take(NAMED).map(String::as_str).collect();
    let more = if found.len() > NAMED { " …" } else { "" };
    let (count, entries) =
        (found.len(), if found.len() == 1 { "entry was" } else { "entries were" });
    format!(
        "{count} {entries} not what the agent wrote to the kernel's tables ({}{more}): removed or \
         written again; only root can write there: find who did (`jit-agent audit show`, K001 and \
         K002)",
        named.join(", ")
    )
}

/// What is different in the protected ports, their rules and the settings.
fn policy_differences(
    wanted: &(BTreeMap<PortKey, PortRule>, Settings),
    found: &(BTreeMap<PortKey, PortRule>, Settings),
) -> Vec<String> {
    let ports: BTreeSet<_> = wanted.0.keys().chain(found.0.keys()).collect();
    let of_port = |port: &PortKey| match (wanted.0.get(port), found.0.get(port)) {
        (Some(_), None) => Some(format!("{} was not protected", text(*port))),
        (None, Some(_)) => Some(format!("{} was protected", text(*port))),
        (Some(rule), Some(other)) if rule != other => {
            Some(format!("the rule of {} was another one", text(*port)))
        }
        _ => None,
    };
    let mut differences: Vec<_> = ports.into_iter().filter_map(of_port).collect();
    let (settings, other) = (wanted.1, found.1);
    if settings.observe != other.observe {
        let mode = if other.observe == 0 { "enforced" } else { "observed only" };
        differences.push(format!("the gate {mode}"));
    } else if (settings.trial, settings.trial_until) != (other.trial, other.trial_until) {
        differences.push("the end of the trial was another one".into());
    } else if settings != other {
        differences.push("the settings of events were others".into());
    }
    differences
}

fn text(port: PortKey) -> String {
    format!("{}/{}", port.port, port.protocol.word())
}

impl<D: Datapath> Gate<D> {
    /// Takes over the entries that an earlier run left in the kernel.
    pub(super) fn adopt_tables(&mut self, now: Now) -> Result<(), DatapathError> {
        let mut entries = Entries::new();
        loop {
            let read = self.datapath.read_back(&mut self.review.cursor, MOST)?;
            entries.extend(read.entries);
            self.mend(Vec::new(), read.odd, now);
            if read.ended {
                break;
            }
        }
        self.tables.adopt(entries);
        Ok(())
    }

    /// Reads a part of the grant tables back, when it is due. Called every tick.
    pub(super) fn review_tables(&mut self, now: Now) {
        if now.boot >= self.review.connection_until {
            self.review.connection.set("", None);
        }
        let installed = self.tables.installed().len();
        let Some(most) = self.review.take_turn(installed, self.tables.writes(), now) else {
            return;
        };
        let read = self.review_some(most, now);
        self.reviewed(&read);
    }

    /// Reads all grant tables back at once.
    pub(super) fn review_all(&mut self, now: Now) {
        self.review.begin(self.tables.writes(), now);
        let read = loop {
            match self.review_some(MOST, now) {
                Ok(()) if self.review.runs => {}
                other => break other,
            }
        };
        self.reviewed(&read);
    }

    /// The same, if it takes no time to speak of: for `status`.
    pub(super) fn review_for_status(&mut self, now: Now) {
        if self.tables.installed().len() <= LEAST {
            self.review_all(now);
        }
        self.review_policy(now);
    }

    fn reviewed(&mut self, read: &Result<(), DatapathError>) {
        if read.is_err() {
            self.review.runs = false;
        }
        let problem = read
            .as_ref()
            .err()
            .map(|error| format!("{error}: entries that are not the agent's would not be seen"));
        self.review.unreadable.set("cannot review the tables", problem);
    }

    fn review_some(&mut self, most: usize, now: Now) -> Result<(), DatapathError> {
        let read = self.datapath.read_back(&mut self.review.cursor, most)?;
        let mut differences = self.tables.correct(&read.entries);
        let foreign = differences.iter().filter(|difference| difference.was.is_none()).count();
        if foreign > 0 {
            let waiting = self.carry_past(now);
            differences = self.still_unexplained(differences, &waiting);
        }
        self.review.met += read.entries.len().saturating_sub(foreign);
        self.mend(differences, read.odd, now);
        if read.ended {
            // While something is written, a place may be met twice or not at all.
            let quiet = self.tables.writes() == self.review.writes;
            if quiet && self.review.met != self.tables.installed().len() {
                self.restore_missing(now)?;
            }
            if self.datapath.summarize(&mut self.tables.installed().keys().copied())? {
                let record = Record::new(EventCode::EntryRestored).by("agent");
                self.record(record.detail("the summary hid entries: its bits are set again"), now);
                self.review.note(vec!["the summary".into()]);
                self.record_alarms(now);
            }
            self.review.end();
        }
        Ok(())
    }

    /// Some entries are gone: finds out which, and writes them again.
    fn restore_missing(&mut self, now: Now) -> Result<(), DatapathError> {
        let mut there = HashSet::new();
        let mut cursor = Cursor::default();
        loop {
            let read = self.datapath.read_back(&mut cursor, MOST)?;
            there.extend(read.entries.into_iter().map(|(key, _)| key));
            if read.ended {
                break;
            }
        }
        let missing = self.tables.missing(&there);
        self.mend(missing, Vec::new(), now);
        Ok(())
    }

    /// Writes again or removes what is different, and records it.
    pub(super) fn mend(&mut self, differences: Vec<Difference>, odd: Vec<String>, now: Now) {
        if differences.is_empty() && odd.is_empty() {
            return;
        }
        let mut found = Vec::new();
        for (index, difference) in differences.iter().enumerate() {
            let EntryKey { port, source } = difference.key;
            let foreign = self.ledger.desired(&difference.key).is_none();
            found.push(format!("{source} at {}", text(port)));
            if index >= LOGGED {
                continue;
            }
            let code = if foreign { EventCode::ForeignEntry } else { EventCode::EntryRestored };
            let record = Record::new(code).by("agent").with("source", source.to_string());
            self.record(record.with("port", text(port)).detail(difference.what()), now);
        }
        for what in &odd {
            let record = Record::new(EventCode::ForeignEntry).by("agent");
            self.record(record.detail(&format!("no grant can have such an entry: {what}")), now);
        }
        let more = differences.len().saturating_sub(LOGGED);
        if more > 0 {
            let record = Record::new(EventCode::ForeignEntry).by("agent").with("count", more);
            self.record(record.detail("more, found at the same time"), now);
        }
        found.extend(odd.into_iter().map(|_| "an entry of an odd form".to_owned()));
        self.write(differences.into_iter().map(|difference| difference.key).collect());
        self.review.note(found);
        self.record_alarms(now);
    }

    /// Writes a grant's limit again that somebody changed in its slot.
    pub(super) fn restore_limit(
        &mut self,
        (id, slot): (GrantId, u32),
        [found, limit]: [u32; 2],
        now: Now,
    ) {
        if let Err(error) = self.datapath.set_limit(slot, limit) {
            return tracing::error!(grant = %id, "its limit is {found} instead of {limit}: {error}");
        }
        let detail = format!("its limit was {found} instead of {limit}: written again");
        let record = Record::new(EventCode::EntryRestored).by("agent").grant(id);
        self.record(record.detail(&detail), now);
        self.review.note(vec![format!("the limit of {id}")]);
        self.record_alarms(now);
    }

    /// Reads protected ports, rules and settings back. What is different is written again.
    pub(super) fn review_policy(&mut self, now: Now) {
        let found = match self.datapath.policy() {
            Ok(found) => found,
            Err(error) => {
                let text = format!("the protected ports cannot be read back: {error}");
                return self.review.policy.set("cannot review the tables", Some(text));
            }
        };
        let wanted = (self.rules(), self.settings());
        let differences = policy_differences(&wanted, &found);
        if differences.is_empty() {
            return self.review.policy.set("", None);
        }
        let what = differences.join(", ");
        let written = self.apply_policy();
        let done = match &written {
            Ok(()) => "written again".to_owned(),
            Err(error) => format!("and cannot be written again ({error})"),
        };
        let record = Record::new(EventCode::PolicyRestored).by("agent");
        self.record(record.detail(&format!("{what}: {done}")), now);
        let count = u64::try_from(differences.len()).unwrap_or(u64::MAX);
        self.review.mended = self.review.mended.saturating_add(count);
        let text = format!(
            "somebody changed the kernel's tables ({what}): {done}; only root can write there: find \
             who did (`jit-agent audit show`, K003)"
        );
        self.review.policy.set("the review of the tables", Some(text));
        self.record_alarms(now);
    }

    /// A connection must have a grant or an exemption: else an entry lets in that is not the
    /// agent's.
    pub(super) fn explain(&mut self, event: &Event, now: Now) {
        if self.tables.take_closed() {
            self.review.explained_until = now.boot + JUST_CLOSED;
        }
        let Some(protocol) = Protocol::from_number(event.protocol) else { return };
        let port = PortKey { protocol, port: event.port };
        let at = BootNanos(event.time);
        let [a, b, c, d, ..] = event.source;
        let source = match event.family {
            4 => Address::v4([a, b, c, d]),
            _ => Address::v6(event.source),
        };
        let covered = || {
            let mut claims = self.ledger.claims().covering(port, source, at);
            claims.any(|claim| claim.access.slot == event.slot)
        };
        if at <= self.review.explained_until || covered() {
            return;
        }
        let source = address(event.family, &event.source);
        let text = format!(
            "{source} was let in to {} and no grant or exemption explains it: an entry that is not \
             the agent's was in the kernel's tables; find who wrote it (`jit-agent audit show`, K004)",
            text(port)
        );
        let record = Record::new(EventCode::ConnectionUnexplained)
            .by("agent")
            .with("source", source)
            .with("port", self::text(port));
        self.recorder.bounded(record, "agent", "", now);
        self.review.connection.set("a connection", Some(text));
        self.review.connection_until = now.boot + SHOWN;
        // The entry is looked for at the next tick.
        self.review.next = now.boot;
        self.record_alarms(now);
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::WallTime;

    use super::*;

    const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
    const RDP: PortKey = PortKey { protocol: Protocol::Tcp, port: 3389 };

    fn at(millis: u64) -> Now {
        Now { wall: WallTime(0), boot: BootNanos(millis * 1_000_000) }
    }

    #[test]
    fn a_hundred_thousand_entries_are_read_in_three_ticks_and_a_few_in_one() {
        let mut review = Review::new(at(0));
        assert_eq!(review.take_turn(10, 0, at(0)), Some(LEAST));
        review.end();
        assert_eq!(review.take_turn(10, 0, at(2_000)), None);
        assert_eq!(review.take_turn(100_000, 0, at(6_000)), Some(33_334));
        // It goes on at every tick until it has ended.
        assert_eq!(review.take_turn(100_000, 0, at(8_000)), Some(33_334));
        assert_eq!(review.take_turn(10_000_000, 0, at(10_000)), Some(MOST));
    }

    #[test]
    fn what_was_found_is_a_problem_until_a_review_finds_nothing() {
        let mut review = Review::new(at(0));
        review.begin(0, at(0));
        review.note(vec!["198.18.0.0/24 at 22/tcp".into()]);
        review.end();
        let said = |review: &Review| review.entries.text().map(str::to_owned);
        assert!(said(&review).unwrap().starts_with("1 entry was not what the agent wrote"));
        review.begin(0, at(6_000));
        assert!(said(&review).is_some());
        review.end();
        assert_eq!((said(&review), review.mended()), (None, 1));
    }

    #[test]
    fn each_change_of_ports_rules_and_settings_is_named() {
        let rule = PortRule { drain: 1, ..PortRule::default() };
        let settings = Settings { grant_events: 5, ..Settings::default() };
        let wanted = (BTreeMap::from([(SSH, rule)]), settings);
        assert_eq!(policy_differences(&wanted, &wanted), [""; 0]);
        let observes = PortRule { observe: 1, ..rule };
        let observe = Settings { observe: 1, ..settings };
        for (rules, other, said) in [
            (vec![], settings, vec!["22/tcp was not protected"]),
            (vec![(SSH, observes)], settings, vec!["the rule of 22/tcp was another one"]),
            (vec![(SSH, rule), (RDP, rule)], settings, vec!["3389/tcp was protected"]),
            (vec![(SSH, rule)], observe, vec!["the gate observed only"]),
            (vec![(SSH, rule)], Settings::default(), vec!["the settings of events were others"]),
        ] {
            let found = (rules.into_iter().collect(), other);
            assert_eq!(policy_differences(&wanted, &found), said);
        }
    }
}

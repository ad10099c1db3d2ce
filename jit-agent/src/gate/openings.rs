//! Carries openings that root made past the agent (`disk::openings`) into ledger, database and audit.
//! What root opened while the agent did not answer stays open until its end, is listed and closed
//! like what root opens through the agent, and its slot counts nothing else.
//!
//! A file is not enough: the kernel's tables must hold the opening, too. It is written there after
//! its file is kept. So whoever meets an entry that nothing explains looks for a file, and then
//! decides.
//!
//! What root closed past the agent (`closings`) is carried first, and ends only the openings that were
//! made before it.

use std::{collections::BTreeSet, path::PathBuf, thread, time::Duration};

use jit_proto::{GrantId, v1};

use crate::{
    config::Paths,
    disk::{
        audit::{EventCode, Record},
        closings::{Closing, What},
        openings::{self, Opening},
    },
    gate::{Gate, report::grant_event, tables::Difference},
    kernel::datapath::{Cursor, Datapath, DatapathError},
    rules::{
        clock::Now,
        grant::break_glass::REQUESTER,
        ledger::{Admission, Progress},
        problem::ProblemKind,
        reconcile::{EntryKey, Write},
        refusal::Refused,
    },
};

/// Of which files a fault is: of those that are met while the agent runs, and at its start.
const WHILE_IT_RUNS: &str = "";
const AT_START: &str = "at start";
/// From the file to the kernel's tables root needs less time than this.
const SETTLED: Duration = Duration::from_secs(10);
/// Openings that are remembered because their files may be there still.
const MOST_CARRIED: usize = 1_024;
/// Entries that are read at once.
const READ: usize = 34_000;

/// Openings that were made past the agent.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// Those that the database does not have yet.
    unstored: Vec<(GrantId, v1::Envelope)>,
    /// Those that this run has carried, for better or worse.
    carried: BTreeSet<GrantId>,
    /// A carrying goes on: a revocation in it may review the tables.
    busy: bool,
}

/// What is to be done with an opening's file.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The kernel's tables hold it.
    Adopt,
    /// It is carried: the file can go.
    Carried,
    /// It is not open any more, for this reason.
    Ended(&'static str),
    /// Root is about to write it to the kernel's tables.
    Wait,
}

/// Whether a closing ends an opening: it is about it, and was made later.
fn ends(closing: &Closing, opening: &Opening) -> bool {
    let is_about = match &closing.what {
        What::All => true,
        What::Grant(_) => closing.what.grant() == Some(opening.id),
        What::Source(_) => {
            closing.what.source().is_some_and(|source| source.overlaps(&opening.source))
        }
        What::User(name) => name == REQUESTER,
    };
    is_about && closing.boot_id == opening.boot_id && closing.made >= opening.made.0
}

/// `closed`: root closed it later; `held`: the kernel's tables hold all of it.
fn fate(opening: &Opening, boot_id: &str, [carried, closed, held]: [bool; 3], now: Now) -> Fate {
    if carried {
        Fate::Carried
    } else if closed {
        Fate::Ended("it was closed while the agent did not answer")
    } else if opening.boot_id != boot_id {
        Fate::Ended("the machine was started again, which ends it")
    } else if opening.deadline <= now.boot {
        Fate::Ended("its end came while the agent did not answer")
    } else if held {
        Fate::Adopt
    } else if now.boot < opening.made + SETTLED {
        Fate::Wait
    } else {
        Fate::Ended("the kernel's tables do not hold it: it was closed, or never opened")
    }
}

impl<D: Datapath> Gate<D> {
    /// Carries the closings and openings of the runtime directory: in every tick, and when something is
    /// met that nothing explains. Returns the places of openings that root is about to write.
    pub(super) fn carry_past(&mut self, now: Now) -> BTreeSet<EntryKey> {
        if self.openings.busy {
            let (found, _) = openings::pending(&self.config.paths.runtime);
            return found.iter().flat_map(Opening::keys).collect();
        }
        self.openings.busy = true;
        let closings = self.carry_closings(now);
        let waiting = self.carry_openings(&closings, now);
        self.openings.busy = false;
        waiting
    }

    fn carry_openings(&mut self, closings: &[Closing], now: Now) -> BTreeSet<EntryKey> {
        let (found, refused) = openings::pending(&self.config.paths.runtime);
        self.report_refused_openings(WHILE_IT_RUNS, &refused, now);
        if found.is_empty() {
            return BTreeSet::new();
        }
        let (differences, odd) = match self.read_tables() {
            Ok(read) => read,
            Err(error) => {
                tracing::error!("{error}: an opening by root waits");
                return found.iter().flat_map(Opening::keys).collect();
            }
        };
        let waiting = self.carry_found(&found, closings, now);
        let differences = self.still_unexplained(differences, &waiting);
        self.mend(differences, odd, now);
        waiting
    }

    /// The same with those of the state directory, too: at a start, when the tables are adopted and the
    /// stored grants are in the ledger, before anything opens. Returns whether there were any.
    pub(super) fn carry_all_past(&mut self, now: Now) -> bool {
        self.openings.busy = true;
        let closings = self.carry_all_closings(now);
        let (found, refused) = self.all_openings();
        self.report_refused_openings(AT_START, &refused, now);
        self.carry_found(&found, &closings, now);
        self.openings.busy = false;
        !found.is_empty() || !closings.is_empty()
    }

    /// The places of openings of this boot that have not ended: a start must not call them lost.
    pub(super) fn places_of_openings(&self, now: Now) -> BTreeSet<EntryKey> {
        let is_live = |one: &&Opening| one.boot_id == self.boot_id && one.deadline > now.boot;
        let (found, _) = self.all_openings();
        found.iter().filter(is_live).flat_map(Opening::keys).collect()
    }

    fn all_openings(&self) -> (Vec<Opening>, Vec<String>) {
        let paths = &self.config.paths;
        let (mut found, mut refused) = openings::pending(&paths.state);
        let (more, others) = openings::pending(&paths.runtime);
        found.extend(more);
        found.sort_by_key(|opening| opening.id);
        found.dedup();
        refused.extend(others);
        (found, refused)
    }

    /// Reads all grant tables, and returns where they are not what was written.
    fn read_tables(&mut self) -> Result<(Vec<Difference>, Vec<String>), DatapathError> {
        let (mut differences, mut odd, mut cursor) = (Vec::new(), Vec::new(), Cursor::default());
        loop {
            let read = self.datapath.read_back(&mut cursor, READ)?;
            differences.extend(self.tables.correct(&read.entries));
            odd.extend(read.odd);
            if read.ended {
                return Ok((differences, odd));
            }
        }
    }

    /// Without what the ledger explains by now, and what root is about to open.
    pub(super) fn still_unexplained(
        &self,
        differences: Vec<Difference>,
        waiting: &BTreeSet<EntryKey>,
    ) -> Vec<Difference> {
        let mut left = differences;
        left.retain(|Difference { key, .. }| {
            !waiting.contains(key)
                && self.tables.installed().get(key).copied() != self.ledger.desired(key)
        });
        left
    }

    fn carry_found(
        &mut self,
        found: &[Opening],
        closings: &[Closing],
        now: Now,
    ) -> BTreeSet<EntryKey> {
        let (mut done, mut waiting) = (Vec::new(), BTreeSet::new());
        for opening in found {
            let id = opening.id;
            let carried = self.openings.carried.contains(&id) || self.ledger.grant(id).is_some();
            let held = opening.keys().all(|key| {
                let entry = self.tables.installed().get(&key);
                entry.is_some_and(|entry| entry.unlimited.deadline >= opening.deadline)
            });
            let closed = closings.iter().any(|closing| ends(closing, opening));
            match fate(opening, &self.boot_id, [carried, closed, held], now) {
                Fate::Wait => {
                    waiting.extend(opening.keys());
                    continue;
                }
                Fate::Carried => {}
                Fate::Adopt => self.adopt_opening(opening, now),
                Fate::Ended(why) => self.report_ended_opening(opening, why, now),
            }
            if self.openings.carried.len() >= MOST_CARRIED {
                self.openings.carried.pop_first();
            }
            self.openings.carried.insert(id);
            // The file of one that the database does not have yet has to stay for the next start.
            if self.openings.unstored.iter().all(|(unstored, _)| *unstored != id) {
                done.push(id);
            }
        }
        if !done.is_empty() {
            forget(done, self.config.paths.clone());
        }
        waiting
    }

    fn adopt_opening(&mut self, opening: &Opening, now: Now) {
        let Opening { id, source, ports, by, reason, made_at, .. } = opening;
        if let Err(refused) = self.try_adopt(opening, now) {
            self.report_refused_openings(WHILE_IT_RUNS, &[format!("{id}: {refused}")], now);
            self.report_ended_opening(opening, "the agent does not take it over", now);
            return;
        }
        let Some(held) = self.ledger.grant(*id) else { return };
        let record = Record::accepted(Admission::Active, &held.grant).by(by);
        let detail = format!("made at {made_at} while the agent did not answer");
        self.record(record.detail(&detail), now);
        tracing::warn!(
            grant = %id, by, %source, %ports, %made_at, reason,
            "BREAK GLASS: root opened a port without a grant while the agent did not answer"
        );
        let event = grant_event("activated", *id, by);
        self.report_grant(v1::GrantEvent { detail: "break-glass".into(), ..event }, now);
        self.settle_audit(now);
    }

    fn try_adopt(&mut self, opening: &Opening, now: Now) -> Result<(), Refused> {
        let Opening { id, deadline, slot, .. } = opening;
        let at = self.break_glass_time(now);
        // The end by the wall clock is no earlier than that of the kernel.
        let asked = opening.asked(now.until(*deadline) + Duration::from_millis(1));
        let host = &self.config.host;
        let (grant, envelope) = asked.grant(*id, host, self.config.break_glass, at.wall)?;
        self.config.policy.check_break_glass(&grant)?;
        let progress = Progress { deadline: Some(*deadline), slot: Some(*slot), hits: 0 };
        self.ledger.restore(grant, progress, at)?;
        let owned = self.ledger.grant(*id).and_then(|held| held.stage.slot());
        if let Some(other) = owned.filter(|owned| owned != slot)
            && let Err(error) = self.datapath.open_slot(other, 0)
        {
            tracing::error!(grant = %id, "its connections are not counted from zero: {error}");
        }
        self.write_again(opening);
        self.write_changed();
        self.openings.unstored.push((*id, envelope));
        self.outbox.write_soon(now);
        Ok(())
    }

    /// Writes what is there once more: while the agent hung, it could not know that the summary has
    /// bits for it.
    fn write_again(&mut self, opening: &Opening) {
        let desired = |key| Some(Write::Set(key, self.ledger.desired(&key)?));
        let writes: Vec<_> = opening.keys().filter_map(desired).collect();
        let result = self.carry_out(writes);
        if let Err(error) = &result {
            tracing::error!("{error}");
        }
        self.tables.note(opening.keys().collect(), &result);
    }

    /// One that is not open any more: the audit has it all the same.
    fn report_ended_opening(&mut self, opening: &Opening, why: &str, now: Now) {
        let Opening { id, source, ports, by, reason, made_at, .. } = opening;
        let made = format!("made at {made_at} while the agent did not answer");
        let record = Record::new(EventCode::BreakGlass).grant(*id).text("requester", REQUESTER);
        let record =
            record.with("sources", [source.to_string()]).with("ports", [ports.to_string()]);
        self.record(record.text("why", reason).by(by).detail(&made), now);
        let record = Record::new(EventCode::BreakGlassEnded).by("agent").grant(*id);
        self.record(record.detail(why), now);
        tracing::warn!(grant = %id, by, %source, %ports, %made_at, reason,
            "BREAK GLASS: root opened a port while the agent did not answer; it is closed: {why}");
        self.write(opening.keys().collect());
        self.settle_audit(now);
    }

    /// Files that root did not make, or that say nothing: they open nothing.
    fn report_refused_openings(&mut self, met: &str, refused: &[String], now: Now) {
        let name = ProblemKind::Openings.of(met);
        let Some(first) = refused.first() else {
            if met == WHILE_IT_RUNS {
                self.faults.set(name, None);
            }
            return;
        };
        let more = match refused.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let text = format!(
            "an opening cannot be taken over: {first}{more}: it opens nothing; find out who made it, \
             then remove it"
        );
        if self.faults.set(name, Some(text.clone())) {
            tracing::error!("{text}");
            let record = Record::new(EventCode::OpeningRefused).by("agent");
            self.record(record.detail(&text), now);
        }
    }

    /// The openings that the next transaction takes.
    pub(super) fn openings_to_store(&mut self) -> Vec<(GrantId, v1::Envelope)> {
        // One that was closed meanwhile is not stored.
        self.openings.unstored.retain(|(id, _)| self.ledger.grant(*id).is_some());
        for (id, _) in &self.openings.unstored {
            self.outbox.progress(*id);
        }
        self.openings.unstored.clone()
    }

    /// The database has them.
    pub(super) fn openings_stored(&mut self) {
        let stored = std::mem::take(&mut self.openings.unstored);
        if !stored.is_empty() {
            forget(stored.into_iter().map(|(id, _)| id).collect(), self.config.paths.clone());
        }
    }
}

/// Removes the files of these openings. A disk that hangs is not waited for.
fn forget(done: Vec<GrantId>, paths: Paths) {
    let remove = move || {
        let both = |id| [&paths.state, &paths.runtime].map(|parent| openings::path(parent, id));
        let files: Vec<PathBuf> = done.into_iter().flat_map(both).collect();
        files.into_iter().for_each(|file| drop(std::fs::remove_file(file)));
    };
    let _unstarted = thread::Builder::new().name("openings".into()).spawn(remove);
}

#[cfg(test)]
mod tests {
    use jit_proto::WallTime;

    use super::*;
    use crate::rules::clock::BootNanos;

    const SECOND: u64 = 1_000_000_000;

    /// Made after 100 seconds, for 100 seconds.
    fn opening() -> Opening {
        Opening {
            id: GrantId([1; 16]),
            source: "192.0.2.7".parse().unwrap(),
            ports: "22/tcp".parse().unwrap(),
            boot_id: "now".into(),
            made: BootNanos(100 * SECOND),
            made_at: WallTime(0),
            deadline: BootNanos(200 * SECOND),
            slot: 7,
            generation: 1,
            by: "root".into(),
            reason: "x".into(),
        }
    }

    #[test]
    fn a_closing_ends_what_it_is_about_and_what_was_opened_before_it() {
        let closing = |what, boot: &str, seconds| Closing {
            what,
            cut: false,
            by: "root".into(),
            why: "x".into(),
            boot_id: boot.into(),
            made: seconds * SECOND,
            sessions_ended: 0,
        };
        let is_ended = |what, boot, seconds| ends(&closing(what, boot, seconds), &opening());
        for what in [
            What::All,
            What::Grant(GrantId([1; 16]).to_string()),
            What::Source("192.0.2.0/24".into()),
            What::User(REQUESTER.into()),
        ] {
            assert!(is_ended(what.clone(), "now", 101), "{what:?}");
            assert!(!is_ended(what.clone(), "now", 99) && !is_ended(what, "before", 101));
        }
        for other in [
            What::Grant(GrantId([2; 16]).to_string()),
            What::Source("192.0.2.8".into()),
            What::User("ana@example.org".into()),
        ] {
            assert!(!is_ended(other.clone(), "now", 101), "{other:?}");
        }
    }

    #[test]
    fn an_opening_is_adopted_only_in_its_boot_before_its_end_and_if_the_kernel_holds_it() {
        let opening = opening();
        let at = |seconds| Now { wall: WallTime(0), boot: BootNanos(seconds * SECOND) };
        let of = |boot, held, seconds| fate(&opening, boot, [false, false, held], at(seconds));
        assert_eq!(of("now", true, 101), Fate::Adopt);
        assert_eq!(of("now", false, 101), Fate::Wait);
        assert!(matches!(of("now", false, 110), Fate::Ended(_)));
        assert!(matches!(of("now", true, 200), Fate::Ended(_)));
        assert!(matches!(of("before", true, 101), Fate::Ended(_)));
        assert_eq!(fate(&opening, "now", [true, false, true], at(101)), Fate::Carried);
        let closed = fate(&opening, "now", [false, true, true], at(101));
        assert!(matches!(closed, Fate::Ended(_)));
    }
}

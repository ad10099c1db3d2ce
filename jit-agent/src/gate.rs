//! The single writer: it owns ledger, datapath and database, and keeps them in step.
//!
//! An admission is written to the disk, then to the kernel, then answered. A revocation is written
//! to the kernel, then to the disk, so that it closes even when the disk does not take it. Commands
//! come in over channels. Revocations and reconfigurations have a channel that is served first.
//!
//! | part | owns | and is used by |
//! |---|---|---|
//! | `outbox` | the database, and what still has to be written to it | all |
//! | `database` | a database that cannot be opened yet | `revocation` |
//! | `trusted_clock` | the floor, and whether the clock was set | all |
//! | `tables` | the entries in the kernel's grant tables | all |
//! | `links` | interfaces and socket guard as read back | `coverage` |
//! | `review` | how far the tables are read back, and what was found | the tick, `status` |
//! | `self_test` | when the programs are tried on frames | `coverage` |
//! | `cut` | where sessions may have ended | what closes |
//! | `policy` | the policies that are known | `policy::push`, `policy::apply` |
//! | `restore` | grants that wait for the right clock | `revocation` |
//! | `replacement` | scheduled grants whose replacement is checked when they begin | `push`, `policy::apply` |
//! | `takeover` | grants that another version also counts | `restore` |
//! | `trials` | the configuration on trial, and the one before it | the tick, `report` |
//! | `translations` | what the host translates to itself | `translation` |
//! | `openings` | what root opened past the agent | the start, the tick, `review` |
//! | `denials` | the history of denials | `push`, `report` |
//! | `limits` | the last limit that was looked at | the tick |
//! | `record` | the audit | all |
//! | `patience` | who waits for the gate, and so how long the gate waits for a disk | `outbox`, `record` |
//! | `arrivals` | what has arrived, beside what checkpoints say | admissions, `revocation`, `report` |
//! | `about` | facts that only `status` shows | `report` |
//! | `configuration` | where the configuration in force comes from | `report` |
//! | `faults` | what is wrong around the gate; all may write | `report` |
//!
//! Signatures are verified outside of the gate's task (`verification`). What comes from there waits
//! for the gate in turns between the peers (`waiting`).

pub mod about;
mod alarms;
mod arrivals;
pub(crate) mod break_glass;
mod changes;
mod closings;
mod command;
mod configuration;
mod coverage;
mod cut;
pub mod database;
mod denials;
pub mod faults;
mod identity;
pub mod journal;
mod limits;
mod links;
mod list;
mod looks;
mod lost;
pub(crate) mod measure;
mod openings;
mod outbox;
mod patience;
mod policy;
mod push;
mod record;
mod replacement;
pub(crate) mod report;
mod restore;
mod review;
mod revocation;
mod self_test;
mod serve;
mod tables;
mod takeover;
mod translation;
pub mod trial;
mod trusted_clock;
mod verification;
mod waiting;
pub(crate) mod why;

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use jit_common::{Event, Reason};

pub use arrivals::Asked;
pub use break_glass::Opened;
pub use command::{GateHandle, Gone, Requests, channel};
pub use policy::{PolicyDraft, PolicyPush};
pub use push::Accepted;
pub use replacement::Pusher;
pub use revocation::{Revoked, Target};

use about::About;
use alarms::Alarms;
use arrivals::Arrivals;
use configuration::Origin;
use cut::Ending;
use database::Waiting;
use denials::Denials;
use faults::Faults;
use jit_proto::{
    GrantId, WallTime,
    v1::{self, event::What},
};
use journal::Journal;
use limits::LimitScan;
use links::{LinkNews, Links};
use openings::Openings;
use outbox::{Outbox, Storing};
use patience::LONGEST;
use policy::Policies;
use record::Recorder;
use replacement::Replacements;
use report::grant_event;
use restore::HeldBack;
use review::Review;
use revocation::Closed;
use self_test::SelfTest;
use tables::Tables;
use takeover::Takeover;
use trial::{Trial, Trials};
use trusted_clock::TrustedClock;

use crate::{
    config::Config,
    disk::{
        audit::Audit,
        store::{Permit, Store, StoreError, Stored, StoredProgress},
    },
    kernel::{
        datapath::{Datapath, DatapathError},
        netlink::netfilter::Translations,
    },
    rules::{
        claims::EXEMPT_SLOT,
        clock::{BootNanos, Now},
        ledger::{Change, Ledger},
        problem::ProblemKind,
        reconcile::{EntryKey, Write},
        refusal::Refused,
    },
    system::{log, memory},
};

/// How often attachments are read back from the kernel without a reported change, and how often
/// failed work is tried again. Two seconds, as a power of two of milliseconds ([`serve`]).
pub const TICK: Duration = Duration::from_millis(2_048);
/// How often free memory goes back to the kernel: at each third tick.
const GIVE_BACK: Duration = Duration::from_millis(5_900);
/// Grants that one event logs one by one.
const LOGGED: usize = 100;

/// The gate.
pub struct Gate<D> {
    /// As read from the file, except that `policy` is the one in force, which may be a pushed one.
    config: Config,
    policies: Policies,
    ledger: Ledger,
    datapath: D,
    outbox: Outbox,
    clock: TrustedClock,
    tables: Tables,
    links: Links,
    review: Review,
    self_test: SelfTest,
    ending: Ending,
    held_back: HeldBack,
    replacements: Replacements,
    takeover: Takeover,
    openings: Openings,
    translations: Translations,
    trials: Trials,
    limit_scan: LimitScan,
    denials: Denials,
    recorder: Recorder,
    journal: Arc<Journal>,
    boot_id: String,
    alarms: Alarms,
    arrivals: Arrivals,
    faults: Faults,
    about: About,
    configuration: Origin,
    /// The database cannot be opened yet.
    awaited: Option<Waiting>,
    next_give_back: BootNanos,
    /// The last revoked grants. They are freed after the answer: for very many grants that takes
    /// time.
    closed: Vec<Closed>,
}

/// Why the gate cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Exemptions that do not fit.
    #[error("[[port]] exempt: {0}")]
    Exemptions(Refused),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The threads of database and audit.
    #[error("cannot start a thread: {0}; see the limits of the service (TasksMax=)")]
    Thread(io::Error),
}

impl<D: Datapath> Gate<D> {
    /// Puts the gate in force: stored grants are verified again, the tables filled, and only then
    /// are programs attached, or swapped on links that an earlier run pinned. Where no stored
    /// grant can be open yet, as after a reboot, the programs come first: until then the ports are
    /// open, and very many grants take long to verify.
    pub fn start(
        config: Config,
        datapath: D,
        (store, stored): (Store, Stored),
        audit: Audit,
        (journal, faults): (Arc<Journal>, Faults),
        boot_id: String,
        now: Now,
    ) -> Result<Self, StartError> {
        let boards = (journal, faults);
        Self::start_on_trial((config, None), datapath, (store, stored), audit, boards, boot_id, now)
    }

    /// The same with a configuration that an earlier run put on trial, to the same end.
    pub fn start_on_trial(
        (config, trial): (Config, Option<&Trial>),
        datapath: D,
        (store, stored): (Store, Stored),
        audit: Audit,
        (journal, faults): (Arc<Journal>, Faults),
        boot_id: String,
        now: Now,
    ) -> Result<Self, StartError> {
        let ledger =
            Ledger::new(config.limits.into(), config.limits.slots(), config.policy.longest_ahead());
        let mut gate = Self {
            config,
            policies: Policies::default(),
            ledger,
            datapath,
            outbox: Outbox::new(store, now).map_err(StartError::Thread)?,
            clock: TrustedClock::new(stored.floor, stored.lost_before, now),
            tables: Tables::default(),
            links: Links::default(),
            review: Review::new(now),
            self_test: SelfTest::new(now),
            ending: Ending::default(),
            held_back: HeldBack::default(),
            replacements: Replacements::default(),
            takeover: Takeover::default(),
            openings: Openings::default(),
            translations: Translations::default(),
            trials: trial.map(Trials::resume).unwrap_or_default(),
            limit_scan: LimitScan::default(),
            denials: Denials::default(),
            recorder: Recorder::new(audit).map_err(StartError::Thread)?,
            journal,
            boot_id,
            alarms: Alarms::default(),
            arrivals: Arrivals::default(),
            faults,
            about: About::new(now),
            configuration: Origin::default(),
            awaited: None,
            next_give_back: now.boot,
            closed: Vec::new(),
        };
        gate.recorder.started(&gate.config, &gate.boot_id, now);
        match gate.put_in_force(stored, now) {
            Ok(()) => Ok(gate),
            Err(error) => {
                gate.stop(&format!("it could not put the gate in force: {error}"), now);
                Err(error)
            }
        }
    }

    fn put_in_force(&mut self, stored: Stored, now: Now) -> Result<(), StartError> {
        self.expect_checkpoints(stored.checkpoint.as_ref(), now);
        let Stored {
            grants,
            progress,
            tombstones,
            floors,
            boot_id,
            policies,
            policies_lost,
            damaged,
            floor,
            denials,
            ..
        } = stored;
        self.restore_denials(denials.as_deref());
        self.ledger.restore_floors(&floors);
        if let Some(damage) = damaged {
            self.report_damage(damage, now);
        }
        self.adopt_tables(now)?;
        // With a database that is closed, nobody knows yet what is stored.
        if !self.outbox.is_closed() {
            let mut lost = lost::unexplained(self.tables.installed(), &grants, now.boot);
            let opened = self.places_of_openings(now);
            lost.retain(|key| !opened.contains(key));
            self.report_lost(&lost, floor.is_none(), now);
        }
        self.restore_policies(policies, policies_lost, now);
        self.exempt(now).map_err(StartError::Exemptions)?;
        // Nobody may get in now, or everybody can: closing the ports refuses nobody for long.
        let none_open = self.tables.installed().is_empty()
            && progress.values().all(|progress| progress.boot_id != self.boot_id);
        let closes_first = (none_open || self.datapath.is_new()) && !grants.is_empty();
        let mut news = Vec::new();
        if closes_first {
            let writes = self.plan_all();
            self.write_tables(writes)?;
            news = self.attach_first()?;
            tracing::info!(stored = grants.len(), "the ports are closed; stored grants follow");
        }
        let storing = self.restore(grants, progress, tombstones, boot_id.as_deref(), now);
        self.adopt_lingering(now);
        let mut writes = self.plan_all();
        // A grant is open only when the disk knows where it is counted.
        self.settled_or_log(storing, now);
        if self.carry_all_past(now) {
            writes = self.plan_all();
        }
        self.write_tables(writes)?;
        // A database that is closed may have grants whose connections are counted there.
        if !self.outbox.is_closed() {
            self.close_slots_of_the_past();
        }
        if !closes_first {
            news = self.attach_first()?;
        }
        self.count_carried(now);
        self.links.ensure_gated()?;
        self.report_links(news, now);
        self.retire(now);
        // Sessions that had to be cut while no agent was running are cut now.
        self.ending.anywhere();
        self.end_sessions(now);
        self.record_unreported(now);
        self.read_denials(now);
        self.settle_audit(now);
        Ok(())
    }

    /// Writes ports and settings, and then these entries.
    fn write_tables(&mut self, writes: Vec<Write>) -> Result<(), DatapathError> {
        self.look_at_source_chain();
        self.apply_policy()?;
        self.carry_out(writes)
    }

    /// Attaches the programs for the first time in this run.
    fn attach_first(&mut self) -> Result<Vec<LinkNews>, DatapathError> {
        let interfaces = self.datapath.attach(&self.wanted())?;
        let mut news = self.links.set_interfaces(Ok(interfaces));
        let guard = self.datapath.guard(self.config.gate.socket_guard);
        news.extend(self.links.set_guard(guard));
        Ok(news)
    }

    /// Lets time pass, and tries failed work again. Returns the time until the next call is needed.
    pub fn advance(&mut self, now: Now) -> Duration {
        self.closed = Vec::new();
        self.look_for_database(now);
        self.return_policy(now);
        self.end_trial_in_time(now);
        self.restore_held_back(now);
        let trusted = self.clock.is_trusted(now);
        self.recorder.clock(trusted, self.clock.floor(), now);
        if trusted {
            self.recheck_scheduled(true, now);
            self.clock.raise_floor(now);
            self.follow_clock(now);
        }
        let datapath = &self.datapath;
        let changes = self.ledger.advance(now, trusted, |slot| datapath.slot(slot).hits);
        self.report_changes(&changes, now);
        let mut keys = self.ledger.take_changed();
        keys.extend(self.tables.dirty());
        self.write(keys);
        let more_to_close = self.close_slots();
        let next_look = self.end_sessions(now);
        if self.outbox.take_turn(now) {
            self.store_denials_in_turn(now);
            self.settle_or_log(now);
        }
        self.settle_audit(now);
        let next_change = self.ledger.next_change(now, trusted);
        let policy = self.policies.next_change(now);
        let trial = self.trials.next_change(now);
        let ahead = [next_change, policy, trial, next_look, more_to_close, Some(TICK)];
        ahead.into_iter().flatten().min().unwrap_or(TICK)
    }

    /// Reacts if the wall clock was set: grants may end sooner, never later, and ids stay refused.
    fn follow_clock(&mut self, now: Now) {
        let Some(step) = self.clock.take_step(now) else { return };
        let sooner = self.ledger.clock_was_set(now);
        let refused_longer = self.ledger.tombstones_follow(now);
        if !refused_longer.is_empty() {
            self.outbox.refuse(refused_longer);
            self.outbox.write_soon(now);
        }
        if !sooner.is_empty() {
            for id in &sooner {
                self.outbox.progress(*id);
            }
            self.outbox.write_soon(now);
            let grants = sooner.len();
            tracing::warn!(grants, "the wall clock was set forward: these end sooner");
        }
        self.recorder.clock_stepped(step, &sooner, now);
    }

    /// Reports grants that began or ended to the audit, the log and the watchers, and soon to the
    /// disk.
    fn report_changes(&mut self, changes: &[Change], now: Now) {
        if changes.is_empty() {
            return;
        }
        self.recorder.changes(changes, &self.ledger, now);
        let each = changes.len() <= LOGGED;
        if !each {
            let changes = changes.len();
            tracing::info!(changes, "grants begun or expired; the audit names each");
        }
        for change in changes {
            match change {
                Change::Activated(id) => {
                    self.outbox.progress(*id);
                    self.report_change("activated", *id, each, now);
                }
                Change::Expired(id) => {
                    self.outbox.remove(*id);
                    self.report_change("expired", *id, each, now);
                }
                Change::Forgotten(id) => self.outbox.forget(*id),
                Change::Replaced(replacement) => self.report_replacement(Some(*replacement), now),
            }
        }
        self.outbox.write_soon(now);
    }

    fn report_change(&self, kind: &str, id: GrantId, logged: bool, now: Now) {
        self.report_grant(grant_event(kind, id, "agent"), now);
        if logged {
            tracing::info!(grant = %id, "grant {kind}");
        }
    }

    /// Checks for changes that nobody reports; every [`TICK`].
    pub fn tick(&mut self, now: Now) {
        self.carry_past(now);
        self.recorder.check_in_turn(now);
        self.check_in_kernel(now);
        self.self_test(now);
        self.review_tables(now);
        self.look_at_limits(now);
        self.record_unreported(now);
        self.read_denials(now);
        self.give_memory_back(now);
        self.faults.set(ProblemKind::Log, log::state().problem);
    }

    /// What a long list or a large push took must not stay.
    fn give_memory_back(&mut self, now: Now) {
        self.ledger.give_room_back();
        self.tables.give_room_back();
        if now.boot >= self.next_give_back {
            self.next_give_back = now.boot + GIVE_BACK;
            memory::give_back();
        }
    }

    /// A packet event from the kernel.
    pub fn saw_packet(&mut self, event: &Event, now: Now) {
        let granted = event.reason == Reason::Granted as u8;
        let known = event.slot == EXEMPT_SLOT || self.ledger.owner(event.slot).is_some();
        if granted && !known {
            // Root may have opened it while the agent hung.
            self.carry_past(now);
        }
        self.recorder.packet(event, &self.ledger, &self.links, now);
        if granted {
            self.explain(event, now);
            self.count(event.slot, now);
        } else {
            self.count_denial(event, now);
        }
        self.journal.add(now.wall.0, What::Packet(self.packet_event(event)));
    }

    /// Commits new grants together with everything that still has to be written.
    fn settle(&mut self, put: &[(GrantId, v1::Envelope)], now: Now) -> Result<(), StoreError> {
        self.settle_within(LONGEST, put, now)
    }

    /// The same with a shorter wait for the disk.
    fn settle_within(
        &mut self,
        longest: Duration,
        put: &[(GrantId, v1::Envelope)],
        now: Now,
    ) -> Result<(), StoreError> {
        let (progress, floor) = self.unsettled(now);
        self.outbox.commit(put, progress, floor, longest, now)
    }

    /// The progress and the floor that the next transaction is to write.
    fn unsettled(&mut self, now: Now) -> (Vec<(GrantId, StoredProgress)>, WallTime) {
        let floor = self.clock.raise_floor(now);
        (self.progress(self.outbox.progressed()), floor)
    }

    /// The same without new grants. A failed write is tried again, and logged once.
    fn settle_or_log(&mut self, now: Now) {
        let storing = self.begin_to_settle(now);
        self.settled_or_log(storing, now);
    }

    /// Begins with it. Nothing else is done with the database before [`Gate::settled_or_log`].
    fn begin_to_settle(&mut self, now: Now) -> Storing {
        let put = self.openings_to_store();
        let (progress, floor) = self.unsettled(now);
        self.outbox.begin(put, progress, floor, LONGEST, Permit::granted())
    }

    fn settled_or_log(&mut self, storing: Storing, now: Now) {
        let before = self.outbox.problems().map(|problem| problem.map(str::to_owned));
        let Err(error) = self.outbox.finish(storing, LONGEST, now) else {
            return self.openings_stored();
        };
        if before.iter().flatten().all(|problem| *problem != error.to_string()) {
            tracing::error!("{error}");
        }
        // The reserve did not take them at their time.
        if self.outbox.has_unkept()
            && let Ok(()) = self.outbox.use_reserve(false)
        {
            tracing::warn!("revocations that the database does not take are kept in the reserve");
        }
    }

    /// The writes that make all of the kernel's grant tables equal to the ledger's state.
    fn plan_all(&mut self) -> Vec<Write> {
        // All keys are looked at, in no order.
        let _changed = self.ledger.take_changed();
        let gone = self.tables.installed().keys().filter(|key| self.ledger.desired(key).is_none());
        let desired = self.ledger.all_desired().chain(gone.map(|key| (*key, None)));
        self.tables.plan(desired)
    }

    /// Makes all of the kernel's grant tables equal to the ledger's state while the gate is in
    /// force.
    fn write_all(&mut self) {
        let keys = self.all_keys();
        self.write(keys);
    }

    /// All keys with an entry in the kernel, with a desired entry, or with a change.
    fn all_keys(&mut self) -> BTreeSet<EntryKey> {
        let mut keys = self.ledger.take_changed();
        keys.extend(self.ledger.all_desired().map(|(key, _)| key));
        keys.extend(self.tables.installed().keys());
        keys
    }

    /// Writes what changed in the ledger.
    fn write_changed(&mut self) {
        let keys = self.ledger.take_changed();
        self.write(keys);
    }

    /// Writes the desired entries of these keys. Failed writes are kept and tried again.
    fn write(&mut self, keys: BTreeSet<EntryKey>) {
        let result = self.try_write(&keys);
        if let Err(error) = &result {
            tracing::error!("{error}");
        }
        self.tables.note(keys, &result);
    }

    /// The same, but the caller handles failures.
    fn try_write(&mut self, keys: &BTreeSet<EntryKey>) -> Result<(), DatapathError> {
        let desired = keys.iter().map(|key| (*key, self.ledger.desired(key)));
        let writes = self.tables.plan(desired);
        self.carry_out(writes)
    }

    fn carry_out(&mut self, writes: Vec<Write>) -> Result<(), DatapathError> {
        let written = self.tables.carry_out(writes, &mut self.datapath);
        for key in written.closed {
            self.ending.at(key);
        }
        written.result
    }
}

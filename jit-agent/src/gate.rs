//! The single writer: owns ledger, datapath and database, and keeps them in step.
//!
//! An admission is written to the disk, then to the kernel, then answered; a revocation to the kernel,
//! then to the disk, so that it closes also when the disk does not take it. Commands come in over
//! channels, revocations and questions over one that is served first.

mod command;
mod coverage;
mod cut;
pub mod journal;
mod looks;
mod policy;
mod record;
pub(crate) mod report;
mod restore;
mod revocation;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jit_common::{Event, Reason, Settings};
use jit_proto::v1::{self, event::What};

pub use command::{GateHandle, PolicyAnswer, PolicyRequest, Requests, channel};
pub use policy::{PolicyDraft, PolicyPush};
use record::Recorder;
pub use revocation::{Revoked, Target};

use crate::{
    config::Config,
    disk::{
        audit::{Audit, EventCode, Record},
        store::{Damage, Store, StoreError, Stored, Transaction},
    },
    gate::journal::Journal,
    kernel::datapath::{Datapath, DatapathError, InterfaceState, guard::GuardState},
    rules::{
        clock::{BootNanos, Now, SKEW, WallTime},
        grant::{self, GrantId, VerifiedGrant},
        ledger::{Admission, Change, Ledger, Tombstone},
        reconcile::{Entries, EntryKey, Write, plan},
        refusal::{Refusal, Refused},
    },
};

/// How often coverage is read back from the kernel though nobody told of a change, and everything that
/// failed is tried again.
pub const TICK: Duration = Duration::from_secs(2);
/// A wall clock that moved against the boot clock by more than this was set.
const CLOCK_STEP_MS: u64 = 50;
/// How often the floor is written, and how soon after an error, boot nanoseconds.
const FLOOR_NANOS: u64 = 60_000_000_000;
const RETRY_NANOS: u64 = 2_000_000_000;
/// Grants that one event logs one by one.
const LOGGED: usize = 100;
/// Events a second and CPU for dropped packets.
const DROP_EVENTS: u32 = 128;
/// Events a second and CPU for connections let in.
const GRANT_EVENTS: u32 = 4096;

/// The gate.
pub struct Gate<D> {
    /// As read; but `policy` is the one in force, which may be a pushed one.
    config: Config,
    policies: policy::Policies,
    ledger: Ledger,
    datapath: D,
    store: Store,
    recorder: Recorder,
    journal: Arc<Journal>,
    boot_id: String,
    /// What stands in the kernel's grant tables.
    installed: Entries,
    /// Keys whose write failed, to be tried again.
    dirty: BTreeSet<EntryKey>,
    interfaces: Vec<InterfaceState>,
    guard: GuardState,
    floor: WallTime,
    /// Stored grants of an earlier boot, which wait for a clock that is trusted.
    held_back: Vec<restore::Kept>,
    /// What was revoked before this moment is not known any more.
    lost_before: WallTime,
    /// When the floor is next written to the disk.
    next_floor: BootNanos,
    /// When the programs are next tried on frames.
    next_self_test: BootNanos,
    /// Revocations and ends that the disk has not taken yet.
    owed: Transaction,
    /// What was revoked last. Freed behind the answer: of very many grants that takes its time.
    over: Vec<revocation::Closed>,
    /// Revocations of those that the reserve did not take either.
    unkept: Vec<(GrantId, Tombstone)>,
    /// Grants of which the disk does not know yet where they stand.
    owed_lives: BTreeSet<GrantId>,
    /// Grants that another version's gate, which may be in force still, counts as well.
    carried: BTreeMap<GrantId, restore::Carried>,
    /// Up to which slot grants with a limit were looked at.
    looked_at: u32,
    /// Wall clock minus boot clock, milliseconds.
    offset: i64,
    /// What may have ended that sessions were open by.
    ending: cut::Ending,
    alarms: Alarms,
    started: WallTime,
    last_push: Option<(WallTime, String)>,
    /// End of the certificate that controllers see.
    certificate_end: Option<WallTime>,
}

/// What is wrong, for `status`.
#[derive(Debug, Default)]
struct Alarms {
    coverage: Option<String>,
    damaged: Option<String>,
    kernel: Option<String>,
    misjudged: Option<String>,
    pins: Option<String>,
    retired: Option<String>,
    storage: Option<String>,
}

/// What an accepted envelope became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What it was.
    pub admission: Admission,
    /// Its id.
    pub id: GrantId,
    /// Its end.
    pub not_after: WallTime,
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
}

impl<D: Datapath> Gate<D> {
    /// Puts the gate in force: stored grants are verified again, the tables filled, and only then
    /// are programs attached, or swapped on links that an earlier run pinned.
    pub fn start(
        config: Config,
        datapath: D,
        (store, stored): (Store, Stored),
        audit: Audit,
        journal: Arc<Journal>,
        boot_id: String,
        now: Now,
    ) -> Result<Self, StartError> {
        let mut gate = Self {
            ledger: Ledger::new(
                config.limits.into(),
                config.limits.slots(),
                config.policy.longest_ahead(),
            ),
            config,
            policies: policy::Policies::default(),
            datapath,
            store,
            recorder: Recorder::new(audit),
            journal,
            boot_id,
            installed: Entries::new(),
            dirty: BTreeSet::new(),
            interfaces: Vec::new(),
            guard: GuardState::default(),
            floor: stored.floor.unwrap_or(WallTime(0)),
            held_back: Vec::new(),
            lost_before: stored.lost_before.unwrap_or(WallTime(i64::MIN)),
            next_floor: now.boot,
            next_self_test: now.boot,
            owed: Transaction::default(),
            over: Vec::new(),
            unkept: Vec::new(),
            owed_lives: BTreeSet::new(),
            carried: BTreeMap::new(),
            looked_at: 0,
            offset: clock_offset(now),
            ending: cut::Ending::default(),
            alarms: Alarms::default(),
            started: now.wall,
            last_push: None,
            certificate_end: None,
        };
        gate.record_start(now);
        match gate.put_in_force(stored, now) {
            Ok(()) => Ok(gate),
            Err(error) => {
                gate.stop(&format!("it could not put the gate in force: {error}"), now);
                Err(error)
            }
        }
    }

    fn put_in_force(&mut self, stored: Stored, now: Now) -> Result<(), StartError> {
        let Stored { grants, lives, tombstones, boot_id, policies, policies_lost, damaged, .. } =
            stored;
        if let Some(Damage { kept, why }) = damaged {
            let kept = kept.map(|file| format!(", and kept as {}", file.display()));
            let kept = kept.unwrap_or_default();
            let text = format!(
                "the database was damaged ({why}){kept}: grants issued before {} are refused",
                self.lost_before
            );
            tracing::error!("{text}; the gate starts without stored grants");
            self.record(Record::new(EventCode::DatabaseDamaged).by("agent").detail(&text), now);
            self.alarms.damaged = Some(text);
        }
        self.installed = self.datapath.entries()?;
        self.restore_policies(policies, policies_lost, now);
        self.exempt(now).map_err(StartError::Exemptions)?;
        self.restore(grants, lives, tombstones, boot_id.as_deref(), now);
        self.adopt_lingering(now);
        self.apply_policy()?;
        self.reconcile_all()?;
        self.close_slots_of_the_past();
        self.interfaces = self.datapath.cover(&self.coverage())?;
        self.guard = self.datapath.guard(self.config.gate.socket_guard);
        self.count_carried(now);
        self.something_holds()?;
        self.tell_links(now);
        self.tell_guard(now);
        self.retire(now);
        // What was to be cut while no agent was running is cut now.
        self.ending.anywhere();
        self.end_sessions(now);
        self.record_untold(now);
        self.settle_audit(now);
        Ok(())
    }

    /// One interface without a gate is told, and the others hold; where nothing holds there is no gate
    /// to speak of. Interfaces that are not there yet are waited for.
    fn something_holds(&self) -> Result<(), DatapathError> {
        let there = || self.interfaces.iter().filter(|interface| interface.index != 0);
        let holds = self.guard.attached || there().any(|interface| interface.hook.is_some());
        match there().next() {
            Some(InterfaceState { name, note, .. }) if !holds => Err(DatapathError::Attach {
                interface: name.clone(),
                hook: "no hook",
                cause: note.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// From here on controllers see a certificate that ends then; none: nobody is listened to.
    pub fn set_certificate_end(&mut self, end: Option<WallTime>, now: Now) {
        self.certificate_end = end;
        self.record_alarms(now);
    }

    /// Takes another configuration: policy, keys, mode and interfaces. Live grants stay as they are;
    /// sizes and paths need a restart. On an error the old one stays.
    pub fn reconfigure(&mut self, config: Config, now: Now) -> Result<(), String> {
        let result = self.try_reconfigure(config, now);
        self.record_reload(&result, now);
        result
    }

    fn try_reconfigure(&mut self, config: Config, now: Now) -> Result<(), String> {
        if config.limits != self.config.limits || config.paths != self.config.paths {
            return Err("[limits] and [paths] cannot change without a restart".into());
        }
        let listen = |config: &Config| config.control.as_ref().map(|control| control.listen);
        if listen(&config) != listen(&self.config) {
            return Err("[control] listen cannot change without a restart".into());
        }
        if config.host != self.config.host {
            return Err("[host] id cannot change without a restart".into());
        }
        let result = self.apply_config(config, now);
        self.check_coverage(now);
        result.map_err(|refused| refused.to_string())
    }

    /// Admits envelopes, each by itself; the outcomes are in their order.
    pub fn push(
        &mut self,
        envelopes: Vec<v1::Envelope>,
        by: &str,
        now: Now,
    ) -> Vec<Result<Accepted, Refused>> {
        self.restore_held_back(now);
        let mut fresh: Vec<(GrantId, v1::Envelope)> = Vec::new();
        let mut outcomes: Vec<_> = envelopes
            .into_iter()
            .map(|envelope| {
                let accepted = self.admit(&envelope, now)?;
                if accepted.admission != Admission::Known {
                    fresh.push((accepted.id, envelope));
                }
                Ok(accepted)
            })
            .collect();
        let mut changed = BTreeSet::new();
        fresh.retain(|(id, _)| match self.count_anew(*id) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(grant = %id, "{error}: the grant is refused");
                self.ledger.forget(*id);
                let refused = Refused::new(refusal_of(&error), error.to_string());
                replace(&mut outcomes, *id, &refused);
                false
            }
        });
        if !fresh.is_empty() {
            // In the audit first: what stands in the database opens again after a crash.
            let recorded = self.record_accepted(fresh.iter().map(|(id, _)| id), by, now);
            let kept = recorded
                .map_err(|error| error.to_string())
                .and_then(|()| self.persist(&fresh, now).map_err(|error| error.to_string()));
            if let Err(error) = kept {
                tracing::error!("{error}: new grants are refused");
                let refused = Refused::new(Refusal::Storage, error);
                for (id, _) in &fresh {
                    self.ledger.forget(*id);
                    replace(&mut outcomes, *id, &refused);
                }
            } else {
                changed = self.ledger.take_changed();
                changed.extend(self.open(&fresh, &mut outcomes, now));
            }
        }
        // Whatever was taken back leaves nothing in the kernel.
        changed.extend(self.ledger.take_changed());
        self.write(changed);
        if outcomes.iter().any(Result::is_ok) {
            self.last_push = Some((now.wall, by.to_owned()));
        }
        self.tell_outcomes(&outcomes, by, now);
        self.settle_audit(now);
        outcomes
    }

    /// Lets time pass, and tries again what failed. Returns how long nothing needs to be done.
    pub fn advance(&mut self, now: Now) -> Duration {
        self.over = Vec::new();
        self.return_policy(now);
        self.restore_held_back(now);
        let trusted = self.clock_is_trusted(now);
        self.record_clock(trusted, now);
        if trusted {
            self.recheck_scheduled(true, now);
            self.rise(now);
            let before = self.offset;
            if self.clock_moved(now) {
                let sooner = self.ledger.clock_was_set(now);
                let refused_longer = self.ledger.tombstones_follow(now);
                if !refused_longer.is_empty() {
                    self.owed.tombstones.extend(refused_longer);
                    self.next_floor = now.boot;
                }
                if !sooner.is_empty() {
                    self.owed_lives.extend(&sooner);
                    self.next_floor = now.boot;
                    let grants = sooner.len();
                    tracing::warn!(grants, "the wall clock was set forward: these end sooner");
                }
                self.record_step(self.offset.saturating_sub(before), &sooner, now);
            }
        }
        let datapath = &self.datapath;
        let hits = |slot| datapath.slot(slot).hits;
        let changes = self.ledger.advance(now, trusted, hits);
        self.record_changes(&changes, now);
        let each = changes.len() <= LOGGED;
        if !each {
            let changes = changes.len();
            tracing::info!(changes, "grants begun or expired; the audit names each");
        }
        for change in &changes {
            match change {
                Change::Activated(id) => {
                    self.owed_lives.insert(*id);
                    self.tell_grant("activated", *id, "", "agent", "", now);
                    if each {
                        tracing::info!(grant = %id, "grant activated");
                    }
                }
                Change::Expired(id) => {
                    self.owed.remove.push(*id);
                    self.tell_grant("expired", *id, "", "agent", "", now);
                    if each {
                        tracing::info!(grant = %id, "grant expired");
                    }
                }
                Change::Forgotten(id) => self.owed.forget.push(*id),
                Change::Replaced(replacement) => self.tell_replacement(Some(*replacement), now),
            }
        }
        let mut changed = self.ledger.take_changed();
        changed.extend(&self.dirty);
        self.write(changed);
        let more_to_close = self.close_slots();
        let next_look = self.end_sessions(now);
        // The floor goes to the disk from time to time: after a reboot with a clock set back, a grant
        // may not last longer than it had left. So does what the disk did not take before.
        if !changes.is_empty() || now.boot >= self.next_floor {
            self.next_floor = BootNanos(now.boot.0.saturating_add(FLOOR_NANOS));
            if let Err(error) = self.settle(Transaction::default(), now) {
                tracing::error!("{error}");
            }
        }
        self.settle_audit(now);
        let next_change = self.ledger.next_change(now, trusted);
        let ahead = [next_change, self.policy_wake(now), next_look, more_to_close, Some(TICK)];
        ahead.into_iter().flatten().min().unwrap_or(TICK)
    }

    /// Looks after what nobody tells of; every [`TICK`].
    pub fn tick(&mut self, now: Now) {
        self.check_coverage(now);
        self.self_test(now);
        self.look_at_limits(now);
        self.record_untold(now);
    }

    /// A packet event from the kernel.
    pub fn saw_packet(&mut self, event: &Event, now: Now) {
        self.record_packet(event, now);
        if event.reason == Reason::Granted as u8 {
            self.count(event.slot, now);
        }
        self.journal.add(now.wall.0, What::Packet(self.packet_event(event)));
    }

    /// Steps 1 to 10 of grants.md section 4.
    fn admit(&mut self, envelope: &v1::Envelope, now: Now) -> Result<Accepted, Refused> {
        if !self.clock_is_trusted(now) {
            let detail = format!(
                "this host's clock says {}, but it has been {} before",
                now.wall, self.floor
            );
            return Err(Refused::new(Refusal::ClockUntrusted, detail));
        }
        let grant = self.verify(envelope, now)?;
        let (id, not_after) = (grant.id(), grant.not_after());
        if grant.issued_at() < self.lost_before {
            let detail = format!(
                "issued {}, and what was revoked before {} is lost with a database that was \
                 damaged: push a new grant",
                grant.issued_at(),
                self.lost_before
            );
            return Err(Refused::new(Refusal::Revoked, detail).of(id));
        }
        let admitted = self.ledger.admit(grant, now);
        if admitted.as_ref().is_err_and(|refused| refused.refusal == Refusal::Revoked)
            && let Some(longer) = self.ledger.refuse_longer(id, not_after, now)
        {
            self.owed.tombstones.push((id, longer));
            self.next_floor = now.boot;
        }
        Ok(Accepted { admission: admitted?, id, not_after })
    }

    fn verify(&self, envelope: &v1::Envelope, now: Now) -> Result<VerifiedGrant, Refused> {
        let Config { policy, keyring, host, .. } = &self.config;
        let grant = grant::verify(envelope, keyring, host)?;
        policy.check(&grant, keyring, now)?;
        Ok(grant)
    }

    fn persist(&mut self, fresh: &[(GrantId, v1::Envelope)], now: Now) -> Result<(), StoreError> {
        let put = fresh.iter().map(|(id, envelope)| (*id, envelope.into())).collect();
        self.owed_lives.extend(fresh.iter().map(|(id, _)| *id));
        let result = self.settle(Transaction { put, ..Transaction::default() }, now);
        if result.is_err() {
            // A commit that failed may be on the disk all the same: the next one takes it back.
            self.owed.remove.extend(fresh.iter().map(|(id, _)| *id));
        }
        result
    }

    /// Commits a transaction together with everything that the disk still owes. What does not come
    /// through is owed on, except what `more` puts.
    fn settle(&mut self, more: Transaction, now: Now) -> Result<(), StoreError> {
        let Transaction {
            put,
            lives: _,
            remove,
            tombstones,
            forget,
            boot_id: _,
            policies,
            floor: _,
        } = more;
        // A grant that was taken back may have been pushed again.
        self.owed.remove.retain(|id| put.iter().all(|(other, _)| other != id));
        self.owed.remove.extend(remove);
        self.owed.tombstones.extend(tombstones);
        self.owed.forget.extend(forget);
        if policies.is_some() {
            self.owed.policies = policies;
        }
        let floor = if self.clock_is_trusted(now) { self.rise(now) } else { self.floor };
        let lives = self.owed_lives.iter().filter_map(|id| Some((*id, self.life(*id)?))).collect();
        let owed = std::mem::take(&mut self.owed);
        let whole = Transaction { put, lives, floor: Some(floor), ..owed };
        let result = self.store.commit(&whole);
        match &result {
            Ok(()) => {
                self.alarms.storage = None;
                self.owed_lives.clear();
                self.unkept.clear();
            }
            Err(error) => {
                self.alarms.storage = Some(error.to_string());
                self.next_floor = BootNanos(now.boot.0.saturating_add(RETRY_NANOS));
                self.owed = Transaction { put: Vec::new(), lives: Vec::new(), ..whole };
            }
        }
        result
    }

    /// Opens what was persisted, and closes what it replaces; what the kernel does not take is taken
    /// back, one by one. Returns the keys at which something is to be taken back.
    fn open(
        &mut self,
        fresh: &[(GrantId, v1::Envelope)],
        outcomes: &mut [Result<Accepted, Refused>],
        now: Now,
    ) -> BTreeSet<EntryKey> {
        let mut unwritten = BTreeSet::new();
        for (id, _) in fresh {
            let Some(record) = self.ledger.grant(*id) else { continue };
            let mut keys: BTreeSet<_> =
                record.grant.entries().map(|(port, source)| EntryKey { port, source }).collect();
            let before = record.grant.replaces().and_then(|old| self.ledger.grant(old)).cloned();
            let replacement = self.replace_by(*id, now);
            keys.extend(self.ledger.take_changed());
            let Err(error) = self.try_write(&keys) else {
                self.tell_replacement(replacement, now);
                continue;
            };
            tracing::error!(grant = %id, "{error}: the grant is taken back");
            let refusal = refusal_of(&error);
            self.ledger.forget(*id);
            if let Some(replacement) = replacement {
                self.ledger.take_back(replacement, before);
            }
            unwritten.extend(keys);
            unwritten.extend(self.ledger.take_changed());
            let remove = Transaction { remove: vec![*id], ..Transaction::default() };
            if let Err(error) = self.settle(remove, now) {
                tracing::error!(grant = %id, "{error}: it would come back at a restart");
            }
            replace(outcomes, *id, &Refused::new(refusal, error.to_string()));
        }
        if !self.owed.remove.is_empty()
            && let Err(error) = self.settle(Transaction::default(), now)
        {
            tracing::error!("{error}: what was replaced is tried to be forgotten again");
        }
        unwritten
    }

    /// Settings, protected ports and their rules.
    fn apply_policy(&mut self) -> Result<(), DatapathError> {
        let settings = Settings {
            observe: u32::from(self.config.gate.observe),
            drop_events: DROP_EVENTS,
            grant_events: GRANT_EVENTS,
            reserved: 0,
        };
        self.ending.anywhere();
        self.datapath.settings(settings)?;
        self.datapath.protect(&self.config.policy.rules().collect())
    }

    /// Makes the kernel's grant tables what the ledger says, all of them.
    fn reconcile_all(&mut self) -> Result<(), DatapathError> {
        self.ledger.take_changed();
        self.try_write(&self.all_keys())
    }

    /// The same while the gate is in force.
    fn write_all(&mut self) {
        self.ledger.take_changed();
        self.write(self.all_keys());
    }

    /// Wherever something stands in the kernel, or should.
    fn all_keys(&self) -> BTreeSet<EntryKey> {
        let desired = self.ledger.all_desired().map(|(key, _)| key);
        desired.chain(self.installed.keys().copied()).collect()
    }

    /// Writes what changed in the ledger.
    fn write_changed(&mut self) {
        let changed = self.ledger.take_changed();
        self.write(changed);
    }

    /// Writes what these keys need; what fails is kept to be tried again.
    fn write(&mut self, keys: BTreeSet<EntryKey>) {
        let before = std::mem::take(&mut self.dirty);
        match self.try_write(&keys) {
            Ok(()) => {
                self.dirty = before.difference(&keys).copied().collect();
            }
            Err(error) => {
                tracing::error!("{error}");
                self.alarms.kernel = Some(error.to_string());
                self.dirty = before;
                self.dirty.extend(keys);
            }
        }
        if self.dirty.is_empty() {
            self.alarms.kernel = None;
        }
    }

    /// All writes are tried, so that one that fails does not keep another from closing; the first
    /// error comes back.
    fn try_write(&mut self, keys: &BTreeSet<EntryKey>) -> Result<(), DatapathError> {
        let mut first = Ok(());
        let desired = keys.iter().map(|key| (*key, self.ledger.desired(key)));
        for write in plan(desired, &self.installed) {
            if let Err(error) = self.datapath.write(&write) {
                if first.is_ok() {
                    first = Err(error);
                }
                continue;
            }
            let before = match write {
                Write::Remove(key) => self.installed.remove(&key),
                Write::Set(key, entry) => self.installed.insert(key, entry),
            };
            self.ending.wrote(&write, before.as_ref());
        }
        first
    }

    fn clock_is_trusted(&self, now: Now) -> bool {
        now.wall + SKEW >= self.floor
    }

    /// The floor rises with every trusted look at the clock.
    fn rise(&mut self, now: Now) -> WallTime {
        self.floor = self.floor.max(now.wall);
        self.floor
    }

    /// Whether the wall clock went another way than the boot clock since this was last true.
    fn clock_moved(&mut self, now: Now) -> bool {
        let offset = clock_offset(now);
        let moved = offset.abs_diff(self.offset) > CLOCK_STEP_MS;
        if moved {
            self.offset = offset;
        }
        moved
    }

    fn tell_outcomes(&mut self, outcomes: &[Result<Accepted, Refused>], by: &str, now: Now) {
        for outcome in outcomes {
            match outcome {
                Ok(Accepted { admission: Admission::Known, .. }) => {}
                Ok(Accepted { admission, id, not_after }) => {
                    let kind = match admission {
                        Admission::Active | Admission::Known => "activated",
                        Admission::Scheduled => "scheduled",
                    };
                    tracing::info!(grant = %id, by, until = %not_after, "grant {kind}");
                    self.tell_grant(kind, *id, "", by, "", now);
                }
                Err(refused) => {
                    self.recorder.refused(refused, by, now);
                    let Refused { refusal, detail, id } = refused;
                    tracing::warn!(by, reason = refusal.word(), "grant refused: {detail:?}");
                    let id = id.unwrap_or(GrantId([0; 16]));
                    self.tell_grant("refused", id, refusal.word(), by, detail, now);
                }
            }
        }
    }

    fn tell_grant(&self, kind: &str, id: GrantId, reason: &str, by: &str, detail: &str, now: Now) {
        let event = v1::GrantEvent {
            kind: kind.into(),
            grant_id: id.0.to_vec().into(),
            reason: reason.into(),
            by: by.into(),
            detail: detail.into(),
        };
        self.journal.add(now.wall.0, What::Grant(event));
    }
}

/// Wall clock minus boot clock, milliseconds: it changes when the wall clock is set.
fn clock_offset(now: Now) -> i64 {
    now.wall.0.saturating_sub(i64::try_from(now.boot.0 / 1_000_000).unwrap_or(i64::MAX))
}

/// The word for a grant that the kernel did not take.
const fn refusal_of(error: &DatapathError) -> Refusal {
    match error {
        DatapathError::Map { full: true, .. } => Refusal::Capacity,
        _ => Refusal::Storage,
    }
}

/// Turns the accepted outcome of a grant into a refusal.
fn replace(outcomes: &mut [Result<Accepted, Refused>], id: GrantId, refused: &Refused) {
    for outcome in outcomes {
        if outcome.as_ref().is_ok_and(|accepted| accepted.id == id) {
            *outcome = Err(refused.clone().of(id));
        }
    }
}

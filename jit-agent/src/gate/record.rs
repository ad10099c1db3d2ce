//! The records that the gate adds to the audit.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroU32,
    time::Duration,
};

use jit_common::{Event, Protocol, Reason};
use jit_proto::{
    GrantId, Refusal, WallTime,
    v1::{self, event::What},
    words::{range_text, source_text},
};

use crate::{
    config::{AuditConfig, Config},
    disk::audit::{
        Audit, AuditError, EventCode, Record, Tip,
        queue::{AuditQueue, Committing},
        quota::{Quota, Sum},
    },
    gate::{
        Gate,
        links::{LinkNews, Links},
        patience::{LONGEST, Patience},
        report::{address, grant_event},
    },
    kernel::datapath::{Datapath, LinkChange},
    rules::{
        claims::EXEMPT_SLOT,
        clock::{BootNanos, Now},
        ledger::{Admission, Change, HeldGrant, Ledger, Replacement, Stage},
        problem::ProblemName,
        refusal::Refused,
        refused_pushes::Asked,
    },
    system::meters::meters,
};

/// Refusals that are recorded one by one in a minute. The number is for all peers together.
const REFUSALS: u32 = 120;
/// Connections that are recorded one by one in a minute. The number is for each grant.
const CONNECTIONS: u32 = 60;

/// The longest wait for records that nothing depends on: usually they are in the file before a peer
/// gets its answer.
const FLUSH: Duration = Duration::from_millis(250);
/// The longest wait for the last record of this run.
const LAST: Duration = Duration::from_secs(1);
/// The longest wait for the last minute of the history of denials: nothing depends on it.
const LAST_DENIALS: Duration = Duration::from_millis(500);
/// The most changes of a reload that its record names; the log names all of them, and what a reload
/// opened has records of its own.
const CHANGES: usize = 64;

/// How often the audit's file is looked at, if nobody asks for the status: at each fourth tick. Each
/// look wakes the audit's thread.
const LOOK: Duration = Duration::from_secs(8);

/// How often the signed head is reported to watchers.
const HEAD: Duration = Duration::from_secs(60);

/// The audit, and the sums that keep it small.
#[derive(Debug)]
pub(super) struct Recorder {
    audit: AuditQueue,
    patience: Patience,
    /// Refusals: who, what, and why.
    refusals: Quota<(), (EventCode, String, &'static str)>,
    /// Connections: grant, source and port.
    connections: Quota<Option<GrantId>, (Option<GrantId>, String, String)>,
    /// Alarms that were raised and not cleared.
    alarms: BTreeSet<ProblemName>,
    clock_trusted: bool,
    /// The last head that was reported to watchers, and the time of the next report.
    reported_head: Option<Tip>,
    next_head: BootNanos,
    next_look: BootNanos,
}

impl Recorder {
    /// Moves the audit to a thread.
    ///
    /// # Errors
    /// The kernel starts no thread.
    pub(super) fn new(audit: Audit) -> io::Result<Self> {
        Ok(Self {
            audit: AuditQueue::new(audit)?,
            patience: Patience::default(),
            refusals: Quota::new(REFUSALS),
            connections: Quota::new(CONNECTIONS),
            alarms: BTreeSet::new(),
            clock_trusted: true,
            reported_head: None,
            next_head: BootNanos(0),
            next_look: BootNanos(0),
        })
    }

    /// From now on a wait for the disk is as long as this says.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Adds a record.
    pub(super) fn append(&mut self, record: Record, now: Now) {
        if self.audit.is_long() {
            self.flush(now);
        }
        self.audit.append(record, now);
    }

    fn flush(&mut self, now: Now) {
        self.audit.flush(now, |waited| self.patience.ends(waited, FLUSH));
    }

    /// Adds a record that a peer can cause again and again: beyond a number in each minute it is
    /// summed by code, peer and reason. Returns whether it has a record of its own; only then it is
    /// also logged and reported by itself.
    pub(super) fn bounded(
        &mut self,
        record: Record,
        by: &str,
        reason: &'static str,
        now: Now,
    ) -> bool {
        let single = self.refusals.take((), (record.code(), by.to_owned(), reason), now);
        if single {
            self.append(record, now);
        }
        single
    }

    /// The signed head, if it has not been reported to watchers and a report is due.
    fn unreported_head(&mut self, now: Now) -> Option<What> {
        let signed = self.audit.signed_head()?;
        let tip = signed.tip()?;
        if self.reported_head == Some(tip) || now.boot < self.next_head {
            return None;
        }
        self.reported_head = Some(tip);
        self.next_head = now.boot + HEAD;
        Some(What::AuditHead(v1::AuditHead {
            seq: tip.seq,
            hash: tip.hash.bytes().to_vec().into(),
            signed: signed.to_line(),
        }))
    }

    /// Adds records and waits until the disk has them.
    pub(super) fn commit(&mut self, records: Vec<Record>, now: Now) -> Result<(), AuditError> {
        let committing = self.begin(records, now, || ());
        self.finish(committing)
    }

    /// Begins the same. The audit's thread calls `written` when the file has them, and then syncs
    /// it.
    fn begin(
        &mut self,
        records: Vec<Record>,
        now: Now,
        written: impl FnOnce() + Send + 'static,
    ) -> Committing {
        let Self { audit, patience, .. } = self;
        audit.begin(records, now, |waited| patience.ends(waited, LONGEST), written)
    }

    /// Waits until the disk has what was begun.
    pub(super) fn finish(&mut self, committing: Committing) -> Result<(), AuditError> {
        let Self { audit, patience, .. } = self;
        audit.finish(committing, |waited| patience.ends(waited, LONGEST))
    }

    /// Checks that the audit's path still leads to the file that is written to.
    pub(super) fn check(&mut self, now: Now) {
        self.next_look = now.boot + LOOK;
        self.audit.check(now, |waited| self.patience.ends(waited, FLUSH));
    }

    /// The same, if it is due.
    pub(super) fn check_in_turn(&mut self, now: Now) {
        if now.boot >= self.next_look {
            self.check(now);
        }
    }

    /// Problems and damages of the audit.
    pub(super) fn problems(&self) -> [Option<&str>; 2] {
        [self.audit.problem(), self.audit.damage()]
    }

    /// Records a revocation. A peer can repeat one of an unknown id without end, so these are
    /// summed.
    pub(super) fn revoked(&mut self, record: Record, ended: bool, by: &str, now: Now) {
        if ended {
            self.append(record, now);
        } else {
            self.bounded(record, by, "", now);
        }
    }

    /// Records a refused grant and what it asked for, like [`Recorder::bounded`].
    pub(super) fn refused(&mut self, refused: &Refused, asked: &Asked, by: &str, now: Now) -> bool {
        let Refused { refusal, detail, id: _ } = refused;
        let Asked { id, requester, sources, ports, vouched: _ } = asked;
        let mut record = Record::new(EventCode::GrantRefused).by(by).reason(refusal.word());
        if let Some(id) = id {
            record = record.grant(*id);
        }
        let sources: Vec<_> = sources.iter().map(source_text).collect();
        let ports: Vec<_> = ports.iter().map(|range| range_text(Some(range))).collect();
        record = record.text("requester", requester).with("sources", sources).with("ports", ports);
        if asked.is_hearsay() {
            record = record.with("verified", false);
        }
        self.bounded(record.detail(detail), by, refusal.word(), now)
    }

    /// Records a change of the gate on an interface.
    pub(super) fn link(&mut self, news: &LinkNews, now: Now) {
        let LinkNews { change, name, hook, note } = news;
        let code = match change {
            LinkChange::Adopted => EventCode::GateAdopted,
            LinkChange::Attached => EventCode::GateAttached,
            LinkChange::Lost => EventCode::GateLost,
            LinkChange::Restored => EventCode::GateRestored,
            LinkChange::SteppedDown => EventCode::GateSteppedDown,
        };
        let record =
            Record::new(code).by("agent").with("interface", name.as_str()).with("hook", *hook);
        self.append(record.detail(note), now);
    }

    /// Begins to record accepted grants. They are in the audit and on the disk before anything
    /// opens, so that nothing opens without an explanation. `written`: see [`Recorder::begin`].
    pub(super) fn begin_accepted<'a>(
        &mut self,
        grants: impl Iterator<Item = &'a HeldGrant>,
        by: &str,
        now: Now,
        written: impl FnOnce() + Send + 'static,
    ) -> Committing {
        let records = grants.map(|held| {
            let scheduled = matches!(held.stage, Stage::Scheduled { .. });
            let admission = if scheduled { Admission::Scheduled } else { Admission::Active };
            Record::accepted(admission, &held.grant).by(by)
        });
        self.begin(records.collect(), now, written)
    }

    /// Records a grant that ended because another began, or an id that is refused from now on.
    pub(super) fn replaced(&mut self, replacement: &Replacement, ledger: &Ledger, now: Now) {
        let Replacement { by, ended, id, until: _ } = replacement;
        let mut record = Record::new(EventCode::GrantReplaced).by("agent").grant(*id);
        record = record.with("replaced_by", by.to_string()).with("ended", *ended);
        if *ended && let Some(found) = ledger.ended_grant(*id) {
            record =
                record.text("requester", found.grant.requester()).with("connections", found.hits);
        }
        self.append(record, now);
    }

    /// Records a grant that has let in as many connections as it may.
    pub(super) fn exhausted(&mut self, held: &HeldGrant, now: Now) {
        let record = Record::new(EventCode::GrantExhausted)
            .by("agent")
            .grant(held.grant.id())
            .text("requester", held.grant.requester())
            .with("connections", held.grant.limit().map_or(0, NonZeroU32::get));
        self.append(record, now);
    }

    /// Records a grant that opens at the agent's start: its window began while no agent was
    /// running, or the machine was started again. Likewise one that is scheduled still, after the
    /// machine was started again.
    pub(super) fn reopened(&mut self, held: &HeldGrant, admission: Admission, now: Now) {
        let code = match admission {
            Admission::Scheduled => EventCode::GrantScheduled,
            Admission::Active | Admission::Known => EventCode::GrantActivated,
        };
        let record = Record::of_grant(code, &held.grant).by("agent");
        self.append(record.detail("from the database, at the agent's start"), now);
    }

    /// Records grants that began or ended.
    pub(super) fn changes(&mut self, changes: &[Change], ledger: &Ledger, now: Now) {
        for change in changes {
            let record = match change {
                Change::Activated(id) => {
                    let record = Record::new(EventCode::GrantActivated).grant(*id);
                    match ledger.grant(*id) {
                        Some(found) => record.text("requester", found.grant.requester()),
                        None => record,
                    }
                }
                Change::Expired(id) => {
                    let ended = ledger.ended_grant(*id);
                    let code = match ended {
                        Some(ended) if ended.grant.is_break_glass() => EventCode::BreakGlassEnded,
                        _ => EventCode::GrantExpired,
                    };
                    let record = Record::new(code).grant(*id);
                    match ended {
                        Some(ended) => record
                            .text("requester", ended.grant.requester())
                            .with("connections", ended.hits),
                        None => record,
                    }
                }
                // Recorded where it is carried out.
                Change::Forgotten(_) | Change::Replaced(_) => continue,
            };
            self.append(record.by("agent"), now);
        }
    }

    /// Records each connection that a grant let in. Dropped packets are counted, not recorded: a
    /// flood must not fill the disk.
    pub(super) fn packet(&mut self, event: &Event, ledger: &Ledger, links: &Links, now: Now) {
        let Event { source, destination, interface, slot, port, source_port, .. } = event;
        let Event { family, protocol, .. } = event;
        if event.reason != Reason::Granted as u8 || *slot == EXEMPT_SLOT {
            return;
        }
        let found = ledger.counted_for(*slot);
        let grant = found.map(|found| found.grant.id());
        let source = address(*family, source);
        let protocol = Protocol::from_number(*protocol).map_or("?", Protocol::word);
        let port = format!("{port}/{protocol}");
        if !self.connections.take(grant, (grant, source.clone(), port.clone()), now) {
            return;
        }
        let mut record = Record::new(EventCode::Connection);
        if let Some(found) = found {
            let requester = found.grant.requester();
            record = record.grant(found.grant.id()).text("requester", requester);
        }
        let record = record
            .with("source", source)
            .with("source_port", *source_port)
            .with("destination", address(*family, destination))
            .with("port", port)
            .text("interface", links.name(*interface));
        self.append(record, now);
    }

    /// Records the agent's start.
    pub(super) fn started(&mut self, config: &Config, boot_id: &str, now: Now) {
        let record = Record::new(EventCode::AgentStarted)
            .by("agent")
            .text("host", &config.host)
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("boot", boot_id)
            .with("pid", std::process::id());
        self.append(configured(record, config), now);
    }

    /// Records the id that a metadata service gave.
    pub(super) fn identified(&mut self, host: &str, before: &str, closed: u32, now: Now) {
        self.audit.rename(host);
        let record = Record::new(EventCode::HostIdentified).by("agent").text("host", host);
        self.append(record.text("before", before).with("grants_closed", closed), now);
    }

    /// Records another configuration, and takes its sizes.
    pub(super) fn reloaded(&mut self, config: &Config, changed: &[String], now: Now) {
        let AuditConfig { max_size, keep } = config.audit;
        self.audit.resize(max_size, keep);
        let record = configured(Record::new(EventCode::ConfigurationReloaded), config);
        let shown: Vec<_> = changed.iter().take(CHANGES).cloned().collect();
        let record = record.by("agent").with("changes", changed.len()).with("changed", shown);
        self.append(record, now);
    }

    /// Records each problem of `status` once when it appears and once when it has ended. Its text
    /// may change in between.
    pub(super) fn problems_are(&mut self, current: BTreeMap<ProblemName, String>, now: Now) {
        let raised = &self.alarms;
        let cleared: Vec<ProblemName> =
            raised.iter().filter(|name| !current.contains_key(*name)).cloned().collect();
        let new: Vec<(ProblemName, String)> =
            current.into_iter().filter(|(name, _)| !raised.contains(name)).collect();
        for (alarm, text) in new {
            let record =
                Record::new(EventCode::AlarmRaised).by("agent").text("alarm", &alarm.to_string());
            self.append(record.detail(&text), now);
            self.alarms.insert(alarm);
        }
        for alarm in cleared {
            let record =
                Record::new(EventCode::AlarmCleared).by("agent").text("alarm", &alarm.to_string());
            self.append(record, now);
            self.alarms.remove(&alarm);
        }
    }

    /// Records a change of whether the clock is trusted.
    pub(super) fn clock(&mut self, trusted: bool, floor: WallTime, now: Now) {
        if trusted == self.clock_trusted {
            return;
        }
        self.clock_trusted = trusted;
        let record = if trusted {
            Record::new(EventCode::ClockTrusted)
        } else {
            Record::new(EventCode::ClockUntrusted)
                .with("floor", floor.to_string())
                .detail("the clock is earlier than it has been before: nothing new opens")
        };
        self.append(record.by("agent"), now);
    }

    /// Records that the wall clock was set: it moved against the boot clock.
    pub(super) fn clock_stepped(&mut self, millis: i64, sooner: &[GrantId], now: Now) {
        let record = Record::new(EventCode::ClockStepped)
            .by("agent")
            .with("by_ms", millis)
            .with("grants_shortened", sooner.len());
        self.append(record, now);
        for id in sooner {
            let record = Record::new(EventCode::GrantShortened).by("agent").grant(*id);
            self.append(record, now);
        }
    }

    /// Adds the sums of a minute that has ended, or all of them. Returns events about refused grants
    /// for watchers.
    fn add_sums(&mut self, all: bool, now: Now) -> Vec<v1::GrantEvent> {
        let refusals = if all { self.refusals.drain() } else { self.refusals.settle(now) };
        let events = refusals.iter().filter_map(|(key, sum)| summed(key.as_ref(), sum)).collect();
        for (key, sum) in refusals {
            let record = Record::new(EventCode::RecordsSummed);
            let record = match key {
                Some((code, by, reason)) => {
                    record.by(&by).with("of", code.code()).text("reason", reason)
                }
                None => record.by("many peers"),
            };
            self.append(with_sum(record, sum), now);
        }
        let connections = if all { self.connections.drain() } else { self.connections.settle(now) };
        for (key, sum) in connections {
            let mut record = Record::new(EventCode::ConnectionsSummed);
            if let Some((grant, source, port)) = key {
                if let Some(id) = grant {
                    record = record.grant(id);
                }
                record = record.text("source", &source).text("port", &port);
            }
            self.append(with_sum(record, sum), now);
        }
        events
    }
}

/// The event for refused grants that were summed. It names no grant.
fn summed(key: Option<&(EventCode, String, &'static str)>, sum: &Sum) -> Option<v1::GrantEvent> {
    let (EventCode::GrantRefused, by, reason) = key? else { return None };
    let Sum { count, first, last } = sum;
    let event = grant_event("refused", GrantId([0; 16]), by);
    let detail = format!("{count} more like this from {first} to {last}");
    Some(v1::GrantEvent { reason: (*reason).into(), detail, ..event })
}

fn with_sum(record: Record, sum: Sum) -> Record {
    let Sum { count, first, last } = sum;
    record.with("count", count).with("first", first.to_string()).with("last", last.to_string())
}

/// Adds what is configured, in short.
fn configured(record: Record, config: &Config) -> Record {
    let Config { gate, policy, keyring, controllers, .. } = config;
    let sections = policy.sections().iter();
    let ports: Vec<_> = sections.map(|section| section.range.to_string()).collect();
    let signers: Vec<_> = keyring.signers().iter().map(|signer| signer.id.clone()).collect();
    let controllers: Vec<_> = controllers.iter().map(|c| c.identity.clone()).collect();
    record
        .with("mode", if gate.observe { "observe" } else { "enforce" })
        .with("ports", ports)
        .with("signers", signers)
        .with("controllers", controllers)
}

impl<D: Datapath> Gate<D> {
    /// Adds a record to the audit: the one way for everything that the gate does.
    pub fn record(&mut self, record: Record, now: Now) {
        self.recorder.append(record, now);
    }

    /// Records connections that the kernel reported and the gate had no time to take.
    pub(super) fn record_missed(&mut self, count: u64, now: Now) {
        if count > 0 {
            meters().events_missed.inc_by(count);
            let record = Record::new(EventCode::ConnectionsSummed).by("agent");
            let detail = "more came at once than the agent could take in one by one";
            self.record(record.with("count", count).detail(detail), now);
        }
    }

    /// Records connections that the kernel could not report one by one.
    pub(super) fn record_unreported(&mut self, now: Now) {
        match self.datapath.take_unreported() {
            Ok(0) => {}
            Ok(count) => {
                let record = Record::new(EventCode::ConnectionsSummed).by("agent");
                let detail =
                    "more came at once than the kernel reports one by one, or no agent listened";
                self.record(record.with("count", count).detail(detail), now);
            }
            Err(error) => tracing::warn!("{error}: connections may be missing in the audit"),
        }
    }

    /// Records the problems of `status`.
    pub(super) fn record_alarms(&mut self, now: Now) {
        let problems = self.problems_by_name(now).into_iter().collect();
        self.recorder.problems_are(problems, now);
    }

    /// Records that a peer asked for something that it may not do.
    pub(super) fn saw_denial(&mut self, by: &str, asked: &'static str, now: Now) {
        let record = Record::new(EventCode::NotPermitted).by(by).with("asked", asked);
        let word = Refusal::NotPermitted.word();
        self.recorder.bounded(record.reason(word), by, word, now);
    }

    /// Records sums that are due and alarms, and writes waiting records. Called as time passes.
    pub(super) fn settle_audit(&mut self, now: Now) {
        for event in self.recorder.add_sums(false, now) {
            self.report_grant(event, now);
        }
        for (by, more) in self.denials.unwritten(now) {
            let code = EventCode::GrantRefused.code();
            tracing::warn!(by, more, code, "more grants were refused within a minute");
        }
        self.recorder.flush(now);
        if let Some(head) = self.recorder.unreported_head(now) {
            self.journal.add(now.wall.0, head);
        }
    }

    /// Adds the last record of this run.
    pub fn stop(&mut self, why: &str, now: Now) {
        drop(self.recorder.add_sums(true, now));
        let record = Record::new(EventCode::AgentStopping).by("agent").detail(why);
        self.recorder.append(record, now);
        // Nobody waits for more than this.
        self.recorder.audit.sync(now, |waited| waited >= LAST);
        let denials = self.store_denials();
        if (denials || self.outbox.owes_checkpoint())
            && let Err(error) = self.settle_within(LAST_DENIALS, &[], now)
        {
            tracing::warn!("{error}: the last minute is missing in the history of denials");
        }
    }
}

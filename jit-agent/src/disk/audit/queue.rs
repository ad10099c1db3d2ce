//! The audit behind a thread of its own: a disk that hangs holds up nobody who adds a record.
//!
//! Records wait here, in their order, until the thread takes them with the next call.

use std::{io, time::Duration};

use jit_proto::WallTime;

use crate::{
    disk::{
        audit::{Audit, AuditError, MAX_BATCH, MAX_WAITING, Record, SignedHead},
        own_thread::{Begun, OwnThread, Unanswered},
    },
    rules::clock::{BootNanos, Now},
};

/// The audit of a running agent.
#[derive(Debug)]
pub(crate) struct AuditQueue {
    writer: OwnThread<Audit>,
    waiting: Vec<(Record, Now)>,
    /// Number of records that had no room in `waiting`, and when that began.
    lost: Option<(u64, WallTime)>,
    /// Largest size of a file, and number of full files, if they changed.
    sizes: Option<(u64, u32)>,
    /// The host's id, if it became known.
    host: Option<String>,
    seen: Seen,
    /// Why the last call has no answer; `None`: it has.
    unanswered: Option<String>,
}

/// Records on their way to the disk.
#[must_use = "nothing else is done with the audit before this has ended"]
pub(crate) struct Committing(Result<Begun<Answer<Result<(), AuditError>>>, Unanswered>);

/// The result of a call, and the writer's state after it.
type Answer<R> = (R, Seen);

/// The writer's state after its last call.
#[derive(Debug, Default)]
struct Seen {
    problem: Option<String>,
    damage: Option<String>,
    signed: Option<SignedHead>,
    /// When there is something to sync, or to try again; `None`: all is done.
    due: Option<BootNanos>,
}

impl Seen {
    fn of(audit: &Audit) -> Self {
        Self {
            problem: audit.problem().map(str::to_owned),
            damage: audit.damage().map(str::to_owned),
            signed: audit.signed_head().cloned(),
            due: audit.due(),
        }
    }
}

impl AuditQueue {
    /// Moves an audit to a thread.
    ///
    /// # Errors
    /// The kernel starts no thread.
    pub(crate) fn new(audit: Audit) -> io::Result<Self> {
        let seen = Seen::of(&audit);
        Ok(Self {
            writer: OwnThread::new("audit", audit)?,
            waiting: Vec::new(),
            lost: None,
            sizes: None,
            host: None,
            seen,
            unanswered: None,
        })
    }

    /// Changes the sizes.
    pub(crate) const fn resize(&mut self, max_size: u64, keep: u32) {
        self.sizes = Some((max_size, keep));
    }

    /// From now on heads and files name this host.
    pub(crate) fn rename(&mut self, host: &str) {
        self.host = Some(host.to_owned());
    }

    /// Adds a record, which the next call writes. Waits for nothing.
    pub(crate) fn append(&mut self, record: Record, now: Now) {
        if self.waiting.len() >= MAX_WAITING {
            let (count, since) = self.lost.unwrap_or((0, now.wall));
            self.lost = Some((count.saturating_add(1), since));
            return;
        }
        self.waiting.push((record, now));
    }

    /// Whether records should be written before more are added.
    pub(crate) const fn is_long(&self) -> bool {
        self.waiting.len() >= MAX_BATCH
    }

    /// Begins to write records that something depends on. The thread calls `written` when they are
    /// in the file, and then syncs it. [`AuditQueue::finish`] waits for the end.
    pub(crate) fn begin(
        &mut self,
        records: Vec<Record>,
        now: Now,
        gives_up: impl Fn(Duration) -> bool,
        written: impl FnOnce() + Send + 'static,
    ) -> Committing {
        Committing(self.begin_call(gives_up, move |audit| audit.commit(records, now, written)))
    }

    /// Waits with patience until what was begun is on the disk.
    ///
    /// # Errors
    /// The records are not known to be on the disk: what they record must not happen.
    pub(crate) fn finish(
        &mut self,
        committing: Committing,
        gives_up: impl Fn(Duration) -> bool,
    ) -> Result<(), AuditError> {
        self.finish_call(committing.0, gives_up)?
    }

    /// Writes what waits, and syncs when that is due. What the disk does not take is tried again.
    pub(crate) fn flush(&mut self, now: Now, gives_up: impl Fn(Duration) -> bool) {
        let Self { waiting, lost, seen, unanswered, .. } = self;
        if self.writer.is_stalled() {
            return;
        }
        // Each call wakes the thread and waits for it.
        let due = seen.due.is_some_and(|due| due <= now.boot);
        if !waiting.is_empty() || lost.is_some() || due || unanswered.is_some() {
            drop(self.call(gives_up, move |audit| audit.flush(now)));
        }
    }

    /// Writes what waits, and syncs.
    pub(crate) fn sync(&mut self, now: Now, gives_up: impl Fn(Duration) -> bool) {
        drop(self.call(gives_up, move |audit| audit.sync(now)));
    }

    /// Checks that the audit's path still leads to the file that is written to.
    pub(crate) fn check(&mut self, now: Now, gives_up: impl Fn(Duration) -> bool) {
        if !self.writer.is_stalled() {
            drop(self.call(gives_up, move |audit| audit.check(now)));
        }
    }

    /// Why nothing can be written now; `None`: all is well.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.unanswered.as_deref().or(self.seen.problem.as_deref())
    }

    /// What was wrong with the files when they were opened or checked.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.seen.damage.as_deref()
    }

    /// The last signed head.
    pub(crate) const fn signed_head(&self) -> Option<&SignedHead> {
        self.seen.signed.as_ref()
    }

    /// Hands over what waits, calls `job`, and waits for its end.
    fn call<R: Send + 'static>(
        &mut self,
        gives_up: impl Fn(Duration) -> bool,
        job: impl FnOnce(&mut Audit) -> R + Send + 'static,
    ) -> Result<R, AuditError> {
        let begun = self.begin_call(&gives_up, job);
        self.finish_call(begun, gives_up)
    }

    fn begin_call<R: Send + 'static>(
        &mut self,
        gives_up: impl Fn(Duration) -> bool,
        job: impl FnOnce(&mut Audit) -> R + Send + 'static,
    ) -> Result<Begun<Answer<R>>, Unanswered> {
        // What waits must not get lost with a call that is not made.
        if !self.writer.becomes_free(&gives_up) {
            return Err(Unanswered::Stalled);
        }
        let (waiting, lost) = (std::mem::take(&mut self.waiting), self.lost.take());
        let (sizes, host) = (self.sizes.take(), self.host.take());
        let work = move |audit: &mut Audit| {
            if let Some((max_size, keep)) = sizes {
                audit.resize(max_size, keep);
            }
            if let Some(host) = host {
                audit.rename(&host);
            }
            waiting.into_iter().for_each(|(record, at)| audit.append(record, at));
            if let Some((count, since)) = lost {
                audit.lose(count, since);
            }
            let result = job(audit);
            (result, Seen::of(audit))
        };
        self.writer.begin(gives_up, work, |_, _| {})
    }

    fn finish_call<R>(
        &mut self,
        begun: Result<Begun<Answer<R>>, Unanswered>,
        gives_up: impl Fn(Duration) -> bool,
    ) -> Result<R, AuditError> {
        let answer = begun.and_then(|begun| self.writer.wait(begun, gives_up));
        self.note(answer)
    }

    fn note<R>(&mut self, answer: Result<Answer<R>, Unanswered>) -> Result<R, AuditError> {
        match answer {
            Ok((result, seen)) => {
                if self.unanswered.take().is_some() {
                    tracing::info!("the audit's disk answers again");
                }
                self.seen = seen;
                Ok(result)
            }
            Err(unanswered) => {
                let error = AuditError::from(unanswered);
                let text = error.to_string();
                if self.unanswered.as_ref() != Some(&text) {
                    tracing::error!("{text}: new grants are refused until it can be written");
                }
                self.unanswered = Some(text);
                Err(error)
            }
        }
    }
}

impl Drop for AuditQueue {
    /// The records that still wait go with the last call; the writer syncs when it is dropped.
    fn drop(&mut self) {
        if !self.waiting.is_empty() {
            drop(self.call(|waited| waited >= Duration::from_secs(1), |_| ()));
        }
    }
}

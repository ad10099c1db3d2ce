//! The agent's log: lines wait in a queue, and a thread of their own writes them to standard error, or
//! to the journal as records with fields (`journal`) if systemd has connected the two.
//!
//! Whoever logs never waits and never fails. Lines that find no room are dropped and counted, and so
//! are lines that cannot be written. The reader may be stopped, and then a write hangs, or gone, and then
//! it fails. `tracing-appender` would do the queue, but it
//! neither reports a failed write nor says when its reader is back.

mod journal;

use std::{
    borrow::Cow,
    collections::VecDeque,
    env,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{Level, Subscriber};
use tracing_subscriber::{Layer, fmt, registry::LookupSpan};

use journal::{Journal, Records};

/// The most bytes that wait for a reader.
const MAX_BYTES: usize = 1024 * 1024;
/// A write that takes longer than this has a reader that is stopped.
const STALLED: Duration = Duration::from_secs(2);

/// How often an output that failed is tried again, if there is no line for it.
const RETRY: Duration = Duration::from_secs(2);

/// The queue of this process.
static LOG: Queue = Queue::new();
/// Where its lines go.
static FORM: OnceLock<Form> = OnceLock::new();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Journal,
    Text,
}

/// What `status` shows about the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Number of lines that were dropped since the start.
    pub dropped: u64,
    /// Why lines are not written now; `None`: they are.
    pub problem: Option<String>,
}

/// Where lines go.
trait Output {
    /// As a problem names it.
    const NAME: &'static str;

    /// Writes a line. Waits for a reader that is stopped.
    fn write(&self, line: &[u8]) -> io::Result<()>;

    /// Whether an output that failed takes lines again.
    fn is_back(&self) -> bool;
}

/// A stream, such as standard error. The reader of a stream that has failed does not come back.
struct Stream<F>(F);

impl<F: AsFd> Output for Stream<F> {
    const NAME: &'static str = "standard error";

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let Self(stream) = self;
        write_all(stream, line)
    }

    fn is_back(&self) -> bool {
        false
    }
}

/// Lines that wait for standard error.
#[derive(Debug)]
struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    /// Dropped lines that the log does not mention yet.
    unreported: u64,
    /// When the present write began.
    writing: Option<Instant>,
    /// Why the last write failed, and where to.
    failed: Option<(&'static str, String)>,
}

/// Starts the thread that writes. Returns what makes lines of events.
///
/// # Errors
/// The kernel starts no thread.
pub fn start<S>() -> io::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let stream = env::var_os("JOURNAL_STREAM");
    let connected = journal::is_connected(stream.as_deref(), io::stderr());
    let journal = connected.then(|| Journal::open(Path::new(journal::SOCKET)).ok()).flatten();
    let form = if journal.is_some() { Form::Journal } else { Form::Text };
    let work = move || {
        let report = |lines| {
            tracing::warn!(lines, "lines of this log were dropped: nobody took them");
        };
        match journal {
            Some(journal) => LOG.write_to(&journal, report),
            None => LOG.write_to(&Stream(io::stderr()), report),
        }
    };
    thread::Builder::new().name("log".into()).spawn(work)?;
    let form = FORM.get_or_init(|| form);
    if *form == Form::Journal {
        return Ok(Records(&LOG).boxed());
    }
    let lines = fmt::layer().with_writer(|| Line(&LOG)).with_ansi(io::stderr().is_terminal());
    // The journal has the time already.
    Ok(if connected { lines.without_time().boxed() } else { lines.boxed() })
}

/// The state of this process's log.
pub fn state() -> LogState {
    LOG.state(Instant::now())
}

/// Adds an error that is no event.
pub fn line(text: &str) {
    LOG.push(&match FORM.get() {
        Some(Form::Journal) => journal::message(Level::ERROR, text),
        Some(Form::Text) | None => format!("{text}\n").into_bytes(),
    });
}

/// Waits until every line is written, for the end of the process; at most this long.
pub fn flush(longest: Duration) {
    LOG.flush(longest);
}

/// One line of the log: an event is written at once, and stays one line.
struct Line(&'static Queue);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(&one_line(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event with no end of a line but its last.
fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let text = event.strip_suffix(b"\n").unwrap_or(event);
    if !text.contains(&b'\n') {
        return Cow::Borrowed(event);
    }
    let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
    Cow::Owned([&lines.join(&b"\\n"[..]), &b"\n"[..]].concat())
}

impl Queue {
    const fn new() -> Self {
        let inner = Inner {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            unreported: 0,
            writing: None,
            failed: None,
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn push(&self, line: &[u8]) {
        let mut inner = self.lock();
        if inner.bytes.saturating_add(line.len()) > MAX_BYTES {
            inner.drop_line();
            return;
        }
        inner.bytes = inner.bytes.saturating_add(line.len());
        inner.lines.push_back(line.to_vec());
        drop(inner);
        self.changed.notify_all();
    }

    fn state(&self, now: Instant) -> LogState {
        let inner = self.lock();
        let stalled = inner
            .writing
            .is_some_and(|began| now.saturating_duration_since(began) >= STALLED)
            .then(|| "the reader of the log takes no line: lines are dropped".to_owned());
        let failed = inner.failed.as_ref().map(|(to, error)| {
            format!("cannot write the log to {to}: {error}: its lines are dropped")
        });
        LogState { dropped: inner.dropped, problem: stalled.or(failed) }
    }

    fn flush(&self, longest: Duration) {
        let waits = |inner: &mut Inner| !inner.lines.is_empty() || inner.writing.is_some();
        drop(self.changed.wait_timeout_while(self.lock(), longest, waits));
    }

    /// Writes lines as they come, for ever. `report` logs how many lines were dropped, when the
    /// reader takes them again.
    fn write_to<O: Output>(&self, output: &O, report: impl Fn(u64)) {
        loop {
            let unreported = match self.next() {
                Some(line) => self.written(O::NAME, output.write(&line)),
                None if output.is_back() => self.written(O::NAME, Ok(())),
                None => continue,
            };
            self.changed.notify_all();
            if unreported > 0 {
                report(unreported);
            }
        }
    }

    /// The next line; `None`: there was none for a while, and the last could not be written.
    fn next(&self) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        loop {
            if let Some(line) = inner.lines.pop_front() {
                inner.bytes = inner.bytes.saturating_sub(line.len());
                inner.writing = Some(Instant::now());
                return Some(line);
            }
            if inner.failed.is_none() {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited =
                self.changed.wait_timeout_while(inner, RETRY, |inner| inner.lines.is_empty());
            let (held, slept) = waited.unwrap_or_else(PoisonError::into_inner);
            if slept.timed_out() {
                return None;
            }
            inner = held;
        }
    }

    /// Notes the end of a write. Returns the number of dropped lines to mention now.
    fn written(&self, to: &'static str, result: io::Result<()>) -> u64 {
        let mut inner = self.lock();
        inner.writing = None;
        match result {
            // After the lines that came before them.
            Ok(()) if inner.lines.is_empty() => {
                inner.failed = None;
                std::mem::take(&mut inner.unreported)
            }
            Ok(()) => {
                inner.failed = None;
                0
            }
            Err(error) => {
                inner.failed = Some((to, error.to_string()));
                inner.drop_line();
                0
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Held for a few instructions, never over a write.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    const fn drop_line(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
        self.unreported = self.unreported.saturating_add(1);
    }
}

/// Writes past the lock of the standard library, which a hanging write would hold.
fn write_all(out: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&out, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Somebody who shares the terminal has made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                let mut ready = [PollFd::new(&out, PollFlags::OUT)];
                let _woken = poll(&mut ready, None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, PipeReader};

    use super::*;

    const LINE: &str =
        "a line of a log, as long as such lines are: about a hundred bytes with all\n";

    /// A queue that writes into a pipe.
    fn piped() -> (&'static Queue, PipeReader) {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        let (reader, writer) = io::pipe().unwrap();
        thread::spawn(move || {
            let report = |lines| queue.push(format!("{lines} lost\n").as_bytes());
            queue.write_to(&Stream(writer), report);
        });
        (queue, reader)
    }

    fn wait_for(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < end, "it did not happen within 20 s");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_reader_that_is_stopped_delays_nobody_and_gets_the_number_of_dropped_lines() {
        let (queue, reader) = piped();
        let began = Instant::now();
        let pushed = 4 * MAX_BYTES / LINE.len();
        for _ in 0..pushed {
            queue.push(LINE.as_bytes());
        }
        assert!(began.elapsed() < STALLED, "{:?}", began.elapsed());
        let problem = || queue.state(Instant::now() + STALLED).problem;
        // The thread that writes may not have had its turn yet.
        wait_for(|| problem().is_some_and(|problem| problem.contains("takes no line")));
        assert!(queue.state(Instant::now()).dropped > 0);
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let read = lines.by_ref().take_while(|line| !line.ends_with(" lost")).count();
        // Everything was written or counted.
        let dropped = queue.state(Instant::now()).dropped;
        assert_eq!(u64::try_from(pushed - read).unwrap(), dropped);
        wait_for(|| queue.state(Instant::now() + STALLED).problem.is_none());
        queue.push(b"next\n");
        assert_eq!(lines.next().unwrap(), "next");
    }

    #[test]
    fn a_reader_that_is_gone_is_a_problem_and_its_lines_are_counted() {
        let (queue, reader) = piped();
        drop(reader);
        queue.push(LINE.as_bytes());
        queue.push(LINE.as_bytes());
        wait_for(|| queue.state(Instant::now()).dropped == 2);
        let problem = queue.state(Instant::now()).problem.unwrap();
        assert!(problem.contains("Broken pipe"), "{problem}");
    }

    #[test]
    fn an_event_stays_on_one_line() {
        assert_eq!(*one_line(b"one\n"), *b"one\n");
        assert_eq!(*one_line(b"one\ntwo\n\n"), *b"one\\ntwo\\n\n");
    }

    #[test]
    fn the_end_waits_for_the_last_line_but_not_for_a_reader_that_is_stopped() {
        let (queue, reader) = piped();
        queue.push(LINE.as_bytes());
        queue.flush(Duration::from_secs(20));
        assert!(queue.lock().lines.is_empty());
        for _ in 0..10_000 {
            queue.push(LINE.as_bytes());
        }
        let began = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(reader);
    }
}

//! A value on a thread of its own, for work on a disk that may hang. Whoever asks waits with
//! patience, and then goes on without an answer.
//!
//! There is one call at a time, and no queue. While a call that nobody waits for any more still
//! hangs, the next one waits for its end too; once that has hung for long, every call fails at once.
//! So what reaches the disk is in the order of the calls.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often a caller that waits asks itself whether to give up.
const STEP: Duration = Duration::from_millis(10);
/// A call that hangs for longer than this makes the next ones fail at once.
const LONG: Duration = Duration::from_secs(5);
/// The longest wait for the thread's end, and for that of one that hangs.
const LAST_WAIT: Duration = Duration::from_secs(20);
const LAST_WAIT_STALLED: Duration = Duration::from_secs(2);

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A value that only its own thread touches.
pub(crate) struct OwnThread<T> {
    /// `None`: no more calls come.
    jobs: Option<mpsc::Sender<Job<T>>>,
    thread: Option<JoinHandle<()>>,
    /// The call that was given up.
    given_up: Option<GivenUp>,
}

/// A call that nobody waits for any more.
#[derive(Debug)]
struct GivenUp {
    began: Instant,
    ended: Arc<AtomicBool>,
}

/// A call whose result has not been taken.
#[must_use = "the next call must not begin before this one was waited for"]
pub(crate) struct Begun<R> {
    answer: mpsc::Receiver<R>,
    /// Set by whoever is first: the thread with a result, or the caller who gives up.
    decided: Arc<AtomicBool>,
    began: Instant,
    ended: Arc<AtomicBool>,
}

impl GivenUp {
    fn hangs(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The thread has panicked.
    #[error("the thread that writes it has ended; see the agent's log, and restart the agent")]
    Ended,
    /// The call, or an earlier one, has not ended.
    #[error("the disk does not answer")]
    Stalled,
}

impl<T: Send + 'static> OwnThread<T> {
    /// Moves a value to a new thread with this name.
    ///
    /// # Errors
    /// The kernel starts no thread.
    pub(crate) fn new(name: &str, mut value: T) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job<T>>();
        let work = move || received.into_iter().for_each(|job| job(&mut value));
        let thread = thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), given_up: None })
    }

    /// Whether an earlier call, which nobody waits for any more, has not ended.
    pub(crate) fn is_stalled(&self) -> bool {
        self.given_up.as_ref().is_some_and(GivenUp::hangs)
    }

    /// Whether the thread is free for a call, after a wait that `gives_up` may end.
    pub(crate) fn becomes_free(&self, gives_up: impl Fn(Duration) -> bool) -> bool {
        let Some(before) = &self.given_up else { return true };
        let began = Instant::now();
        while before.hangs() && before.began.elapsed() < LONG && !gives_up(began.elapsed()) {
            thread::sleep(STEP);
        }
        !before.hangs()
    }

    /// Calls `job` on the thread and waits for the result, until `gives_up` says so of the time
    /// waited. A result that comes later goes to `late`, on the thread.
    ///
    /// # Errors
    /// There is no result. The job may happen all the same.
    pub(crate) fn call<R: Send + 'static>(
        &mut self,
        gives_up: impl Fn(Duration) -> bool,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
        late: impl FnOnce(&mut T, R) + Send + 'static,
    ) -> Result<R, Unanswered> {
        let call = self.begin(&gives_up, job, late)?;
        self.wait(call, gives_up)
    }

    /// Begins such a call. [`OwnThread::wait`] takes its result, before the next call begins.
    ///
    /// # Errors
    /// The job does not happen.
    pub(crate) fn begin<R: Send + 'static>(
        &mut self,
        gives_up: impl Fn(Duration) -> bool,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
        late: impl FnOnce(&mut T, R) + Send + 'static,
    ) -> Result<Begun<R>, Unanswered> {
        if !self.becomes_free(gives_up) {
            return Err(Unanswered::Stalled);
        }
        self.given_up = None;
        // A result is either taken or comes late. A channel without a buffer would say which, but
        // both of its ends yield the processor, and on a busy machine that takes milliseconds.
        let (sender, answer) = mpsc::sync_channel(1);
        let [decided, ended] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (decides, ends) = (Arc::clone(&decided), Arc::clone(&ended));
        let work: Job<T> = Box::new(move |value| {
            let result = job(value);
            if decides.swap(true, Ordering::AcqRel) {
                late(value, result);
            } else {
                // The caller takes it: only the caller's own panic ends it before.
                let _taken = sender.send(result);
            }
            ends.store(true, Ordering::Release);
        });
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(work));
        if !matches!(sent, Some(Ok(()))) {
            return Err(Unanswered::Ended);
        }
        Ok(Begun { answer, decided, began: Instant::now(), ended })
    }

    /// Waits for the result of a call, until `gives_up` says so of the time waited here.
    ///
    /// # Errors
    /// There is no result. The job may happen all the same.
    pub(crate) fn wait<R>(
        &mut self,
        call: Begun<R>,
        gives_up: impl Fn(Duration) -> bool,
    ) -> Result<R, Unanswered> {
        let began = Instant::now();
        loop {
            match call.answer.recv_timeout(STEP) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => return Err(Unanswered::Ended),
                Err(RecvTimeoutError::Timeout) if gives_up(began.elapsed()) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if call.decided.swap(true, Ordering::AcqRel) {
            // The result came in this moment.
            return call.answer.recv().map_err(|_| Unanswered::Ended);
        }
        self.given_up = Some(GivenUp { began: call.began, ended: call.ended });
        Err(Unanswered::Stalled)
    }
}

impl<T> Drop for OwnThread<T> {
    /// Waits until the value is dropped, unless that hangs.
    fn drop(&mut self) {
        self.jobs = None;
        let Some(thread) = self.thread.take() else { return };
        let stalled = self.given_up.as_ref().is_some_and(GivenUp::hangs);
        let end = Instant::now() + if stalled { LAST_WAIT_STALLED } else { LAST_WAIT };
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<T> fmt::Debug for OwnThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnThread").field("given_up", &self.given_up).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn numbers() -> OwnThread<Vec<u32>> {
        OwnThread::new("numbers", Vec::new()).unwrap()
    }

    fn push(numbers: &mut OwnThread<Vec<u32>>, number: u32) -> Result<usize, Unanswered> {
        let job = move |numbers: &mut Vec<u32>| {
            numbers.push(number);
            numbers.len()
        };
        numbers.call(|waited| waited > Duration::from_secs(20), job, |_, _| {})
    }

    #[test]
    fn a_call_that_hangs_is_given_up_and_its_result_comes_late() {
        let mut numbers = numbers();
        assert_eq!(push(&mut numbers, 1), Ok(1));
        let (release, released) = mpsc::channel::<()>();
        let hangs = move |numbers: &mut Vec<u32>| {
            let _released = released.recv();
            numbers.push(2);
            2
        };
        let undo = |numbers: &mut Vec<u32>, result| numbers.retain(|number| *number != result);
        let gave_up = numbers.call(|waited| waited >= SHORT, hangs, undo);
        assert_eq!(gave_up, Err(Unanswered::Stalled));
        let refused = |numbers: &mut Vec<u32>| numbers.push(3);
        let gave_up = numbers.call(|waited| waited >= SHORT, refused, |_, ()| {});
        assert_eq!(gave_up, Err(Unanswered::Stalled));
        // It hangs for long by now: a call fails at once.
        let given_up = numbers.given_up.as_mut().unwrap();
        given_up.began = given_up.began.checked_sub(LONG).unwrap();
        assert_eq!(push(&mut numbers, 3), Err(Unanswered::Stalled));
        // It hangs for a moment: the next call waits for it. The late result was undone, and the
        // refused calls did not happen.
        let given_up = numbers.given_up.as_mut().unwrap();
        given_up.began = Instant::now() + LONG;
        let releasing = thread::spawn(move || {
            thread::sleep(SHORT);
            release.send(()).unwrap();
        });
        assert_eq!(push(&mut numbers, 4), Ok(2));
        releasing.join().unwrap();
    }

    #[test]
    fn calls_of_two_threads_run_at_the_same_time() {
        let [mut first, mut second] = [numbers(), numbers()];
        let patient = |waited| waited > Duration::from_secs(20);
        let (send, received) = mpsc::channel();
        // Alone it would never end.
        let waits = move |numbers: &mut Vec<u32>| numbers.push(received.recv().unwrap());
        let begun = first.begin(patient, waits, |_, ()| {}).unwrap();
        let sends = move |_: &mut Vec<u32>| send.send(7).unwrap();
        assert_eq!(second.call(patient, sends, |_, ()| {}), Ok(()));
        assert_eq!(first.wait(begun, patient), Ok(()));
        assert_eq!(push(&mut first, 8), Ok(2));
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_now_and_later() {
        let mut numbers = numbers();
        let panics = |_: &mut Vec<u32>| -> u32 { panic!("this is the test") };
        assert_eq!(numbers.call(|_| false, panics, |_, _| {}), Err(Unanswered::Ended));
        assert_eq!(push(&mut numbers, 1), Err(Unanswered::Ended));
    }
}

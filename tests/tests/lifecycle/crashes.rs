//! Kills a real agent with SIGKILL at a system call during an admission or a revocation: the syncs
//! and writes of its database and audit, the calls into the kernel's tables. After a restart the
//! answers that were given are true, and nothing is open that should be closed.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);
/// System calls, and the numbers of the calls at which the agent is killed.
const POINTS: [(&str, &[u32]); 3] =
    [("fdatasync", &[1, 2, 3]), ("pwrite64", &[1, 3, 6]), ("bpf", &[1, 2, 4])];

/// strace, which does something to the agent at a system call: it kills it, or delays the call.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Waits until all threads of the agent are watched. `how`: as after `--inject=CALL:`.
    pub(crate) fn attach(site: &Site, call: &str, how: &str) -> Self {
        let pid = site.pid();
        let child = Command::new("strace")
            .args(["--follow-forks", "--attach", &pid.to_string(), "--output", "/dev/null"])
            .args(["--trace", call, "--inject", &format!("{call}:{how}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("run strace (`cargo xtask setup` installs it)");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_watched(pid) {
            assert!(Instant::now() < deadline, "strace does not attach to {pid}");
            thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGKILL, because after SIGTERM strace waits for the threads of an agent that has ended.
        // The kernel detaches strace from an agent that still runs.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn is_watched(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = tasks.map(|task| fs::read_to_string(task.path().join("status")));
    // A tick of the agent may have made the call already: then the agent has ended.
    states.all(|state| state.is_ok_and(|state| !state.contains("TracerPid:\t0\n")))
}

/// Whether there was a good answer: an agent that is killed answers nothing.
fn answered<T>(act: impl FnOnce() -> Result<T, tonic::Status>) -> bool {
    catch_unwind(AssertUnwindSafe(act)).is_ok_and(|answer| answer.is_ok())
}

#[test]
fn an_agent_killed_at_a_system_call_of_an_admission_has_answered_truthfully() {
    let mut site = Site::new();
    let (mut killed, mut good) = (0, 0);
    for (call, numbers) in POINTS {
        for number in numbers {
            site.start();
            let envelope = site.envelope(&CLIENT, LONG);
            let tracer = Tracer::attach(&site, call, &format!("signal=SIGKILL:when={number}"));
            let answered = answered(|| site.push(envelope.clone()));
            drop(tracer);
            site.end(Signal::KILL);
            site.start();
            let what = format!("{call} {number}, answered: {answered}");
            assert!(!answered || site.client_opens(0, 22), "{what}");
            assert!(!site.stranger_opens(0, 22), "{what}");
            // A client without an answer asks again.
            site.push(envelope).unwrap_or_else(|refused| panic!("{what}: {refused}"));
            assert!(site.client_gets_in(0, 22), "{what}");
            site.revoke_all();
            site.end(Signal::TERM);
            *if answered { &mut good } else { &mut killed } += 1;
        }
    }
    println!("{killed} without an answer, {good} with one");
    assert!(killed >= 4, "{killed} killed before the answer, {good} answered");
}

#[test]
fn an_agent_killed_at_a_system_call_of_a_revocation_has_answered_truthfully() {
    let mut site = Site::new();
    let mut killed = 0;
    for (call, numbers) in POINTS {
        for number in numbers {
            site.start();
            let envelope = site.envelope(&CLIENT, LONG);
            site.push(envelope.clone()).unwrap();
            let tracer = Tracer::attach(&site, call, &format!("signal=SIGKILL:when={number}"));
            let answered = answered(|| Ok(site.revoke_all()));
            drop(tracer);
            site.end(Signal::KILL);
            site.start();
            let what = format!("{call} {number}, answered: {answered}");
            assert!(!answered || !site.client_opens(0, 22), "{what}");
            site.revoke_all();
            assert!(!site.client_opens(0, 22), "{what}");
            let replay = site.push(envelope).unwrap_err();
            assert!(replay.message().starts_with("revoked") || !answered, "{what}: {replay}");
            site.end(Signal::TERM);
            killed += u32::from(!answered);
        }
    }
    assert!(killed >= 3, "{killed} killed before the answer");
}

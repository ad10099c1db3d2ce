//! Verification of signatures, outside of the gate's task: on threads of its own, in turns between
//! the peers. While nobody waits for a turn, an envelope that comes alone is verified by its caller.
//!
//! The gate decides with what is found here, so nothing opens without it. A reload may come
//! between: what was found carries the generation of its keys, and what was good by older ones is
//! verified again. A refusal by older keys stands: its call came before the reload.

mod budget;
mod turns;

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jit_proto::{Refusal, v1};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    oneshot::{self, error::RecvError},
};

pub(super) use turns::Turns;

use crate::{
    config::Config,
    gate::verification::budget::Budgets,
    rules::{
        checkpoint::{self, VerifiedCheckpoint},
        envelope::Together,
        grant::{self, VerifiedGrant},
        keyring::Keyring,
        proposal::{self, VerifiedPolicy},
        refusal::Refused,
        revocation::{self, VerifiedRevocation},
    },
    system::meters::meters,
};

/// How long the work of one peer is done before the next one's turn.
const SLICE: Duration = Duration::from_millis(5);
/// This many signatures that are verified together take at most as long as one try.
const TOGETHER: usize = 3;
/// Most threads. Half of the CPUs are for the gate and the server.
const MAX_THREADS: usize = 4;
/// Most pieces of work of one peer that wait here or at the gate. For more, its calls wait.
const PLACES: usize = 64;
/// Peers whose names begin like this are on this machine and have no budget. They may push only if
/// they are root or the agent's own user.
const LOCAL: &str = "local uid ";

/// What was found out about an envelope.
#[derive(Debug)]
pub(super) struct Check<T> {
    /// Of the keys. They begin with 1.
    generation: u64,
    /// `None`: nothing yet.
    result: Option<Result<T, Refused>>,
}

/// An envelope that asks to be admitted.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) envelope: v1::Envelope,
    pub(super) check: Check<Box<VerifiedGrant>>,
}

/// Candidates of one call. They hold a place until they are dropped.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) candidates: VecDeque<Candidate>,
    _place: Option<OwnedSemaphorePermit>,
}

/// Gives work to the threads. They end when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Verification {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

/// Sets the keys.
#[derive(Debug)]
pub(super) struct KeysInForce {
    shared: Arc<Shared>,
    generation: u64,
}

#[derive(Debug)]
struct Owner(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or the threads must end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    work: Turns<Work>,
    budgets: Budgets,
    keys: Option<Arc<Keys>>,
    /// The places of each peer that has sent anything. The configuration names these peers.
    places: HashMap<String, Arc<Semaphore>>,
    threads: usize,
    /// A caller verifies its one envelope itself.
    lone: bool,
    ended: bool,
}

#[derive(Debug)]
struct Keys {
    generation: u64,
    keyring: Keyring,
    host: String,
}

#[derive(Debug)]
enum Work {
    Grants {
        rest: VecDeque<v1::Envelope>,
        /// Number of envelopes at the front of the rest that are verified one by one.
        one_by_one: usize,
        done: VecDeque<Candidate>,
        place: OwnedSemaphorePermit,
        reply: oneshot::Sender<Batch>,
    },
    Checkpoint {
        envelope: v1::Envelope,
        reply: oneshot::Sender<Check<VerifiedCheckpoint>>,
        _place: OwnedSemaphorePermit,
    },
    Policy {
        envelope: v1::Envelope,
        reply: oneshot::Sender<Check<Box<VerifiedPolicy>>>,
        _place: OwnedSemaphorePermit,
    },
    Revocation {
        envelope: v1::Envelope,
        reply: oneshot::Sender<Check<Box<VerifiedRevocation>>>,
        _place: OwnedSemaphorePermit,
    },
}

impl<T> Check<T> {
    /// Nothing was verified.
    pub(super) const fn none() -> Self {
        Self { generation: 0, result: None }
    }

    /// The result that counts while the keys are of this generation. `None`: it must be verified.
    pub(super) fn settled(self, generation: u64) -> Option<Result<T, Refused>> {
        let current = self.generation == generation;
        self.result.filter(|result| current || result.is_err())
    }
}

impl Candidate {
    /// Nothing about it was verified.
    pub(super) const fn new(envelope: v1::Envelope) -> Self {
        Self { envelope, check: Check::none() }
    }
}

impl Verification {
    /// Starts the threads. Without any thread nothing is verified here, and the gate does it.
    pub(super) fn start() -> (Self, KeysInForce) {
        let shared = Arc::<Shared>::default();
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        for _ in 0..(cpus / 2).clamp(1, MAX_THREADS) {
            let of_thread = Arc::clone(&shared);
            let started = thread::Builder::new()
                .name("verification".into())
                .spawn(move || while of_thread.serve_one() {});
            match started {
                Ok(_) => shared.lock().threads += 1,
                Err(error) => tracing::error!("cannot start a thread that verifies: {error}"),
            }
        }
        let owner = Arc::new(Owner(Arc::clone(&shared)));
        let keys = KeysInForce { shared: Arc::clone(&shared), generation: 0 };
        (Self { shared, _owner: owner }, keys)
    }

    /// Verifies grants; the candidates are in the order of the envelopes. Waits for a place of this
    /// peer, but not for the result. One envelope is verified here if nothing waits: to wake a
    /// thread and to be woken takes longer than that.
    pub(super) async fn grants(
        &self,
        envelopes: Vec<v1::Envelope>,
        by: &str,
    ) -> oneshot::Receiver<Batch> {
        let (reply, answer) = oneshot::channel();
        let Some(place) = self.place(by).await else {
            let candidates = envelopes.into_iter().map(Candidate::new).collect();
            let _gone = reply.send(Batch { candidates, _place: None });
            return answer;
        };
        let lone = envelopes.len() == 1;
        let (rest, done) = (envelopes.into(), VecDeque::new());
        let work = Work::Grants { rest, one_by_one: 0, done, place, reply };
        if lone && let Some(keys) = self.shared.begin_lone() {
            self.shared.serve(by, work, Some(&keys));
            self.shared.lock().lone = false;
        } else {
            self.shared.add(by, work);
        }
        answer
    }

    /// Verifies a policy. On an error nobody may verify it: a panic would end the gate.
    pub(super) async fn policy(
        &self,
        envelope: v1::Envelope,
        by: &str,
    ) -> Result<Check<Box<VerifiedPolicy>>, RecvError> {
        let Some(place) = self.place(by).await else { return Ok(Check::none()) };
        let (reply, answer) = oneshot::channel();
        self.shared.add(by, Work::Policy { envelope, reply, _place: place });
        answer.await
    }

    /// Verifies a checkpoint. On an error nobody may verify it, as for a policy.
    pub(super) async fn checkpoint(
        &self,
        envelope: v1::Envelope,
        by: &str,
    ) -> Result<Check<VerifiedCheckpoint>, RecvError> {
        let Some(place) = self.place(by).await else { return Ok(Check::none()) };
        let (reply, answer) = oneshot::channel();
        self.shared.add(by, Work::Checkpoint { envelope, reply, _place: place });
        answer.await
    }

    /// Verifies a revocation. Places, turns and budget are others than those of the same peer's
    /// grants, so that no grant holds it up. On an error nobody may verify it, as for a policy.
    pub(super) async fn revocation(
        &self,
        envelope: v1::Envelope,
        by: &str,
    ) -> Result<Check<Box<VerifiedRevocation>>, RecvError> {
        let by = format!("{by} (revocations)");
        let Some(place) = self.place(&by).await else { return Ok(Check::none()) };
        let (reply, answer) = oneshot::channel();
        self.shared.add(&by, Work::Revocation { envelope, reply, _place: place });
        answer.await
    }

    /// `None`: there is no thread.
    async fn place(&self, by: &str) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut state = self.shared.lock();
            if state.threads == 0 {
                return None;
            }
            let places = state.places.entry(by.to_owned());
            Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(PLACES))))
        };
        places.acquire_owned().await.ok()
    }
}

impl KeysInForce {
    /// From now on these keys count.
    pub(super) fn replace(&mut self, config: &Config) {
        self.generation += 1;
        let Self { generation, .. } = *self;
        let (keyring, host) = (config.keyring.clone(), config.host.clone());
        self.shared.lock().keys = Some(Arc::new(Keys { generation, keyring, host }));
    }

    /// The generation of the keys.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Nobody panics while this is locked, and each change is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, by: &str, work: Work) {
        self.lock().work.add(by, work);
        self.changed.notify_one();
    }

    /// Waits for work and does a slice of it. Returns whether there may be more.
    fn serve_one(&self) -> bool {
        let mut state = self.lock();
        let (by, work) = loop {
            if state.ended {
                return false;
            }
            match state.work.next() {
                Some(next) => break next,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        let keys = state.keys.clone();
        drop(state);
        self.serve(&by, work, keys.as_deref());
        true
    }

    /// Whether a caller may verify one envelope itself, and the keys for it: nobody waits for a
    /// turn, and no other caller does the same. So a flood takes no more than one thread of the
    /// server.
    fn begin_lone(&self) -> Option<Arc<Keys>> {
        let mut state = self.lock();
        if state.lone || !state.work.is_empty() {
            return None;
        }
        let keys = state.keys.clone()?;
        state.lone = true;
        Some(keys)
    }

    /// Does a slice of this work, and puts the rest back.
    fn serve(&self, by: &str, work: Work, keys: Option<&Keys>) {
        // A panic ends this call alone: its work is dropped, and so its sender gets an error.
        let done = catch_unwind(AssertUnwindSafe(|| self.slice(by, work, keys)));
        match done {
            Ok(Some(rest)) => {
                self.lock().work.put_back(by, rest);
                self.changed.notify_one();
            }
            Ok(None) => {}
            Err(_) => tracing::error!(by, "a signature could not be verified: internal error"),
        }
    }

    /// Does a slice of this work; returns what is left of it.
    fn slice(&self, by: &str, work: Work, keys: Option<&Keys>) -> Option<Work> {
        match work {
            Work::Grants { mut rest, mut one_by_one, mut done, place, reply } => {
                let began = Instant::now();
                while began.elapsed() < SLICE && !reply.is_closed() && !rest.is_empty() {
                    if one_by_one == 0 {
                        one_by_one = self.check_together(by, keys, &mut rest, &mut done);
                        continue;
                    }
                    one_by_one -= 1;
                    let Some(envelope) = rest.pop_front() else { break };
                    let check = self.check(by, keys, |Keys { keyring, host, .. }, wasted| {
                        grant::verify_counting(&envelope, keyring, host, wasted).map(Box::new)
                    });
                    done.push_back(Candidate { envelope, check });
                }
                meters().signatures.since(began);
                if reply.is_closed() {
                    return None;
                }
                if !rest.is_empty() {
                    return Some(Work::Grants { rest, one_by_one, done, place, reply });
                }
                let _gone = reply.send(Batch { candidates: done, _place: Some(place) });
            }
            Work::Checkpoint { envelope, reply, _place } => {
                let _gone = reply.send(self.check(by, keys, |Keys { keyring, .. }, wasted| {
                    checkpoint::verify_counting(&envelope, keyring, wasted)
                }));
            }
            Work::Policy { envelope, reply, _place } => {
                let _gone =
                    reply.send(self.check(by, keys, |Keys { keyring, host, .. }, wasted| {
                        proposal::verify_counting(&envelope, keyring, host, wasted).map(Box::new)
                    }));
            }
            Work::Revocation { envelope, reply, _place } => {
                let _gone =
                    reply.send(self.check(by, keys, |Keys { keyring, host, .. }, wasted| {
                        revocation::verify_counting(&envelope, keyring, host, wasted).map(Box::new)
                    }));
            }
        }
        None
    }

    /// Verifies the first of these envelopes together. Returns how many must be verified one by one:
    /// nothing was found out about them. A false signature among many costs work that is charged,
    /// and until the peer's budget is full again it gets no more of it.
    fn check_together(
        &self,
        by: &str,
        keys: Option<&Keys>,
        rest: &mut VecDeque<v1::Envelope>,
        done: &mut VecDeque<Candidate>,
    ) -> usize {
        let Some(Keys { generation, keyring, host }) = keys else { return rest.len() };
        let limited = !by.starts_with(LOCAL);
        if limited && !self.lock().budgets.is_full(by, Instant::now()) {
            return 1;
        }
        match grant::verify_together(rest.iter(), keyring, host) {
            Together::Good(results) => {
                let count = results.len().min(rest.len());
                for (result, envelope) in results.into_iter().zip(rest.drain(..count)) {
                    let result = Some(result.map(Box::new));
                    let check = Check { generation: *generation, result };
                    done.push_back(Candidate { envelope, check });
                }
                0
            }
            Together::OneByOne { envelopes, signatures } => {
                if limited && signatures > 0 {
                    let tries = signatures.div_ceil(TOGETHER);
                    self.lock().budgets.charge(by, tries, Instant::now());
                }
                envelopes
            }
        }
    }

    /// Verifies within the peer's budget.
    fn check<T>(
        &self,
        by: &str,
        keys: Option<&Keys>,
        verify: impl FnOnce(&Keys, &mut usize) -> Result<T, Refused>,
    ) -> Check<T> {
        let Some(keys) = keys else { return Check::none() };
        let generation = keys.generation;
        let limited = !by.starts_with(LOCAL);
        if limited && let Some(wait) = self.lock().budgets.throttled(by, Instant::now()) {
            return Check { generation, result: Some(Err(throttled(by, wait))) };
        }
        let mut wasted = 0;
        let result = verify(keys, &mut wasted);
        if limited && wasted > 0 {
            self.lock().budgets.charge(by, wasted, Instant::now());
        }
        Check { generation, result: Some(result) }
    }
}

fn throttled(by: &str, wait: Duration) -> Refused {
    let seconds = wait.as_millis().div_ceil(1_000);
    let detail = format!(
        "{by} has sent too many signatures that no trusted key made; nothing was verified; try again \
         in {seconds} s"
    );
    Refused::new(Refusal::Throttled, detail)
}

#[cfg(test)]
mod tests;

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
        envelope::Together,
        grant::{self, VerifiedGrant},
        keyring::Keyring,
        proposal::{self, VerifiedPolicy},
        refusal::Refused,
    },
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
        /// The first so many of the rest are verified one by one.
        one_by_one: usize,
        done: VecDeque<Candidate>,
        place: OwnedSemaphorePermit,
        reply: oneshot::Sender<Batch>,
    },
    Policy {
        envelope: v1::Envelope,
        reply: oneshot::Sender<Check<Box<VerifiedPolicy>>>,
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
                if reply.is_closed() {
                    return None;
                }
                if !rest.is_empty() {
                    return Some(Work::Grants { rest, one_by_one, done, place, reply });
                }
                let _gone = reply.send(Batch { candidates: done, _place: Some(place) });
            }
            Work::Policy { envelope, reply, _place } => {
                let _gone =
                    reply.send(self.check(by, keys, |Keys { keyring, host, .. }, wasted| {
                        proposal::verify_counting(&envelope, keyring, host, wasted).map(Box::new)
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
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
    use futures_util::FutureExt as _;
    use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE};

    use super::*;
    use crate::rules::keyring::Signer;

    /// One key, of generation 1.
    fn keys() -> Keys {
        let key = SigningKey::from_bytes(&[1; 32]);
        let pem = key.verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF).unwrap();
        let mut keyring = Keyring::default();
        keyring.add(Signer::from_pem("k".into(), Duration::ZERO, &pem).unwrap()).unwrap();
        Keys { generation: 1, keyring, host: "web-1".into() }
    }

    /// An envelope without a grant, signed eight times by this key.
    fn envelope(seed: u8) -> v1::Envelope {
        let message = pre_authentication_encoding(GRANT_TYPE, b"x");
        let signature = SigningKey::from_bytes(&[seed; 32]).sign(&message).to_bytes().to_vec();
        let signature = v1::Signature { key_id: String::new(), signature: signature.into() };
        v1::Envelope {
            payload_type: GRANT_TYPE.into(),
            payload: b"x".to_vec().into(),
            signatures: vec![signature; 8],
        }
    }

    /// The same, signed once, with the name of the key that is trusted.
    fn named(seed: u8) -> v1::Envelope {
        let mut envelope = envelope(seed);
        envelope.signatures.truncate(1);
        envelope.signatures.iter_mut().for_each(|signature| signature.key_id = "k".into());
        envelope
    }

    /// Verifies all these as the work of a peer; returns their words.
    fn words(shared: &Shared, by: &str, envelopes: &[v1::Envelope]) -> Vec<&'static str> {
        let (keys, (work, mut answer)) = (keys(), grants(envelopes.to_vec()));
        let mut left = Some(work);
        while let Some(work) = left {
            left = shared.slice(by, work, Some(&keys));
        }
        let Batch { candidates, .. } = answer.try_recv().unwrap();
        assert!(candidates.iter().map(|candidate| &candidate.envelope).eq(envelopes));
        let results = candidates.into_iter().map(|candidate| candidate.check.settled(1).unwrap());
        results
            .map(|result| result.map_or_else(|refused| refused.refusal.word(), |_| "ok"))
            .collect()
    }

    fn word(shared: &Shared, by: &str, envelope: &v1::Envelope) -> &'static str {
        let check = shared.check(by, Some(&keys()), |Keys { keyring, host, .. }, wasted| {
            grant::verify_counting(envelope, keyring, host, wasted)
        });
        let result = check.settled(1).unwrap();
        result.map_or_else(|refused| refused.refusal.word(), |_| "ok")
    }

    fn grants(envelopes: Vec<v1::Envelope>) -> (Work, oneshot::Receiver<Batch>) {
        let (reply, answer) = oneshot::channel();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (rest, done) = (envelopes.into(), VecDeque::new());
        (Work::Grants { rest, one_by_one: 0, done, place, reply }, answer)
    }

    #[test]
    fn what_was_good_by_older_keys_is_verified_again_and_what_was_refused_stays_refused() {
        let found = |generation, result| Check { generation, result };
        assert_eq!(Check::<()>::none().settled(1), None);
        assert_eq!(found(1, Some(Ok(()))).settled(1), Some(Ok(())));
        assert_eq!(found(1, Some(Ok(()))).settled(2), None);
        let refused = || Refused::new(Refusal::BadSignature, "x");
        assert_eq!(found(1, Some(Err(refused()))).settled(2), Some(Err(refused())));
    }

    #[test]
    fn after_many_false_signatures_nothing_of_this_controller_is_verified_for_a_while() {
        let shared = Shared::default();
        let (good, bad) = (envelope(1), envelope(2));
        // A mistake is answered clearly a few hundred times.
        for _ in 0..200 {
            assert_eq!(word(&shared, "controller", &bad), "bad_signature");
        }
        // The budget is a little larger: some of it has come back meanwhile.
        let answers = (0..2_000).map(|_| word(&shared, "controller", &bad));
        let first = answers.take_while(|word| *word == "bad_signature").count();
        assert!(first < 1_999, "{first}");
        assert_eq!(word(&shared, "controller", &good), Refusal::Throttled.word());
        assert_eq!(word(&shared, "another", &good), "malformed", "its signature is good");
        for _ in 0..400 {
            assert_eq!(word(&shared, "local uid 0", &bad), "bad_signature");
        }
    }

    #[test]
    fn a_controller_that_sends_good_signatures_is_never_throttled() {
        let shared = Shared::default();
        let (good, other) = (envelope(1), envelope(2));
        // Half of its signatures are by a key of other hosts.
        let signatures = |of: &v1::Envelope| of.signatures.first().cloned().into_iter();
        let both = signatures(&other).chain(signatures(&good)).collect();
        let both = v1::Envelope { signatures: both, ..good.clone() };
        for _ in 0..1_000 {
            assert_eq!(word(&shared, "controller", &both), "malformed", "its signature is good");
        }
        assert!(shared.lock().budgets.is_full("controller", Instant::now()));
    }

    #[test]
    fn a_false_signature_among_many_costs_its_sender_alone_and_changes_no_other_answer() {
        let shared = Shared::default();
        let mut envelopes = vec![named(1); 300];
        assert_eq!(words(&shared, "controller", &envelopes), ["malformed"; 300], "all are good");
        assert!(shared.lock().budgets.is_full("controller", Instant::now()));
        for (place, other) in [(0, named(2)), (100, named(2)), (200, envelope(1)), (299, named(2))]
        {
            envelopes[place] = other;
        }
        let one_by_one: Vec<_> =
            envelopes.iter().map(|envelope| word(&Shared::default(), "other", envelope)).collect();
        assert_eq!(words(&shared, "controller", &envelopes), one_by_one);
        assert_eq!(one_by_one.iter().filter(|word| **word == "bad_signature").count(), 3);
        assert!(!shared.lock().budgets.is_full("controller", Instant::now()));
        assert_eq!(words(&shared, "local uid 0", &envelopes), one_by_one);
    }

    #[test]
    fn what_was_verified_together_in_vain_is_charged_and_not_done_again_before_it_is_paid() {
        let (shared, keys) = (Shared::default(), keys());
        let mut rest = VecDeque::from(vec![named(1); 150]);
        rest.push_back(named(2));
        rest.extend(vec![named(1); 20]);
        let mut done = VecDeque::new();
        let mut check = |by| shared.check_together(by, Some(&keys), &mut rest, &mut done);
        let before = Instant::now();
        assert_eq!(check("a"), 171);
        let paid = before + budget::EACH * u32::try_from(171_usize.div_ceil(TOGETHER)).unwrap();
        assert!(!shared.lock().budgets.is_full("a", paid - Duration::from_millis(1)));
        assert_eq!(check("a"), 1, "nothing is done together now");
        assert_eq!(check("local uid 0"), 171);
        assert!(done.is_empty());
        // Few, or without a name, are not worth it.
        let mut rest = VecDeque::from(vec![named(1); 3]);
        rest.extend([envelope(1), named(1)]);
        let mut check = |by| shared.check_together(by, Some(&keys), &mut rest, &mut done);
        assert_eq!((check("b"), shared.lock().budgets.is_full("b", before)), (3, true));
    }

    #[test]
    fn long_work_is_done_in_slices_and_none_of_it_for_a_caller_that_is_gone() {
        let (shared, keys) = (Shared::default(), keys());
        let (work, mut answer) = grants(vec![envelope(2); 1_000]);
        let mut left = shared.slice("local uid 0", work, Some(&keys));
        let Some(Work::Grants { rest, done, .. }) = &left else { panic!("all at once") };
        assert_eq!(rest.len() + done.len(), 1_000);
        assert!(!done.is_empty() && !rest.is_empty());
        let mut slices = 1;
        while let Some(work) = left {
            left = shared.slice("local uid 0", work, Some(&keys));
            slices += 1;
        }
        assert!(slices > 10, "{slices}");
        assert_eq!(answer.try_recv().unwrap().candidates.len(), 1_000);
        let (work, answer) = grants(vec![envelope(2); 100]);
        drop(answer);
        assert!(shared.slice("a", work, Some(&keys)).is_none());
        assert!(shared.lock().budgets.is_full("a", Instant::now()), "nothing was verified");
    }

    #[test]
    fn the_places_of_a_peer_are_bounded_and_belong_to_it_alone() {
        let shared = Arc::<Shared>::default();
        // Nobody serves.
        shared.lock().threads = 1;
        let owner = Arc::new(Owner(Arc::clone(&shared)));
        let verification = Verification { shared: Arc::clone(&shared), _owner: owner };
        let add = |by| verification.grants(vec![envelope(1); 2], by).now_or_never();
        let waiting: Vec<_> = std::iter::from_fn(|| add("a")).collect();
        assert_eq!(waiting.len(), PLACES);
        let other = add("b").unwrap();
        // A caller that is gone keeps its place until its work is thrown away.
        drop(waiting);
        assert!(add("a").is_none());
        for _ in 0..3 {
            assert!(shared.serve_one());
        }
        assert!(add("a").is_some());
        drop(other);
    }

    #[test]
    fn one_caller_at_a_time_verifies_its_one_envelope_itself_and_only_if_nobody_waits() {
        let shared = Arc::<Shared>::default();
        // Nobody serves.
        shared.lock().threads = 1;
        shared.lock().keys = Some(Arc::new(keys()));
        let owner = Arc::new(Owner(Arc::clone(&shared)));
        let verification = Verification { shared: Arc::clone(&shared), _owner: owner };
        let verified = |number| {
            let envelopes = vec![envelope(1); number];
            let mut answer = verification.grants(envelopes, "a").now_or_never().unwrap();
            answer.try_recv().is_ok()
        };
        assert!(verified(1) && verified(1));
        shared.lock().lone = true;
        assert!(!verified(1), "another caller does it");
        shared.lock().lone = false;
        assert!(!verified(1), "it comes after those who wait");
        for _ in 0..2 {
            assert!(shared.serve_one());
        }
        assert!(shared.lock().work.is_empty());
        assert!(!verified(2), "a batch is for the threads");
        assert!(shared.serve_one());
        assert!(verified(1));
    }

    #[test]
    fn the_threads_end_with_the_last_handle() {
        let (verification, keys) = Verification::start();
        let weak = Arc::downgrade(&keys.shared);
        drop((verification.clone(), verification, keys));
        let began = Instant::now();
        while weak.strong_count() > 0 {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
    }
}

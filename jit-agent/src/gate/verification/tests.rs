//! Budgets, turns and answers of the verification.

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
    let signature = v1::Signature { signature: signature.into(), ..v1::Signature::default() };
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
    results.map(|result| result.map_or_else(|refused| refused.refusal.word(), |_| "ok")).collect()
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
    for (place, other) in [(0, named(2)), (100, named(2)), (200, envelope(1)), (299, named(2))] {
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

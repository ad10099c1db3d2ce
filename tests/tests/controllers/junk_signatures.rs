//! A controller that sends false signatures without end delays neither root nor other controllers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jit_client::{Agent, CallError};
use jit_proto::{payload_type::GRANT_TYPE, v1};
use jit_tests::agent::Site;
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey as _, LineEnding},
};

use crate::controlled::Controlled;

/// Batches at once, of one controller.
const BATCHES: usize = 8;
/// Envelopes of one batch: as many as fit into a request.
const ENVELOPES: usize = 6_500;
/// False signatures on each envelope: as many as it may have.
const SIGNATURES: usize = 8;
/// Revocations and pushes during the attack.
const TRIES: usize = 9;
/// The longest time of half of them. Only the cryptography is optimised in a debug build; what is
/// around it takes some times as long there.
const BOUND: Duration =
    if cfg!(debug_assertions) { Duration::from_millis(600) } else { Duration::from_millis(200) };
const PATIENCE: Duration = Duration::from_secs(120);

type Words = BTreeMap<String, usize>;

/// Public keys of this many P-256 signers, as files.
fn signers(site: &Site, count: u8) -> Vec<std::path::PathBuf> {
    (1..=count)
        .map(|seed| {
            let key = SigningKey::from_slice(&[seed; 32]).unwrap();
            let public = p256::PublicKey::from(key.verifying_key());
            let file = site.path(&format!("p256-{seed}.pem"));
            std::fs::write(&file, public.to_public_key_pem(LineEnding::LF).unwrap()).unwrap();
            file
        })
        .collect()
}

/// Envelopes whose signatures are well-formed and by a key that nobody trusts.
fn junk() -> Vec<v1::Envelope> {
    let signature: Signature = SigningKey::from_slice(&[99; 32]).unwrap().sign(b"something else");
    let signature = v1::Signature {
        signature: signature.to_bytes().to_vec().into(),
        ..v1::Signature::default()
    };
    let envelope = v1::Envelope {
        payload_type: GRANT_TYPE.into(),
        payload: b"x".to_vec().into(),
        signatures: vec![signature; SIGNATURES],
    };
    vec![envelope; ENVELOPES]
}

/// When the attack begins, and when it ends.
struct Signals {
    begin: Barrier,
    end: AtomicBool,
}

/// Sends batch after batch; returns how often each word was the answer.
fn attack(controlled: &Controlled, signals: &Arc<Signals>) -> thread::JoinHandle<Words> {
    let target = controlled.target("second", PATIENCE);
    let signals = Arc::clone(signals);
    controlled.site.client.spawn(move || {
        let batches = async {
            let mut agent = Agent::connect(&target).await.unwrap();
            let (mut words, junk) = (Words::new(), junk());
            signals.begin.wait();
            while !signals.end.load(Ordering::Relaxed) {
                for outcome in agent.push_batch(junk.clone()).await.unwrap() {
                    *words.entry(outcome.reason).or_default() += 1;
                }
            }
            words
        };
        runtime().block_on(batches)
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How long root's revocations and the other controller's pushes take during an attack, sorted.
fn durations(keys: u8) -> ([Vec<Duration>; 2], Words) {
    let controlled = Controlled::with_signers(|site| signers(site, keys));
    let site = &controlled.site;
    let signals =
        Arc::new(Signals { begin: Barrier::new(BATCHES + 1), end: AtomicBool::new(false) });
    let attackers: Vec<_> = (0..BATCHES).map(|_| attack(&controlled, &signals)).collect();
    let target = controlled.target("controller", PATIENCE);
    let (ask, asked) = std::sync::mpsc::channel::<v1::Envelope>();
    let (answer, answers) = std::sync::mpsc::channel();
    let good = site.client.spawn(move || {
        let runtime = runtime();
        let mut agent = runtime.block_on(Agent::connect(&target)).unwrap();
        for envelope in asked {
            let began = Instant::now();
            let outcome: Result<_, CallError> = runtime.block_on(agent.push(envelope));
            answer.send((began.elapsed(), outcome.unwrap())).unwrap();
        }
    });
    signals.begin.wait();
    let [mut pushes, mut revocations] = [Vec::new(), Vec::new()];
    for _ in 0..TRIES {
        ask.send(site.envelope(&["198.51.100.2"], Duration::from_secs(600))).unwrap();
        let (took, outcome) = answers.recv().unwrap();
        assert_eq!(outcome.reason, "ok");
        pushes.push(took);
        let began = Instant::now();
        assert_eq!(site.revoke_all(), 1);
        revocations.push(began.elapsed());
    }
    signals.end.store(true, Ordering::Relaxed);
    drop(ask);
    good.join().unwrap();
    let mut words = Words::new();
    for attacker in attackers {
        for (word, count) in attacker.join().unwrap() {
            *words.entry(word).or_default() += count;
        }
    }
    pushes.sort();
    revocations.sort();
    println!("{keys} keys: revocations {revocations:?}, pushes {pushes:?}, junk {words:?}");
    ([revocations, pushes], words)
}

#[test]
fn false_signatures_delay_neither_roots_revocation_nor_another_controllers_push() {
    for keys in [3, 7] {
        let (durations, words) = durations(keys);
        for sorted in durations {
            let median = sorted.get(TRIES / 2).unwrap();
            assert!(*median <= BOUND, "{keys} keys: {sorted:?}");
        }
        // The first ones get a clear answer. Then the controller has used up its budget.
        let known: Vec<_> = words.keys().map(String::as_str).collect();
        assert_eq!(known, ["bad_signature", "throttled"], "{words:?}");
        assert!(words.get("bad_signature").unwrap() < words.get("throttled").unwrap(), "{words:?}");
    }
}

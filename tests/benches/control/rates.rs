//! Pushes a second, and revocations of all.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jit_client::signing::Algorithm;
use jit_proto::v1;
use jit_tests::{figures::size, process::cpu};
use tokio::task::JoinSet;

use crate::grants::{BATCH, LONG, Signed, many, millis, report};

const TABLE: &str = "pushes a second";
const RATE: (&str, bool) = ("1/s", true);
/// Number of pushes at once over one connection: no more than the agent takes.
const AT_ONCE: usize = 8;

pub(crate) fn measure() {
    let signed = Signed::start();
    for (name, algorithm) in [("Ed25519", Algorithm::Ed25519), ("P-256", Algorithm::P256)] {
        batches(&signed, name, algorithm);
        streams(&signed, name, algorithm);
    }
    revoked_at_once(&signed, size(10_000, 1_000), size(5, 1));
    revoked_at_once(&signed, size(100_000, 2_000), 1);
}

/// Batches one after the other: by the clock, and by the processor time of the agent.
fn batches(signed: &Signed, name: &str, algorithm: Algorithm) {
    let number = size(10 * BATCH, 500);
    let (mut by_clock, mut by_cpu) = (Vec::new(), Vec::new());
    for _ in 0..size(3, 1) {
        let mut envelopes = signed.envelopes(algorithm, 0..number, LONG).into_iter();
        let agent = signed.site.processes();
        let before = cpu(&agent);
        let mut took = Duration::ZERO;
        loop {
            let batch: Vec<_> = envelopes.by_ref().take(usize::try_from(BATCH).unwrap()).collect();
            if batch.is_empty() {
                break;
            }
            took += signed.push(batch);
        }
        by_clock.push(f64::from(number) / took.as_secs_f64());
        by_cpu.push(f64::from(number) / (cpu(&agent) - before).as_secs_f64());
        assert_eq!(signed.site.revoke_all(), number);
    }
    let batch = BATCH.min(number);
    report(TABLE, &format!("batches of {batch}, {name}"), RATE, by_clock);
    let row = format!("batches of {batch}, {name}, for a second of the agent's processor time");
    report(TABLE, &row, RATE, by_cpu);
}

/// Single pushes, many at once over one connection.
fn streams(signed: &Signed, name: &str, algorithm: Algorithm) {
    let number = size(3_000, 200);
    let mut rates = Vec::new();
    for _ in 0..size(3, 1) {
        let envelopes = signed.envelopes(algorithm, 0..number, LONG);
        let waiting = Arc::new(Mutex::new(VecDeque::from(envelopes)));
        let took = signed.site.call(async |mut client| {
            // The first call sets the connection up. Only then the client knows the agent's limits.
            client.status(v1::StatusRequest {}).await?;
            let start = Instant::now();
            let mut senders = JoinSet::new();
            for _ in 0..AT_ONCE {
                let (mut client, waiting) = (client.clone(), Arc::clone(&waiting));
                senders.spawn(async move {
                    while let Some(envelope) = take(&waiting) {
                        let request = v1::PushRequest { envelope: Some(envelope) };
                        client.push(request).await.unwrap();
                    }
                });
            }
            while let Some(sent) = senders.join_next().await {
                sent.unwrap();
            }
            Ok(start.elapsed())
        });
        rates.push(f64::from(number) / took.unwrap().as_secs_f64());
        assert_eq!(signed.site.revoke_all(), number);
    }
    report(TABLE, &format!("single pushes, {AT_ONCE} at once, {name}"), RATE, rates);
}

fn take(waiting: &Mutex<VecDeque<v1::Envelope>>) -> Option<v1::Envelope> {
    waiting.lock().unwrap().pop_front()
}

/// How long a revocation of everything takes.
fn revoked_at_once(signed: &Signed, number: u32, rounds: usize) {
    let mut times = Vec::new();
    for _ in 0..rounds {
        signed.fill(0..number, LONG);
        let start = Instant::now();
        assert_eq!(signed.site.revoke_all(), number);
        times.push(millis(start.elapsed()));
    }
    report("revocation", &format!("all of {}", many(number)), ("ms", false), times);
}

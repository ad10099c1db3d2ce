//! Checkpoints of a large fleet: the mailboxes of all hosts from the store, their tree, a change, a path.

use std::time::{Duration, Instant};

use jit_controller::{
    checkpoint::mailboxes::{Mailboxes, Revocation},
    clock::now_ms,
    model::{Host, Needs, Outcome, Proposal, State, Verdict, grant},
    store::{Request, Store, deliveries, grants, hosts, requests},
};
use jit_proto::v1;
use jit_tests::{
    figures::{rounds, size},
    process::memory,
};

use crate::{millis, report};

const HOUR: i64 = 3_600_000;
/// The most hosts of a request.
const HOSTS: usize = 10_000;
/// Signed revocations for every host.
const REVOCATIONS: u8 = 10;
const TABLE: &str = "mailboxes";

/// 100,000 hosts with a grant each.
pub(crate) fn measure() {
    let count = size(100_000, 1_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(count));
}

async fn run(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("controller.db").display());
    let store = Store::open(&url).await.unwrap();
    let ids: Vec<_> = (0..count).map(|number| format!("h-{number:06}")).collect();
    fill(&store, &ids).await;
    let at_ms = now_ms();
    let revocations: Vec<_> = (0..REVOCATIONS)
        .map(|number| Revocation { item: [number; 32], keep_until_ms: at_ms + HOUR, hosts: None })
        .collect();
    let pids = [std::process::id()];
    let before = memory(&pids).anonymous;
    let (mut all, mut boxes) = (Vec::new(), Mailboxes::default());
    for _ in 0..rounds(5) {
        boxes = Mailboxes::default();
        let began = Instant::now();
        let found = store.addresses().await.unwrap().into_keys().collect();
        let mail = store.mail(at_ms).await.unwrap();
        boxes.update(found, &mail, &revocations, at_ms);
        all.push(began.elapsed().as_secs_f64());
        assert_eq!((mail.len(), boxes.root().unwrap().1), (count, count));
    }
    report(TABLE, "all, from the store to the root", ("s", false), all);
    let grown = memory(&pids).anonymous.saturating_sub(before);
    let each = f64::from(u32::try_from(grown).unwrap()) / f64::from(u32::try_from(count).unwrap());
    report(TABLE, "memory, each, with what was read", ("KiB", false), vec![each]);
    changes(&store, &ids, &revocations, boxes, at_ms).await;
}

/// What one change costs, and what one host asks.
async fn changes(
    store: &Store,
    ids: &[String],
    revocations: &[Revocation],
    mut boxes: Mailboxes,
    at_ms: i64,
) {
    let mut mail = store.mail(at_ms).await.unwrap();
    let (mut one, mut every) = (Vec::new(), Vec::new());
    for round in 0..rounds(5) {
        let root = boxes.root();
        mail.get_mut(round).unwrap().ended = true;
        let began = Instant::now();
        boxes.update(ids.to_vec(), &mail, revocations, at_ms);
        one.push(millis(began.elapsed()));
        assert_ne!(boxes.root(), root);
        let root = boxes.root();
        let began = Instant::now();
        boxes.update(ids.to_vec(), &mail, revocations.get(1..).unwrap(), at_ms);
        every.push(millis(began.elapsed()));
        assert_ne!(boxes.root(), root);
        boxes.update(ids.to_vec(), &mail, revocations, at_ms);
    }
    report(TABLE, "one changes, to the root", ("ms", false), one);
    report(TABLE, "a revocation of all hosts, to the root", ("ms", false), every);
    let snapshot = boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
    let mut times = Vec::new();
    for _ in 0..rounds(5) {
        let began = Instant::now();
        let asked = ids.iter().filter(|id| snapshot.request(id, true).is_some()).count();
        assert_eq!(asked, ids.len());
        times.push(began.elapsed().as_secs_f64());
    }
    report(TABLE, "path and list for each", ("s", false), times);
}

/// All hosts, and requests with signed grants on them.
async fn fill(store: &Store, ids: &[String]) {
    let mut tx = store.begin().await.unwrap();
    for id in ids {
        let host = Host { id: id.clone(), ..Host::default() };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    for some in ids.chunks(HOSTS) {
        let request = request(some);
        let now = request.proposal.created_ms;
        let parts = grant::parts(&request.proposal, &[], &[], now).unwrap();
        requests::insert(&mut tx, &request).await.unwrap();
        let of = &request.proposal.id;
        for (number, part) in parts.iter().enumerate() {
            let id = part.id.to_string();
            grants::insert(&mut tx, of, number, part, 1).await.unwrap();
            let envelope =
                v1::Envelope { payload: part.payload.clone().into(), ..v1::Envelope::default() };
            grants::set_envelope(&mut tx, &id, &envelope, now).await.unwrap();
            let end = part.not_after_ms;
            deliveries::insert(&mut tx, of, &id, &part.hosts, now, end).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
}

fn request(hosts: &[String]) -> Request {
    let created_ms = now_ms();
    let id = ulid::Ulid::generate().to_string();
    let proposal = Proposal {
        id: id.clone(),
        requester: "ana@example.org".into(),
        hosts: hosts.to_vec(),
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22".parse().unwrap()],
        duration_ms: HOUR,
        start_ms: None,
        reason: "disk full".into(),
        ticket: String::new(),
        sessions: None,
        max_connections: 0,
        replaces: None,
        created_ms,
        approve_until_ms: i64::MAX,
    };
    Request {
        hash: proposal.hash(),
        account: "ana".into(),
        idempotency_key: id,
        state: State::Delivering,
        verdict: Verdict {
            rules_version: 1,
            outcome: Outcome::Automatic,
            needs: Needs::default(),
            max_duration_ms: None,
            escalate: None,
            rules: Vec::new(),
            denied: Vec::new(),
        },
        why: String::new(),
        escalate_ms: 0,
        ends_ms: created_ms + HOUR,
        replaced_by: String::new(),
        revision: 0,
        proposal,
    }
}

//! A store with very many hosts and requests, also for the bench of lists.

use jit_controller::{
    model::{Host, Needs, Outcome, Proposal, State, Verdict},
    store::{Request, Store, hosts, requests},
};

/// When the first request is made, milliseconds since the Unix epoch.
const FIRST_MS: u64 = 1_803_888_000_000;

/// Puts in so many hosts and requests, each for one of the hosts. Of 100 requests one is bo's, the others
/// are ana's; of 10 one is pending, the others have ended.
pub(crate) async fn fill(store: &Store, hosts: usize, requests: usize) {
    let mut tx = store.begin().await.unwrap();
    for number in 0..hosts {
        let host = Host {
            id: format!("h-{number:05}"),
            // Nothing listens there.
            address: "127.0.0.2:7443".into(),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            ..Host::default()
        };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    for number in 0..requests {
        let host = format!("h-{:05}", number % hosts);
        requests::insert(&mut tx, &request(number, host)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn request(number: usize, host: String) -> Request {
    let created_ms = FIRST_MS + u64::try_from(number).unwrap();
    let id = ulid::Ulid::from_parts(created_ms, 7).to_string();
    let created_ms = i64::try_from(created_ms).unwrap();
    let bo = number.is_multiple_of(100);
    let proposal = Proposal {
        id: id.clone(),
        requester: if bo { "bo@example.org" } else { "ana@example.org" }.into(),
        hosts: vec![host],
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22".parse().unwrap()],
        duration_ms: 3_600_000,
        start_ms: None,
        reason: "disk full".into(),
        ticket: "INC-4211".into(),
        sessions: None,
        max_connections: 0,
        replaces: None,
        created_ms,
        // A controller that runs does not end them.
        approve_until_ms: i64::MAX,
    };
    Request {
        hash: proposal.hash(),
        account: "ana".into(),
        idempotency_key: id,
        state: if number.is_multiple_of(10) { State::Pending } else { State::Ended },
        verdict: Verdict {
            rules_version: 1,
            outcome: Outcome::Manual,
            needs: Needs([("sre".to_owned(), 1)].into()),
            max_duration_ms: None,
            escalate: None,
            rules: Vec::new(),
            denied: Vec::new(),
        },
        why: String::new(),
        escalate_ms: 0,
        ends_ms: 0,
        replaced_by: String::new(),
        revision: 0,
        proposal,
    }
}

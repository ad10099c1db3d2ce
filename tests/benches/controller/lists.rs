//! Pages of lists, with many rows in the database.

use std::time::{Duration, Instant};

use jit_client::controller::call::Call;
use jit_controller::{
    model::{Host, Needs, Outcome, Proposal, State, Verdict},
    store::{Request, Store, hosts, requests},
};
use jit_tests::{
    controller::{Stage, people::Person},
    figures::size,
};
use serde_json::Value;
use ulid::Ulid;

use crate::{millis, report};

/// When the first request is made.
const FIRST_MS: u64 = 1_803_888_000_000;

/// The name of a row, the list, and how it is asked for.
type List = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const LISTS: [List; 7] = [
    ("requests, 50", "requests", &[]),
    ("requests, 500", "requests", &[("limit", "500")]),
    ("requests in a state, 200", "requests", &[("limit", "200"), ("state", "pending")]),
    ("requests of a person, 50", "requests", &[("requester", "bo@example.org")]),
    ("requests for a host", "requests", &[("host", "h-00007")]),
    ("hosts, 500", "hosts", &[("limit", "500")]),
    ("hosts with a label that few have", "hosts", &[("label", "env=test")]),
];

/// 20,000 requests and 5,000 hosts, which nothing answers for.
pub(crate) fn measure() {
    let stage = Stage::new(None);
    let (requests, hosts) = size((20_000, 5_000), (200, 50));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("sqlite://{}", stage.own("controller.db").display());
    runtime.block_on(fill(&url, requests, hosts));
    let auditor = stage.person("auditor", "auditor@example.org", &["nobody"], &["read"]);
    for (who, person) in [("", &stage.admin), (", by rules", &auditor)] {
        for (row, list, query) in LISTS {
            let call =
                query.iter().fold(Call::get([list]), |call, (key, value)| call.query(key, *value));
            report("lists", &format!("{row}{who}"), ("ms", false), pages(&stage, person, &call));
        }
    }
}

/// What a page took, the first ten along the list.
fn pages(stage: &Stage, person: &Person, first: &Call) -> Vec<f64> {
    let here = person.at(&stage.hub);
    here.calls(async |controller| {
        let mut times: Vec<Duration> = Vec::new();
        let mut cursor = None::<String>;
        for _ in 0..10 {
            let call = cursor.iter().fold(first.clone(), |call, next| call.query("cursor", next));
            let began = Instant::now();
            let page: Value = controller.fetch(&call).await.unwrap();
            times.push(began.elapsed());
            assert!(page.get("items").is_some_and(Value::is_array), "{page}");
            cursor = page.get("next").and_then(Value::as_str).map(ToOwned::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        times.into_iter().map(millis).collect()
    })
}

async fn fill(url: &str, requests: u32, hosts: u32) {
    let store = Store::open(url).await.unwrap();
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
        requests::insert(&mut tx, &request(number, format!("h-{:05}", number % hosts)))
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

fn request(number: u32, host: String) -> Request {
    let created_ms = FIRST_MS + u64::from(number);
    let id = Ulid::from_parts(created_ms, 7).to_string();
    let created_ms = i64::try_from(created_ms).unwrap();
    let who = if number.is_multiple_of(100) { "bo@example.org" } else { "ana@example.org" };
    let proposal = Proposal {
        id: id.clone(),
        requester: who.into(),
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
        approve_until_ms: i64::MAX,
    };
    let verdict = Verdict {
        rules_version: 1,
        outcome: Outcome::Manual,
        needs: Needs([("sre".to_owned(), 1)].into()),
        max_duration_ms: None,
        escalate: None,
        rules: Vec::new(),
        denied: Vec::new(),
    };
    Request {
        hash: proposal.hash(),
        account: "ana".into(),
        idempotency_key: id,
        state: if number.is_multiple_of(10) { State::Pending } else { State::Ended },
        verdict,
        why: String::new(),
        escalate_ms: 0,
        ends_ms: 0,
        replaced_by: String::new(),
        revision: 0,
        proposal,
    }
}

//! Pages of lists, with many rows in the database.

use std::time::{Duration, Instant};

use jit_client::controller::call::Call;
use jit_controller::store::Store;
use jit_tests::{
    controller::{Stage, people::Person},
    figures::size,
};
use serde_json::Value;

use crate::{millis, report};

#[path = "../../../jit-agent/controller/tests/controller/crowded.rs"]
mod crowded;

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
    runtime.block_on(async {
        crowded::fill(&Store::open(&url).await.unwrap(), hosts, requests).await;
    });
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

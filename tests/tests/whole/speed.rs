//! How soon hosts open. The machine of a test may be busy: what is asserted is far from what is aimed at,
//! and the figures are printed.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use jit_client::controller::{call::Call, types::RequestView};
use jit_tests::{
    controller::{CLIENT, people::access},
    process::memory,
};

use crate::asked::{stage, until};

/// One after another, if `JIT_TEST_REQUESTS` does not say how many: 1000 for a figure.
const IN_A_ROW: usize = 300;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn at(sorted: &[Duration], share: usize) -> Duration {
    sorted[(sorted.len() * share / 100).min(sorted.len() - 1)]
}

#[test]
fn a_request_that_needs_nobody_is_open_at_once() {
    let (stage, ana, _li) = stage(None, &["dev-1"], "dev");
    println!("idle: {} KiB resident", memory(&[stage.pid()]).total);
    let address = stage.host(0).at(22);
    let here = ana.at(&stage.client);
    let count = number("JIT_TEST_REQUESTS", IN_A_ROW);
    let (mut answered, mut connected) = (Vec::new(), Vec::new());
    here.calls(async |controller| {
        let _first: serde_json::Value = controller.fetch(&Call::get(["me"])).await.unwrap();
        for number in 0..count {
            // Another address each time, but for each tenth: that is the client.
            let is_client = number % 10 == 0;
            let source = match is_client {
                true => CLIENT.to_owned(),
                false => format!("198.19.{}.{}", number / 250, 1 + number % 250),
            };
            let call = Call::post(["requests"]).query("wait", "open").query("timeout", "20s");
            let call = call.json(&access(&["dev-1"], &source, "10m"));
            let began = Instant::now();
            let view: RequestView = controller.fetch(&call).await.unwrap();
            answered.push(began.elapsed());
            assert_eq!((view.state.as_str(), view.counts.open), ("open", 1), "{view:#?}");
            if is_client {
                TcpStream::connect_timeout(&address, Duration::from_secs(1)).unwrap();
                connected.push(began.elapsed());
            }
        }
    });
    for (name, times) in [("open", &mut answered), ("first connection", &mut connected)] {
        times.sort();
        println!(
            "{name}, {} in a row: p50 {:?}, p99 {:?}, longest {:?}",
            times.len(),
            at(times, 50),
            at(times, 99),
            at(times, 100)
        );
    }
    println!("after that: {} KiB resident", memory(&[stage.pid()]).total);
    assert!(at(&answered, 50) < Duration::from_millis(500), "p50 {:?}", at(&answered, 50));
    assert!(!stage.stranger_opens(0, 22));
}

#[test]
fn many_hosts_of_one_request_answer_soon() {
    let count = number("JIT_TEST_HOSTS", 40);
    let ids: Vec<_> = (0..count).map(|number| format!("dev-{number:03}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let began = Instant::now();
    let (stage, ana, _li) = stage(None, &ids, "dev");
    println!("{count} agents are followed after {:?}", began.elapsed());
    println!("idle: {} KiB resident", memory(&[stage.pid()]).total);
    let hosts = u64::try_from(count).unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        let call = Call::post(["requests"]).query("wait", "open").query("timeout", "30s");
        let began = Instant::now();
        let view: RequestView = ana.get(&call.json(&access(&ids, CLIENT, "30m")));
        let open = began.elapsed();
        times.push(open);
        assert_eq!((view.state.as_str(), view.counts.open), ("open", hosts));
        assert!(stage.client_opens(count - 1, 22));
        let began = Instant::now();
        ana.revoke(&view.id);
        until(&ana, &view.id, |view| view.counts.closed == hosts);
        println!("open on {count} hosts after {open:?}, closed after {:?}", began.elapsed());
    }
    times.sort();
    assert!(times[2] < Duration::from_secs(20), "{times:?}");
}

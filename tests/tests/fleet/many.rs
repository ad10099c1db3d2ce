//! Many real agents at the same time. `JIT_FLEET_HOSTS` says how many; otherwise 20.

use std::time::{Duration, Instant};

use jit_controller::model::State;

use crate::{
    desk::{Controller, resident},
    yard::Yard,
};

const LONG: Duration = Duration::from_secs(120);

fn count() -> usize {
    std::env::var("JIT_FLEET_HOSTS").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

#[test]
fn all_hosts_of_a_request_answer_within_two_seconds() {
    let mut yard = Yard::new();
    let ids: Vec<_> = (0..count()).map(|number| format!("web-{number:03}")).collect();
    for id in &ids {
        let number = yard.add(id);
        yard.spawn(number);
    }
    let hosts: Vec<_> = ids.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let began = Instant::now();
    let controller = Controller::new(&yard, &hosts);
    controller.until("all answer", LONG, |it| {
        ids.iter().all(|id| it.observed(id).condition.word() == "enforcing")
    });
    println!("{} agents followed {:?} after the start", ids.len(), began.elapsed());
    let names: Vec<_> = ids.iter().map(String::as_str).collect();
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let id = controller.request(&yard, &names, Duration::from_secs(600));
        controller.until("all are open", LONG, |it| it.state(&id) == State::Open);
        times.push(began.elapsed());
        let began = Instant::now();
        controller.revoke(&id);
        controller.until("all are closed", LONG, |it| {
            it.deliveries(&id).iter().all(|one| one.answer.word() == "closed")
        });
        println!("open at all after {:?}, closed after {:?}", times.last(), began.elapsed());
    }
    times.sort();
    assert!(times[times.len() / 2] <= Duration::from_secs(2), "{times:?}");
    // One host, the way of a request that is approved automatically.
    let mut one = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let id = controller.request(&yard, &names[..1], Duration::from_secs(600));
        controller.until("it is open", LONG, |it| it.state(&id) == State::Open);
        one.push(began.elapsed());
    }
    one.sort();
    println!("one host: median {:?}, p99 {:?}; resident {} MiB", one[50], one[98], resident());
}

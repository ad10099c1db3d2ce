//! Controllers, signers and connections to the database die at random moments, while people ask, agree
//! and revoke. `JIT_TEST_SECONDS` says for how long, `JIT_TEST_SEED` repeats a run.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jit_tests::{controller::Stage, random::Random};
use rustix::process::Signal;
use sqlx::{AnyConnection, Connection as _, any::install_default_drivers, query};

use crate::{asked::stage, databases::postgres, histories::History};

const SECONDS: u64 = 20;
const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];

#[test]
fn nothing_is_lost_or_opened_when_programs_are_killed() {
    run(None);
}

#[test]
fn nor_when_the_connections_to_postgres_break() {
    let database = postgres();
    run(Some(&database.url));
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(database: Option<&str>) {
    let now = u64::try_from(jit_controller::clock::now_ms()).unwrap();
    let seed = variable("JIT_TEST_SEED").unwrap_or(now);
    println!("JIT_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut stage, ana, li) = stage(database, &HOSTS, "stage");
    let history = Arc::new(History::default());
    let mut people = Vec::new();
    for role in 0..4 {
        let (history, random) = (Arc::clone(&history), Random::new(random.bits()));
        let who = if role == 2 { li.at(&stage.hub) } else { ana.at(&stage.hub) };
        people.push(thread::spawn(move || match role {
            0 | 1 => history.submit(&who, &HOSTS, random),
            2 => history.decide(&who, random),
            _ => history.revoke(&who, random),
        }));
    }
    let end = Instant::now() + Duration::from_secs(variable("JIT_TEST_SECONDS").unwrap_or(SECONDS));
    let mut kills = [0; 3];
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(200 + u64::try_from(random.below(1500)).unwrap()));
        match random.below(if database.is_some() { 3 } else { 2 }) {
            0 => {
                stage.end_controller(Signal::KILL);
                stage.start_controller(&[]);
                kills[0] += 1;
            }
            1 => {
                stage.signal_signer(Signal::KILL);
                kills[1] += 1;
            }
            _ => {
                break_connections(database.unwrap());
                kills[2] += 1;
            }
        }
    }
    let [controllers, signers, connections] = kills;
    println!(
        "killed: {controllers} controllers, {signers} signers, {connections} times connections"
    );
    history.end();
    for person in people {
        person.join().unwrap();
    }
    assert!(stage.controller_runs(), "{}", stage.log());
    history.ask_again(&ana);
    history.settle(&li);
    history.check(&stage, &li);
    check_audit(&mut stage);
}

/// The chain of the controller's audit is whole.
fn check_audit(stage: &mut Stage) {
    stage.end_controller(Signal::TERM);
    let verified = stage.run_controller(&["verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", jit_tests::controller::said(&verified));
}

/// Ends all connections of the controller to its database.
fn break_connections(url: &str) {
    install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut own = AnyConnection::connect(url).await.unwrap();
        let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        query(all).execute(&mut own).await.unwrap();
        own.close().await.unwrap();
    });
}

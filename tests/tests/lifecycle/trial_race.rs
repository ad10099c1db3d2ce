//! A confirmation that comes at the end of the trial: one of the two wins, in the kernel, the state, the
//! audit and the answer.

use std::{
    fs,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use jit_agent::system::sys;
use jit_proto::v1;
use jit_tests::agent::{Site, TO_STRANGER, address};
use rustix::process::Signal;
use serde_json::Value;

use crate::trial::{audit, reopened};

const PATIENCE: Duration = Duration::from_secs(30);
/// When the confirmation comes, milliseconds after the end of the trial. The first one comes in time
/// for certain, and the last one too late.
const MOMENTS: [&[i64]; 2] = [&[-3_000, -80, -60, -45, -35, -25], &[-15, -5, 0, 5, 50, 1_000]];

fn state(site: &Site, file: &str) -> Value {
    let text = fs::read(site.path("state").join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A host whose file closes the port, on trial; also returns the end, boot clock nanoseconds.
fn on_trial() -> (Site, i64) {
    let mut site = Site::new();
    let base = site.base("[\"*\"]", "auto").replace("\"off\"", "\"10s\"");
    site.write_config(&base.replace("[gate]\n", "[gate]\nmode = \"observe\"\n"));
    site.start();
    let kept = site.path("state/configuration.last-good");
    let end = Instant::now() + PATIENCE;
    while !kept.exists() {
        assert!(Instant::now() < end, "{}", site.log());
    }
    site.write_config(&base.replace("[gate]\n", "[gate]\nmode = \"enforce\"\n"));
    site.signal(Signal::HUP);
    let trial = site.path("state/configuration.trial");
    while !trial.exists() || site.status().0["trial"]["left_ms"].as_u64().is_none_or(|ms| ms == 0) {
        assert!(Instant::now() < end, "{}", site.log());
    }
    let end = state(&site, "configuration.trial")["until_ns"].as_i64().unwrap();
    (site, end)
}

fn boot() -> i64 {
    i64::try_from(sys::now().boot.0).unwrap()
}

/// Confirms at this moment.
fn confirm_at(site: &Site, moment: i64) -> Result<(), tonic::Status> {
    let asked = v1::ConfirmRequest { from_console: true, ..v1::ConfirmRequest::default() };
    site.call(async |mut client| {
        while boot() < moment {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        client.confirm(asked).await
    })
    .map(drop)
}

/// When a stranger got in, boot clock nanoseconds, until this flag is set.
fn knock(site: &Site, stop: &AtomicBool) -> Vec<i64> {
    site.stranger.run(|| {
        let mut opened = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let to = address(TO_STRANGER, 0, 22);
            if TcpStream::connect_timeout(&to, Duration::from_millis(20)).is_ok() {
                opened.push(boot());
                // The server behind the gate has other work, too.
                thread::sleep(Duration::from_millis(200));
            }
        }
        opened
    })
}

/// Fails unless audit, state and kernel say this of the trial.
#[track_caller]
fn assert_confirmed(site: &Site, confirmed: bool) {
    let codes = (audit(site, "N003"), audit(site, "B004"));
    assert_eq!(codes, if confirmed { (1, 0) } else { (0, 1) }, "{}", site.log());
    let kept = state(site, "configuration.last-good")["text"].as_str().unwrap().to_owned();
    assert_eq!(kept.contains("mode = \"enforce\""), confirmed, "{}", site.log());
    if confirmed {
        site.assert_closed_to_all();
    } else {
        reopened(site);
    }
}

/// Whether the confirmation at this moment won.
fn race(millis: i64) -> bool {
    let (mut site, end) = on_trial();
    let stop = AtomicBool::new(false);
    let (answer, opened) = thread::scope(|scope| {
        let knocking = scope.spawn(|| knock(&site, &stop));
        let answer = confirm_at(&site, end + millis * 1_000_000);
        let patience = Instant::now() + PATIENCE;
        while site.status().0["trial"]["ended"].is_null() {
            assert!(Instant::now() < patience, "{}", site.log());
        }
        // The state follows within a second.
        thread::sleep(Duration::from_millis(2_500));
        stop.store(true, Ordering::Relaxed);
        (answer, knocking.join().unwrap())
    });
    let won = site.status().0["trial"]["ended"] == "confirmed";
    assert_confirmed(&site, won);
    assert_eq!(answer.is_ok(), won, "{millis} ms: {answer:?}\n{}", site.log());
    match (won, opened.first()) {
        (true, None) => {}
        (true, Some(at)) => panic!("{millis} ms: open {} ns after the end", at - end),
        (false, None) => panic!("{millis} ms: it lapsed and stayed closed\n{}", site.log()),
        (false, Some(at)) => assert!(*at >= end, "{millis} ms: open {} ns before", end - at),
    }
    site.end(Signal::KILL);
    site.start();
    let (status, _) = site.status_when_the_disk_answers();
    assert_eq!(status["mode"] == "enforce", won, "{millis} ms: {status}");
    assert_confirmed(&site, won);
    won
}

#[test]
fn a_confirmation_at_the_end_of_a_trial_wins_everywhere_or_nowhere() {
    let races = MOMENTS.iter().flat_map(|moments| {
        thread::scope(|scope| {
            let races: Vec<_> = moments.iter().map(|ms| (*ms, scope.spawn(|| race(*ms)))).collect();
            let ended = races.into_iter().map(|(millis, race)| (millis, race.join().unwrap()));
            ended.collect::<Vec<_>>()
        })
    });
    let races: Vec<_> = races.collect();
    println!("confirmed, by milliseconds after the end: {races:?}");
    assert_eq!(races.first(), Some(&(-3_000, true)));
    assert!(races.iter().all(|(millis, won)| *millis < 0 || !won), "{races:?}");
}

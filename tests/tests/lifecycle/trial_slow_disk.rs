//! A confirmation that the disk takes slowly: longer than the command waits for an answer, and longer
//! than the gate waits for the disk.

use std::{
    fs,
    time::{Duration, Instant},
};

use jit_tests::agent::Site;
use rustix::process::Signal;

use crate::{
    crashes::Tracer,
    trial::{audit, enforced, observing, reopened, said, wait_for},
};

fn file(site: &Site) -> String {
    fs::read_to_string(site.config()).unwrap()
}

/// Confirms while the disk takes this long for the good configuration.
fn confirmed_slowly(site: &Site, seconds: u32) -> (i32, String) {
    // Only the copy of the configuration and the record of the trial are written by this call.
    let _tracer = Tracer::attach(site, "fsync", &format!("delay_enter={seconds}s:when=1"));
    said(site, &["confirm", "--from-console"], None)
}

#[test]
fn a_confirmation_whose_answer_comes_too_late_is_one_all_the_same() {
    let mut site = observing("");
    enforced(&site, "5m");
    let began = Instant::now();
    let (code, text) = confirmed_slowly(&site, 12);
    assert!(began.elapsed() > Duration::from_secs(11), "the disk was slow: {:?}", began.elapsed());
    assert_eq!(code, 0, "{text}\n{}", site.log());
    assert!(text.contains("says mode = \"enforce\" now"), "{text}");
    assert!(file(&site).contains("mode = \"enforce\""));
    site.assert_closed_to_all();
    assert_eq!((audit(&site, "N003"), audit(&site, "B004")), (1, 0));
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
}

#[test]
fn a_disk_that_is_slower_than_the_gate_waits_confirms_nothing() {
    let mut site = observing("");
    let begun = enforced(&site, "10s");
    let (code, text) = confirmed_slowly(&site, 25);
    assert_eq!(code, 69, "{text}\n{}", site.log());
    assert!(file(&site).contains("mode = 'observe'"), "put back: {text}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    reopened(&site);
    let kept = site.path("state/configuration.last-good");
    let trial = site.path("state/configuration.trial");
    wait_for(&site, "the disk is let go", || !trial.exists());
    let kept = fs::read_to_string(kept).unwrap();
    assert!(kept.contains("observe") && !kept.contains("mode = \\\"enforce"), "{kept}");
    assert_eq!((audit(&site, "N003"), audit(&site, "B004")), (0, 1), "{}", site.log());
    site.end(Signal::KILL);
    site.start();
    assert!(site.stranger_gets_in(0, 22));
    assert_eq!(audit(&site, "B004"), 1);
}

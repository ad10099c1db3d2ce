//! A host that has enrolled with a certificate of a minute is renewed again and again over the
//! connection that it has made with the one before, without losing it, and goes on after a restart.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::enrolled::{assert_opens, enrol_and_start, stage, token};

/// Two certificates of a minute end in it.
const TWO: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(300);

fn codes<'r>(records: &'r [Value], code: &str) -> Vec<&'r Value> {
    records.iter().filter(|one| one["code"] == code).collect()
}

#[test]
fn a_host_is_renewed_twice_without_losing_its_uplink_and_lives_longer_than_its_first_certificate() {
    let (mut stage, people) = stage("1m");
    let number = stage.add_machine("web-1");
    token(&stage, "stage", "1", "1h");
    let began = Instant::now();
    enrol_and_start(&mut stage, number);
    assert_opens(&stage, &people, number, "web-1");
    let first = fs::read(stage.host(number).path("tls/agent.pem")).unwrap();
    let end_of = |status: &Value| status["uplink"]["certificate_not_after"].clone();
    let mut ends = vec![end_of(&stage.host(number).status())];
    while ends.len() < 3 {
        thread::sleep(LOOK);
        let status = stage.host(number).status();
        assert_eq!(status["uplink"]["connected"], true, "{status:#}");
        assert_eq!(stage.admin.host("web-1").condition, "enforcing");
        let end = end_of(&status);
        if ends.last() != Some(&end) {
            println!("renewed after {:?}: until {end}", began.elapsed());
            ends.push(end);
        }
        assert!(began.elapsed() < TWO, "{ends:?}\n{}\n{status:#}", stage.log());
    }
    assert!(ends.is_sorted_by(|one, next| one.as_str() < next.as_str()), "{ends:?}");
    let status = stage.host(number).status();
    assert_eq!(status["uplink"]["failures"], 0, "{status:#}");
    assert_opens(&stage, &people, number, "web-1");

    let kept = stage.host(number).path("state/uplink.pem");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(stage.host(number).path("tls/agent.pem")).unwrap(), first);
    let audit = stage.host(number).audit();
    let renewed = codes(&audit, "H002");
    assert!(renewed.len() >= 2, "{renewed:#?}");
    assert!(
        renewed
            .iter()
            .all(|one| one["by"].as_str().is_some_and(|by| by.contains("jit-controller")))
    );
    assert!(codes(&audit, "H003").is_empty(), "{audit:#?}");
    let issued = stage.admin.audit().into_iter().filter(|one| one.code == "E006").count();
    assert!(issued >= 3, "{issued} certificates");

    // The first certificate has ended: only the renewed one lets it come back.
    let left = Duration::from_secs(62).saturating_sub(began.elapsed());
    thread::sleep(left);
    let host = stage.host_mut(number);
    host.end(Signal::KILL);
    host.start();
    assert_opens(&stage, &people, number, "web-1");
}

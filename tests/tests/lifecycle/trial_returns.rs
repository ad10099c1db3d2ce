//! What comes back when nobody confirms: the listening port and its certificate, the controllers and
//! signers of before. And the end of a trial that no agent saw is recorded once.

use std::fs;

use jit_tests::agent::Site;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    broken_surroundings::reboot,
    controllers::{self, call_at, grant, jitctl},
    trial::{
        audit, boot_of_trial, edit_trial, enforced, observing, recorded, refused, reopened,
        wait_for,
    },
};

fn left(site: &Site) -> u64 {
    site.status().0["trial"]["left_ms"].as_u64().unwrap_or(0)
}

/// Whether a controller may list the grants at this port.
fn lists(site: &Site, port: u16, name: &str) -> bool {
    call_at(site, port, name, &["list"]).status.success()
}

/// Whether the agent shows this certificate at this port.
fn shows(site: &Site, port: u16, certificate: &str) -> bool {
    let pem = fs::read_to_string(site.path(certificate)).unwrap();
    let leaf = pem.split_inclusive("-----END CERTIFICATE-----").next().unwrap();
    let said = controllers::openssl_at(site, port, &["-tls1_3", "-showcerts"]);
    said.replace('\r', "").contains(leaf.trim())
}

#[test]
fn listener_certificate_controllers_and_signers_of_before_return_and_nothing_of_the_trial_stays() {
    let site = controllers::site();
    let other = ["pki", "issue", "--dir", "pki", "--name", "other", "--ip", "198.51.100.1"];
    jitctl(&site, &other);
    jitctl(&site, &["keygen", "--algorithm", "p256", "--out", "late"]);
    let before = fs::read_to_string(site.config()).unwrap();
    // It closes port 23, by which it needs a trial.
    let port = "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"198.51.100.0/24\"]\n";
    let added = format!(
        "{port}[[controller]]\nidentity = \"spiffe://example.org/x\"\nmay = [\"grant\", \"read\"]\n\
         [[signer]]\nid = \"late\"\npublic_key = \"late.pub.pem\"\n"
    );
    let on_trial = before
        .replace("\"off\"", "\"30s\"")
        .replace("7443", "7444")
        .replace("pki/agent.", "pki/other.");
    assert!(lists(&site, 7443, "controller") && !lists(&site, 7443, "nobody"));
    site.write_config(&format!("{on_trial}{added}"));
    site.signal(Signal::HUP);
    wait_for(&site, "the trial begins", || left(&site) > 0);
    wait_for(&site, "the new listener", || lists(&site, 7444, "controller"));
    assert!(!lists(&site, 7443, "controller") && lists(&site, 7444, "nobody"));
    assert!(shows(&site, 7444, "pki/other.pem") && !shows(&site, 7444, "pki/agent.pem"));
    // Who came with the trial opens a port that was closed before it.
    let of_late: Vec<_> = grant("198.51.100.2", &[])
        .into_iter()
        .map(|word| if word == "signing.key" { "late.key" } else { word })
        .collect();
    let pushed = call_at(&site, 7444, "nobody", &of_late);
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    assert!(site.client_gets_in(0, 22));
    // A grant by the keys of before, also in the trial, stays.
    let of_before = call_at(&site, 7444, "controller", &grant("203.0.113.2", &[]));
    assert!(of_before.status.success(), "{}", String::from_utf8_lossy(&of_before.stderr));
    assert!(left(&site) > 0, "{}", site.log());

    wait_for(&site, "the trial ends", || left(&site) == 0);
    wait_for(&site, "the listener of before", || lists(&site, 7443, "controller"));
    assert!(!lists(&site, 7444, "controller") && !lists(&site, 7443, "nobody"));
    assert!(shows(&site, 7443, "pki/agent.pem") && !shows(&site, 7443, "pki/other.pem"));
    assert!(!site.client_opens(0, 22), "the grant of the trial ended with it\n{}", site.log());
    assert!(site.stranger_gets_in(0, 22), "that of before did not\n{}", site.log());
    assert!(refused(&site).contains("nobody confirmed it in time"), "{}", refused(&site));
    assert_eq!((audit(&site, "G006"), recorded(&site, "B004")), (1, 1));
    let late = call_at(&site, 7443, "controller", &of_late);
    assert!(!late.status.success(), "nobody trusts its signer any more");
}

#[test]
fn the_end_of_a_trial_is_recorded_once_wherever_the_agent_is_killed() {
    let mut site = observing("");
    // It lapses in this run. Killed before the state says that it is recorded.
    enforced(&site, "10s");
    reopened(&site);
    wait_for(&site, "the record", || audit(&site, "B004") == 1);
    let trial = site.path("state/configuration.trial");
    wait_for(&site, "the state", || !trial.exists());
    enforced(&site, "5m");
    let record = fs::read(&trial).unwrap();
    site.end(Signal::TERM);
    boot_of_trial(&site, "another");
    site.start();
    wait_for(&site, "the second record", || audit(&site, "B004") == 2);
    wait_for(&site, "the state", || !trial.exists());
    for _ in 0..2 {
        site.end(Signal::KILL);
        fs::write(&trial, &record).unwrap();
        boot_of_trial(&site, "another");
        site.start();
        wait_for(&site, "the state", || !trial.exists());
        assert_eq!(site.status().0["trial"]["ended"], "lapsed");
        assert_eq!(audit(&site, "B004"), 2, "{}", site.log());
    }
    // A trial that the audit does not have is recorded.
    site.end(Signal::KILL);
    fs::write(&trial, &record).unwrap();
    boot_of_trial(&site, "another");
    edit_trial(&site, "begun_ms", 1_000_000.into());
    site.start();
    wait_for(&site, "the third record", || audit(&site, "B004") == 3);
}

#[test]
fn a_confirmation_that_only_the_disk_saw_is_recorded_at_the_next_start() {
    let mut site = observing("");
    enforced(&site, "5m");
    let trial = site.path("state/configuration.trial");
    let record = fs::read(&trial).unwrap();
    let (code, text) = crate::trial::said(&site, &["confirm", "--from-console"], None);
    assert_eq!(code, 0, "{text}");
    assert_eq!(audit(&site, "N003"), 1);
    // Killed before the record of the trial was gone.
    for (begun, records) in [(None, 1), (Some(1_000_000), 2)] {
        site.end(Signal::KILL);
        fs::write(&trial, &record).unwrap();
        if let Some(begun) = begun {
            edit_trial(&site, "begun_ms", Value::from(begun));
        }
        site.start();
        site.assert_closed_to_all();
        wait_for(&site, "the state", || !trial.exists());
        assert_eq!((audit(&site, "N003"), audit(&site, "B004")), (records, 0), "{}", site.log());
    }
}

#[test]
fn a_start_before_the_network_leaves_the_record_of_a_lapsed_trial_to_the_agent() {
    let mut site = observing("");
    enforced(&site, "5m");
    let trial = site.path("state/configuration.trial");
    reboot(&mut site);
    boot_of_trial(&site, "another");
    let early = site.run(&["early"]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(early.status.success() && said.contains("in observe mode"), "{said}");
    assert!(said.contains("trial ended without a confirmation"), "{said}");
    assert!(trial.exists());
    site.host.ip(&["link", "set", "s0", "up"]);
    site.start();
    wait_for(&site, "the state", || !trial.exists());
    assert_eq!(audit(&site, "B004"), 1, "{}", site.log());
    assert_eq!(site.status().0["trial"]["ended"], "lapsed");
}

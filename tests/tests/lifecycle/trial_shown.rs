//! What shows a trial and its end: metrics and `doctor`. And where `enforce` warns, or refuses.

use std::{
    fs,
    time::{Duration, Instant},
};

use jit_tests::agent::Site;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    metrics::{TCP, scrape_with},
    trial::{enforce, enforced, observing, reopened, said},
};

/// Fails unless `doctor` says this of the trial.
#[track_caller]
fn doctor_says(site: &Site, level: &str, says: &str, fix: &str) {
    let output = site.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let of_trial: Vec<_> = findings.iter().filter(|one| one["check"] == "trial").collect();
    let [found] = of_trial[..] else { panic!("{findings:#?}") };
    assert_eq!(found["level"], level, "{found:#}");
    assert!(found["seen"].as_str().unwrap().contains(says), "{found:#}");
    assert!(found["fix"].to_string().contains(fix), "{found:#}");
    let twice =
        findings.iter().any(|one| one["check"] == "status" && one.to_string().contains("trial"));
    assert!(!twice, "it is one finding: {findings:#?}");
}

fn number(scrape: &str, name: &str) -> f64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {scrape}")).parse().unwrap()
}

#[test]
fn metrics_and_doctor_show_a_trial_its_end_and_what_to_do() {
    const END: &str = "jit_agent_trial_end_timestamp_seconds";
    let mut site = observing(TCP);
    let scrape = scrape_with(&site, "jit_agent_trial_lapsed 0");
    assert_eq!(number(&scrape, END).to_bits(), 0.0_f64.to_bits());
    doctor_says(&site, "ok", "nothing is on trial", "");
    enforced(&site, "20s");
    let now = || jiff_seconds();
    let scrape = scrape_with(&site, "jit_agent_observe 0");
    let left = number(&scrape, END) - now();
    assert!((1.0..21.0).contains(&left), "{left}");
    doctor_says(&site, "warning", "enforcing on trial, ", "sudo jit-agent confirm");
    site.end(Signal::KILL);
    doctor_says(&site, "warning", "enforcing on trial, ", "systemctl start jit-agent");
    reopened(&site);
    doctor_says(&site, "warning", "nobody confirmed the trial that began at", "jit-agent enforce");
    site.start();
    let scrape = scrape_with(&site, "jit_agent_trial_lapsed 1");
    assert_eq!(number(&scrape, END).to_bits(), 0.0_f64.to_bits());
    doctor_says(&site, "warning", "nobody confirmed the trial that began at", "jit-agent enforce");
    // Whoever puts a configuration in force has seen it.
    site.signal(Signal::HUP);
    scrape_with(&site, "jit_agent_trial_lapsed 0");
    enforced(&site, "5m");
    assert_eq!(said(&site, &["confirm", "--from-console"], None).0, 0);
    doctor_says(&site, "ok", "the last one was confirmed", "");
}

fn jiff_seconds() -> f64 {
    let now = jit_agent::system::sys::now().wall.0;
    Duration::from_millis(u64::try_from(now).unwrap()).as_secs_f64()
}

#[test]
fn enforce_is_refused_where_no_grant_could_open_again_and_warns_where_none_can_come() {
    let site = observing("");
    let (code, text) = said(&site, &["enforce", "--dry-run"], None);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("WARNING: there is no [control] and no [uplink]: no grant can come"),
        "{text}"
    );
    let good = fs::read_to_string(site.config()).unwrap();
    let reload = |text: &str| {
        let before = site.log().matches("reloaded").count();
        site.write_config(text);
        site.signal(Signal::HUP);
        let end = Instant::now() + Duration::from_secs(30);
        while site.log().matches("reloaded").count() == before {
            assert!(Instant::now() < end, "{}", site.log());
        }
    };
    let without = good.replace("[[signer]]\nid = \"test\"\npublic_key = \"signer.pem\"\n", "");
    assert_ne!(without, good);
    let ended = good.replace(
        "public_key = \"signer.pem\"\n",
        "public_key = \"signer.pem\"\nnot_after = \"2020-01-01T00:00:00Z\"\n",
    );
    let absent = good.replace("\"signer.pem\"", "\"none.pem\"");
    let two = good
        .replace("protocol = \"tcp\"\n", "protocol = \"tcp\"\napprovals = 2\n")
        .replace("[paths]", "[[signer]]\nid = \"second\"\npublic_key = \"none.pem\"\n[paths]");
    for (text, says) in [
        (without, "it takes 1 approval, and the keys that this host trusts now can give 0"),
        (ended, "can give 0; add a [[signer]]"),
        (absent, "can give 0 (the key of test cannot be used)"),
        (
            two,
            "it takes 2 approvals, and the keys that this host trusts now can give 1 (the key of",
        ),
    ] {
        reload(&text);
        for arguments in [&["enforce", "--dry-run"][..], &["enforce", "--yes", "--no-wait"]] {
            let (code, said) = said(&site, arguments, None);
            assert_eq!(code, 69, "{said}");
            assert!(
                said.contains("no grant could open 22/tcp again") && said.contains(says),
                "{said}"
            );
        }
        assert!(site.stranger_gets_in(0, 22) && site.status().0["trial"].is_null());
    }
    reload(&good);
    assert_eq!(enforce(&site, "5m").0, 0);
    site.assert_closed_to_all();
}

//! The audit of a real agent: what happened is in it, the chain is whole after a kill, and neither
//! a flood nor a full disk damages it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, HOST, STRANGER, Site, TO_CLIENT, TO_STRANGER},
    disk::Disk,
    frames::{Ipv4, Macs, Tcp},
    raw::Wire,
};
use rustix::process::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(600);
const SYNS: u32 = 10_000;

/// Records as `audit show --json` prints them.
pub(crate) fn shown(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let output = site.run(&[&["audit", "show", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn codes(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["code"].as_str().unwrap()).collect()
}

#[track_caller]
fn of<'a>(records: &'a [Value], code: &str) -> &'a Value {
    let found = records.iter().find(|record| record["code"] == code);
    found.unwrap_or_else(|| panic!("no {code} in {:?}", codes(records)))
}

/// Whether `audit verify` finds nothing wrong, and its output.
fn verified(site: &Site) -> (bool, String) {
    let output = site.run(&["audit", "verify"]);
    let text = String::from_utf8(output.stdout).unwrap();
    match output.status.code() {
        Some(0) => (true, text),
        Some(1) => (false, text),
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[track_caller]
fn assert_whole(site: &Site) {
    let (good, text) = verified(site);
    assert!(good, "{text}");
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen within 10 s");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_happened_is_in_the_audit_until_the_gate_is_detached() {
    let mut site = Site::new();
    site.start();
    let mut foreign = site.grant(&CLIENT, LONG);
    foreign.hosts = vec!["another".into()];
    site.push(site.sign(&foreign)).unwrap_err();
    let long = site.admit(&CLIENT, LONG);
    assert!(site.client_gets_in(0, 22));
    let short = site.admit(&[STRANGER[0]], Duration::from_secs(1));
    wait_for(|| shown(&site, &["--code", "G005"]).len() == 1);
    assert_eq!(site.revoke_all(), 1);
    site.signal(Signal::HUP);
    wait_for(|| shown(&site, &["--code", "R001"]).len() == 1);
    let good = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{good}[gaet]\n"));
    site.signal(Signal::HUP);
    wait_for(|| shown(&site, &["--code", "R002"]).len() == 1);
    site.write_config(&good);
    site.end(Signal::TERM);
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    assert_whole(&site);

    let records = shown(&site, &[]);
    let id = |outcome: &v1::Outcome| jit_proto::words::id_text(&outcome.grant_id);
    let refused = of(&records, "G004");
    assert_eq!((&refused["reason"], &refused["by"]), (&"wrong_host".into(), &"local uid 0".into()));
    let admitted = of(&records, "G001");
    for (field, value) in [
        ("grant", id(&long).as_str()),
        ("by", "local uid 0"),
        ("requester", "ana@example.org"),
        ("why", "test"),
    ] {
        assert_eq!(admitted[field], value, "{admitted}");
    }
    assert_eq!(admitted["sources"], Value::from(CLIENT.to_vec()));
    assert_eq!(admitted["signers"], Value::from(vec!["test"]));
    let connection = of(&records, "C001");
    for (field, value) in [
        ("grant", id(&long).as_str()),
        ("source", CLIENT[0]),
        ("destination", TO_CLIENT[0]),
        ("port", "22/tcp"),
        ("interface", "c0"),
    ] {
        assert_eq!(connection[field], value, "{connection}");
    }
    assert_eq!(of(&records, "G005")["grant"], id(&short));
    let revoked = of(&records, "G006");
    assert_eq!((&revoked["grant"], &revoked["connections"]), (&id(&long).into(), &1.into()));
    assert_eq!(of(&records, "S001")["host"], HOST);
    assert!(of(&records, "R002")["detail"].as_str().unwrap().contains("gaet"));
    let attached: BTreeSet<&str> = records
        .iter()
        .filter(|record| record["code"] == "A001")
        .map(|record| record["interface"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(attached, BTreeSet::from(["c0", "network namespace", "s0"]));
    assert_eq!(codes(&records).last(), Some(&"A006"));
    assert!(of(&records, "A006")["by"].as_str().unwrap().starts_with("local uid 0"));
    assert!(codes(&records).contains(&"S002"));

    let theirs = shown(&site, &["--grant", &id(&long)]);
    assert_eq!(codes(&theirs), ["G001", "C001", "G006"]);
    let text = site.run(&["audit", "show", "--code", "grant_revoked", "--since", "1h"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("G006 grant_revoked") && !text.contains('\x1b'), "{text}");
    let text = String::from_utf8(site.run(&["audit", "show", "--last", "1"]).stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn after_kill_9_the_chain_goes_on() {
    let mut site = Site::new();
    for run in 1..=3 {
        site.start();
        site.admit(&CLIENT, LONG);
        site.end(Signal::KILL);
        assert_whole(&site);
        assert_eq!(
            shown(&site, &["--code", "G001"]).len(),
            run,
            "each accepted grant is in the audit"
        );
    }
    let records = shown(&site, &[]);
    assert_eq!(codes(&records).iter().filter(|code| **code == "S001").count(), 3);
    assert!(!codes(&records).contains(&"S002"));
}

#[test]
fn a_changed_audit_file_is_named_and_a_missing_end_shows_in_status() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site.end(Signal::TERM);
    let path = site.path("state/audit/audit.jsonl");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("ana@example.org", "eve@example.org")).unwrap();
    let line = good.lines().position(|line| line.contains("ana@")).unwrap() + 1;
    let (whole, text) = verified(&site);
    assert!(!whole && text.contains(&format!("audit.jsonl line {line}:")), "{text}");
    let (kept, _) = good.trim_end().rsplit_once('\n').unwrap();
    fs::write(&path, format!("{kept}\n")).unwrap();
    assert!(!verified(&site).0);
    site.start();
    let (status, code) = site.status();
    assert_eq!(code, 1);
    assert!(status["problems"].to_string().contains("audit was damaged"), "{status:#}");
    assert!(!verified(&site).0, "the damage is still reported");
}

#[test]
fn ten_thousand_denied_syns_do_not_grow_the_audit() {
    let mut site = Site::new();
    site.start();
    assert!(!site.stranger_opens(0, 22));
    // The records of the start are written and synced.
    wait_for(|| verified(&site).1.contains("signed"));
    let before = shown(&site, &[]);
    let macs = Macs { source: site.stranger.mac("p0"), destination: site.host.mac("s0") };
    let index = site.stranger.index("p0");
    site.stranger.run(|| {
        let wire = Wire::open(index);
        let to: Ipv4Addr = TO_STRANGER[0].parse().unwrap();
        let began = Instant::now();
        for number in 0..SYNS {
            let source = Ipv4Addr::from(0x0a00_0000 + number);
            let packet = Ipv4::new(source, to).tcp(&Tcp::syn(22));
            wire.send(&packet.between(macs, &[]));
        }
        println!("{SYNS} SYNs in {:?}", began.elapsed());
    });
    wait_for(|| {
        let dropped = &site.status().0["dropped"]["by_reason"]["denied"];
        dropped.as_u64().is_some_and(|dropped| dropped >= u64::from(SYNS))
    });
    assert_eq!(shown(&site, &[]), before, "nothing was added");
    assert_whole(&site);
}

#[test]
fn on_a_full_disk_nothing_new_opens_and_everything_closes() {
    let mut site = Site::new();
    let disk = Disk::mount(site.path("state"));
    site.start();
    site.admit(&CLIENT, LONG);
    disk.fill();
    let refused = site.push(site.envelope(&[STRANGER[0]], LONG)).unwrap_err();
    assert!(refused.message().starts_with("storage"), "{refused}");
    assert!(!site.stranger_opens(0, 22));
    let began = Instant::now();
    assert_eq!(site.revoke_all(), 1);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    site.assert_closed_to_all();
    // Each refusal is a record, until the last page of the audit is full too.
    wait_for(|| {
        let refused = site.push(site.envelope(&[STRANGER[0]], LONG)).unwrap_err();
        assert!(refused.message().starts_with("storage"), "{refused}");
        site.status().0["problems"].to_string().contains("cannot write to the audit")
    });
    disk.make_room();
    wait_for(|| site.push(site.envelope(&[STRANGER[0]], LONG)).is_ok());
    assert!(site.stranger_gets_in(0, 22));
    wait_for(|| site.status().1 == 0);
    site.end(Signal::TERM);
    assert_whole(&site);
    let records = shown(&site, &[]);
    assert_eq!(of(&records, "G006")["why"], "test", "recorded when there was room again");
    assert_eq!(of(&records, "G004")["reason"], "storage");
    let alarms: Vec<_> = shown(&site, &["--code", "S003", "--code", "S004"]);
    let audit: Vec<_> = alarms.iter().filter(|alarm| alarm["alarm"] == "audit").collect();
    assert!(audit.len() >= 2, "raised and cleared: {alarms:?}");
    drop(site);
    drop(disk);
}

#[test]
fn follow_goes_on_over_rotations_and_the_set_is_whole() {
    let mut site = Site::new();
    site.configure("[audit]\nmax_size = \"64KiB\"\nkeep = 50\n");
    site.start();
    let mut command = site.command(&["audit", "follow", "--json", "--since", "1h"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let last = push_many(&site, 1_000);
    let mut seqs = Vec::new();
    for line in lines {
        let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
        seqs.push(record["seq"].as_u64().unwrap());
        if record["grant"] == last {
            break;
        }
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    let expected: Vec<u64> = (1..=u64::try_from(seqs.len()).unwrap()).collect();
    assert_eq!(seqs, expected);
    assert!(files(&site.path("state/audit")) >= 4);
    // The last record may be larger than the rest of a file's room.
    let largest = sizes(&site.path("state/audit")).into_iter().max().unwrap();
    assert!(largest < (64 << 10) + 4_096, "{largest} bytes in one file");
    site.end(Signal::KILL);
    assert_whole(&site);
}

/// Pushes grants one batch after the other. Returns the id of the last one.
fn push_many(site: &Site, count: u32) -> String {
    let envelopes: Vec<_> = (0..count)
        .map(|number| {
            let source = Ipv4Addr::from(0x0a00_0000 + number).to_string();
            site.envelope(&[&source], LONG)
        })
        .collect();
    let request = v1::PushBatchRequest { envelopes, ..Default::default() };
    let answer = site.call(async |mut client| client.push_batch(request).await).unwrap();
    let outcomes = answer.into_inner().outcomes;
    assert!(outcomes.iter().all(|outcome| outcome.accepted));
    jit_proto::words::id_text(&outcomes.last().unwrap().grant_id)
}

fn files(directory: &Path) -> usize {
    sizes(directory).len()
}

/// The sizes of the audit's files, bytes.
fn sizes(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let of_audit = entries.filter(|file| file.file_name().to_string_lossy().ends_with(".jsonl"));
    of_audit.map(|file| file.metadata().unwrap().len()).collect()
}

#[test]
fn without_an_audit_the_commands_say_so() {
    let site = Site::new();
    let output = site.run(&["audit", "verify"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(errors.contains("state/audit"), "{errors}");
    let output = site.run(&["audit", "show", "--code", "X999"]);
    assert_eq!(output.status.code(), Some(64));
}

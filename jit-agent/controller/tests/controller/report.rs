//! The report of a week, over a filled database, in each of its forms.

use std::{fs, os::unix::fs::PermissionsExt as _};

use jit_controller::{
    audit::{self, Code, Record},
    model::{
        Answer, Host, Proposal, State,
        host::{Condition, Observed, ObservedExemption, ObservedPort},
    },
    store::{Store, deliveries, hosts, requests, uses},
};
use serde_json::{Value, json};

use crate::{
    commands::{Controller, json_of, text},
    databases::Database,
    filled::{HOUR, NOW, proposal, request, sign},
};

on_each_database! {
    a_week_is_shown_in_each_form,
}

const HOSTILE: &str = "=HYPERLINK(\"x\") <b onclick=x>no</b>";
const PERIOD: [&str; 4] = ["--from", "2027-03-01", "--to", "2027-03-02"];

async fn fill(store: &Store) {
    let mut tx = store.begin().await.unwrap();
    let web = Host { id: "web-1".into(), address: "192.0.2.1:7443".into(), ..Host::default() };
    hosts::put(&mut tx, &web).await.unwrap();
    hosts::put(&mut tx, &Host { id: "web-2".into(), ..web }).await.unwrap();
    let opened = proposal(1, &["web-1", "web-2", "web-3"]);
    let id = opened.id.clone();
    sign(&mut tx, opened).await;
    // Another day.
    let later = Proposal { start_ms: Some(NOW + 48 * HOUR), ..proposal(2, &["web-1"]) };
    sign(&mut tx, Proposal { created_ms: NOW + 40 * HOUR, ..later }).await;
    let denied = Proposal { requester: "bo@example.org".into(), ..proposal(3, &["web-2"]) };
    let record =
        Record::new(Code::Denied, &denied.id, "li@example.org", json!({ "reason": HOSTILE }));
    requests::insert(&mut tx, &request(denied, State::Denied)).await.unwrap();
    audit::append(&mut tx, NOW, &record).await.unwrap();
    let approved = json!({ "approvers": ["li@example.org"] });
    let approved = Record::new(Code::Granted, &id, "controller", approved);
    audit::append(&mut tx, NOW + 30_000, &approved).await.unwrap();
    tx.commit().await.unwrap();
    for one in store.deliveries_of(&id).await.unwrap() {
        let mut tx = store.begin().await.unwrap();
        let open = deliveries::answered(&mut tx, &one, Answer::Open, "ok", "", NOW + 5);
        assert!(open.await.unwrap());
        let hits = match one.host.as_str() {
            "web-1" => Some(0),
            "web-2" => Some(5),
            _ => None,
        };
        if let Some(hits) = hits {
            // A host that was started anew begins again: what was seen stays.
            uses::saw(&mut tx, &one.grant_id, &one.host, hits, NOW + 10).await.unwrap();
            uses::saw(&mut tx, &one.grant_id, &one.host, 0, NOW + 60_000).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    let exemption = ObservedExemption {
        source: "192.0.2.0/24".into(),
        owner: "backup".into(),
        reason: "nightly".into(),
        until_ms: 0,
    };
    let port = ObservedPort {
        port: "22/tcp".into(),
        mode: "observe".into(),
        max_duration_ms: HOUR,
        approvals: 1,
        exemptions: vec![exemption],
    };
    let observed = Observed {
        condition: Condition::NotEnforcing,
        seen_ms: NOW,
        since_ms: NOW - HOUR,
        ports: vec![port],
        ..Observed::default()
    };
    store.observe("web-1", &observed).await.unwrap();
    let enforcing =
        Observed { condition: Condition::Enforcing, seen_ms: NOW, ..Observed::default() };
    store.observe("web-2", &enforcing).await.unwrap();
}

async fn a_week_is_shown_in_each_form(database: Database) {
    let controller = Controller::made(&database);
    let store = controller.store().await;
    fill(&store).await;
    store.close().await;
    let report = |more: &[&str]| {
        let output = controller.run(&[&["report"], &PERIOD[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        output
    };

    let all = json_of(&report(&["--json"]));
    let table = |name: &str| all["tables"][name]["rows"].as_array().unwrap().clone();
    let unused = table("unused");
    assert_eq!(unused.len(), 1, "{unused:#?}");
    assert_eq!(unused[0]["who"], "ana@example.org");
    assert_eq!(unused[0]["hosts_without_a_connection"], "web-1");
    assert_eq!(unused[0]["how_many"], "1 of 3");
    let note = all["tables"]["unused"]["note"].as_str().unwrap();
    assert!(note.starts_with("3 openings on hosts: 1 were used, 1 were not"), "{note}");
    assert!(note.contains("of 1 it is not known"), "{note}");
    let denied = table("denied");
    let of = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    assert_eq!(denied.len(), 1);
    assert_eq!(of(&denied[0], "who"), "bo@example.org");
    assert_eq!(of(&denied[0], "by"), "li@example.org");
    assert_eq!(of(&denied[0], "why"), HOSTILE);
    let exempt = table("exemptions");
    assert_eq!(
        (of(&exempt[0], "from"), of(&exempt[0], "until")),
        ("192.0.2.0/24".into(), "no end".into())
    );
    let open = table("not_enforcing");
    assert_eq!(open.len(), 1);
    assert_eq!(
        (of(&open[0], "host"), of(&open[0], "state")),
        ("web-1".into(), "not enforcing".into())
    );
    assert_eq!(of(&open[0], "what_is_wrong"), "only observed: 22/tcp");
    let slow = table("slow");
    assert_eq!(
        (of(&slow[0], "waited"), of(&slow[0], "agreed")),
        ("1m 30s".into(), "li@example.org".into())
    );
    let askers = table("askers");
    assert_eq!(askers.len(), 2, "{askers:#?}");
    assert_eq!(of(&askers[1], "came_to_nothing"), "1");

    let page = text(&report(&["--html"]));
    assert!(page.starts_with("<!doctype html>") && page.contains("Who asked most"), "{page}");
    assert!(!page.contains("<b onclick") && page.contains("onclick=x"), "{page}");
    let shown = text(&report(&[]));
    assert!(shown.contains("OPEN, AND NOBODY CAME"), "{shown}");

    let directory = controller.root.path().join("tables");
    let directory = directory.to_str().unwrap();
    report(&["--csv", directory]);
    // People and their reasons are in it.
    for file in fs::read_dir(directory).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let read = |name: &str| fs::read_to_string(format!("{directory}/{name}.csv")).unwrap();
    let mut rows = csv::Reader::from_reader(read("denied").as_bytes())
        .into_records()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    let row = rows.pop().unwrap();
    assert_eq!(&row[5], format!("'{HOSTILE}"), "no formula");
    for name in ["unused", "exemptions", "not_enforcing", "slow", "askers"] {
        assert!(read(name).lines().count() > 1, "{name}");
    }
    let again = controller.run(&[&["report"], &PERIOD[..], &["--csv", directory]].concat());
    assert_eq!(again.status.code(), Some(78), "files are not replaced: {}", text(&again));
    let wrong = controller.run(&["report", "--week", "2026-W99"]);
    assert_eq!(wrong.status.code(), Some(64), "{}", text(&wrong));
    // A week in which nothing was.
    assert!(text(&controller.run(&["report", "--week", "2020-W01"])).contains("0 requests"));
}

//! What the page *Health* says of a controller that works and of one that does not.

use jit_controller::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::{
        State,
        host::{Alarm, Condition},
    },
    store::{Webhook, deliveries, hosts, requests, webhooks},
};
use serde_json::json;

use super::Browser;
use crate::{api::Site, databases::Database, filled};

on_each_database! {
    only_administrators_see_it,
    what_does_not_work_comes_first_with_what_to_do,
}

async fn only_administrators_see_it(database: Database) {
    let site = Site::new(database).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    let refused = bo.get("/health").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("admins"), "{}", refused.text);
    assert!(!bo.get("/me").await.text.contains("href=\"/health\""));
    assert!(!bo.get("/me").await.text.contains("href=\"/audit\""));
    let page = root.get("/me").await.text;
    assert!(page.contains("href=\"/health\"") && page.contains("href=\"/audit\""));
    let page = root.get("/health").await.ok().text;
    for text in ["database (", "answers; 2 hosts", "version 1 is in force", "2 without an answer"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("does not work"), "{page}");
}

async fn what_does_not_work_comes_first_with_what_to_do(database: Database) {
    let site = Site::new(database).await;
    let now = now_ms();
    let mut tx = site.store().begin().await.unwrap();
    let mut observed = hosts::lock_observed(&mut tx, "web-1").await.unwrap().unwrap();
    observed.condition = Condition::NotEnforcing;
    // What agents say is no field of it.
    observed.problems.push("\"alarms\":[{\"holds\":true".into());
    hosts::set_observed(&mut tx, "web-1", &observed).await.unwrap();
    let mut observed = hosts::lock_observed(&mut tx, "db-1").await.unwrap().unwrap();
    let alarm = |holds| Alarm { word: "clone".into(), text: "two".into(), at_ms: 1, holds };
    observed.alarms.extend([alarm(false), alarm(true)]);
    hosts::set_observed(&mut tx, "db-1", &observed).await.unwrap();
    // Agreed to an hour ago, and nobody signs.
    let asked = filled::request(filled::proposal(1, &["web-1"]), State::Approved);
    requests::insert(&mut tx, &asked).await.unwrap();
    let record = Record::new(Code::Granted, &asked.proposal.id, "controller", json!({}));
    audit::append(&mut tx, now - filled::HOUR, &record).await.unwrap();
    // Due for a minute, and nobody brings it; another host does not answer.
    filled::sign(&mut tx, filled::proposal(2, &["db-1", "web-1"])).await;
    let hook = Webhook {
        id: "01KPEXAMP1E0000000000000H1".into(),
        url: "https://hooks.example.org/<script>".into(),
        enabled: false,
        why: "it failed for a day: it answers 500".into(),
        created_ms: 1,
        ..Webhook::default()
    };
    webhooks::put(&mut tx, &hook).await.unwrap();
    tx.commit().await.unwrap();
    for delivery in site.store().deliveries_of(&filled::proposal(2, &[]).id).await.unwrap() {
        let mut tx = site.store().begin().await.unwrap();
        let (trouble, next) = match delivery.host.as_str() {
            "db-1" => ("no route to it", now + 1000),
            _ => ("", now - 60_000),
        };
        deliveries::failed(&mut tx, &delivery, trouble, now - 5000, next).await.unwrap();
        tx.commit().await.unwrap();
    }
    site.store().set_audit_cursor("siem.example.org:6514", 0, now).await.unwrap();
    let root = Browser::of(&site, "root").await;
    let page = root.get("/health").await.ok().text;
    for text in [
        "Something does not work.",
        "1 not in force: anybody gets in there",
        "1 of which two machines are connected: nothing is opened there",
        "1 request agreed to and not signed",
        "role `signer`",
        "due for over 30s, and nobody brings them: 1 of 2",
        "1 waiting for hosts that do not answer",
        "without a signed end",
        "takes nothing: ",
        "webhook 01KPEXAMP1E0000000000000H1",
        "it answers 500",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("<script>"), "{page}");
    let first = page.split("<span class=\"state ").nth(1).unwrap();
    assert!(first.starts_with("bad"), "{page}");
}

//! Times on the pages: people read `2027-03-01 10:00:00 UTC`, browsers the attribute beside it.

use jit_controller::{
    clock::now_ms,
    model::host::{Alarm, Condition, Observed, ObservedExemption, ObservedPort},
    store::hosts,
};

use super::Browser;
use crate::{api::Site, databases::Database, filled};

on_each_database! {
    every_time_is_shown_for_people,
}

async fn every_time_is_shown_for_people(database: Database) {
    let site = Site::with_fleet(database).await;
    let now = now_ms();
    let observed = Observed {
        condition: Condition::Degraded,
        seen_ms: now - 61_000,
        since_ms: now - filled::HOUR,
        alarms: vec![Alarm {
            word: "clone".into(),
            text: "two machines".into(),
            at_ms: now,
            holds: false,
        }],
        ports: vec![ObservedPort {
            port: "22/tcp".into(),
            mode: "enforce".into(),
            max_duration_ms: 7_200_000,
            approvals: 1,
            exemptions: vec![ObservedExemption {
                source: "192.0.2.0/24".into(),
                owner: "team-net".into(),
                reason: "monitoring".into(),
                until_ms: now + filled::HOUR,
            }],
        }],
        ..Observed::default()
    };
    let mut tx = site.store().begin().await.unwrap();
    hosts::set_observed(&mut tx, "web-1", &observed).await.unwrap();
    let asked = filled::proposal(1, &["web-1"]);
    let id = asked.id.clone();
    filled::sign(&mut tx, asked).await;
    tx.commit().await.unwrap();
    let root = Browser::of(&site, "root").await;
    let kept = root.post("/policies", &[("text", super::policies::GOOD), ("why", "tests")]).await;
    let policy = kept.goes_to().to_owned();
    let begun = root.post(&format!("{policy}/rollout"), &[("waves", "all")]).await;
    for path in [
        "/host/web-1",
        "/audit",
        "/access",
        "/health",
        "/policies",
        &policy,
        begun.goes_to(),
        "/rules",
        "/rules/1",
        "/rules/history",
        "/me",
        &format!("/requests/{id}"),
    ] {
        let shown = text(&root.get(path).await.ok().text);
        assert!(shown.contains(" UTC"), "{path}: {shown}");
        assert!(!has_exact(&shown), "{path}: {shown}");
    }
}

/// A page without its tags.
fn text(page: &str) -> String {
    page.split('<').filter_map(|part| Some(part.split_once('>')?.1)).collect::<Vec<_>>().join(" ")
}

/// There is a time as in RFC 3339, which is for programs: `2027-03-01T10:00:00Z`.
fn has_exact(text: &str) -> bool {
    text.as_bytes().windows(4).any(|four| {
        let [a, b, c, d] = four else { return false };
        a.is_ascii_digit() && b.is_ascii_digit() && *c == b'T' && d.is_ascii_digit()
    })
}

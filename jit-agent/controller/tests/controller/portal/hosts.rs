//! What the pages of hosts show, to whom, and what may be done there.

use jit_controller::{
    clock::now_ms,
    model::{
        Answer, Host,
        host::{Alarm, Condition, Observed, ObservedExemption, ObservedPort},
    },
    store::{RulesVersion, deliveries, hosts, rules},
};

use super::Browser;
use crate::{api::Site, databases::Database, filled};

on_each_database! {
    what_needs_somebody_comes_first_and_a_long_list_has_pages,
    a_host_says_what_it_protects_what_is_wrong_and_who_has_access,
    alarms_stay_until_somebody_who_may_has_looked,
    who_may_not_see_a_host_does_not_learn_that_there_is_one,
    hostile_texts_of_hosts_are_shown_as_text,
}

/// Puts in a host with what its agent answered.
async fn put(site: &Site, id: &str, observed: Observed) {
    let host = Host {
        id: id.into(),
        address: "192.0.2.20:7443".into(),
        labels: [("env".to_owned(), "lab".to_owned())].into(),
        groups: ["racks".to_owned()].into(),
        ..Host::default()
    };
    let mut tx = site.store().begin().await.unwrap();
    hosts::put(&mut tx, &host).await.unwrap();
    hosts::set_observed(&mut tx, id, &observed).await.unwrap();
    tx.commit().await.unwrap();
}

fn is(condition: Condition) -> Observed {
    Observed { condition, seen_ms: now_ms() - 61_000, since_ms: 1000, ..Observed::default() }
}

fn alarm(text: &str, at_ms: i64) -> Alarm {
    Alarm { word: "clone".into(), text: text.into(), at_ms, holds: false }
}

/// The ids of a list, in its order.
fn listed(page: &str) -> Vec<String> {
    let links = page.split("<a href=\"/host/").skip(1);
    links.map(|link| link.split('"').next().unwrap().to_owned()).collect()
}

/// Only administrators see hosts from now on.
pub(super) async fn hide_hosts(site: &Site) {
    let text =
        "permit (principal in Group::\"admins\", action == Action::\"configure\", resource);\n";
    let version = RulesVersion {
        version: 2,
        text: text.into(),
        author: "root@example.org".into(),
        note: String::new(),
        saved_ms: 2,
    };
    let mut tx = site.store().begin().await.unwrap();
    rules::save(&mut tx, &version).await.unwrap();
    tx.commit().await.unwrap();
}

async fn what_needs_somebody_comes_first_and_a_long_list_has_pages(database: Database) {
    let site = Site::new(database).await;
    put(&site, "lab-a", is(Condition::Enforcing)).await;
    put(&site, "lab-b", is(Condition::Degraded)).await;
    put(&site, "lab-c", is(Condition::Unreachable)).await;
    put(&site, "lab-d", is(Condition::NotEnforcing)).await;
    let mut odd = is(Condition::Enforcing);
    odd.alarms.push(alarm("two machines", 5));
    put(&site, "lab-e", odd).await;
    // A text that only looks like the field of alarms.
    let mut text = is(Condition::Enforcing);
    text.trouble = "\"alarms\":[{".into();
    put(&site, "lab-f", text).await;
    let bo = Browser::of(&site, "bo").await;
    let page = bo.get("/hosts").await.ok();
    assert_eq!(
        listed(&page.text),
        ["lab-e", "lab-d", "lab-c", "lab-b", "db-1", "web-1", "lab-a", "lab-f"]
    );
    assert!(page.text.contains("1m0"), "{}", page.text);
    let found = async |query: &str| listed(&bo.get(&format!("/hosts?{query}")).await.ok().text);
    assert_eq!(found("q=LAB").await.len(), 6);
    assert_eq!(found("q=env%3Dlab+ab-b").await, ["lab-b"]);
    assert_eq!(found("q=group%3Aracks&condition=degraded").await, ["lab-b"]);
    assert!(found("q=100%25").await.is_empty(), "a per cent sign is a letter");
    assert!(found("q=lab_").await.is_empty(), "so is an underline");
    assert_eq!(bo.get("/hosts?after=x").await.status, 422);

    let mut tx = site.store().begin().await.unwrap();
    for number in 0..120 {
        let id = format!("z-{number:03}");
        hosts::put(&mut tx, &Host { id, ..Host::default() }).await.unwrap();
    }
    tx.commit().await.unwrap();
    let (mut path, mut all) = ("/hosts?q=z-".to_owned(), Vec::new());
    for pages in 1.. {
        assert!(pages < 10, "it never ends");
        let page = bo.get(&path).await.ok().text;
        all.extend(listed(&page));
        let Some((_, rest)) = page.split_once("rel=\"next\" href=\"") else { break };
        path = rest.split('"').next().unwrap().replace("&#38;", "&");
    }
    let expected: Vec<_> = (0..120).map(|number| format!("z-{number:03}")).collect();
    assert_eq!(all, expected);
}

async fn a_host_says_what_it_protects_what_is_wrong_and_who_has_access(database: Database) {
    let site = Site::new(database).await;
    let mut observed = is(Condition::Degraded);
    observed.problems = vec!["certificate: it ends in 3 days; renew it".into()];
    let port = |port: &str, mode: &str| ObservedPort {
        port: port.into(),
        mode: mode.into(),
        max_duration_ms: 7_200_000,
        approvals: 2,
        exemptions: vec![ObservedExemption {
            source: "192.0.2.0/24".into(),
            owner: "team-net".into(),
            reason: "monitoring".into(),
            until_ms: 0,
        }],
    };
    observed.ports = vec![port("22/tcp", "enforce"), port("5432/tcp", "observe")];
    let mut tx = site.store().begin().await.unwrap();
    hosts::set_observed(&mut tx, "web-1", &observed).await.unwrap();
    let asked = filled::proposal(1, &["db-1", "web-1"]);
    let id = asked.id.clone();
    filled::sign(&mut tx, asked).await;
    tx.commit().await.unwrap();
    for delivery in site.store().deliveries_of(&id).await.unwrap() {
        let mut tx = site.store().begin().await.unwrap();
        let (answer, word, detail) = match delivery.host.as_str() {
            "web-1" => (Answer::Open, "", ""),
            _ => (Answer::Refused, "capacity", "the tables are full"),
        };
        deliveries::answered(&mut tx, &delivery, answer, word, detail, 5).await.unwrap();
        tx.commit().await.unwrap();
    }
    let bo = Browser::of(&site, "bo").await;
    let page = bo.get("/host/web-1").await.ok().text;
    for text in [
        "in force, with a problem",
        "certificate: it ends in 3 days; renew it",
        "dropped",
        "only counted: it is open",
        "2h",
        "192.0.2.0/24, without an end, team-net: monitoring",
        "ana@example.org",
        "203.0.113.7",
        "disk full",
        "<span class=\"state good\">open</span>",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let page = bo.get("/host/db-1").await.ok().text;
    assert!(page.contains("refused: the tables are full (capacity)"), "{page}");
    assert!(page.contains("It has not said."), "{page}");
    assert_eq!(bo.get("/host/nothing").await.status, 404);
}

async fn alarms_stay_until_somebody_who_may_has_looked(database: Database) {
    let site = Site::new(database).await;
    let mut observed = is(Condition::Enforcing);
    observed.alarms = vec![alarm("two machines have this id", 100), alarm("its end was cut", 200)];
    put(&site, "lab-1", observed).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    let page = bo.get("/host/lab-1").await.ok().text;
    assert!(
        page.contains("two machines have this id") && !page.contains("I have looked"),
        "{page}"
    );
    assert_eq!(bo.post("/host/lab-1/alarms", &[("until", "200")]).await.status, 403);

    let shown = root.get("/host/lab-1").await.ok();
    assert_eq!(shown.field("until"), "200");
    // Another one comes between the look and the click.
    let mut tx = site.store().begin().await.unwrap();
    let mut now = hosts::lock_observed(&mut tx, "lab-1").await.unwrap().unwrap();
    now.alarms.push(alarm("a third one", 300));
    hosts::set_observed(&mut tx, "lab-1", &now).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(root.submit("/host/lab-1/alarms", &[("until", "200")]).await.status, 403);
    let key = shown.field("form_key");
    let evil = [("origin", "https://evil.example.org")];
    let fields = [("form_key", key.as_str()), ("until", "200")];
    assert_eq!(root.send("/host/lab-1/alarms", &evil, &fields).await.status, 403);
    assert_eq!(root.post("/host/lab-1/alarms", &[("until", "x")]).await.status, 422);
    assert_eq!(root.get("/host/lab-1/alarms").await.status, 405);
    let words = async || {
        let observed = site.store().host("lab-1").await.unwrap().unwrap().observed;
        observed.alarms.into_iter().map(|alarm| alarm.text).collect::<Vec<_>>()
    };
    assert_eq!(words().await.len(), 3, "nothing was changed by these");
    assert_eq!(root.submit("/host/lab-1/alarms", &fields).await.goes_to(), "/host/lab-1");
    assert_eq!(words().await, ["a third one"]);
    let audit = root.get("/audit?code=H005").await.ok().text;
    assert!(audit.contains("host alarms cleared") && audit.contains("root@example.org"), "{audit}");
}

async fn who_may_not_see_a_host_does_not_learn_that_there_is_one(database: Database) {
    let site = Site::new(database).await;
    hide_hosts(&site).await;
    let (eve, root) = (Browser::of(&site, "eve").await, Browser::of(&site, "root").await);
    assert_eq!(listed(&root.get("/hosts").await.ok().text), ["db-1", "web-1"]);
    assert!(listed(&eve.get("/hosts").await.ok().text).is_empty());
    assert!(listed(&eve.get("/hosts?q=web-1").await.ok().text).is_empty());
    let text = |page: super::Shown, id: &str| {
        assert_eq!(page.status, 404, "{}", page.text);
        let (before, _) = page.text.split_once("Id of this call").unwrap();
        before.replace(id, "ID")
    };
    assert_eq!(
        text(eve.get("/host/web-1").await, "web-1"),
        text(eve.get("/host/web-9").await, "web-9")
    );
    let cleared = eve.post("/host/web-1/alarms", &[("until", "1")]).await;
    assert_eq!(text(cleared, "web-1"), text(eve.get("/host/web-9").await, "web-9"));
}

async fn hostile_texts_of_hosts_are_shown_as_text(database: Database) {
    let site = Site::new(database).await;
    let evil = "<script>alert(1)</script>\"'><img src=x>";
    let id = "a/b?c#d\"<script>";
    let host = Host {
        id: id.into(),
        address: evil.into(),
        labels: [(evil.to_owned(), evil.to_owned())].into(),
        groups: [evil.to_owned()].into(),
        ..Host::default()
    };
    let mut observed = is(Condition::Unreachable);
    observed.trouble = evil.into();
    observed.version = evil.into();
    observed.problems = vec![evil.into()];
    observed.audit_head = evil.into();
    observed.alarms = vec![Alarm { word: evil.into(), text: evil.into(), at_ms: 1, holds: false }];
    observed.ports = vec![ObservedPort {
        port: evil.into(),
        mode: evil.into(),
        exemptions: vec![ObservedExemption {
            source: evil.into(),
            owner: evil.into(),
            reason: evil.into(),
            until_ms: 1,
        }],
        ..ObservedPort::default()
    }];
    let mut tx = site.store().begin().await.unwrap();
    hosts::put(&mut tx, &host).await.unwrap();
    hosts::set_observed(&mut tx, id, &observed).await.unwrap();
    tx.commit().await.unwrap();
    let root = Browser::of(&site, "root").await;
    let list = root.get("/hosts?q=%3Cscript%3E%22").await.ok();
    let link = listed(&root.get("/hosts").await.ok().text).remove(0);
    assert_eq!(link, "a%2Fb%3Fc%23d%22%3Cscript%3E");
    let one = root.get(&format!("/host/{link}")).await.ok();
    assert!(one.text.contains("I have looked"), "{}", one.text);
    for page in [list, one] {
        for text in ["<script>", "<img", "\"'>"] {
            assert!(!page.text.contains(text), "{text}: {}", page.text);
        }
    }
    let done = root.post(&format!("/host/{link}/alarms"), &[("until", "1")]).await;
    assert_eq!(done.goes_to(), format!("/host/{link}"));
}

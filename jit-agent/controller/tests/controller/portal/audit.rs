//! What auditors find, and what others do not see.

use jit_controller::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::{Account, Answer},
    store::{accounts, deliveries},
};
use serde_json::{Value, json};

use super::{Browser, hosts::hide_hosts};
use crate::{api::Site, databases::Database, filled};

on_each_database! {
    records_are_found_by_each_field_and_page_by_page,
    who_is_no_auditor_sees_only_what_is_about_his_requests,
    who_could_get_in_is_answered_for_a_moment,
    an_export_has_every_record_of_its_time_once,
    hostile_records_are_shown_as_text,
}

/// Somebody who reads the audit, and administrates nothing.
async fn auditor(site: &Site) -> Browser<'_> {
    let account = Account {
        name: "kim".into(),
        subject: "kim@example.org".into(),
        groups: ["auditors".to_owned()].into(),
        disabled: false,
        created_ms: 1,
    };
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &account).await.unwrap();
    tx.commit().await.unwrap();
    Browser::of(site, "kim").await
}

async fn write(site: &Site, code: Code, request: &str, by: &str, at_ms: i64, fields: Value) {
    let mut tx = site.store().begin().await.unwrap();
    audit::append(&mut tx, at_ms, &Record::new(code, request, by, fields)).await.unwrap();
    tx.commit().await.unwrap();
}

/// Numbers of the records of a list, in its order.
fn listed(page: &str) -> Vec<i64> {
    let links = page.split("<th scope=\"row\"><a href=\"/audit/").skip(1);
    links.map(|link| link.split('"').next().unwrap().parse().unwrap()).collect()
}

async fn records_are_found_by_each_field_and_page_by_page(database: Database) {
    let site = Site::new(database).await;
    let kim = auditor(&site).await;
    let (first, _) = site.store().audit_tip().await.unwrap();
    let day = 86_400_000;
    let at = |number: i64| 1_000 * day + number * 1000;
    for (number, code, request, by, fields) in [
        (1, Code::Submitted, "r1", "ana@example.org", json!({"hosts": ["web-1", "db-1"]})),
        (2, Code::Answered, "r1", "controller", json!({"host": "web-1", "answer": "open"})),
        (3, Code::Answered, "r2", "controller", json!({"host": "web-10", "answer": "open"})),
        (4, Code::HostChanged, "", "root@example.org", json!({"account": "root", "host": "db-1"})),
        // The text stands in the line, but in another field.
        (
            5,
            Code::Refused,
            "",
            "bo@example.org",
            json!({"detail": "web-1", "x": "ana@example.org"}),
        ),
        (6, Code::Refused, "", "a%b_c", json!({"account": "quo\"te\\"})),
    ] {
        write(&site, code, request, by, at(number), fields).await;
    }
    let found = async |query: &str| {
        let page = kim.get(&format!("/audit?{query}")).await.ok();
        let found = listed(&page.text).into_iter().map(|seq| seq - first);
        found.filter(|number| (1..=6).contains(number)).collect::<Vec<_>>()
    };
    assert_eq!(found("").await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(found("request=r1").await, [2, 1]);
    assert_eq!(found("code=R010").await, [3, 2]);
    assert_eq!(found("host=web-1").await, [2, 1]);
    assert_eq!(found("host=db-1").await, [4, 1]);
    assert_eq!(found("who=ana%40example.org").await, [1]);
    assert_eq!(found("who=root").await, [4]);
    assert_eq!(found("who=a%25b_c").await, [6]);
    assert_eq!(found("who=a%25c").await, Vec::<i64>::new());
    assert_eq!(found("who=quo%22te%5C").await, [6]);
    assert_eq!(found("from=1972-09-27T00:00:02&to=1972-09-27T00:00:04").await, [3, 2]);
    assert_eq!(found("code=R010&host=web-10&request=r2").await, [3]);
    assert_eq!(kim.get("/audit?from=noon").await.status, 422);

    let one = kim.get(&format!("/audit/{}", first + 2)).await.ok().text;
    let line = &site.store().audit_after(first + 1, 1).await.unwrap()[0];
    assert!(one.contains(&line.hash) && one.contains("host answered"), "{one}");
    assert_eq!(kim.get("/audit/999999").await.status, 404);

    filled::record(site.store(), 1, 100).await;
    let (mut path, mut all) = ("/audit".to_owned(), Vec::new());
    for pages in 1.. {
        assert!(pages < 10, "it never ends");
        let page = kim.get(&path).await.ok().text;
        all.extend(listed(&page));
        let Some((_, rest)) = page.split_once("rel=\"next\" href=\"") else { break };
        path = rest.split('"').next().unwrap().replace("&#38;", "&");
    }
    let (tip, _) = site.store().audit_tip().await.unwrap();
    assert_eq!(all, (1..=tip).rev().collect::<Vec<_>>());
}

async fn who_is_no_auditor_sees_only_what_is_about_his_requests(database: Database) {
    let site = Site::new(database).await;
    hide_hosts(&site).await;
    let mut tx = site.store().begin().await.unwrap();
    let asked = filled::proposal(1, &["web-1"]);
    let id = asked.id.clone();
    filled::sign(&mut tx, asked).await;
    tx.commit().await.unwrap();
    write(&site, Code::Submitted, &id, "ana@example.org", now_ms(), json!({})).await;
    let (seq, _) = site.store().audit_tip().await.unwrap();
    write(&site, Code::Started, "", "controller", now_ms(), json!({})).await;
    let (ana, eve) = (Browser::of(&site, "ana").await, Browser::of(&site, "eve").await);
    for path in ["/audit", "/audit?request=", "/access", "/audit/export?format=jsonl"] {
        for browser in [&ana, &eve] {
            assert_eq!(browser.get(path).await.status, 403, "{path}");
        }
    }
    let mine = ana.get(&format!("/audit?request={id}")).await.ok().text;
    assert_eq!(listed(&mine), [seq]);
    assert!(!mine.contains("/audit/export"), "{mine}");
    ana.get(&format!("/audit/{seq}")).await.ok();
    assert_eq!(ana.get(&format!("/audit/{}", seq + 1)).await.status, 404);
    for path in [format!("/audit?request={id}"), format!("/audit/{seq}")] {
        assert_eq!(eve.get(&path).await.status, 404, "{path}");
    }
}

async fn who_could_get_in_is_answered_for_a_moment(database: Database) {
    let site = Site::new(database).await;
    let mut tx = site.store().begin().await.unwrap();
    let asked = filled::proposal(1, &["web-1", "db-1"]);
    let id = asked.id.clone();
    filled::sign(&mut tx, asked).await;
    tx.commit().await.unwrap();
    for delivery in site.store().deliveries_of(&id).await.unwrap() {
        if delivery.host == "web-1" {
            let mut tx = site.store().begin().await.unwrap();
            deliveries::answered(&mut tx, &delivery, Answer::Open, "", "", filled::NOW)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
    }
    let kim = auditor(&site).await;
    let at = jit_proto::WallTime(filled::NOW + 60_000).to_string();
    let ask = async |query: &str| kim.get(&format!("/access?at={at}&{query}")).await.ok().text;
    let page = ask("").await;
    for text in [
        "ana@example.org",
        "li@example.org",
        "203.0.113.7",
        "the host opened it",
        "it may have opened",
        "disk full",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!ask("host=web-1").await.contains("it may have opened"));
    for empty in ["host=web-2", "port=443", "source=198.51.100.1", "who=bo%40example.org"] {
        assert!(ask(empty).await.contains("No grant let anybody in"), "{empty}");
    }
    assert!(ask("port=22&source=203.0.113.7").await.contains("the host opened it"));
    assert!(kim.get("/access?at=1990-01-01T00:00").await.ok().text.contains("No grant"));
    for wrong in ["at=noon", "port=ssh", "source=here"] {
        assert_eq!(kim.get(&format!("/access?{wrong}")).await.status, 422, "{wrong}");
    }
}

async fn an_export_has_every_record_of_its_time_once(database: Database) {
    let site = Site::new(database).await;
    let kim = auditor(&site).await;
    filled::record(site.store(), 1, 1203).await;
    let (tip, _) = site.store().audit_tip().await.unwrap();
    let file = kim.get("/audit/export?format=jsonl").await.ok();
    assert!(file.header("content-disposition").starts_with("attachment"));
    let lines: Vec<_> = file.text.lines().collect();
    assert_eq!(lines.len(), usize::try_from(tip).unwrap());
    let stored = site.store().audit_after(0, 5000).await.unwrap();
    assert!(lines.iter().zip(&stored).all(|(line, stored)| *line == stored.line));
    let from = jit_proto::WallTime(filled::NOW).to_string();
    let part = kim.get(&format!("/audit/export?format=ocsf&from={from}")).await.ok();
    assert_eq!(part.text.lines().count(), 1203);
    assert!(part.text.lines().all(|line| line.contains("\"class_uid\"")));
    assert_eq!(kim.get("/audit/export?format=xml").await.status, 422);
}

async fn hostile_records_are_shown_as_text(database: Database) {
    let site = Site::new(database).await;
    let kim = auditor(&site).await;
    let evil = "<script>alert(1)</script>\"'><img src=x>";
    let fields = json!({ "host": evil, "account": evil, "detail": evil, evil: evil });
    write(&site, Code::Refused, evil, evil, now_ms(), fields).await;
    let (seq, _) = site.store().audit_tip().await.unwrap();
    let query = form_urlencoded::byte_serialize(evil.as_bytes()).collect::<String>();
    for path in [
        "/audit".to_owned(),
        format!("/audit?request={query}&host={query}&who={query}"),
        format!("/audit/{seq}"),
        format!("/access?host={query}&who={query}"),
        format!("/audit?code={query}"),
    ] {
        let page = kim.get(&path).await.ok();
        for text in ["<script>", "<img", "\"'>"] {
            assert!(!page.text.contains(text), "{path} {text}: {}", page.text);
        }
    }
}

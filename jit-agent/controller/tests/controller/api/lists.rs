//! Lists: pages, tags, what an account sees, and how long a page takes with many rows.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Caller, Site};
use crate::{crowded, databases::Database};

on_each_database! {
    pages_of_many_rows_are_complete_and_quick,
    a_tag_saves_the_body_of_what_has_not_changed,
    an_account_sees_what_rules_let_it_see,
    hosts_are_added_changed_imported_and_removed,
}

/// What the bench of lists fills is larger: here each row is written by a program that is not optimised.
const REQUESTS: usize = 4_000;
const HOSTS: usize = 1_000;

/// All ids of a list, page by page along its `Link`s, and the longest time of a page.
async fn walk(who: &Caller<'_>, first: &str) -> (Vec<String>, Duration) {
    let (mut ids, mut longest) = (Vec::new(), Duration::ZERO);
    let mut path = Some(first.to_owned());
    while let Some(this) = path {
        let began = Instant::now();
        let answer = who.get(&this).await;
        longest = longest.max(began.elapsed());
        let link = answer.header("link").to_owned();
        let body = answer.ok(200);
        for item in body["items"].as_array().unwrap() {
            ids.push(item["id"].as_str().unwrap().to_owned());
        }
        path = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).map(|(next, rest)| {
            assert_eq!(rest, "; rel=\"next\"");
            next.to_owned()
        });
        assert_eq!(path.is_some(), body["next"].is_string());
    }
    (ids, longest)
}

async fn pages_of_many_rows_are_complete_and_quick(database: Database) {
    let site = Site::new(database).await;
    crowded::fill(site.store(), HOSTS, REQUESTS).await;
    let root = site.caller("root").await;
    let mut times = Vec::new();
    for (path, count) in [
        ("/api/v1/requests?limit=500", REQUESTS),
        ("/api/v1/requests?limit=100&state=pending", REQUESTS / 10),
        ("/api/v1/requests?limit=15&requester=bo@example.org", REQUESTS / 100),
        ("/api/v1/requests?host=h-00007", REQUESTS / HOSTS),
        ("/api/v1/hosts?limit=300", HOSTS + 2),
        ("/api/v1/hosts?label=env%3Dtest", 1),
        ("/api/v1/hosts?condition=unreachable", 0),
    ] {
        let (ids, longest) = walk(&root, path).await;
        let unique: BTreeSet<_> = ids.iter().collect();
        assert_eq!((ids.len(), unique.len()), (count, count), "{path}");
        times.push(format!("{path}: {longest:?}"));
    }
    // Of others only by their hosts, and only a bounded number of them is looked at for a page.
    let (own, longest) =
        walk(&site.caller("ana").await, "/api/v1/requests?mine=true&limit=500").await;
    assert_eq!(own.len(), REQUESTS - REQUESTS / 100);
    times.push(format!("own: {longest:?}"));
    let began = Instant::now();
    let page = site.caller("eve").await.get("/api/v1/requests").await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 50);
    times.push(format!("one page of others' by rules: {:?}", began.elapsed()));
    println!("longest pages (not optimised):\n  {}", times.join("\n  "));
}

async fn a_tag_saves_the_body_of_what_has_not_changed(database: Database) {
    let site = Site::new(database).await;
    let ana = site.caller("ana").await;
    let id = ana.ask("web-1").await["id"].as_str().unwrap().to_owned();
    for path in
        ["/api/v1/requests".to_owned(), format!("/api/v1/requests/{id}"), "/api/v1/hosts".into()]
    {
        let tag = ana.get(&path).await.header("etag").to_owned();
        let again = async || {
            let call = ana.request(Method::GET, &path).header("if-none-match", &tag);
            Answer::of(call.send().await.unwrap()).await
        };
        let same = again().await;
        assert_eq!(
            (same.status.as_u16(), &same.body),
            (304, &Value::String(String::new())),
            "{path}"
        );
        assert_eq!(same.header("etag"), tag);
        if path.contains("requests") {
            continue;
        }
        let root = site.caller("root").await;
        root.put("/api/v1/hosts/web-2", json!({ "address": "192.0.2.11:7443" })).await.ok(200);
        again().await.ok(200);
    }
}

async fn an_account_sees_what_rules_let_it_see(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let own = site.caller("bo").await.ask("web-1").await["id"].as_str().unwrap().to_owned();
    let eve = site.caller("eve").await;
    assert_eq!(eve.get("/api/v1/requests").await.ok(200)["items"].as_array().unwrap().len(), 1);
    // Rules without "everybody reads".
    let text = jit_controller::rules::DEFAULT.replace(
        "permit (principal, action == Action::\"read\", resource);",
        "permit (principal in \
                 Group::\"approvers\", action == Action::\"read\", resource);",
    );
    assert_ne!(text, jit_controller::rules::DEFAULT);
    let save = root.request(Method::PUT, "/api/v1/rules").header("if-match", "\"1\"");
    Answer::of(save.json(&json!({ "text": text })).send().await.unwrap()).await.ok(200);
    for list in ["/api/v1/requests", "/api/v1/hosts"] {
        assert_eq!(eve.get(list).await.ok(200)["items"], json!([]), "{list}");
    }
    eve.get(&format!("/api/v1/requests/{own}")).await.problem(404, "not_found");
    eve.get(&format!("/api/v1/audit?request={own}")).await.problem(404, "not_found");
    eve.get("/api/v1/hosts/web-1").await.problem(404, "not_found");
    eve.get("/api/v1/me/address?host=web-1").await.problem(404, "not_found");
    let decision = json!({ "ruling": "approve", "hash": "x" });
    let path = format!("/api/v1/requests/{own}/decision");
    eve.post(&path, decision).await.problem(404, "not_found");
    // Who asked, who may approve there, and administrators see it.
    for who in ["bo", "li", "ana", "root"] {
        let request = site.caller(who).await.get(&format!("/api/v1/requests/{own}")).await.ok(200);
        let may = match who {
            "bo" => json!(["withdraw"]),
            "root" => json!([]),
            _ => json!(["approve", "deny"]),
        };
        assert_eq!(request["may"], may, "{who}");
    }
}

async fn hosts_are_added_changed_imported_and_removed(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let host = json!({ "address": "web-9.example.org:7443", "labels": { "env": "prod" } });
    root.put("/api/v1/hosts/web-9", host.clone()).await.ok(200);
    // The same again changes nothing, and is not in the audit.
    let (before, _) = site.store().audit_tip().await.unwrap();
    root.put("/api/v1/hosts/web-9", host).await.ok(200);
    assert_eq!(site.store().audit_tip().await.unwrap().0, before);
    let known = root.get("/api/v1/hosts/web-9").await.ok(200);
    assert_eq!((&known["condition"], &known["labels"]["env"]), (&json!("unknown"), &json!("prod")));
    // Without an address the agent dials a hub.
    let dials = root.put("/api/v1/hosts/web-8", json!({ "address": "" })).await.ok(200);
    assert_eq!((&dials["address"], &dials["condition"]), (&json!(""), &json!("unknown")));
    for bad in [json!({ "address": "web 9" }), json!({ "address": "a:0" })] {
        let problem = root.put("/api/v1/hosts/web-9", bad).await.problem(422, "invalid");
        assert_eq!(problem["field"], "address");
    }
    let import = async |how: &str, kind: &str, text: &str| {
        let path = format!("/api/v1/hosts/import{how}");
        let call = root.request(Method::POST, &path).header("content-type", kind);
        Answer::of(call.body(text.to_owned()).send().await.unwrap()).await
    };
    let csv = "id,address,labels\nweb-1,192.0.2.1:7443,env=prod\nnew-1,192.0.2.2:7443,env=dev\n";
    let tried = import("?dry_run=true", "text/csv", csv).await.ok(200);
    assert_eq!((&tried["added"], &tried["changed"]), (&json!(["new-1"]), &json!(["web-1"])));
    root.get("/api/v1/hosts/new-1").await.problem(404, "not_found");
    import("", "text/csv; charset=utf-8", csv).await.ok(200);
    root.get("/api/v1/hosts/new-1").await.ok(200);
    let wrong = import("", "text/csv", "id,address\nnew-2,no where\n").await;
    let wrong = wrong.problem(422, "invalid_inventory");
    assert_eq!(wrong["mistakes"][0]["line"], 2);
    import("", "application/json", "[]").await.problem(415, "media_type");
    root.delete("/api/v1/hosts/new-1").await.ok(204);
    root.delete("/api/v1/hosts/new-1").await.problem(404, "not_found");
    let seen = root.get("/api/v1/me/address?host=web-1&port=22").await.ok(200);
    assert_eq!((&seen["address"], &seen["forwarded"]), (&json!("127.0.0.1"), &json!(false)));
}

//! Policies and rollouts at pages, with a fleet whose hosts do not answer.

use std::time::Duration;

use jit_controller::{
    clock::now_ms,
    store::{Policy, rollouts},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Browser;
use crate::{api::Site, databases::Database};

pub(super) const GOOD: &str = "[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n\
                    max_duration = \"2h\"\n";

on_each_database! {
    a_policy_is_checked_compared_and_kept,
    a_rollout_is_planned_begun_halted_resumed_and_ended,
    only_administrators_change_policies,
    hostile_policies_are_shown_as_text,
}

async fn a_policy_is_checked_compared_and_kept(database: Database) {
    let site = Site::with_fleet(database).await;
    let root = Browser::of(&site, "root").await;
    let bad = GOOD.replace("\"2h\"", "\"soon\"");
    let shown = root.post("/policies/check", &[("text", &bad), ("why", "tests")]).await;
    assert_eq!(shown.status, 422);
    assert!(shown.text.contains("Line 5: "), "{}", shown.text);
    assert!(shown.text.contains("max_duration = &#34;soon&#34;</pre>"), "{}", shown.text);
    let broken = root.post("/policies/check", &[("text", "[[port]]\nport = \n")]).await;
    assert!(broken.text.contains("Line 2: "), "{}", broken.text);
    let decided = root.post("/policies", &[("text", &format!("version = 3\n{GOOD}"))]).await;
    assert_eq!(decided.status, 422);
    assert!(decided.text.contains("leave them out"), "{}", decided.text);
    let unjust = root.post("/policies", &[("text", GOOD)]).await;
    assert_eq!(unjust.status, 422, "without a reason");
    assert!(unjust.text.contains("justification"), "{}", unjust.text);
    let good = root.post("/policies/check", &[("text", GOOD), ("why", "tests")]).await.ok().text;
    assert!(good.contains("No other policy is out") && good.contains("value=\"tests\""), "{good}");

    let kept = root.post("/policies", &[("text", GOOD), ("why", "tests")]).await;
    let page = root.get(kept.goes_to()).await.ok().text;
    assert!(page.contains("root@example.org") && page.contains("192.0.2.0/24"), "{page}");
    let list = root.get("/policies").await.ok().text;
    assert!(list.contains(kept.goes_to()) && list.contains("There was none."), "{list}");
    let asked = root.get(&format!("{}?host=web-1", kept.goes_to())).await.ok().text;
    assert!(asked.contains("web-1 was asked in vain"), "{asked}");
    let asked = root.get(&format!("{}?host=web-9", kept.goes_to())).await.ok().text;
    assert!(asked.contains("that you may see"), "{asked}");

    // Once it is out, another text is compared with it.
    let begun = root.post(&format!("{}/rollout", kept.goes_to()), &[("waves", "all")]).await;
    assert!(begun.goes_to().starts_with("/rollouts/"));
    let other = GOOD.replace("192.0.2.0", "198.51.100.0");
    let shown = root.post("/policies/check", &[("text", &other), ("why", "x")]).await.ok().text;
    assert!(shown.contains("<del>-sources = [&#34;192.0.2.0/24&#34;]</del>"), "{shown}");
    assert!(shown.contains("<ins>+sources = [&#34;198.51.100.0/24&#34;]</ins>"), "{shown}");
    assert!(root.get("/policies/new").await.ok().text.contains("192.0.2.0/24"));
}

async fn a_rollout_is_planned_begun_halted_resumed_and_ended(database: Database) {
    let site = Site::with_fleet(database).await;
    let root = Browser::of(&site, "root").await;
    let kept = root.post("/policies", &[("text", GOOD), ("why", "tests")]).await;
    let plan = format!("{}/rollout", kept.goes_to());
    let page = root.get(&format!("{plan}?waves=env%3Dtest%0D%0Aall")).await.ok().text;
    for text in [
        "<th scope=\"row\">env=test</th><td class=\"whole\" data-label=\"Hosts\">1</td><td>web-1</td>",
        "asked in vain",
        "Begin",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let wrong = root.get(&format!("{plan}?waves=some")).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text.contains("is none of LABEL=VALUE") && !wrong.text.contains("Begin with"));
    let wrong = root.post(&plan, &[("waves", "all"), ("confirm", "soon")]).await;
    assert_eq!(wrong.status, 422);
    let none = root.post(&plan, &[("waves", "env=none")]).await;
    assert_eq!(none.status, 422);
    assert!(none.text.contains("select no host"), "{}", none.text);

    let form = [("waves", "env=test\nall"), ("confirm", "30s"), ("pause", "1m")];
    let begun = root.post(&plan, &form).await;
    let path = begun.goes_to().to_owned();
    let page = root.get(&path).await.ok().text;
    for text in ["running", "1. env=test", "2. all", "web-1", "Halt", "data-live=\"/live?rollout="]
    {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert_eq!(root.post(&plan, &form).await.status, 409, "another one goes on");
    assert_eq!(root.get(&format!("{path}/halt")).await.status, 405);
    assert_eq!(root.submit(&format!("{path}/halt"), &[]).await.status, 403, "without the key");

    // The stream says that it is old, and nothing else.
    let (_, live) = page.split_once("data-live=\"").unwrap();
    let live = live.split('"').next().unwrap().replace("&#38;", "&");
    let mut stream = root.call(reqwest::Method::GET, &live).send().await.unwrap();
    assert_eq!(root.post(&format!("{path}/halt"), &[]).await.goes_to(), path);
    let began = Instant::now();
    let mut said = String::new();
    while !said.contains("event: changed") {
        let part = tokio::time::timeout(Duration::from_secs(20), stream.chunk()).await;
        said.push_str(std::str::from_utf8(&part.unwrap().unwrap().unwrap()).unwrap());
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let page = root.get(&path).await.ok().text;
    assert!(page.contains("halted") && page.contains("root@example.org said so"), "{page}");
    assert!(!page.contains("data-live") && page.contains("Go on"), "{page}");
    assert_eq!(root.post(&format!("{path}/halt"), &[]).await.status, 409);
    // Programs have the same call.
    let call = format!("/api/v1{path}/halt");
    site.caller("root").await.post(&call, json!({})).await.problem(409, "conflict");
    site.caller("bo").await.post(&call, json!({})).await.problem(403, "not_admin");
    assert_eq!(root.post(&format!("{path}/resume"), &[]).await.goes_to(), path);
    assert!(root.get(&path).await.ok().text.contains(">running<"));
    assert_eq!(root.post(&format!("{path}/abort"), &[]).await.goes_to(), path);
    assert_eq!(root.post(&format!("{path}/erase"), &[]).await.status, 404);
    // The roller may have been at a host: it settles.
    sleep(Duration::from_millis(200)).await;
    let page = root.get(&path).await.ok().text;
    assert!(page.contains("ended by somebody") && page.contains("left out"), "{page}");
    assert!(!page.contains("Go on"), "{page}");
    assert_eq!(root.get("/rollouts/nothing").await.status, 404);
}

async fn only_administrators_change_policies(database: Database) {
    let site = Site::with_fleet(database).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    let kept = root.post("/policies", &[("text", GOOD), ("why", "tests")]).await;
    let policy = kept.goes_to().to_owned();
    let begun = root.post(&format!("{policy}/rollout"), &[("waves", "all")]).await;
    let rollout = begun.goes_to().to_owned();
    let fields = [("text", GOOD), ("why", "x"), ("waves", "all")];
    for path in [
        "/policies".to_owned(),
        "/policies/check".to_owned(),
        format!("{policy}/rollout"),
        format!("{rollout}/halt"),
        format!("{rollout}/resume"),
        format!("{rollout}/abort"),
    ] {
        assert_eq!(bo.post(&path, &fields).await.status, 403, "{path}");
        assert_eq!(root.submit(&path, &fields).await.status, 403, "{path}: without the key");
    }
    for path in ["/policies/new", &format!("{policy}/rollout")] {
        assert_eq!(bo.get(path).await.status, 403, "{path}");
    }
    bo.get(&policy).await.ok();
    let page = bo.get(&rollout).await.ok().text;
    // Which hosts there are is for those who may see them.
    assert!(page.contains("1. all") && !page.contains("web-1") && !page.contains("Halt"), "{page}");
}

async fn hostile_policies_are_shown_as_text(database: Database) {
    let site = Site::with_fleet(database).await;
    let root = Browser::of(&site, "root").await;
    let evil = "<script>alert(1)</script>\"'><img src=x>";
    let policy = Policy {
        id: "01KPEXAMP1E0000000000000P1".into(),
        text: format!("# </pre></textarea>{evil}\n{GOOD}"),
        author: evil.into(),
        justification: evil.into(),
        saved_ms: now_ms(),
    };
    let mut tx = site.store().begin().await.unwrap();
    rollouts::insert_policy(&mut tx, &policy).await.unwrap();
    tx.commit().await.unwrap();
    let query = form_urlencoded::byte_serialize(evil.as_bytes()).collect::<String>();
    let at = format!("/policies/{}", policy.id);
    for path in [
        "/policies".to_owned(),
        at.clone(),
        format!("{at}?host={query}"),
        format!("{at}/rollout?waves={query}&confirm={query}&pause={query}"),
        format!("/policies/new?from={}", policy.id),
        format!("/rollouts/{query}"),
    ] {
        let page = root.get(&path).await;
        for text in ["<script>", "<img", "</pre></textarea>", "\"'>"] {
            assert!(!page.text.contains(text), "{path} {text}: {}", page.text);
        }
    }
    let broken = root.post("/policies/check", &[("text", evil), ("why", evil)]).await;
    assert!(!broken.text.contains("<script>") && !broken.text.contains("<img"), "{}", broken.text);
}

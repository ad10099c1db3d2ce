//! Rules: nobody overwrites what he has not read, and nothing is saved that cannot be read.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Caller, Site};
use crate::databases::Database;

on_each_database! {
    a_change_names_the_version_that_it_changed,
    a_text_is_checked_compared_and_tried_before_it_is_saved,
}

async fn save(who: &Caller<'_>, tag: Option<&str>, text: &str) -> Answer {
    let mut call = who.request(Method::PUT, "/api/v1/rules");
    if let Some(tag) = tag {
        call = call.header("if-match", tag);
    }
    Answer::of(call.json(&json!({ "text": text, "note": "why" })).send().await.unwrap()).await
}

async fn a_change_names_the_version_that_it_changed(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let first = root.get("/api/v1/rules").await;
    assert_eq!(first.header("etag"), "\"1\"");
    let text = first.ok(200)["text"].as_str().unwrap().to_owned();
    let changed = format!("{text}\n// more\n");
    save(&root, None, &changed).await.problem(428, "precondition_required");
    save(&root, Some("\"7\""), &changed).await.problem(412, "precondition_failed");
    let saved = save(&root, Some("\"1\""), &changed).await;
    assert_eq!(saved.header("etag"), "\"2\"");
    assert_eq!(saved.ok(200)["author"], "root@example.org");
    // The second of two who have read the same version.
    save(&root, Some("\"1\""), &text).await.problem(412, "precondition_failed");
    // Of many at once one wins.
    let all =
        futures_util::future::join_all((0..8).map(|_| save(&root, Some("\"2\""), &text))).await;
    let statuses: Vec<_> = all.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
    let history = root.get("/api/v1/rules/history?limit=2").await.ok(200);
    let versions: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|one| &one["version"]).collect();
    assert_eq!(versions, [&json!(3), &json!(2)]);
    let next = history["next"].as_str().unwrap();
    let rest = root.get(&format!("/api/v1/rules/history?limit=2&cursor={next}")).await.ok(200);
    assert_eq!((&rest["items"][0]["version"], &rest["next"]), (&json!(1), &Value::Null));
    assert_eq!(root.get("/api/v1/rules?version=1").await.ok(200)["text"], text);
    root.get("/api/v1/rules?version=9").await.problem(404, "not_found");
    let reader = site.caller("ana").await;
    save(&reader, Some("\"3\""), &text).await.problem(403, "not_admin");
}

async fn a_text_is_checked_compared_and_tried_before_it_is_saved(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let wrong = "permit (principal, action == Action::\"initiat\", resource);\n";
    let problem = save(&root, Some("\"1\""), wrong).await.problem(422, "invalid");
    assert_eq!((&problem["field"], &problem["mistakes"][0]["line"]), (&json!("text"), &json!(1)));
    let text = format!(
        "{}\n@id(\"extra\")\n@require(\"2 of sre\")\npermit (principal, action == \
         Action::\"initiate\", resource);\n",
        jit_controller::rules::DEFAULT
    );
    let diff = root.post("/api/v1/rules/diff", json!({ "text": text })).await.ok(200);
    assert_eq!(
        (&diff["from"], &diff["to"], &diff["added"]),
        (&json!(1), &Value::Null, &json!(["extra"]))
    );
    assert!(diff["text"].as_str().unwrap().contains("+@id(\"extra\")"), "{diff}");
    let cases = jit_controller::rules::DEFAULT_CASES;
    let passed = root.post("/api/v1/rules/test", json!({ "cases": cases })).await.ok(200);
    assert_eq!(passed["passed"], true, "{passed}");
    assert!(passed["cases"].as_array().unwrap().len() > 3);
    let failed =
        root.post("/api/v1/rules/test", json!({ "cases": cases, "text": text })).await.ok(200);
    assert_eq!(failed["passed"], false);
    let broken =
        root.post("/api/v1/rules/test", json!({ "cases": "", "text": wrong })).await.ok(200);
    assert_eq!((&broken["passed"], &broken["mistakes"][0]["line"]), (&json!(false), &json!(1)));
    root.post("/api/v1/rules/test", json!({ "cases": "[[case" })).await.problem(422, "invalid");
    save(&root, Some("\"1\""), &text).await.ok(200);
    let diff = root.get("/api/v1/rules/diff?from=1").await.ok(200);
    assert_eq!((&diff["to"], &diff["added"]), (&json!(2), &json!(["extra"])));
}

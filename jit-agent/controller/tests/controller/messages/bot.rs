//! A bot of Slack: one message a request, changed in place.

use std::time::Duration;

use jit_controller::{
    api::RawSettings,
    desk::Desk,
    messages::{Courier, RawSettings as Messages, Retry, Settings, bot::Bot},
};
use serde_json::json;

use super::{Receiver, said, texts};
use crate::{api::Site, databases::Database};

on_each_database! {
    a_request_has_one_message_that_is_changed,
    a_message_that_is_gone_is_posted_again_and_an_impossible_one_left_out,
}

fn courier(desk: &Desk, directory: &std::path::Path, api: &str) -> Courier {
    std::fs::write(directory.join("token"), "xoxb-test\n").unwrap();
    let text = format!(
        "[[slack]]\nname = \"ops\"\nchannel = \"C024BE91L\"\ntoken_file = \"token\"\napi_url = \"{api}\"\n"
    );
    let raw: Messages = toml::from_str(&text).unwrap();
    let settings = Settings::of(raw, directory).unwrap();
    let bot = Bot::new(&settings.slack[0]).unwrap();
    let (first, longest) = (Duration::from_millis(50), Duration::from_millis(200));
    let retry = Retry { first, longest, give_up: Duration::MAX };
    Courier::start(desk.clone(), bot, Some("https://jit.example.org".into()), retry)
}

/// Until its courier has seen where the audit ends.
async fn begun(site: &Site) {
    for _ in 0..200 {
        if site.store().audit_cursor("slack:ops").await.unwrap() > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it does not begin");
}

async fn a_request_has_one_message_that_is_changed(database: Database) {
    let site = Site::with(database, RawSettings::default(), |_| {}).await;
    let (ana, li) = (site.caller("ana").await, site.caller("li").await);
    let before = ana.ask("web-1").await;
    let (receiver, address) = Receiver::start().await;
    let api = format!("http://{address}");
    let courier = courier(&site.desk, site.directory(), &api);
    begun(&site).await;
    receiver.answers(429, json!({ "ok": false, "error": "ratelimited" }));
    let asked = ana.ask("db-1").await;
    let id = asked["id"].as_str().unwrap();
    let got = receiver.until(2).await;
    let first = &got[1];
    assert_eq!(
        (&first.path[..], &first.authorization[..]),
        ("chat.postMessage", "Bearer xoxb-test")
    );
    assert_eq!(first.body["channel"], "C024BE91L");
    let all = texts(&first.body["blocks"]);
    assert_eq!(all[0], "ana@example.org asks for access to db-1");
    assert!(!all.iter().any(|text| text.contains(before["id"].as_str().unwrap())), "no news");
    // Started anew it goes on with the same message.
    said(&site, "slack:ops", id).await;
    drop(courier);
    let _courier = self::courier(&site.desk, site.directory(), &api);
    let decision = json!({ "ruling": "deny", "reason": "not now", "hash": asked["hash"] });
    li.post(&format!("/api/v1/requests/{id}/decision"), decision).await.ok(200);
    let got = receiver.until(3).await;
    let changed = &got[2];
    assert_eq!(changed.path, "chat.update");
    assert_eq!(
        (&changed.body["channel"], &changed.body["ts"]),
        (&json!("C024BE91L"), &json!("1.2"))
    );
    assert!(texts(&changed.body["blocks"])[0].starts_with("Denied"), "{changed:#?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.got().len(), 3);
}

async fn a_message_that_is_gone_is_posted_again_and_an_impossible_one_left_out(database: Database) {
    let site = Site::with(database, RawSettings::default(), |_| {}).await;
    let ana = site.caller("ana").await;
    ana.ask("web-1").await;
    let (receiver, address) = Receiver::start().await;
    let _courier = courier(&site.desk, site.directory(), &format!("http://{address}"));
    begun(&site).await;
    let asked = ana.ask("db-1").await;
    receiver.until(1).await;
    receiver.answers(200, json!({ "ok": false, "error": "message_not_found" }));
    let path = format!("/api/v1/requests/{}/withdraw", asked["id"].as_str().unwrap());
    ana.post(&path, json!({})).await.ok(200);
    let got = receiver.until(3).await;
    let paths: Vec<_> = got.iter().map(|call| &call.path[..]).collect();
    assert_eq!(paths, ["chat.postMessage", "chat.update", "chat.postMessage"]);
    receiver.answers(200, json!({ "ok": false, "error": "invalid_blocks" }));
    receiver.answers(200, json!({ "ok": false, "error": "not_in_channel" }));
    ana.ask("db-1").await;
    receiver.until(4).await;
    ana.ask("db-1").await;
    // The first is left out; the second is tried again until it is taken.
    let got = receiver.until(6).await;
    assert_ne!(got[3].body, got[4].body);
    assert_eq!(got[4].body, got[5].body);
}

//! Webhooks of chats: the bodies that Slack and Teams document, each request as often as it
//! changes.

use std::time::Duration;

use jit_controller::{api::RawSettings, messages::Retry};
use serde_json::{Value, json};

use super::{Receiver, texts};
use crate::{api::Site, databases::Database};

on_each_database! {
    slack_gets_what_became_of_a_request_once_for_each_change,
    teams_gets_a_card_with_text_that_is_no_markup,
    a_form_that_there_is_not_is_named,
}

const HOSTILE: &str = "<!channel> *disk* [full](https://evil.example) <at>all</at>\u{202e} & more";

async fn site(database: Database) -> Site {
    let raw = RawSettings {
        allow_private: true,
        public_url: Some("https://jit.example.org/".into()),
        ..RawSettings::default()
    };
    let first = Duration::from_millis(50);
    let longest = Duration::from_millis(200);
    Site::with(database, raw, |settings| {
        settings.webhook_retry = Retry { first, longest, give_up: Duration::from_secs(3600) };
    })
    .await
}

fn ask(host: &str, reason: &str) -> Value {
    json!({
        "hosts": [host], "sources": ["203.0.113.7"], "ports": ["22"], "duration": "30m",
        "reason": reason, "ticket": "INC-1",
    })
}

async fn slack_gets_what_became_of_a_request_once_for_each_change(database: Database) {
    let site = site(database).await;
    let (root, ana, li) =
        (site.caller("root").await, site.caller("ana").await, site.caller("li").await);
    let (receiver, address) = Receiver::start().await;
    receiver.answers(500, json!("internal"));
    let url = format!("http://{address}/slack");
    let new = json!({ "url": url, "form": "slack", "enabled": true });
    let made = root.post("/api/v1/webhooks", new).await.ok(201);
    assert_eq!(made["view"]["form"], "slack");
    let asked = ana.post("/api/v1/requests", ask("db-1", HOSTILE)).await.ok(201);
    let id = asked["id"].as_str().unwrap();
    // The first attempt failed, and the second says the same.
    let got = receiver.until(2).await;
    assert_eq!(got[0].body, got[1].body);
    let body = &got[1].body;
    assert_eq!(body["blocks"][0]["type"], "header");
    assert_eq!(body["blocks"][0]["text"]["text"], "ana@example.org asks for access to db-1");
    assert_eq!(body["text"], "ana@example.org asks for access to db-1");
    let all = texts(&body["blocks"]);
    for part in [
        "db-1",
        "22/tcp",
        "203.0.113.7",
        "INC-1",
        "30m",
        "1 of approvers",
        "li@example.org",
        &format!("<https://jit.example.org/requests/{id}|See it, and decide>"),
    ] {
        assert!(all.iter().any(|text| text.contains(part)), "{part}: {all:#?}");
    }
    let escaped = "&lt;!channel&gt; *disk* [full](https://evil.example) &lt;at&gt;all&lt;/at&gt;\
                   \\u{202e} &amp; more";
    assert!(all.contains(&escaped.to_owned()), "{all:#?}");
    for block in body["blocks"].as_array().unwrap() {
        for field in block["fields"].as_array().into_iter().flatten() {
            let is_own = field["type"] == "mrkdwn" && field["text"].as_str().unwrap().len() < 14;
            assert!(is_own || field["type"] == "plain_text", "{field}");
        }
    }
    let decision =
        json!({ "ruling": "deny", "reason": "use the *replica*", "hash": asked["hash"] });
    li.post(&format!("/api/v1/requests/{id}/decision"), decision).await.ok(200);
    let got = receiver.until(3).await;
    let all = texts(&got[2].body["blocks"]);
    assert!(all[0].starts_with("Denied: ana@example.org"), "{all:#?}");
    assert!(all.iter().any(|text| text == "li@example.org said no: use the *replica*"), "{all:#?}");
    // A record that changes nothing of it is no message.
    root.put("/api/v1/accounts/eve", json!({ "subject": "eve@example.org" })).await.ok(200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.got().len(), 3);
}

async fn teams_gets_a_card_with_text_that_is_no_markup(database: Database) {
    let site = site(database).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    let (receiver, address) = Receiver::start().await;
    let url = format!("http://{address}/teams");
    let new = json!({
        "url": url, "form": "teams", "enabled": true, "events": ["request_submitted"],
    });
    let made = root.post("/api/v1/webhooks", new.clone()).await.ok(201);
    let asked = ana.post("/api/v1/requests", ask("db-1", HOSTILE)).await.ok(201);
    let id = asked["id"].as_str().unwrap();
    let got = receiver.until(1).await;
    let body = &got[0].body;
    assert_eq!(body["type"], "message");
    let attachment = &body["attachments"][0];
    assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
    let card = &attachment["content"];
    assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
    let open = &card["actions"][0];
    assert_eq!(open["type"], "Action.OpenUrl");
    assert_eq!(open["url"], format!("https://jit.example.org/requests/{id}"));
    let mut runs = Vec::new();
    for block in card["body"].as_array().unwrap() {
        assert_eq!(block["type"], "RichTextBlock");
        for run in block["inlines"].as_array().unwrap() {
            assert_eq!(run["type"], "TextRun");
            runs.push(run["text"].as_str().unwrap().to_owned());
        }
    }
    let shown = HOSTILE.replace('\u{202e}', "\\u{202e}");
    assert!(runs.contains(&shown), "{runs:#?}");
    assert_eq!(card["msteams"]["entities"], Value::Null);
    // The form stays when nobody names one.
    let path = format!("/api/v1/webhooks/{}", made["view"]["id"].as_str().unwrap());
    let changed = json!({ "url": url, "enabled": false });
    assert_eq!(root.put(&path, changed).await.ok(200)["form"], "teams");
}

async fn a_form_that_there_is_not_is_named(database: Database) {
    let site = site(database).await;
    let root = site.caller("root").await;
    let new = json!({ "url": "https://192.0.2.1/x", "form": "irc", "enabled": true });
    let problem = root.post("/api/v1/webhooks", new).await.problem(422, "invalid");
    assert_eq!(problem["field"], "form");
    assert!(problem["detail"].as_str().unwrap().contains("slack"), "{problem}");
}

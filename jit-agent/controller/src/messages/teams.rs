//! Messages for Microsoft Teams: an Adaptive Card in the envelope that the trigger *When a Teams
//! webhook request is received* of a workflow takes.
//!
//! What people typed stands only in `TextRun`s, in which Teams reads no markdown; mentions need a
//! list of entities, which no message has.

use serde_json::{Value, json};

use super::Card;

/// The body of a call of a workflow.
pub fn message(card: &Card) -> Value {
    let run = |text: &str| json!({ "type": "TextRun", "text": text });
    let bold = |text: &str| json!({ "type": "TextRun", "text": text, "weight": "Bolder" });
    let mut body = vec![json!({
        "type": "RichTextBlock",
        "inlines": [{
            "type": "TextRun", "text": card.title, "weight": "Bolder", "size": "Large",
        }],
    })];
    body.extend(card.facts.iter().map(|(name, text)| {
        json!({
            "type": "RichTextBlock",
            "spacing": "Small",
            "inlines": [bold(&format!("{name}: ")), run(text)],
        })
    }));
    let mut content = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": "A request for access: this program cannot show it.",
        "msteams": { "width": "Full" },
        "body": body,
    });
    if let (Some(link), Some(content)) = (&card.link, content.as_object_mut()) {
        let action = json!({
            "type": "Action.OpenUrl", "title": "See it, and decide", "url": link,
        });
        content.insert("actions".into(), json!([action]));
    }
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": content,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_typed_is_in_runs_of_plain_text() {
        let card = Card {
            title: "<at>all</at>".into(),
            facts: vec![("Why", "[ok](https://evil.example) **x**".into())],
            link: None,
            news: String::new(),
        };
        let content = &message(&card)["attachments"][0]["content"];
        for block in content["body"].as_array().unwrap() {
            assert_eq!(block["type"], "RichTextBlock");
            for run in block["inlines"].as_array().unwrap() {
                assert_eq!(run["type"], "TextRun");
            }
        }
        assert_eq!(content["body"][1]["inlines"][1]["text"], card.facts[0].1);
        assert_eq!(
            (&content["actions"], &content["msteams"]["entities"]),
            (&Value::Null, &Value::Null)
        );
    }
}

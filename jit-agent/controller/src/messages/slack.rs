//! Messages for Slack: Block Kit.
//!
//! What people typed stands only in objects of the kind `plain_text`, where nothing is markup, and
//! with the three letters escaped that Slack reads everywhere (`&`, `<`, `>`): so no text of theirs
//! is a mention, a link or an order to shout. The one link is the controller's own.

use serde_json::{Value, json};

use super::Card;

/// The most letters of a header.
const MOST_HEADER: usize = 140;
/// The most fields of a section: two for each fact.
const FIELDS: usize = 10;
/// The most letters of a field.
const MOST_FIELD: usize = 1900;

/// The body of a call of an incoming webhook; with a channel also one of `chat.postMessage`.
pub fn message(card: &Card) -> Value {
    let plain = |text: &str, most: usize| json!({ "type": "plain_text", "text": cut(&escaped(text), most), "emoji": false });
    let mut blocks = vec![json!({ "type": "header", "text": plain(&card.title, MOST_HEADER) })];
    for facts in card.facts.chunks(FIELDS / 2) {
        let fields: Vec<_> = facts
            .iter()
            .flat_map(|(name, text)| {
                let name =
                    json!({ "type": "mrkdwn", "text": format!("*{name}*"), "verbatim": true });
                // An empty text would refuse the whole message.
                let text = if text.is_empty() { "-" } else { text };
                [name, plain(text, MOST_FIELD)]
            })
            .collect();
        blocks.push(json!({ "type": "section", "fields": fields }));
    }
    if let Some(link) = &card.link {
        let text = format!("<{}|See it, and decide>", escaped(link));
        blocks.push(json!({
            "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true },
        }));
    }
    json!({
        // For notifications, and programs that do not show blocks.
        "text": cut(&escaped(&card.title), MOST_FIELD),
        "mrkdwn": false,
        "link_names": false,
        "unfurl_links": false,
        "unfurl_media": false,
        "blocks": blocks,
    })
}

/// Text as Slack shows it again.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The beginning of an escaped text; no escape is cut in two.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut begin: String = text.chars().take(most.saturating_sub(1)).collect();
    if let Some(at) = begin.rfind('&')
        && begin.get(at..).is_some_and(|tail| !tail.contains(';'))
    {
        begin.truncate(at);
    }
    begin.push('…');
    begin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_typed_is_never_markup() {
        let card = Card {
            title: "<!channel> & *all*".into(),
            facts: vec![("Why", "<!here> <https://evil.example|ok> `x` @channel".into())],
            link: Some("https://jit.example.org/requests/1".into()),
            news: String::new(),
        };
        let message = message(&card);
        assert_eq!(message["text"], "&lt;!channel&gt; &amp; *all*");
        let why = &message["blocks"][1]["fields"][1];
        assert_eq!(why["type"], "plain_text");
        assert_eq!(why["text"], "&lt;!here&gt; &lt;https://evil.example|ok&gt; `x` @channel");
        let link = &message["blocks"][2]["text"]["text"];
        assert_eq!(link, "<https://jit.example.org/requests/1|See it, and decide>");
    }

    #[test]
    fn a_long_text_is_cut_and_no_escape_with_it() {
        assert_eq!(cut(&escaped("ab<<<"), 6), "ab…");
        assert_eq!(cut(&escaped("ab<<<"), 10), "ab&lt;…");
        assert_eq!(cut(&escaped("ab<<<"), 14), "ab&lt;&lt;&lt;");
        assert_eq!(cut("ünal", 3), "ün…");
    }
}

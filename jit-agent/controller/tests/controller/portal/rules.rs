//! The editor of rules, cases, and versions.

use super::{Browser, hosts::hide_hosts};
use crate::{api::Site, databases::Database};

const DEFAULT: &str = jit_controller::rules::DEFAULT;

on_each_database! {
    a_mistake_is_shown_with_its_line_and_a_good_text_with_what_it_changes,
    rules_are_saved_once_and_only_by_administrators,
    a_case_says_what_decided_it,
    nobody_learns_by_a_case_what_he_may_not_see,
    hostile_rules_are_shown_as_text,
}

async fn a_mistake_is_shown_with_its_line_and_a_good_text_with_what_it_changes(database: Database) {
    let site = Site::new(database).await;
    let root = Browser::of(&site, "root").await;
    let page = root.get("/rules").await.ok().text;
    assert!(page.contains("Version 1 is in force") && page.contains("everybody-reads"), "{page}");
    let wrong =
        "permit (principal, action == Action::\"read\", resource)\nwhen { resource.colour };\n";
    // As a browser sends the ends of lines.
    let sent = wrong.replace('\n', "\r\n");
    let shown = root.post("/rules/check", &[("text", &sent), ("version", "1")]).await;
    assert_eq!(shown.status, 422);
    assert!(shown.text.contains("Line 2, column"), "{}", shown.text);
    assert!(shown.text.contains("when { resource.colour };\n"), "{}", shown.text);
    assert!(shown.text.contains("aria-invalid=\"true\""), "{}", shown.text);

    let new = format!(
        "{DEFAULT}\n@id(\"new\")\nforbid (principal, action == Action::\"revoke\", resource);\n"
    );
    let shown = root.post("/rules/check", &[("text", &new), ("version", "1")]).await.ok().text;
    assert!(shown.contains("<li>new rule: new</li>"), "{shown}");
    assert!(shown.contains("<ins>+@id(&#34;new&#34;)</ins>"), "{shown}");
    let same = root.post("/rules/check", &[("text", DEFAULT), ("version", "1")]).await.ok().text;
    assert!(same.contains("It is the text in force"), "{same}");
    let long = " ".repeat(300 * 1024);
    assert_eq!(root.post("/rules/check", &[("text", &long)]).await.status, 422);
    assert_eq!(site.store().rules_in_force().await.unwrap().unwrap().version, 1);
}

async fn rules_are_saved_once_and_only_by_administrators(database: Database) {
    let site = Site::new(database).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    let new = format!("{DEFAULT}\n// more\n");
    let fields = [("text", new.as_str()), ("version", "1"), ("note", "because")];
    for path in ["/rules", "/rules/check"] {
        assert_eq!(bo.post(path, &fields).await.status, 403, "{path}");
        assert_eq!(root.submit(path, &fields).await.status, 403, "{path}: without the key");
    }
    let page = bo.get("/rules").await.ok().text;
    assert!(!page.contains("<textarea") && page.contains("everybody-reads"), "{page}");
    let bad = [("text", "permit"), ("version", "1")];
    assert_eq!(root.post("/rules", &bad).await.status, 422);
    assert_eq!(root.post("/rules", &fields).await.goes_to(), "/rules/2");
    // Somebody who began with version 1 does not overwrite it.
    let late = root.post("/rules", &fields).await;
    assert_eq!(late.status, 412);
    assert!(late.text.contains("What to do") && late.text.contains("// more"), "{}", late.text);
    assert_eq!(root.post("/rules", &[("text", &new), ("version", "99")]).await.status, 412);

    let page = root.get("/rules/2").await.ok().text;
    for text in ["root@example.org", "because", "<ins>+// more</ins>", "This version is in force"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let page = root.get("/rules/history").await.ok().text;
    assert!(page.contains("href=\"/rules/2\"") && page.contains("href=\"/rules/1\""), "{page}");
    let page = root.get("/rules?from=1").await.ok().text;
    assert!(!page.contains("// more"), "{page}");
    assert_eq!(root.get("/rules/7").await.status, 404);
    assert_eq!(root.get("/rules/x").await.status, 404);
    let audit = root.get("/audit?code=L001").await.ok().text;
    assert!(audit.contains("root@example.org") && audit.contains("because"), "{audit}");
}

async fn a_case_says_what_decided_it(database: Database) {
    let site = Site::new(database).await;
    let root = Browser::of(&site, "root").await;
    let case = [
        ("case.who", "ana"),
        ("case.host", "db-1"),
        ("case.port", "22"),
        ("case.source", "203.0.113.7"),
        ("case.duration", "1h"),
    ];
    let with = |name: &str, value: &'static str| {
        case.map(|(key, old)| if key == name { (key, value) } else { (key, old) })
    };
    let page = root.post("/rules/try", &case).await.ok().text;
    for text in [
        "Allowed, if 1 of approvers and 1 of sre agree.",
        "For 3h at most.",
        "<th scope=\"row\">prod</th>",
        "production: somebody outside the team looks too",
        "li@example.org",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let page = root.post("/rules/try", &with("case.who", "eve")).await.ok().text;
    assert!(page.contains("Denied.") && page.contains("no rule"), "{page}");
    // With the text in the editor, which is not saved.
    let mut fields = case.to_vec();
    let forbid = format!(
        "{DEFAULT}\n@id(\"no\") forbid (principal, action == Action::\"initiate\", resource);"
    );
    fields.push(("text", &forbid));
    let page = root.post("/rules/try", &fields).await.ok().text;
    assert!(page.contains("Denied.") && page.contains("<th scope=\"row\">no</th>"), "{page}");
    for (field, bad) in [
        ("who", "nobody"),
        ("host", "web-9"),
        ("port", "ssh"),
        ("source", "here"),
        ("duration", "soon"),
    ] {
        let shown = root.post("/rules/try", &with(&format!("case.{field}"), bad)).await;
        assert_eq!(shown.status, 422, "{field}");
        assert!(shown.text.contains(&format!("id=\"wrong.{field}\"")), "{field}: {}", shown.text);
        assert!(shown.text.contains(&format!("value=\"{bad}\"")), "{field}: {}", shown.text);
    }
    let mut fields = case.to_vec();
    fields.push(("case.at", "noon"));
    assert_eq!(root.post("/rules/try", &fields).await.status, 422);
}

async fn nobody_learns_by_a_case_what_he_may_not_see(database: Database) {
    let site = Site::new(database).await;
    hide_hosts(&site).await;
    let eve = Browser::of(&site, "eve").await;
    let fields = [
        ("case.who", "eve"),
        ("case.host", "web-1"),
        ("case.port", "22"),
        ("case.source", "203.0.113.7"),
        ("case.duration", "1h"),
    ];
    let of = async |host: &'static str, who: &'static str| {
        let fields = fields.map(|(name, value)| match name {
            "case.host" => (name, host),
            "case.who" => (name, who),
            _ => (name, value),
        });
        let shown = eve.post("/rules/try", &fields).await;
        (shown.status, shown.text.replace(host, "HOST").replace(who, "WHO"))
    };
    assert_eq!(of("web-1", "eve").await, of("web-9", "eve").await);
    let (status, there) = of("web-1", "ana").await;
    let (_, missing) = of("web-1", "zoe").await;
    assert_eq!((status, there), (422, missing));
    // A text of his own is not tried: it could ask for labels.
    let mut own = fields.to_vec();
    own.push(("text", "permit (principal, action, resource);"));
    assert_eq!(eve.post("/rules/try", &own).await.status, 422);
}

async fn hostile_rules_are_shown_as_text(database: Database) {
    let site = Site::new(database).await;
    let root = Browser::of(&site, "root").await;
    let evil = "<script>alert(1)</script>'><img src=x>";
    let text = format!(
        "@id(\"{evil}\") @reason(\"{evil}\")\npermit (principal, action == Action::\"initiate\", resource);\n\
         // </textarea></pre>{evil}\n"
    );
    let shown =
        root.post("/rules/check", &[("text", &text), ("version", "1"), ("note", evil)]).await;
    let tried =
        [("text", text.as_str()), ("case.who", evil), ("case.host", evil), ("case.port", evil)];
    let tried = root.post("/rules/try", &tried).await;
    let good = [
        ("text", text.as_str()),
        ("case.who", "ana"),
        ("case.host", "web-1"),
        ("case.port", "22"),
        ("case.source", "203.0.113.7"),
        ("case.duration", "1h"),
    ];
    let good = root.post("/rules/try", &good).await;
    let broken = root.post("/rules/check", &[("text", &format!("{evil} permit"))]).await;
    for page in [shown, tried, good, broken] {
        for text in ["<script>", "<img", "</textarea></pre>"] {
            assert!(!page.text.contains(text), "{text}: {}", page.text);
        }
    }
}

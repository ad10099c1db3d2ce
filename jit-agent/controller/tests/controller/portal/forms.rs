//! What other pages, other sessions and hostile texts cannot do.

use jit_controller::{model::Account, store::accounts};

use super::{Browser, PASSWORD, set_password};
use crate::{api::Site, databases::Database};

on_each_database! {
    a_form_counts_only_from_this_address_and_this_session,
    a_nul_is_refused_in_every_field,
    nobody_is_sent_to_another_address,
    hostile_names_are_shown_as_text,
    every_answer_keeps_foreign_content_out,
}

async fn a_form_counts_only_from_this_address_and_this_session(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    let own = ana.get("/me").await.field("form_key");
    let others = bo.get("/me").await.field("form_key");
    assert_ne!(own, others);
    let base = site.base.as_str();
    let origin = ("origin", base);
    for (headers, key) in [
        (&[origin][..], ""),
        (&[origin], "x"),
        (&[origin], others.as_str()),
        (&[], own.as_str()),
        (&[("origin", "https://evil.example.org")], own.as_str()),
        (&[("origin", "null")], own.as_str()),
        (&[origin, ("sec-fetch-site", "cross-site")], own.as_str()),
        (&[("sec-fetch-site", "same-site")], own.as_str()),
    ] {
        let shown = ana.send("/sign-out", headers, &[("form_key", key)]).await;
        assert_eq!(shown.status, 403, "{headers:?} {key}: {}", shown.text);
        assert!(shown.text.contains("What to do"), "{}", shown.text);
    }
    assert!(ana.is_in().await);
    // A sign-in from another page would make people work in somebody else's account.
    let fields = [("name", "bo"), ("password", PASSWORD)];
    let evil = [("origin", "https://evil.example.org")];
    let shown = Browser::new(&site).send("/sign-in", &evil, &fields).await;
    assert_eq!(shown.status, 403);
    assert!(shown.header("set-cookie").is_empty());
    // By GET nothing is changed.
    assert_eq!(ana.get(&format!("/sign-out?form_key={own}")).await.status, 405);
    assert!(ana.is_in().await);
}

/// PostgreSQL keeps none in a text.
async fn a_nul_is_refused_in_every_field(database: Database) {
    let site = Site::new(database).await;
    let ana = Browser::of(&site, "ana").await;
    let stranger = Browser::new(&site);
    for fields in
        [[("name", "a\0b"), ("password", PASSWORD)], [("name", "ana"), ("password", "\0")]]
    {
        assert_eq!(stranger.submit("/sign-in", &fields).await.status, 400, "{fields:?}");
    }
    assert_eq!(ana.post("/requests", &[("reason", "a\0b")]).await.status, 400);
    for path in ["/requests/a%00b", "/requests?q=a%00b", "/hosts/a%00b"] {
        assert_eq!(ana.get(path).await.status, 400, "{path}");
    }
}

async fn nobody_is_sent_to_another_address(database: Database) {
    let site = Site::new(database).await;
    set_password(&site, "ana").await;
    let browser = Browser::new(&site);
    for next in
        ["//evil.example.org", "/\\evil.example.org", "https://evil.example.org", "/sign-out"]
    {
        let query = form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>();
        let page = browser.get(&format!("/sign-in?next={query}")).await.ok();
        assert_eq!(page.field("next"), "/", "{next}");
    }
    let fields = [("name", "ana"), ("password", PASSWORD), ("next", "//evil.example.org")];
    assert_eq!(browser.submit("/sign-in", &fields).await.goes_to(), "/");
    let fields = [("name", "ana"), ("password", PASSWORD), ("next", "/me")];
    assert_eq!(browser.submit("/sign-in", &fields).await.goes_to(), "/me");
}

async fn hostile_names_are_shown_as_text(database: Database) {
    let site = Site::new(database).await;
    let name = "<script>alert(1)</script>\"'";
    let mut tx = site.store().begin().await.unwrap();
    let account = Account {
        name: name.into(),
        subject: "<img src=x onerror=alert(1)>".into(),
        groups: ["<b>".to_owned()].into(),
        disabled: false,
        created_ms: 1,
    };
    accounts::put(&mut tx, &account).await.unwrap();
    tx.commit().await.unwrap();
    let browser = Browser::of(&site, name).await;
    let refused = Browser::new(&site).sign_in(name, "wrong words here").await;
    for page in [browser.get("/me").await, browser.get("/<script>x").await, refused] {
        for text in ["<script>", "<img", "<b>", "\"'\""] {
            assert!(!page.text.contains(text), "{text}: {}", page.text);
        }
    }
}

async fn every_answer_keeps_foreign_content_out(database: Database) {
    let site = Site::new(database).await;
    let ana = Browser::of(&site, "ana").await;
    for path in ["/", "/me", "/sign-in", "/nothing", "/static/nothing"] {
        let page = ana.get(path).await;
        let policy = page.header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "same-origin");
        assert!(!page.header("strict-transport-security").is_empty());
        for inline in ["<style", " style=", " onclick", "<script>", "http://", "https://"] {
            assert!(!page.text.contains(inline), "{path}: {inline}");
        }
    }
    let page = ana.get("/me").await.text;
    let (_, style) = page.split_once("rel=\"stylesheet\" href=\"").unwrap();
    let file = ana.get(style.split('"').next().unwrap()).await.ok();
    assert!(file.header("cache-control").contains("immutable"));
    assert_eq!(file.header("content-type"), "text/css; charset=utf-8");
    let missing = ana.get("/nothing").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text.contains("<h1>"), "{}", missing.text);
    // What programs call stays for programs.
    let problem = ana.get("/api/nothing").await;
    assert_eq!((problem.status, problem.header("content-type")), (404, "application/problem+json"));
}

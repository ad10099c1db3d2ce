//! From *Open a port* to the end of a request, by forms alone: every page works without a script.

use std::time::Duration;

use futures_util::StreamExt as _;
use jit_controller::{
    clock::now_ms,
    model::host::{Condition, Observed, ObservedPort},
    rules,
    store::{RulesVersion, rules as stored_rules},
};
use reqwest::Method;
use tokio::time::timeout;

use super::{Browser, Shown};
use crate::{api::Site, databases::Database};

on_each_database! {
    a_port_is_asked_for_with_three_fields_and_one_click,
    what_is_wrong_stands_beside_the_form,
    an_approver_agrees_to_what_was_shown_and_to_nothing_else,
    another_tenant_finds_nothing,
    hostile_texts_are_shown_as_text,
    a_page_learns_that_it_is_old,
}

/// The fields of somebody who wants SSH.
pub(super) const SSH: [(&str, &str); 5] = [
    ("host", "web-1"),
    ("port", "22/tcp"),
    ("source", "203.0.113.7"),
    ("reason", "disk full"),
    ("duration", "30m"),
];

/// Submits a request for SSH, and returns the address of its page.
pub(super) async fn asked(browser: &Browser<'_>) -> String {
    asked_with(browser, &SSH).await
}

pub(super) async fn asked_with(browser: &Browser<'_>, fields: &[(&str, &str)]) -> String {
    let key = ulid::Ulid::generate().to_string();
    let mut all = fields.to_vec();
    all.push(("key", &key));
    let page = browser.post("/requests", &all).await.goes_to().to_owned();
    assert!(page.starts_with("/requests/"), "{page}");
    page
}

/// The host protects SSH, says its agent.
async fn observed(site: &Site, host: &str, port: &str) {
    let observed = Observed {
        condition: Condition::Enforcing,
        ports: vec![ObservedPort {
            port: port.into(),
            mode: "enforce".into(),
            max_duration_ms: 7_200_000,
            approvals: 1,
            exemptions: Vec::new(),
        }],
        ..Observed::default()
    };
    site.store().observe(host, &observed).await.unwrap();
}

fn has(page: &Shown, texts: &[&str]) {
    for text in texts {
        assert!(page.text.contains(text), "{text}: {}", page.text);
    }
}

async fn a_port_is_asked_for_with_three_fields_and_one_click(database: Database) {
    let site = Site::new(database).await;
    observed(&site, "web-1", "22/tcp").await;
    let ana = Browser::of(&site, "ana").await;
    let search = ana.get("/?q=WEB").await.ok();
    has(&search, &["web-1", "/open?host=web-1"]);
    assert!(!search.text.contains("db-1"));
    has(&ana.get("/hosts/found?q=env%3Dprod").await.ok(), &["db-1"]);
    has(&ana.get("/hosts/found?q=%25").await.ok(), &["No host"]);

    let form = ana.get("/open?host=web-1").await.ok();
    // The only port is chosen; longer times than the host allows are not offered; who must agree is
    // there before anything is submitted.
    has(&form, &["value=\"22/tcp\" checked", "value=\"127.0.0.1\" checked", "<option>2h</option>"]);
    assert!(!form.text.contains("<option>4h"), "{}", form.text);
    has(&form, &["1 of sre must agree", "bo@example.org"]);
    assert!(!form.text.contains("ana@example.org,"), "nobody agrees with himself");
    // Host, reason and time: the other fields are right as they are. One click.
    let mut fields = form.form("/requests");
    for (name, value) in &mut fields {
        match name.as_str() {
            "reason" => "disk full".clone_into(value),
            "duration" => "30m".clone_into(value),
            _ => {}
        }
    }
    let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let page = ana.submit("/requests", &fields).await.goes_to().to_owned();
    assert_eq!(ana.submit("/requests", &fields).await.goes_to(), page, "twice is once");
    let asked = site.store().request(page.trim_start_matches("/requests/")).await.unwrap().unwrap();
    assert_eq!(asked.proposal.sources, ["127.0.0.1".parse().unwrap()]);
    assert_eq!(asked.proposal.duration_ms, 1_800_000);

    // Whoever wants to see it first: what would be signed, and the same click.
    let preview = ana.post("/open/preview", &SSH).await.ok();
    has(&preview, &["1 of sre must agree", "bo@example.org", "203.0.113.7", "disk full"]);
    let fields = preview.form("/requests");
    let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_ne!(ana.submit("/requests", &fields).await.goes_to(), page);
    let shown = ana.get(&page).await.ok();
    has(&shown, &["waits for agreement", "1 of sre must still agree", "Take it back"]);
    has(&ana.get("/requests").await.ok(), &[&page, "disk full"]);
    let bo = Browser::of(&site, "bo").await;
    has(&bo.get("/requests?which=decide").await.ok(), &[&page]);
    has(&bo.get("/requests").await.ok(), &["There is none here"]);
    has(&bo.get("/requests?which=all&state=pending").await.ok(), &[&page]);

    let withdraw = format!("{page}/withdraw");
    assert_eq!(ana.post(&withdraw, &[]).await.goes_to(), page);
    let shown = ana.get(&page).await.ok();
    has(&shown, &["taken back"]);
    assert!(!shown.text.contains("Take it back"));
}

async fn what_is_wrong_stands_beside_the_form(database: Database) {
    let site = Site::new(database).await;
    let ana = Browser::of(&site, "ana").await;
    let with = |name: &'static str, value: &'static str| {
        SSH.map(|(key, old)| if key == name { (key, value) } else { (key, old) })
    };
    for (fields, words) in [
        (with("port", "ssh"), "ports:"),
        (with("port", ""), "ports:"),
        (with("source", "here"), "sources:"),
        (with("reason", " "), "reason:"),
        (with("duration", "soon"), "duration:"),
        (with("duration", "48h"), "duration:"),
    ] {
        let shown = ana.post("/open/preview", &fields).await;
        assert_eq!(shown.status, 422, "{fields:?}: {}", shown.text);
        has(&shown, &["role=\"alert\"", words, "Ask for it"]);
    }
    assert_eq!(ana.post("/open/preview", &with("host", "nothing")).await.status, 404);
    assert_eq!(ana.get("/open?host=nothing").await.status, 404);
    // The rules refuse a wide network: it is said before anything is submitted, with no button.
    let wide = ana.post("/open/preview", &with("source", "203.0.0.0/8")).await.ok();
    has(&wide, &["The rules do not allow it"]);
    assert!(!wide.text.contains("Ask for it"));
    has(&ana.post("/open/who", &with("source", "203.0.0.0/8")).await.ok(), &["do not allow it"]);
    has(&ana.post("/open/who", &with("reason", "")).await.ok(), &["1 of sre must agree"]);
    has(&ana.post("/open/who", &with("port", "")).await.ok(), &["Tick a port"]);
    has(&ana.post("/open/who", &with("port", "ssh")).await.ok(), &["Mend ports:"]);
    assert_eq!(ana.post("/open/who", &with("host", "nothing")).await.status, 404);
    let change = ana.post("/open/change", &SSH).await.ok();
    has(&change, &["disk full", "203.0.113.7", "<option selected>30m</option>"]);
}

async fn an_approver_agrees_to_what_was_shown_and_to_nothing_else(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    let page = asked(&ana).await;
    let decision = format!("{page}/decision");
    let shown = bo.get(&page).await.ok();
    has(
        &shown,
        &[
            "What will be signed",
            "which=decide\" aria-current",
            "203.0.113.7",
            "disk full",
            ">Agree<",
            "Say no",
        ],
    );
    let hash = shown.field("hash");
    let other = "0".repeat(64);
    let wrong = bo.post(&decision, &[("ruling", "approve"), ("hash", &other)]).await;
    assert_eq!(wrong.status, 409, "{}", wrong.text);
    // A denial has a reason; the requester decides nothing; a link decides nothing.
    assert_eq!(bo.post(&decision, &[("ruling", "deny"), ("hash", &hash)]).await.status, 422);
    assert_eq!(ana.post(&decision, &[("ruling", "approve"), ("hash", &hash)]).await.status, 403);
    assert_eq!(bo.get(&format!("{decision}?ruling=approve&hash={hash}")).await.status, 405);
    has(&bo.get(&page).await.ok(), &["waits for agreement"]);
    let agreed = bo.post(&decision, &[("ruling", "approve"), ("hash", &hash)]).await;
    assert_eq!(agreed.goes_to(), page);
    has(&bo.get(&page).await.ok(), &["bo@example.org: agreed", "agreed to, not signed yet"]);

    // Who asked can have more time by another request, and end it.
    let mine = ana.get(&page).await.ok();
    has(&mine, &["More time", "End it now"]);
    let more = [("duration", "30m"), ("key", &mine.field("key")), ("reason", "")];
    let extended = ana.post(&format!("{page}/extend"), &more).await.goes_to().to_owned();
    assert_ne!(extended, page);
    assert_eq!(
        ana.post(&format!("{page}/extend"), &more).await.goes_to(),
        extended,
        "twice is once"
    );
    has(&ana.get(&extended).await.ok(), &["waits for agreement", "disk full"]);
    assert_eq!(ana.post(&format!("{page}/extend"), &[("duration", "soon")]).await.status, 422);
    let why = [("reason", "done")];
    assert_eq!(ana.post(&format!("{page}/end"), &why).await.goes_to(), page);
    has(&ana.get(&page).await.ok(), &["ended early"]);

    let second = asked(&ana).await;
    let shown = bo.get(&second).await.ok();
    // What this person asked for before.
    has(&shown, &[&page, "asked for before"]);
    let hash = shown.field("hash");
    let fields = [("ruling", "deny"), ("hash", &hash), ("reason", "not today")];
    assert_eq!(bo.post(&format!("{second}/decision"), &fields).await.goes_to(), second);
    has(&ana.get(&second).await.ok(), &["denied", "said no", "not today"]);
}

async fn another_tenant_finds_nothing(database: Database) {
    let site = Site::new(database).await;
    // Without the rule that everybody reads everything.
    let from = rules::DEFAULT.find("@id(\"everybody-reads\")").unwrap();
    let length = rules::DEFAULT[from..].find(';').unwrap() + 1;
    let mut text = rules::DEFAULT.to_owned();
    text.replace_range(from..from + length, "");
    let author = "root@example.org".to_owned();
    let saved = RulesVersion { version: 2, text, author, note: String::new(), saved_ms: 2 };
    let mut tx = site.store().begin().await.unwrap();
    stored_rules::save(&mut tx, &saved).await.unwrap();
    tx.commit().await.unwrap();
    site.desk.changed();

    let (ana, eve) = (Browser::of(&site, "ana").await, Browser::of(&site, "eve").await);
    let page = asked(&ana).await;
    let hash =
        site.store().request(page.trim_start_matches("/requests/")).await.unwrap().unwrap().hash;
    let there = eve.get(&page).await;
    let nowhere = eve.get("/requests/01KPEXAMP1E000000000000001").await;
    assert_eq!((there.status, nowhere.status), (404, 404));
    for (act, fields) in [
        ("decision", &[("ruling", "approve"), ("hash", hash.as_str())][..]),
        ("withdraw", &[]),
        ("end", &[("reason", "x")]),
        ("extend", &[("duration", "30m"), ("key", "01KPEXAMP1E000000000000001")]),
    ] {
        assert_eq!(eve.post(&format!("{page}/{act}"), fields).await.status, 404, "{act}");
    }
    let id = page.trim_start_matches("/requests/");
    assert_eq!(eve.get(&format!("/live?request={id}&after=0")).await.status, 404);
    let list = eve.get("/requests?which=all").await.ok();
    assert!(!list.text.contains(id) && !list.text.contains("disk full"));
    has(&eve.get("/?q=web").await.ok(), &["No host"]);
    assert_eq!(eve.get("/open?host=web-1").await.status, 404);
    for act in ["/open/preview", "/open/who", "/open/change"] {
        assert_eq!(eve.post(act, &SSH).await.status, 404, "{act}");
    }
    let key = [&SSH[..], &[("key", "01KPEXAMP1E000000000000001")]].concat();
    assert_eq!(eve.post("/requests", &key).await.status, 404);
    has(&ana.get(&page).await.ok(), &["waits for agreement"]);
}

async fn hostile_texts_are_shown_as_text(database: Database) {
    let site = Site::new(database).await;
    observed(&site, "web-1", "<script>alert(0)</script>").await;
    let ana = Browser::of(&site, "ana").await;
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let fields = [&SSH[..3], &[("duration", "30m"), ("reason", evil), ("ticket", evil)]].concat();
    let page = asked_with(&ana, &fields).await;
    let bo = Browser::of(&site, "bo").await;
    let query: String = form_urlencoded::byte_serialize(evil.as_bytes()).collect();
    for shown in [
        ana.post("/open/preview", &fields).await,
        ana.post("/open/change", &fields).await,
        ana.get("/open?host=web-1").await,
        ana.get("/requests").await,
        ana.get(&page).await,
        bo.get(&page).await,
        ana.get(&format!("/?q={query}")).await,
        ana.get(&format!("/hosts/found?q={query}")).await,
        ana.get(&format!("/requests?which=all&state={query}&host={query}&before={query}")).await,
    ] {
        assert_eq!(shown.status, 200, "{}", shown.text);
        assert!(
            !shown.text.contains("<script>alert") && !shown.text.contains("<img"),
            "{}",
            shown.text
        );
    }
}

async fn a_page_learns_that_it_is_old(database: Database) {
    let site = Site::new(database).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    let page = asked(&ana).await;
    let live = async |browser: &Browser<'_>, page: &str| {
        let shown = browser.get(page).await.ok();
        let (_, rest) = shown.text.split_once("data-live=\"").unwrap();
        // As a browser reads the attribute.
        let path = rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
        let response = browser.call(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{path}");
        (shown.text, response.bytes_stream().boxed())
    };
    let (shown, mut one) = live(&bo, &page).await;
    let (_, mut list) = live(&bo, "/requests?which=all").await;
    let quiet = timeout(Duration::from_millis(300), one.next()).await;
    assert!(quiet.is_err(), "nothing has happened");
    let (_, hash) = shown.split_once("name=\"hash\" value=\"").unwrap();
    let hash = hash.split('"').next().unwrap();
    let began = now_ms();
    bo.post(&format!("{page}/decision"), &[("ruling", "approve"), ("hash", hash)]).await.goes_to();
    for stream in [&mut one, &mut list] {
        let bytes = timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
        assert!(bytes.starts_with(b"event: changed"), "{bytes:?}");
    }
    println!("the pages knew it {} ms after the click", now_ms() - began);
    // The stream ends with the session.
    bo.post("/sign-out", &[]).await.goes_to();
    let rest = timeout(Duration::from_secs(25), one.map(Result::unwrap).collect::<Vec<_>>()).await;
    let rest: Vec<u8> = rest.unwrap().concat();
    assert!(String::from_utf8_lossy(&rest).contains("event: end"));
}

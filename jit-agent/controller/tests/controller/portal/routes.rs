//! What holds for every page and form, by the list of routes in the source: one that is added is tried too.

use jit_controller::{model::Account, store::accounts};
use reqwest::Method;

use super::{
    Browser, PASSWORD,
    asked::{SSH, asked, asked_with},
    set_password,
};
use crate::{api::Site, databases::Database};

on_each_database! {
    no_form_of_another_page_counts_anywhere,
    nothing_that_people_type_runs_on_any_page,
    who_is_sent_on_from_any_form_stays_here,
}

/// The source of the pages' routes.
const SOURCES: [&str; 2] =
    [include_str!("../../../src/portal.rs"), include_str!("../../../src/portal/passkeys.rs")];
/// Where the provider calls, without a browser: what it sends is signed.
const OF_PROVIDER: &str = "/sign-out/oidc";
/// What a page runs if it forgets to escape a text.
const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

/// The paths of the pages with this method, as they are in the source.
fn routes(method: &str) -> Vec<&'static str> {
    let lines = SOURCES.iter().flat_map(|source| source.lines());
    let routes = lines.filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once('"'));
    let found: Vec<_> = routes
        .filter(|(path, rest)| rest.contains(&format!("{method}(")) && *path != OF_PROVIDER)
        .map(|(path, _)| path)
        .collect();
    assert!(found.len() >= 25, "{method}: the source looks otherwise: {found:?}");
    found
}

/// A path with the parts that stand in braces.
fn filled(path: &str, parts: &[(&str, &str)]) -> String {
    let filled = parts
        .iter()
        .fold(path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value));
    assert!(!filled.contains('{'), "{path}: a part that these tests do not know");
    filled
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

async fn no_form_of_another_page_counts_anywhere(database: Database) {
    let site = Site::with_fleet(database).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    let ana = Browser::of(&site, "ana").await;
    let request = asked(&ana).await;
    let own = root.get("/me").await.field("form_key");
    let others = bo.get("/me").await.field("form_key");
    let origin = ("origin", site.base.as_str());
    let evil = ("origin", "https://evil.example.org");
    let parts =
        [("id", request.trim_start_matches("/requests/")), ("what", "abort"), ("key_id", "AAAA")];
    let pages = routes("get");
    for path in routes("post") {
        let there = filled(path, &parts);
        let mut tries = vec![
            (vec![], own.as_str()),
            (vec![evil], own.as_str()),
            (vec![("origin", "null")], own.as_str()),
            (vec![origin, ("sec-fetch-site", "cross-site")], own.as_str()),
            (vec![("sec-fetch-site", "same-site")], own.as_str()),
        ];
        // Before a sign-in there is no session that a key could be of.
        if !path.starts_with("/sign-in") {
            tries.extend([(vec![origin], ""), (vec![origin], others.as_str())]);
        }
        for (headers, key) in tries {
            let shown = root.send(&there, &headers, &[("form_key", key)]).await;
            assert_eq!(shown.status, 403, "{path} {headers:?}: {}", shown.text);
            let words = ["comes from a page of this address", "not one of this session"];
            assert!(words.iter().any(|word| shown.text.contains(word)), "{path}: {}", shown.text);
            assert!(shown.header("set-cookie").is_empty(), "{path}");
        }
        if !pages.contains(&path) {
            let shown = root.get(&format!("{there}?form_key={own}")).await;
            assert_eq!(shown.status, 405, "{path}: by GET nothing is changed");
        }
    }
    assert!(root.is_in().await);
    assert!(ana.get(&request).await.ok().text.contains("waits for agreement"));
    // Nor does another method get past it.
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let call = root.call(method.clone(), "/sign-out").header("origin", evil.1);
        assert_eq!(call.send().await.unwrap().status(), 403, "{method}");
    }
}

/// A person whose name at the provider, and whose groups, are hostile.
async fn hostile_person(site: &Site) {
    let account = Account {
        name: EVIL.into(),
        subject: EVIL.into(),
        groups: ["sre".to_owned(), EVIL.to_owned()].into(),
        disabled: false,
        created_ms: 1,
    };
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &account).await.unwrap();
    tx.commit().await.unwrap();
}

async fn nothing_that_people_type_runs_on_any_page(database: Database) {
    let site = Site::with_fleet(database).await;
    hostile_person(&site).await;
    let (eve, bo) = (Browser::of(&site, EVIL).await, Browser::of(&site, "bo").await);
    let root = Browser::of(&site, "root").await;
    let fields = [&SSH[..3], &[("duration", "30m"), ("reason", EVIL), ("ticket", EVIL)]].concat();
    let (waits, denied) = (asked_with(&eve, &fields).await, asked_with(&eve, &fields).await);
    let hash = bo.get(&denied).await.ok().field("hash");
    let decision = [("ruling", "deny"), ("hash", hash.as_str()), ("reason", EVIL)];
    assert_eq!(bo.post(&format!("{denied}/decision"), &decision).await.goes_to(), denied);
    let text = format!(
        "# {EVIL}\n[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n"
    );
    let policy = root.post("/policies", &[("text", &text), ("why", EVIL)]).await;
    let policy = policy.goes_to().to_owned();
    let rollout = root.post(&format!("{policy}/rollout"), &[("waves", "all")]).await;
    let rollout = rollout.goes_to().to_owned();

    let (evil, newest) = (encoded(EVIL), site.store().audit_tip().await.unwrap().0);
    let last = |path: &str| path.rsplit_once('/').unwrap().1.to_owned();
    let mut queries = vec![String::new(), format!("?host=web-1&which=all&q={evil}")];
    let names = ["q", "host", "who", "next", "waves", "confirm", "state", "before", "after", "at"];
    let all = names.map(|name| format!("{name}={evil}"));
    queries.push(format!("?{}", all.join("&")));
    let (mut shown_as_text, mut shown) = (0, 0);
    for route in routes("get") {
        // Pages of one thing: what this person made, and what there is not.
        let ids = match route {
            path if path.starts_with("/requests/") => {
                vec![last(&waits), last(&denied), evil.clone()]
            }
            path if path.starts_with("/policies/") => vec![last(&policy), evil.clone()],
            path if path.starts_with("/rollouts/") => vec![last(&rollout), evil.clone()],
            path if path.starts_with("/audit/") => {
                (newest.saturating_sub(12).max(1)..=newest).map(|seq| seq.to_string()).collect()
            }
            path if path.contains('{') => vec!["1".to_owned(), "web-1".to_owned(), evil.clone()],
            _ => vec![String::new()],
        };
        for id in ids {
            let parts = ["id", "seq", "version", "name", "key_id"].map(|name| (name, id.as_str()));
            // One query is enough for each of many records.
            let most = if route.starts_with("/audit/") { 1 } else { queries.len() };
            for query in &queries[..most] {
                let path = format!("{}{query}", filled(route, &parts));
                for browser in [&eve, &bo, &root] {
                    let page = browser.get(&path).await;
                    assert!(page.status < 500 || page.status == 503, "{path}: {}", page.text);
                    assert_ne!(page.status, 429, "{path}");
                    if !page.header("content-type").starts_with("text/html") {
                        continue;
                    }
                    for text in ["<script>", "<img", "\"'>"] {
                        assert!(!page.text.contains(text), "{path} {text}: {}", page.text);
                    }
                    shown += 1;
                    shown_as_text += usize::from(page.text.contains("&#60;img src=x"));
                }
            }
        }
    }
    // The texts were there.
    println!("{shown} pages, {shown_as_text} with the text");
    assert!(shown > 100 && shown_as_text > 25, "{shown} {shown_as_text}");
}

async fn who_is_sent_on_from_any_form_stays_here(database: Database) {
    let site = Site::with_fleet(database).await;
    set_password(&site, "ana").await;
    let root = Browser::of(&site, "root").await;
    let ways = ["next", "return", "return_to", "redirect", "redirect_uri", "url", "from", "to"];
    let targets = ["//evil.example.org", "https://evil.example.org", "/\\evil.example.org"];
    let parts = [("id", targets[0]), ("what", "halt"), ("key_id", "AAAA")];
    let parts = parts.map(|(name, value)| (name, encoded(value)));
    let parts: Vec<_> = parts.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let is_own = |location: &str| {
        location.is_empty() || (location.starts_with('/') && !location.starts_with("//"))
    };
    for path in routes("post") {
        for target in targets {
            let mut fields: Vec<_> = ways.iter().map(|name| (*name, target)).collect();
            fields.extend([("name", "ana"), ("password", PASSWORD)]);
            let there = filled(path, &parts);
            let shown = if path.starts_with("/sign-in") {
                Browser::new(&site).submit(&there, &fields).await
            } else if path == "/sign-out" {
                Browser::of(&site, "bo").await.post(&there, &fields).await
            } else {
                root.post(&there, &fields).await
            };
            let evil = shown.header("location").replace("%5C", "\\");
            assert!(is_own(&evil) && !evil.contains('\\'), "{path} {target}: {evil}");
            assert!(is_own(shown.header("hx-redirect")), "{path} {target}");
            if path == "/sign-in" {
                assert_eq!(shown.goes_to(), "/", "{target}");
            }
        }
    }
}
